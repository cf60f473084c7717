"""When an uplink is on another network."""

from ipaddress import ip_address, ip_network

from airtap.kernel.addresses import Subnet
from airtap.macnat.roaming import Attachment, Change
from airtap.macnat.router_probe import Router


def nets(*texts: str) -> frozenset[Subnet]:
    return frozenset(map(ip_network, texts))


A, B = nets("192.0.2.0/24", "2001:db8::/64"), nets("198.51.100.0/24", "2001:db8:b::/64")
NONE = nets()


def told(*seen: tuple[bytes, frozenset[Subnet]]) -> tuple[Attachment, list[bool]]:
    where, moves = Attachment(), []
    for ssid, subnets in seen:
        where, change = where.update(ssid, subnets)
        moves.append(change == Change.OTHER)
    return where, moves


def on(ssid: bytes, subnets: frozenset[Subnet], left: frozenset[Subnet] = NONE) -> Attachment:
    return Attachment(ssid, subnets, left, carrier=True)


def test_the_first_network_is_no_other() -> None:
    assert told((b"", NONE), (b"A", NONE), (b"A", A))[1] == [False] * 3


def test_the_first_carrier_counts_where_it_was_waited_for() -> None:
    where, change = Attachment().without_carrier().update(b"", NONE)
    assert change == Change.FIRST
    assert where.without_carrier() == where
    assert where.update(b"", A)[1] == Change.NONE
    assert Attachment().update(b"", NONE)[1] == Change.NONE
    renamed = on(b"A", A).without_carrier().update(b"B", NONE)
    assert renamed[1] == Change.OTHER


def test_carrier_lost_and_back() -> None:
    where, moves = told((b"A", A), (b"", A), (b"", NONE), (b"A", NONE), (b"A", A))
    assert not any(moves)
    assert where == on(b"A", A)


def test_another_name_then_its_addresses() -> None:
    seen = (b"A", A), (b"", NONE), (b"B", NONE), (b"B", B)
    where, moves = told(*seen)
    assert moves == [False, False, True, False]
    assert where == on(b"B", B, A)
    assert where.is_stale(ip_address("192.0.2.7"))
    assert not where.is_stale(ip_address("198.51.100.7"))
    back, moves = told(*seen, (b"A", B), (b"A", A))
    assert moves[-2:] == [True, False]
    assert back == on(b"A", A, B)


def test_another_name_while_the_old_addresses_are_still_there() -> None:
    where, moves = told((b"A", A), (b"B", A))
    assert moves == [False, True]
    assert not where.is_stale(ip_address("192.0.2.7")), "B may have the same subnet"
    assert where.update(b"B", B) == (on(b"B", B, A), Change.NONE)


def test_another_socket_for_the_cable() -> None:
    where, moves = told((b"", A), (b"", NONE), (b"", B))
    assert moves == [False, False, True]
    assert where.left == A


def test_subnets_within_each_other() -> None:
    wide, narrow = nets("10.0.0.0/8"), nets("10.1.2.0/24")
    assert told((b"", wide), (b"", narrow), (b"", wide))[1] == [False] * 3
    where, moves = told((b"", nets("192.168.0.0/16")), (b"", nets("10.0.0.0/8")))
    assert moves[-1]
    where, change = where.update(b"", nets("192.168.7.0/24"))
    assert change == Change.OTHER
    assert where.is_stale(ip_address("10.1.1.1"))
    where, _ = where.update(b"", nets("10.5.0.0/16"))
    assert not where.is_stale(ip_address("10.5.0.7"))


def test_one_family_comes_and_goes() -> None:
    ipv4, ipv6 = nets("192.0.2.0/24"), nets("2001:db8::/64")
    assert told((b"", ipv6), (b"", NONE), (b"", ipv4), (b"", ipv6))[1] == [False] * 4


def test_a_hidden_name_is_no_other() -> None:
    assert told((b"home", A), (b"", A), (b"", A), (b"home", A))[1] == [False] * 4


def test_another_router_at_the_same_address() -> None:
    home, office, other = (frozenset({Router("192.0.2.1", mac)}) for mac in ("a", "b", "c"))
    home6, office6 = (frozenset({Router("fe80::1", mac)}) for mac in ("a", "b"))
    none: frozenset[Router] = frozenset()
    where, changes = Attachment(), []
    seen = none, home, home | home6, none, office, office | office6, office6, home6
    for routers in seen:
        where, change = where.update(b"", A, routers)
        changes.append(change)
    assert changes == ["", "", "", "", Change.OTHER, "", "", Change.OTHER]
    assert where.routers == home6
    where, change = where.update(b"", B, none)
    assert change == Change.OTHER
    assert where.update(b"", B, office | other)[1] == Change.NONE, "a network is one change"


def test_kept_as_text() -> None:
    where = Attachment(
        b"A \xff", A, left=B, unsettled=True, routers=frozenset({Router("fe80::1", "a")})
    )
    assert Attachment.from_text(where.to_text()) == where
    assert Attachment.from_text(Attachment().to_text()) == Attachment()
    for other in ("", "{}", "[1]", '{"ssid": 1, "subnets": ["x"], "left": [], "unsettled": 0}'):
        assert Attachment.from_text(other) == Attachment()


def test_one_more_address_or_one_less() -> None:
    both = A | B
    assert told((b"", A), (b"", both), (b"", B), (b"", both), (b"", A))[1] == [False] * 5
