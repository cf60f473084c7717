"""Whether airtapd serves its clients, and as configured."""

from collections.abc import Iterator

from ... import __version__
from ..finding import Finding, ok, problem, warning, word
from ..sources.daemon import DaemonSnapshot
from ..sources.user import User

_EVERYBODY = 0o222


def configuration(daemon: DaemonSnapshot, user: User) -> Iterator[Finding]:
    """Tell whether airtap.toml is valid.

    Yields ok; problem config-invalid or config-unreadable; warning config-unreadable, where root
    can read it.
    """
    broken = daemon.config_problem
    if broken and broken.code == "config-unreadable" and not user.root:
        yield warning(
            broken.code,
            daemon.config_path,
            what=f"{user.name} cannot read it, so airtap's commands do not know what it says",
            evidence=broken.message,
            remedy=f"as root: chmod 644 {word(daemon.config_path, 'the file')}",
        )
    elif broken:
        yield problem(
            broken.code,
            daemon.config_path,
            what="airtapd cannot start with it, and a running one keeps its former settings",
            evidence=broken.message,
            remedy=f"correct it: {word(daemon.config_path, 'the file')}"
            + (f" ({broken.hint})" if broken.hint else ""),
        )
    else:
        yield ok("config", daemon.config_path, what="is valid")


def answers(daemon: DaemonSnapshot, user: User) -> Iterator[Finding]:
    """Tell whether airtapd answers this user.

    Yields ok; problem airtapd-down, socket-refused or airtapd-silent; warning airtapd-down, where
    the next guest of root's starts it.
    """
    evidence = f"{daemon.path}: {daemon.silence}"
    if not daemon.silence:
        yield ok("airtapd", "airtapd", what=f"answers at {daemon.path}")
    elif daemon.refused:
        yield problem(
            "socket-refused",
            daemon.path,
            what=f"{user.name} may not connect to airtapd",
            evidence=f"{evidence}, mode {_octal(daemon)}",
            remedy=f"as root: chmod 666 {word(daemon.path)}",
        )
    elif not daemon.absent:
        yield problem(
            "airtapd-silent",
            "airtapd",
            what="does not answer as it should, so no guest gets a device",
            evidence=evidence,
            remedy=start(daemon, user),
        )
    elif user.root and not daemon.systemd and not daemon.config_problem:
        what = "does not run; the next guest of root's starts it, others' do not"
        yield warning(
            "airtapd-down", "airtapd", what=what, evidence=evidence, remedy=start(daemon, user)
        )
    else:
        yield problem(
            "airtapd-down",
            "airtapd",
            what="does not run, so no guest gets a device",
            evidence=evidence,
            remedy=start(daemon, user),
        )


def start(daemon: DaemonSnapshot, user: User) -> str:
    """Return what starts airtapd here, or what tells why one that is there does not answer."""
    prefix = "" if user.root else "as root: "
    if not daemon.absent:
        log = f"less {word(f'{daemon.path}.log')}, where a guest has started it"
        return f"{prefix}{'journalctl -u airtapd' if daemon.systemd else log}"
    if daemon.systemd:
        return f"{prefix}systemctl enable --now airtapd.socket"
    return "airtap status" if user.root else "as root: airtapd"


def socket_mode(daemon: DaemonSnapshot, _user: User) -> Iterator[Finding]:
    """Tell whether every user may connect to airtapd.

    Yields warning socket-mode.
    """
    open_to_all = daemon.mode is None or daemon.mode & _EVERYBODY == _EVERYBODY
    if not open_to_all and not daemon.refused:
        yield warning(
            "socket-mode",
            daemon.path,
            what="not every user may connect; it is the ACL that decides who may use what",
            evidence=f"{daemon.path} has mode {_octal(daemon)}",
            remedy=f"chmod 666 {word(daemon.path)}",
        )


def version(daemon: DaemonSnapshot, _user: User) -> Iterator[Finding]:
    """Tell whether airtapd and this program are of one version.

    Yields warning airtapd-version.
    """
    if daemon.silence or daemon.status.version == __version__:
        return
    again = "systemctl restart airtapd" if daemon.systemd else "end airtapd, and start it: airtapd"
    yield warning(
        "airtapd-version",
        "airtapd",
        what="is of another version than this program: it was not started anew after an upgrade",
        evidence=f"airtapd {daemon.status.version or 'of before 0.2'}, airtap {__version__}",
        remedy=again,
    )


def lost(daemon: DaemonSnapshot, _user: User) -> Iterator[Finding]:
    """Tell which guests have lost their device.

    Yields problem guest-lost.
    """
    for loss in daemon.status.lost:
        pid = loss["owner"]["pid"]
        yield problem(
            "guest-lost",
            f"{loss['device']}",
            what=f"it has gone with {loss['parent']}, and its guest runs on without a network",
            evidence=f"airtap status: lost; made for pid {pid} of user {loss['owner']['uid']}",
            remedy=f"start the guest of pid {pid} anew",
        )


def _octal(daemon: DaemonSnapshot) -> str:
    return "unknown" if daemon.mode is None else f"0{daemon.mode:o}"
