"""What the rest of the host does to airtap: denials, the ACL as a whole, and what was not seen."""

from collections.abc import Collection, Iterator, Sequence

from ...config import DEFAULT_ROUTE, Config
from ...errors import Problem
from ..finding import Finding, ok, problem, warning, word
from ..sources.kernel_log import Denials
from ..sources.user import User


def denials(found: Denials) -> Iterator[Finding]:
    """ok, warning security-denials."""
    if not found.count:
        if not found.unread:
            yield ok("security-denials", found.source, "no denial names airtap")
        return
    selinux = "avc:" in found.last
    yield warning(
        "security-denials",
        "SELinux" if selinux else "AppArmor",
        f"it has denied something to airtap {found.count} times in the last day",
        f"{found.source}: {found.last}",
        "ausearch -m avc -ts today | audit2allow -M airtap-local && semodule -i airtap-local.pp"
        if selinux
        else "allow what name= says in /etc/apparmor.d/local/ of that profile, then: systemctl"
        " reload apparmor",
    )


def acl(user: User) -> Iterator[Finding]:
    """ok, problem (warning for root, whom libvirt's guests do not concern) acl-unreadable,
    acl-invalid, acl-too-large."""
    rules = user.rules
    if not isinstance(rules, Problem):
        yield ok("acl-file", user.acl_path, "is valid")
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
    level = warning if user.root and rules.code == "acl-unreadable" else problem
    yield level(
        rules.code,
        user.acl_path,
        f"nothing is allowed to {user.name}",
        rules.message,
        remedies.get(rules.code, f"make {path} shorter"),
    )


def uplinks(_config: Config, _there: Collection[str], found: int) -> Iterator[Finding]:
    """ok."""
    if not found:
        yield ok("no-uplink", "airtap", "no uplink carries a guest or stands in airtap.toml yet")


def absent(config: Config, there: Collection[str], _found: int) -> Iterator[Finding]:
    """ok, warning alias-of-nothing. there: names of devices."""
    for name in config.parents:
        if name not in there:
            yield ok("parent-absent", name, "airtap.toml names it, and it is not there now")
    for alias, targets in config.aliases.items():
        if DEFAULT_ROUTE not in targets and not set(targets) & set(there):
            yield warning(
                "alias-of-nothing",
                alias,
                "nothing is there of what this alias stands for",
                f"airtap.toml, [aliases]: {alias} is {', '.join(targets)}",
                f"plug {targets[0]} in, or name another device in airtap.toml",
            )


def unseen(what: Sequence[str]) -> Iterator[Finding]:
    """ok."""
    if what:
        yield ok("not-looked-at", "doctor", f"could not look at: {'; '.join(what)}")
