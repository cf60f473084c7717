"""What the rest of the host does to airtap: denials, the ACL as a whole, and what was not seen."""

from collections.abc import Collection, Iterator, Sequence

from ...config import DEFAULT_ROUTE, Config
from ...errors import Problem
from ..finding import PROBLEM, WARNING, Finding, ok, warning, word
from ..sources.kernel_log import Denials
from ..sources.user import User


def denials(found: Denials) -> Iterator[Finding]:
    """Tell what AppArmor or SELinux has denied to airtap.

    Yields ok; warning security-denials.
    """
    if not found.count:
        if not found.unread:
            yield ok("security-denials", found.source, what="no denial names airtap")
        return
    selinux = "avc:" in found.last
    yield warning(
        "security-denials",
        "SELinux" if selinux else "AppArmor",
        what=f"it has denied something to airtap {found.count} times in the last day",
        evidence=f"{found.source}: {found.last}",
        remedy="ausearch -m avc -ts today | audit2allow -M airtap-local"
        " && semodule -i airtap-local.pp"
        if selinux
        else "allow what name= says in /etc/apparmor.d/local/ of that profile, then: systemctl"
        " reload apparmor",
    )


def acl(user: User) -> Iterator[Finding]:
    """Tell whether the ACL can be read, and is valid.

    Yields ok; problem acl-unreadable, acl-invalid or acl-too-large; warning acl-unreadable for
    root, as guests of libvirt's do not depend on the ACL.
    """
    rules = user.rules
    if not isinstance(rules, Problem):
        yield ok("acl-file", user.acl_path, what="is valid")
        return
    path = word(user.acl_path, "the ACL")
    prefix = "" if user.root else "as root: "
    unreadable = (
        f"install -D -m 644 /dev/null {path}, and write into it: allow eth0"
        if user.no_acl
        else f"chmod 644 {path}"
    )
    remedies = {
        "acl-unreadable": f"{prefix}{unreadable}",
        "acl-invalid": f"correct that line of {path}: {rules.hint}",
    }
    yield Finding(
        level=WARNING if user.root and rules.code == "acl-unreadable" else PROBLEM,
        id=rules.code,
        subject=user.acl_path,
        what=f"nothing is allowed to {user.name}",
        evidence=rules.message,
        remedy=remedies.get(rules.code, f"make {path} shorter"),
    )


def uplinks(_config: Config, _there: Collection[str], found: int) -> Iterator[Finding]:
    """Tell that there is no uplink yet.

    Yields ok.
    """
    if not found:
        what = "no uplink carries a guest or stands in airtap.toml yet"
        yield ok("no-uplink", "airtap", what=what)


def absent(config: Config, there: Collection[str], _found: int) -> Iterator[Finding]:
    """Tell what airtap.toml names that is not there. there: names of devices.

    Yields ok; warning alias-of-nothing.
    """
    for name in config.parents:
        if name not in there:
            yield ok("parent-absent", name, what="airtap.toml names it, and it is not there now")
    for alias, targets in config.aliases.items():
        if DEFAULT_ROUTE not in targets and not set(targets) & set(there):
            yield warning(
                "alias-of-nothing",
                alias,
                what="nothing is there of what this alias stands for",
                evidence=f"airtap.toml, [aliases]: {alias} is {', '.join(targets)}",
                remedy=f"plug {targets[0]} in, or name another device in airtap.toml",
            )


def unseen(what: Sequence[str]) -> Iterator[Finding]:
    """Tell what this diagnosis could not look at.

    Yields ok.
    """
    if what:
        yield ok("not-looked-at", "doctor", what=f"could not look at: {'; '.join(what)}")
