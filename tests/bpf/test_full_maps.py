"""A map that is full says so, and how much it takes."""

from contextlib import closing
from ipaddress import IPv4Address

import pytest

from airtap.bpf.libbpf import BpfError
from airtap.bpf.macnat import open_macnat
from airtap.bpf.records import GUESTS


def test_there_is_a_last_guest_and_a_last_address_of_the_host() -> None:
    with closing(open_macnat(None)) as nat:
        for index in range(1, GUESTS + 1):
            nat.guests.add(index, None)
        with pytest.raises(BpfError, match=f"room for {GUESTS} tables, all taken: Argument list"):
            nat.guests.add(GUESTS + 1, None)
        nat.guests.remove(1)
        nat.guests.add(GUESTS + 1, None)
        addresses = {IPv4Address(0x0A000000 + number) for number in range(8193)}
        with pytest.raises(BpfError, match="room for 8192 hosts, all taken: Argument list"):
            nat.hosts.set_addresses(addresses, ())
