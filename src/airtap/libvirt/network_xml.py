"""The XML of libvirt networks: ours made from templates, anybody's read. No libvirt is needed.

https://libvirt.org/formatnetwork.html is the format.
"""

import re
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_interface
from typing import Any

from ..errors import Problem
from .reader import MACVTAP_MODES, NAMESPACE
from .templates import bad, expect_valid, fill
from .xml import parse, serialize

# libvirt keeps a network in NAME.xml, NAME.conf and others: a file name of 255 bytes at most.
_MAX_NAME = 200
# deviceName of libvirt's basictypes.rng, without the characters that no device can have.
_DEVICE = re.compile(r"[a-zA-Z0-9_.\\-]+")


@dataclass(frozen=True)
class Network:
    """What a network does for its guests.

    kind: macvtap, nat or session if it is ours; else libvirt's forward mode, or "isolated".
    mode: that of the macvtaps that guests get, in libvirt's word; "" where they get none.
    parent: the host's device behind it, "" if that is not fixed.
    """

    name: str
    kind: str
    parent: str
    mode: str = ""
    ours: bool = True
    ipv4: IPv4Network | None = None
    ipv6: IPv6Network | None = None


def network_name(text: str) -> str:
    """Return text if it can name a libvirt network, and be typed and read. Raises Problem bad-name.

    libvirt itself forbids "/" and the line feed; the rest is what people or file names cannot bear.
    """
    if not text:
        raise Problem("bad-name", "the name of the network is empty")
    if len(text.encode(errors="surrogatepass")) > _MAX_NAME:
        raise Problem("bad-name", f"network name {text[:64]!a}... is longer than {_MAX_NAME} bytes")
    if not text.isprintable() or "/" in text or text != text.strip():
        raise Problem("bad-name", f"{text!a} cannot be the name of a network")
    return text


def network_xml(network: Network) -> str:
    """Return the XML that defines one of our networks.

    ipv4 is needed for kind nat: its first address is the host's, the others are leased; ipv6
    is autoconfigured, and left out if None. Raises Problem bad-name, bad-template.
    """
    if not _DEVICE.fullmatch(network.parent):
        raise Problem("bad-name", f"libvirt cannot write the device name {network.parent!a}")
    values = {"NAME": network_name(network.name), "PARENT": network.parent}
    if network.kind == "macvtap":
        values["MODE"] = network.mode
    template = f"network-{network.kind}"
    root = fill(template, values, _subnet_values(network))
    if network.kind == "nat" and not network.ipv6:
        _leave_ipv6_out(root)
    xml = serialize(root)
    made = replace(read_network(xml), ipv4=network.ipv4, ipv6=network.ipv6)
    if made != network:
        what = f"{network.parent} that airtap would know for its own"
        raise bad(template, f"it makes no network of kind {network.kind} on {what}")
    expect_valid(template, root)
    return xml


def _subnet_values(network: Network) -> dict[str, str]:
    if network.kind != "nat":
        return {}
    ipv4, ipv6 = network.ipv4, network.ipv6
    assert ipv4
    values: dict[str, Any] = {"ADDRESS": ipv4[1], "PREFIX": ipv4.prefixlen}
    values |= {"START": ipv4[2], "END": ipv4[-2]}
    values |= {"ADDRESS6": ipv6[1] if ipv6 else "", "PREFIX6": ipv6.prefixlen if ipv6 else ""}
    return {name: str(value) for name, value in values.items()}


def _leave_ipv6_out(root: Any) -> None:
    for nat in root.findall("forward/nat[@ipv6]"):
        del nat.attrib["ipv6"]
    for element in (*root.findall("ip[@family='ipv6']"), *root.findall("forward/nat")):
        if element.tag == "ip" or not (len(element) or element.attrib):
            element.getparent().remove(element)


def read_network(xml: str) -> Network:
    """Return what a network is, from the XML that libvirt has of it. Raises Problem bad-xml.

    Only whether it is ours, and that it was made for sessions, is taken from our metadata.
    """
    root = parse(xml.encode())
    ours = root.find(f"metadata/{{{NAMESPACE}}}network")
    forward = root.find("forward")
    bridge = root.find("bridge")
    mode = "isolated" if forward is None else forward.get("mode", "nat")
    kind, parent = mode, "" if forward is None else forward.get("dev", "")
    device = None if forward is None else forward.find("interface")
    if mode in MACVTAP_MODES and device is not None:
        kind, parent = "macvtap", device.get("dev", "")
    elif mode == "bridge" and bridge is not None:
        parent = bridge.get("name", "")
        kind = "session" if ours is not None and ours.get("kind") == "session" else "bridge"
    subnets = [_subnet(element) for element in root.findall("ip")]
    return Network(
        name=root.findtext("name", ""),
        kind=kind,
        parent=parent,
        mode=mode if kind == "macvtap" else "",
        ours=ours is not None,
        ipv4=next((s for s in subnets if isinstance(s, IPv4Network)), None),
        ipv6=next((s for s in subnets if isinstance(s, IPv6Network)), None),
    )


def _subnet(element: Any) -> IPv4Network | IPv6Network | None:
    address = element.get("address", "")
    length = element.get("prefix") or element.get("netmask") or ("64" if ":" in address else "24")
    try:
        return ip_interface(f"{address}/{length}").network
    except ValueError:
        return None


def port_owner(xml: str) -> str:
    """Return the guest that holds a port of a network, by its XML. Raises Problem bad-xml."""
    owner: str = parse(xml.encode()).findtext("owner/name", "")
    return owner
