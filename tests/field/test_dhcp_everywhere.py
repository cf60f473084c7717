"""Guests get leases of their own: whatever carries them, whoever serves, whichever client they run.

What is there is the product of the columns below, each with all the clients at once.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import combinations, product
from pathlib import Path

import pytest
from scapy.packet import Packet

from lab.airtap import HELPER, Airtapd
from lab.dhcp_clients import MACS, each_client, leased
from lab.guest import QemuGuest
from lab.lan import HOST4, Lan, wait_for
from lab.meddling import echoing, snoop, to_probes
from lab.traffic import GUEST_MAC, pump

Cell = tuple[str, str, str]
KINDS = ("macvtap", "ipvtap", "bridge")
WAYS = ("natted", "plain")
SERVERS = ("lan", "host", "snooping", "proxy")

IPXE_MAC = "52:54:00:bb:00:01"
# Of udhcpc: a client identifier; to look for somebody else at its address, as others do unasked.
# They know their own MAC in an answer for their address; udhcpc does not, with airtap or without.
NAMED = "-x", f"0x3d:00{b'udhcpc'.hex()}"
PROBES = ("-a300",)
LONG = 60.0


def possible(cell: Cell) -> bool:
    """A bridge has no MAC NAT; on a plain ipvtap host and guest do not meet (docs/limits.md)."""
    return cell[:2] != ("bridge", "natted") and cell != ("ipvtap", "plain", "host")


def pairs(cell: Cell) -> set[tuple[str, str]]:
    return set(combinations(cell, 2))


def covering(cells: Sequence[Cell]) -> list[Cell]:
    """Some of them, few, that have every pair which is in any: always that which has most new."""
    missing = set[tuple[str, str]]().union(*map(pairs, cells))
    chosen = []
    while missing:
        chosen.append(max(cells, key=lambda cell: len(pairs(cell) & missing)))
        missing -= pairs(chosen[-1])
    return chosen


CELLS = [cell for cell in product(KINDS, WAYS, SERVERS) if possible(cell)]
ALWAYS = covering(CELLS)


def marked(cell: Cell) -> object:
    in_machine = cell[0] == "ipvtap"
    marks = [pytest.mark.machine("um")] if in_machine else []
    marks += [] if cell in ALWAYS else [pytest.mark.slow]
    return pytest.param(*cell, marks=marks, id="-".join(["um"] * in_machine + [*cell]))


def test_make_test_has_every_pair() -> None:
    """Those with a client too: each cell has every client."""
    assert {pair for cell in ALWAYS for pair in pairs(cell)} == {
        pair for cell in CELLS for pair in pairs(cell)
    }
    assert len(ALWAYS) < len(CELLS)


@pytest.mark.parametrize(("kind", "way", "server"), [marked(cell) for cell in CELLS])
def test_every_guest_gets_a_lease_of_its_own(
    kind: str, way: str, server: str, tmp_path: Path
) -> None:
    one_mac = way == "natted" or kind == "ipvtap"
    bridge = "br0" if kind == "bridge" else None
    with (
        Lan(one_mac=one_mac, bridge=bridge) as lan,
        served(lan, server) as answered,
        airtapd(kind, way) as own,
    ):
        # A plain ipvtap's guests have the uplink's MAC: client identifiers tell them apart.
        mac = lan.near_mac if (kind, way) == ("ipvtap", "plain") else ""
        options = [*(PROBES if way == "natted" else []), *(NAMED if mac else [])]
        leases_of_all(lan, own, mac, options, tmp_path)
        assert answered or server != "proxy"
        assert not one_mac or lan.foreign_frames() == 0


def leases_of_all(
    lan: Lan, airtapd: Airtapd, mac: str, options: Sequence[str], directory: Path
) -> None:
    """mac: which all the guests have, or "". options: of udhcpc."""
    at, told = lan.uplink, not mac
    card = f"tap,id=n0,helper={HELPER}{f' --mac={IPXE_MAC}' if told else ''},br={at}"
    with (
        QemuGuest(mac or IPXE_MAC, card, env=airtapd.env) as ipxe,
        each_client(airtapd, directory, broadcast=False, uplink=at, mac=mac) as guests,
        pump(airtapd, mac or GUEST_MAC, told=told, name="udhcpc", uplink=at) as udhcpc,
    ):
        leases = [udhcpc.dhcp(LONG, *options)]
        for guest, process in guests.items():
            [address] = wait_for(partial(leased, guest, process), LONG, f"{guest.namespace}'s")
            leases.append(address)
        leases.append(ipxe.wait_booted())
        assert len({HOST4, *leases}) == 1 + len(leases)
        for address in leases:
            assert lan.ping(address, timeout=5), address


@contextmanager
def airtapd(kind: str, way: str) -> Iterator[Airtapd]:
    macnat = "on" if way == "natted" else "off"
    table = f'[parents.up0]\nkind = "{kind}"\nmacnat = "{macnat}"\n'
    with Airtapd(config="" if kind == "bridge" else table) as daemon:
        yield daemon
        print(daemon.log())  # shown with a test that fails


def served(lan: Lan, server: str) -> AbstractContextManager[list[Packet]]:
    """Have this server on the LAN; "proxy": an access point that answers for its stations.

    As it knows none but these, it does so in the name of who asks. Returns what it has answered.
    """
    if server == "host":
        lan.serve_from_host()
    if server == "snooping":
        snoop(lan, *([lan.near_mac] if lan.one_mac else [GUEST_MAC, IPXE_MAC, *MACS]))
    return echoing(lan, to_probes) if server == "proxy" else nullcontext([])
