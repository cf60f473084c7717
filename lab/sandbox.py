"""Network and mount namespaces of this process's own, so that the lab cannot touch the machine.

A lab in the root namespace is wrong as well as rude: a machine whose own uplink sits on the
lab's prefix sends half of the lab's packets out of the door.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

# Where every user finds the repository's directories, also those of a checkout below, or in, a
# 0700 directory. Entries made at the top of the checkout after enter() are not there.
TREE = Path("/run/tree")

_REPOSITORY = Path(__file__).resolve().parent.parent
_TUN = Path("/dev/net/tun")

_PAIRS, _GROUP = 500, 77

_ETH_P_ALL = 0x0003  # linux/if_ether.h
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
# Some thousands of small frames, each of which counts with what the kernel keeps it in.
_FRAMES_BYTES = 8 << 20
_CLONE_NEWNS = 0x00020000  # linux/sched.h
_CLONE_NEWNET = 0x40000000
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

_libc = ctypes.CDLL(None, use_errno=True)
_entered = False


def enter(*, links: int = 0, threads: int = 1) -> None:
    """Move this process into new network and mount namespaces, once; later calls return at once.

    Inside, /run is an empty tmpfs, /etc a private copy, /sys shows the new network namespace,
    TREE the repository; lo is up, and no airtap is installed. Daemons that detach become children
    of this process.

    links: how many ifindexes are left out. A macvtap's node is named by it, and /dev is common to
    all sandboxes: where two are in use at a time, they are to be far apart. threads: how many this
    process may have; all but this one stay outside.

    Raises RuntimeError without root, with more threads, or when a step fails.
    """
    global _entered
    if _entered:
        return
    _refuse_unfit(threads)
    _unshare()
    _mounts()
    command("ip", "link", "set", "lo", "up")
    for _ in range(0, links, 2 * _PAIRS):
        _pass_over_links()
    _adopt_orphans()
    _entered = True


def require() -> None:
    """Raise RuntimeError outside the sandbox: for code that adds links, addresses or routes."""
    if not _entered:
        raise RuntimeError("call sandbox.enter() first: the lab never runs in the root namespace")


def netns_exec_prefix(name: str) -> list[str]:
    """Return the words that, put before a command, run it in the named network namespace."""
    return ["ip", "netns", "exec", name]


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """Be in the named network namespace: sockets opened there stay there. One thread at a time."""
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{name}") as there:
        _setns(there.fileno())
        try:
            yield
        finally:
            _setns(home.fileno())


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise RuntimeError(f"setns: {os.strerror(ctypes.get_errno())}")


def packet_socket(namespace: str | None, device: str) -> socket.socket:
    """Open an AF_PACKET socket for all frames of a device in the named network namespace.

    namespace: None for the one where this process is.
    """
    with inside(namespace) if namespace else contextlib.nullcontext():
        frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        try:
            frames.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _FRAMES_BYTES)
            frames.bind((device, _ETH_P_ALL))
        except BaseException:
            frames.close()
            raise
        return frames


def dying_with_us(argv: Sequence[str]) -> list[str]:
    """Return argv so that the process is killed when the thread that starts it ends.

    A killed test run then leaves no guest or server behind. "Thread" is the kernel's word in
    prctl(2): start long-lived processes from the main thread, not from a pool.
    """
    return ["setpriv", "--pdeathsig", "KILL", "--", *argv]


def children(pid: int | str = "self") -> set[int]:
    """Return the ids of a process's children; of this one's, detached daemons included.

    Raises FileNotFoundError if it has ended.
    """
    while True:
        tasks = [*Path(f"/proc/{pid}/task").iterdir()]
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}
        # A thread has ended meanwhile, and its children are another's.


def host_links() -> set[str]:
    """Return the names of the links in this process's network namespace."""
    return {name for _, name in socket.if_nameindex()}


def command(*argv: str) -> str:
    """Run a command in the sandbox and return its output; RuntimeError carries its complaint."""
    done = subprocess.run(argv, text=True, capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _refuse_unfit(threads: int) -> None:
    if os.geteuid() != 0:
        raise RuntimeError("the lab needs root: it makes network and mount namespaces")
    if len(os.listdir("/proc/self/task")) > threads:
        raise RuntimeError("enter the sandbox before any thread starts: threads would stay outside")
    if _REPOSITORY.is_relative_to("/run"):
        raise RuntimeError(f"{_REPOSITORY} would be hidden: the sandbox has a /run of its own")


def _unshare() -> None:
    if _libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET) != 0:
        raise RuntimeError(f"unshare(NEWNS|NEWNET): {os.strerror(ctypes.get_errno())}")
    # Before anything else is mounted: with systemd, / is shared and mounts would spread.
    command("mount", "--make-rprivate", "/")


def _mounts() -> None:
    command("mount", "-t", "sysfs", "sysfs", "/sys")
    if Path("/sys/fs/bpf").is_dir():
        command("mount", "-t", "bpf", "bpf", "/sys/fs/bpf")
    command("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    command("cp", "-a", "/etc", "/run/etc")
    command("mount", "--bind", "/run/etc", "/etc")
    _hide_airtap()
    _show_tree()
    _open_tun_to_all()


def _hide_airtap() -> None:
    """Take away what an installed airtap has in /etc, and what anybody would run of it."""
    hooks = Path("/etc/libvirt/hooks").glob("*.d/50-airtap")
    command("rm", "-rf", "/etc/airtap", *map(str, hooks))
    for program in Path("/usr/bin").glob("airtap*"):
        command("mount", "--bind", "/dev/null", str(program))


def _show_tree() -> None:
    """Bind the repository's directories below TREE, one by one.

    A bind of the whole would keep the mode of its root, which `mktemp -d` makes 0700.
    """
    _make_public(TREE)
    for source in sorted(_REPOSITORY.iterdir()):
        if source.is_dir() and not source.is_symlink():
            _make_public(TREE / source.name)
            command("mount", "--bind", str(source), str(TREE / source.name))


def _make_public(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o755)  # mkdir obeys the umask


def _open_tun_to_all() -> None:
    """Give the sandbox a /dev/net/tun of mode 0666.

    Distributions ship it so and qemu-bridge-helper opens it as the user, but without udev it is
    0600; chmod of the real node would change the machine.
    """
    if not _TUN.exists():
        return
    node = Path("/run/tun")
    os.mknod(node, stat.S_IFCHR | 0o666, _TUN.stat().st_rdev)
    node.chmod(0o666)  # mknod obeys the umask
    command("mount", "--bind", str(node), str(_TUN))


def _pass_over_links() -> None:
    """Make 2 * _PAIRS links and delete them: the kernel numbers on from there."""
    pairs = (f"link add pair{number} group {_GROUP} type veth\n" for number in range(_PAIRS))
    lines = "".join(pairs) + f"link del group {_GROUP}\n"
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)


def _adopt_orphans() -> None:
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise RuntimeError(f"prctl(SUBREAPER): {os.strerror(ctypes.get_errno())}")
