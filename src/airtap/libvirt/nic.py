"""The NICs of domains: as definitions have them and, with more fields, of running guests."""

from dataclasses import dataclass
from typing import Any

from ..config import MODES
from .reader import Domain, Interface, NicMetadata


@dataclass(frozen=True)
class Nic:
    """A NIC of a domain.

    number: counts from 1 in its domain.
    kind: network, bridge, macvtap (libvirt's type direct), ipvtap, or another of libvirt's types.
    name: of that network, bridge or parent device, which may be an alias, or "".
    mode: of libvirt's macvtap.
    prepared: airtapd makes its device.
    connected: by airtap, which can undo it.
    parts: the elements that it has, as "<filterref>".
    device: the one that airtapd makes, or "".
    own: the note of that device bears this NIC's MAC, as it does not in a clone.
    """

    number: int
    mac: str
    kind: str
    name: str
    mode: str = ""
    prepared: bool = False
    connected: bool = False
    parts: frozenset[str] = frozenset()
    device: str = ""
    own: bool = True

    @property
    def replaceable(self) -> bool:
        """Whether its device can be made anew."""
        return self.kind in MODES


@dataclass(frozen=True, kw_only=True)
class LiveNic(Nic):
    """A NIC of a running guest.

    guest: its virDomain.
    domain, uuid: the guest's name and UUID.
    run: libvirt's number of this run of it.
    alias: libvirt's name for the NIC.
    target: the host's end, or "".
    down: somebody wants its link down.
    xml: its <interface>.
    """

    guest: Any
    domain: str
    uuid: str
    run: int
    alias: str
    target: str
    down: bool
    xml: str

    def __str__(self) -> str:
        return f"domain {self.domain}: network card {self.mac}"


def nics(domain: Domain) -> list[Nic]:
    """Return the NICs of a domain's XML, in its order."""
    return [
        of_interface(domain, interface, domain.metadata_of(interface), number)
        for number, interface in enumerate(domain.interfaces, 1)
    ]


def of_interface(
    domain: Domain, interface: Interface, metadata: NicMetadata | None, number: int = 0
) -> Nic:
    """Return the NIC that an <interface> is.

    metadata: what airtap noted of its device, if it did.
    """
    kind, name, mode = interface.type, interface.source.get(interface.type, ""), ""
    prepared = None
    if interface.type == "ethernet":
        name = interface.target
        prepared = None if interface.managed else metadata
    elif interface.type == "direct":
        source = interface.source
        kind, name, mode = "macvtap", source.get("dev", ""), source.get("mode", "")
    if prepared:
        kind, name = prepared.kind, prepared.parent
    return Nic(
        number,
        interface.mac,
        kind,
        name,
        mode,
        prepared=prepared is not None,
        connected=any(noted.mac == interface.mac for noted in domain.nic_metadata),
        parts=parts(interface),
        device=prepared.device if prepared else "",
        own=prepared is None or prepared.mac == interface.mac,
    )


def parts(interface: Interface) -> frozenset[str]:
    """Return what a NIC has that libvirt cannot bring to every kind of device."""
    bandwidth = interface.element.all("bandwidth")
    found = [*interface.element.children, *(limit for each in bandwidth for limit in each.children)]
    floor = {"floor="} if interface.element.first("bandwidth", "inbound").get("floor") else set()
    return frozenset({f"<{element.name}>" for element in found} | floor)
