"""Which addresses the host routes elsewhere, of all that its routes say."""

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from airtap.kernel.addresses import Device, Hop, HostAddress, HostNetwork, Prefix, Route
from airtap.macnat.elsewhere import elsewhere

UP, VLAN, BRIDGE, VRF, SHIM = 2, 3, 4, 5, 6
ALL, UNTAGGED, TAGGED, NONE = 3, 1, 2, 0
PLAIN = {UP: Device(0, 0, "", 0), BRIDGE: Device(0, 0, "bridge", 0)}
DEVICES = {
    **PLAIN,
    VLAN: Device(UP, 0, "vlan", 0),
    VRF: Device(0, 0, "vrf", 10),
    SHIM: Device(UP, 0, "macvlan", 0),
}


def prefix(text: str) -> Prefix:
    network = ip_network(text)
    return Prefix(network.version, network.prefixlen, int(network.network_address))


def address(text: str, device: int = UP) -> HostAddress:
    interface = ip_interface(text)
    return HostAddress(device, interface.ip, interface.network.prefixlen, b"", False)


def route(text: str, *devices: int, table: int = 254) -> Route:
    return Route(prefix(text), table, tuple(Hop(device, b"") for device in devices))


OWN = [address("192.0.2.10/24"), address("2001:db8::10/64"), address("fe80::1/64")]
LAN = [route("192.0.2.0/24", UP), route("2001:db8::/64", UP), route("fe80::/64", UP)]


def asked(network: HostNetwork, text: str) -> int:
    """Return the bits of the longest prefix."""
    found = elsewhere(network, UP)
    host = prefix(text)
    fitting = [each for each in found if host.version == each.version]
    fitting = [each for each in fitting if host.shortened(each.length) == each]
    return found[max(fitting, key=lambda each: each.length)] if fitting else 0


@pytest.mark.parametrize(
    ("routes", "where", "bits"),
    [
        ([], "10.9.0.2", NONE),
        ([route("10.9.0.0/24", BRIDGE)], "10.9.0.2", ALL),
        ([route("10.9.0.0/24", BRIDGE)], "10.9.1.2", NONE),
        ([route("10.9.0.0/24", UP)], "10.9.0.2", NONE),
        ([route("10.9.0.0/24", VLAN)], "10.9.0.2", UNTAGGED),
        ([route("10.9.0.0/24", SHIM)], "10.9.0.2", NONE),
        ([route("10.9.0.0/24", BRIDGE), route("10.9.0.0/24", UP)], "10.9.0.2", NONE),
        ([route("10.9.0.0/24", BRIDGE, UP)], "10.9.0.2", NONE),
        ([route("10.9.0.0/24", BRIDGE), route("10.9.0.0/24", VLAN)], "10.9.0.2", UNTAGGED),
        ([route("10.0.0.0/8", BRIDGE), route("10.9.0.0/24", UP)], "10.9.0.2", NONE),
        ([route("10.0.0.0/8", BRIDGE), route("10.9.0.0/24", UP)], "10.8.0.2", ALL),
        ([route("10.0.0.0/8", UP), route("10.9.0.0/24", BRIDGE)], "10.9.0.2", ALL),
        ([route("10.0.0.0/7", BRIDGE), route("0.0.0.0/0", BRIDGE)], "10.9.0.2", NONE),
        ([route("10.9.0.0/24", BRIDGE, table=52)], "10.9.0.2", ALL),
        ([route("10.9.0.0/24", BRIDGE, table=10)], "10.9.0.2", NONE),  # in a VRF
        ([route("10.9.0.0/24")], "10.9.0.2", NONE),  # no device is told
        ([route("169.254.0.0/16", BRIDGE)], "169.254.7.7", NONE),
        ([route("fe80::/64", BRIDGE)], "fe80::7", NONE),
        ([route("fd00::/8", BRIDGE)], "fd00::7", NONE),
        ([route("fd00:9::/32", BRIDGE)], "fd00:9::7", ALL),
        ([route("192.0.2.0/24", BRIDGE)], "192.0.2.77", NONE),
        ([route("192.0.2.128/25", BRIDGE)], "192.0.2.177", ALL),
    ],
)
def test_where_an_address_is(routes: list[Route], where: str, bits: int) -> None:
    assert asked(HostNetwork(OWN, LAN + routes, DEVICES), where) == bits


def test_what_counts_needs_an_address_there() -> None:
    """Nobody on the LAN sends anything by way of a host that has no address on it."""
    routes = [route("10.9.0.0/24", BRIDGE), route("fd00:9::/32", BRIDGE)]
    only6 = [address("2001:db8::10/64"), address("192.0.2.10/24", BRIDGE), address("fe80::1/64")]
    for own, bits4, bits6 in ((only6, NONE, ALL), (OWN[:1] + OWN[2:], ALL, NONE)):
        network = HostNetwork(own, routes, PLAIN)
        assert asked(network, "10.9.0.2") == bits4
        assert asked(network, "fd00:9::2") == bits6
    tagged = HostNetwork([address("192.0.2.10/24", VLAN)], routes, DEVICES)
    assert asked(tagged, "10.9.0.2") == ALL


def test_a_vrf_has_the_routes_of_its_table() -> None:
    devices = {**DEVICES, UP: Device(0, VRF, "", 0)}
    routes = [route("10.9.0.0/24", BRIDGE, table=10), route("10.8.0.0/24", BRIDGE)]
    network = HostNetwork(OWN, routes, devices)
    assert asked(network, "10.9.0.2") == ALL
    assert asked(network, "10.8.0.2") == NONE


def test_only_what_matters_is_kept() -> None:
    routes = [route(f"10.{n}.0.0/16", UP) for n in range(200)]
    assert elsewhere(HostNetwork(OWN, LAN + routes, PLAIN), UP) == {}
    routes = [route("10.0.0.0/8", BRIDGE), *(route(f"10.{n}.0.0/16", BRIDGE) for n in range(200))]
    routes += [route("10.7.7.0/24", UP), route("10.7.7.8/32", UP), route("10.7.7.9/32", BRIDGE)]
    assert elsewhere(HostNetwork(OWN, LAN + routes, PLAIN), UP) == {
        prefix("10.0.0.0/8"): ALL,
        prefix("10.7.7.0/24"): NONE,
        prefix("10.7.7.9/32"): ALL,
    }


def test_what_is_around_an_uplink() -> None:
    hops = (Hop(UP, ip_address("192.0.2.1").packed), Hop(BRIDGE, ip_address("10.9.0.9").packed))
    routes = [*LAN, Route(prefix("0.0.0.0/0"), 100, hops), route("198.51.100.0/24", UP, table=10)]
    around = HostNetwork(OWN, routes, PLAIN).around(UP)
    assert around.own == {each.address for each in OWN}
    assert around.gateways == {ip_address("192.0.2.1")}
    assert around.broadcasts == {ip_address("192.0.2.255")}
    assert around.subnets == {ip_network("192.0.2.0/24"), ip_network("2001:db8::/64")}
    assert ip_network("198.51.100.0/24") in around.on_link
    assert ip_network("0.0.0.0/0") not in around.on_link
