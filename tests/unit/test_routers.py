"""What is behind guests that route for others, and what of it is on the link itself."""

from ipaddress import ip_network

from airtap.bpf.records import BEHIND, UNKNOWN_MAC
from airtap.kernel.addresses import Prefix, Subnet
from airtap.macnat.routers import behind, prefix_of

MAC, OTHER = "52:54:00:00:00:01", "52:54:00:00:00:02"


def net(text: str) -> Subnet:
    return ip_network(text)


def test_what_is_on_the_link_is_behind_nobody() -> None:
    routes = {net("2001:db8::/32"): MAC, net("10.0.0.0/8"): OTHER}
    on_link = [net("2001:db8:0:1::/64"), net("192.0.2.0/24"), net("fe80::/10"), net("10.0.0.0/8")]
    assert behind(routes, on_link) == {
        prefix_of(net("2001:db8::/32")): MAC,
        prefix_of(net("2001:db8:0:1::/64")): UNKNOWN_MAC,
        prefix_of(net("10.0.0.0/8")): UNKNOWN_MAC,
    }
    assert behind({}, on_link) == {}


def test_no_more_than_there_is_room_for() -> None:
    on_link = [net(f"10.{n >> 8}.{n & 255}.0/24") for n in range(2 * BEHIND)]
    found = behind({net("10.0.0.0/8"): MAC}, on_link)
    assert len(found) == BEHIND
    assert found[Prefix(4, 8, 10 << 24)] == MAC
