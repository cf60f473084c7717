"""Taps: the character devices through which a process sends and receives frames.

A macvtap's node is /dev/tap<ifindex>. The kernel names it by a number that is unique in one
network namespace only, in a /dev that namespaces share, so the node of that name may belong
to another namespace's device. sysfs knows the true device number; open_node() compares.

Who still holds a tap is asked of the kernel too. open_node() puts an open-file-description
lock (fcntl(2), F_OFD_SETLK) on what it opens. The lock lives exactly as long as the open file
does, in whichever processes or sockets that has got to, and is_held() asks whether another
lock would have to wait: neither bookkeeping nor a look into other people's processes.
(/proc/locks lists such locks too, but page by page, and skips some while others come and go.)
"""

import errno
import fcntl
import os
import socket
import stat
import struct
from pathlib import Path

from ..errors import Problem, reason

# include/uapi/linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
# include/uapi/asm-generic/fcntl.h, struct flock
_F_OFD_GETLK = 36
_F_OFD_SETLK = 37
_FLOCK = "hhqqi4x"
_WHOLE_FILE = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)

# The host's: airtapd's unit has a /dev of its own, and the host's elsewhere.
_DEV = Path(os.environ.get("AIRTAP_DEV", "/dev"))


def node_of(name: str, index: int) -> str | None:
    """The path of the node of macvtap name, or None if /dev/tap<index> is not it.

    Raises Problem no-tap if sysfs does not show the device.
    """
    attribute = Path(f"/sys/class/net/{name}/tap{index}/dev")
    try:
        major, minor = attribute.read_text().split(":")
    except OSError as exc:
        raise Problem(
            "no-tap",
            f"cannot read {attribute}: {reason(exc)}",
            "/sys must be a sysfs of airtapd's own network namespace",
        ) from exc
    path = _DEV / f"tap{index}"
    try:
        info = path.lstat()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise Problem("no-tap", f"cannot look at {path}: {reason(exc)}") from exc
    if not stat.S_ISCHR(info.st_mode) or info.st_rdev != os.makedev(int(major), int(minor)):
        return None
    return str(path)


def free_index(above: int) -> int:
    """An ifindex above the given one, whose /dev/tap<ifindex> nobody has."""
    taken = [int(p.name[3:]) for p in _DEV.glob("tap*") if p.name[3:].isdecimal()]
    return max(above, *taken, 0) + 1


def open_node(node: str, vnet_hdr: bool) -> int:
    """Open a macvtap's queue, locked for is_held(). The caller owns the descriptor.

    vnet_hdr: whether frames carry a struct virtio_net_hdr; a macvtap starts with one.
    Raises Problem no-tap.
    """
    try:
        fd = os.open(node, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as exc:
        raise Problem("no-tap", f"cannot open {node}: {reason(exc)}") from exc
    try:
        fcntl.fcntl(fd, _F_OFD_SETLK, _WHOLE_FILE)
        _set_iff(fd, "", vnet_hdr)
    except OSError as exc:
        os.close(fd)
        raise Problem("no-tap", f"cannot set up {node}: {reason(exc)}") from exc
    return fd


def open_tap(vnet_hdr: bool) -> tuple[int, str]:
    """Make a tap for a bridge, as qemu-bridge-helper does: (descriptor, name).

    The device lasts as long as the open file. Raises Problem no-tap.
    """
    try:
        fd = os.open(_DEV / "net/tun", os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        hint = "load the module tun" if exc.errno in (errno.ENOENT, errno.ENODEV) else ""
        raise Problem("no-tap", f"cannot open /dev/net/tun: {reason(exc)}", hint) from exc
    try:
        return fd, _set_iff(fd, "tap%d", vnet_hdr)
    except OSError as exc:
        os.close(fd)
        raise Problem("no-tap", f"cannot make a tap: TUNSETIFF: {reason(exc)}") from exc


def is_held(node: str) -> bool:
    """Whether what open_node() opened is still open anywhere. False for a node that is gone.

    Opening the node gives the device a second queue for some microseconds, so this is for when
    there is reason to doubt, not for polling. Raises OSError.
    """
    try:
        fd = os.open(node, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
            return False
        raise
    try:
        answer = fcntl.fcntl(fd, _F_OFD_GETLK, _WHOLE_FILE)
    finally:
        os.close(fd)
    return int(struct.unpack(_FLOCK, answer)[0]) != fcntl.F_UNLCK


def free_number(prefix: str) -> int:
    """A number above those of all devices whose name is prefix and a number."""
    names = (
        name.removeprefix(prefix) for _, name in socket.if_nameindex() if name.startswith(prefix)
    )
    return max((int(number) for number in names if number.isdecimal()), default=-1) + 1


def device_indexes() -> set[int]:
    """The ifindex of every network device there is, without asking for more."""
    return {index for index, _name in socket.if_nameindex()}


def _set_iff(fd: int, name: str, vnet_hdr: bool) -> str:
    flags = _IFF_TAP | _IFF_NO_PI | (_IFF_VNET_HDR if vnet_hdr else 0)
    request = struct.pack("16sH22x", name.encode(), flags)
    answer = fcntl.ioctl(fd, _TUNSETIFF, request)
    return answer[:16].rstrip(b"\0").decode()
