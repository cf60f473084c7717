"""Carry frames between a guest's tap and the tap eth0 of this network namespace; see pump.py.

Run as a file by `python3 -I -S relay.py FD`, so it imports nothing of the lab. Both taps speak the
same virtio-net header, or none, and frames pass unread: checksum and segmentation offloads then
work as they do under QEMU.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import sys

_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_TUNSETOFFLOAD = 0x400454D0
_TUNGETIFF = 0x800454D2
_TUNGETVNETHDRSZ = 0x800454D7
_TUNSETVNETHDRSZ = 0x400454D8
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_ALL_OFFLOADS = 0x0F  # checksum, TSO over IPv4 and IPv6, ECN

_IFREQ = "16sH22x"
_LARGEST = 1 << 17  # a 64 KiB segmentation-offloaded packet and its headers

# A device is down or has no room: a wire drops the frame.
_DROPPED = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENETDOWN, errno.EIO, errno.EINVAL})
_DELETED = frozenset({errno.ENOLINK, errno.EBADFD})
_LOOK_AGAIN = 200  # ms


def has_vnet_hdr(tap: int) -> bool:
    """Tell whether frames read from this tap begin with a virtio-net header, as QEMU asks it."""
    request = fcntl.ioctl(tap, _TUNGETIFF, bytes(struct.calcsize(_IFREQ)))
    return bool(struct.unpack(_IFREQ, request)[1] & _IFF_VNET_HDR)


def open_eth0(like: int) -> int:
    """Return a tap attached to eth0 with the same virtio-net header as the tap `like`."""
    header = _IFF_VNET_HDR if has_vnet_hdr(like) else 0
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack(_IFREQ, b"eth0", _IFF_TAP | _IFF_NO_PI | header))
    if header:
        size = fcntl.ioctl(like, _TUNGETVNETHDRSZ, struct.pack("i", 0))
        fcntl.ioctl(tap, _TUNSETVNETHDRSZ, size)
        fcntl.ioctl(tap, _TUNSETOFFLOAD, _ALL_OFFLOADS)
    return tap


def carry(source: int, sink: int) -> None:
    """Carry the frames that are waiting in source to sink, as many as there are up to a burst."""
    for _ in range(64):
        try:
            frame = os.read(source, _LARGEST)
        except OSError as exc:
            if exc.errno not in _DROPPED | _DELETED:
                raise
            return
        _send(sink, frame)


def _send(sink: int, frame: bytes) -> None:
    try:
        os.write(sink, frame)
    except OSError as exc:
        if exc.errno not in _DROPPED | _DELETED:
            raise


def gone(tap: int) -> bool:
    """Tell whether the device of this tap has been deleted.

    macvtap wakes no reader for it: the next write or ioctl says so.
    """
    try:
        fcntl.ioctl(tap, _TUNGETIFF, bytes(struct.calcsize(_IFREQ)))
    except OSError as exc:
        return exc.errno in _DELETED
    return False


def relay(guest: int, eth0: int) -> None:
    """Carry frames both ways until one of the two devices goes."""
    other = {guest: eth0, eth0: guest}
    poll = select.poll()
    for tap in other:
        os.set_blocking(tap, False)
        poll.register(tap, select.POLLIN)
    while not (gone(guest) or gone(eth0)):
        for tap, _ in poll.poll(_LOOK_AGAIN):
            carry(tap, other[tap])


def main() -> None:
    guest = int(sys.argv[1])
    eth0 = open_eth0(guest)
    print("ready", flush=True)
    relay(guest, eth0)


if __name__ == "__main__":
    main()
