"""Networks in a libvirt daemon: ours are made and removed, others' only looked at."""

from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from ..errors import Problem
from .connection import passed_over, problems
from .network_xml import Network, network_xml, port_owner, read_network


@dataclass(frozen=True)
class ListedNetwork:
    """A network as it stands in libvirt."""

    network: Network
    uuid: str
    active: bool
    autostart: bool


def entries(connection: Any) -> list[ListedNetwork]:
    """Return every network, ours and others', by name. Raises Problem libvirt-error."""
    with problems("list networks"):
        found = [_entry(network) for network in connection.listAllNetworks()]
    return sorted(found, key=lambda entry: entry.network.name)


def define(connection: Any, network: Network) -> bool:
    """Define, start and autostart one of our networks. Doing it twice is fine.

    Returns whether it was new. Raises Problem network-exists (of that name: another's, or ours
    with another kind, parent or mode), bad-name, libvirt-error; nothing new is left behind then.
    """
    handle = _lookup(connection, network.name)
    if handle is not None:
        _expect_same(network, connection, handle)
        with problems(f"start network {network.name}"):
            _start(handle)
        return False
    with problems(f"define network {network.name}"):
        handle = connection.networkDefineXML(network_xml(network))
    try:
        with problems(f"start network {network.name}"):
            _start(handle)
    except Problem:
        remove(handle, network.name)
        raise
    return True


def users(connection: Any, name: str) -> list[str]:
    """Return the names of guests with a network card on a network. Raises Problem libvirt-error.

    libvirt tells of active networks only.
    """
    handle = _lookup(connection, name)
    owners: set[str] = set()
    with problems(f"list the ports of network {name}"), passed_over("VIR_ERR_NO_SUPPORT"):
        if handle is not None and handle.isActive():
            owners = {port_owner(port.XMLDesc()) for port in handle.listAllPorts()}
    return sorted(owners - {""})


def undefine(connection: Any, name: str) -> None:
    """Stop and remove one of our networks.

    Guests on it are not asked, as with virsh net-destroy: users() says who they are. Raises
    Problem no-network, not-ours, libvirt-error.
    """
    handle = _lookup(connection, name)
    if handle is None:
        what = f"there is no network {name} at {connection.getURI()}"
        raise Problem("no-network", what, "see: airtap network list")
    with problems(f"inspect network {name}"):
        ours = read_network(handle.XMLDesc()).ours
    if not ours:
        what = f"network {name} was not made by airtap"
        raise Problem("not-ours", what, "virsh net-undefine removes it")
    remove(handle, name)


def remove(handle: Any, name: str) -> None:
    """Stop a network and remove its definition. Raises Problem libvirt-error."""
    with problems(f"remove network {name}"):
        persistent = handle.isPersistent()
        if handle.isActive():
            handle.destroy()
        if persistent:
            handle.undefine()


def subnets(connection: Any) -> list[IPv4Network]:
    """Return the IPv4 subnets of all networks, also those not active, which have no route."""
    return [entry.network.ipv4 for entry in entries(connection) if entry.network.ipv4]


def _expect_same(network: Network, connection: Any, handle: Any) -> None:
    with problems(f"inspect network {network.name}"):
        there = read_network(handle.XMLDesc())
    what = f"there is a network {network.name} at {connection.getURI()} already"
    if not there.ours:
        what += ", and airtap did not make it"
        raise Problem("network-exists", what, "choose another name")
    if (there.kind, there.parent, there.mode) != (network.kind, network.parent, network.mode):
        mode = f" in mode {there.mode}" if there.mode else ""
        what += f", of kind {there.kind} on {there.parent}{mode}"
        hint = f"to replace it: airtap network undefine {network.name}"
        raise Problem("network-exists", what, hint)


def _start(handle: Any) -> None:
    if not handle.isActive():
        handle.create()
    if handle.isPersistent() and not handle.autostart():
        handle.setAutostart(True)


def _lookup(connection: Any, name: str) -> Any | None:
    with problems(f"look for network {name}"), passed_over("VIR_ERR_NO_NETWORK"):
        return connection.networkLookupByName(name)
    return None


def _entry(handle: Any) -> ListedNetwork:
    return ListedNetwork(
        read_network(handle.XMLDesc()),
        handle.UUIDString(),
        bool(handle.isActive()),
        bool(handle.isPersistent() and handle.autostart()),
    )
