"""What the kernel says of network devices, asked by ip(8): independent of the code under test."""

import array
import json
import socket
import struct
from fcntl import ioctl
from typing import Any

from lab.lan import wait_for
from lab.sandbox import command, host_links

TUNGETIFF = 0x800454D2
# linux/sockios.h, linux/ethtool.h
_SIOCETHTOOL, _ETHTOOL_STXCSUM = 0x8946, 0x17
IFF_VNET_HDR = 0x4000


def link(name: str) -> dict[str, Any]:
    """ip -json -details link show NAME."""
    found: list[dict[str, Any]] = json.loads(
        command("ip", "-json", "-details", "-statistics", "link", "show", name)
    )
    return found[0]


def addresses(name: str) -> list[str]:
    """Every address that the host has on a device, of any family and scope."""
    found = json.loads(command("ip", "-json", "address", "show", name))
    return [entry["local"] for entry in found[0]["addr_info"]]


def guest_devices() -> set[str]:
    """Devices that bear airtap's marks: its names, or the taps of a bridge."""
    return {name for name in host_links() if name.startswith(("airtap", "tap"))}


def wait_gone(*names: str) -> None:
    """Wait for devices to be removed: about 50 ms each."""
    seconds = 5 + 0.2 * len(names)
    wait_for(lambda: not set(names) & host_links(), seconds, f"{len(names)} devices to go")


def has_vnet_hdr(tap: int) -> bool:
    """What QEMU would read: TUNGETIFF's IFF_VNET_HDR."""
    answer = ioctl(tap, TUNGETIFF, bytes(40))
    return bool(struct.unpack("16sH22x", answer)[1] & IFF_VNET_HDR)


def without_offload(device: str) -> None:
    """Have checksums written before a frame leaves, as on Wi-Fi."""
    value = array.array("B", struct.pack("=II", _ETHTOOL_STXCSUM, 0))
    request = struct.pack("16sP16x", device.encode(), value.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        ioctl(any_socket, _SIOCETHTOOL, request)
