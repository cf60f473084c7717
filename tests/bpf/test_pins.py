"""Pins and attachment: state and programs outlive the daemon, and other versions are replaced."""

import asyncio
import errno
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import AsyncIPRoute

from airtap.bpf.attach import CHILD, EGRESS, HOOKS, PARENT, Hook, Role, attach_to, detach
from airtap.bpf.macnat import Macnat, open_macnat
from airtap.bpf.object import Object
from airtap.bpf.pins import remove_pins
from airtap.bpf.records import UNKNOWN_MAC
from airtap.errors import Problem
from airtap.kernel.links import LinkError, LinkNotFound
from hatch_build import compile_object
from lab.probe import DROP, REDIRECT
from lab.sandbox import command
from tests.bpf.rig import devices
from tests.bpf.test_macnat import HOST, MAC_A, MAC_B, UPLINK, packet

DIRECTORY = Path("/sys/fs/bpf/airtap/test-1")


@contextmanager
def opened() -> Iterator[Macnat]:
    found = open_macnat(DIRECTORY)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def pins() -> Iterator[Path]:
    yield DIRECTORY
    remove_pins(DIRECTORY)


def filters(name: str) -> list[dict[str, Any]]:
    found = []
    for direction in ("ingress", "egress"):
        listed = json.loads(command("tc", "-j", "filter", "show", "dev", name, direction))
        found += [f["options"] | {"where": direction} for f in listed if "options" in f]
    return found


def qdiscs(name: str) -> str:
    return command("tc", "qdisc", "show", "dev", name)


def test_state_and_programs_outlive_the_daemon(pins: Path) -> None:
    with devices("mn0") as [ifindex]:

        async def first() -> None:
            async with AsyncIPRoute() as ipr:
                with opened() as one:
                    one.config.set_parent(1, UPLINK)
                    one.hosts.set_addresses({HOST}, set())
                    one.guests.add(7, MAC_A)
                    assert not await one.programs.is_attached(ipr, ifindex, PARENT["macvtap"])
                    await one.programs.attach(ipr, ifindex, PARENT["macvtap"])
                    await one.programs.attach(ipr, ifindex, PARENT["macvtap"])
                    assert await one.programs.is_attached(ipr, ifindex, PARENT["macvtap"])

        async def second() -> None:
            async with AsyncIPRoute() as ipr:
                with opened() as two:
                    assert two.config.parent_mac() == UPLINK
                    assert two.hosts.addresses() == {HOST}
                    assert two.guests.macs() == {7: MAC_A}
                    assert await two.programs.is_attached(ipr, ifindex, PARENT["macvtap"])
                    assert not await two.programs.is_attached(ipr, ifindex, CHILD["macvtap"])
                    before = filters("mn0")
                    await two.programs.attach(ipr, ifindex, PARENT["macvtap"])
                    assert filters("mn0") == before
                    await detach(ipr, ifindex)
                    await detach(ipr, ifindex)
                    assert "clsact" not in qdiscs("mn0")

        asyncio.run(first())
        assert {f["bpf_name"] for f in filters("mn0")} == {"airtap_to_uplink", "airtap_from_uplink"}
        asyncio.run(second())


def test_programs_on_other_maps_are_replaced(pins: Path) -> None:
    with devices("mn0") as [ifindex]:

        async def scenario() -> None:
            async with AsyncIPRoute() as ipr:
                with opened() as one:
                    await one.programs.attach(ipr, ifindex, PARENT["macvtap"])
                remove_pins(DIRECTORY)
                with opened() as two:
                    assert not await two.programs.is_attached(ipr, ifindex, PARENT["macvtap"])
                    await two.programs.attach(ipr, ifindex, PARENT["macvtap"])
                    assert await two.programs.is_attached(ipr, ifindex, PARENT["macvtap"])
                assert len(filters("mn0")) == 2

        asyncio.run(scenario())


@pytest.mark.parametrize(
    "kind, on_child, on_parent",
    [
        (
            "macvtap",
            ["egress airtap_from_guest"],
            ["ingress airtap_from_uplink", "egress airtap_to_uplink"],
        ),
        (
            "ipvtap",
            ["egress airtap_from_guest", "egress airtap_to_uplink", "egress airtap_to_sibling"],
            ["ingress airtap_from_uplink"],
        ),
    ],
)
def test_what_a_device_carries(
    pins: Path, kind: str, on_child: list[str], on_parent: list[str]
) -> None:
    """In the order in which the kernel lists them, and runs them: by priority."""
    with devices("mn0", "mn1") as [parent, child]:

        async def scenario() -> None:
            async with AsyncIPRoute() as ipr:
                with opened() as found:
                    found.config.set_role(Role(kind), "bridge")
                    await found.programs.attach(ipr, parent, PARENT[kind])
                    await found.programs.attach(ipr, child, CHILD[kind])
                    assert await found.programs.is_attached(ipr, parent, PARENT[kind])
                    assert await found.programs.is_attached(ipr, child, CHILD[kind])
                    assert not await found.programs.is_attached(ipr, child, ("from_uplink",))
                listed = [f"{f['where']} {f['bpf_name']}" for f in filters("mn0")]
                assert listed == on_parent
                assert [f"{f['where']} {f['bpf_name']}" for f in filters("mn1")] == on_child
                await detach(ipr, child)
                assert filters("mn1") == []
                assert "clsact" not in qdiscs("mn1")

        asyncio.run(scenario())


def test_kind_and_mode_outlive_the_daemon(pins: Path) -> None:
    skb = struct.Struct("=40xI148x")  # with its ifindex
    with devices("mn0", "mn1") as [a, b]:
        with opened() as one:
            assert one.config.kind() == "macvtap"
            one.config.set_role(Role("ipvtap"), "private")
            one.config.set_parent(1, UPLINK)
            one.guests.add(b, None)
            one.programs["from_guest"].test_run(packet(MAC_B, "192.0.2.1"), skb.pack(b))
        with opened() as two:
            assert two.config.kind() == "ipvtap"
            assert two.guests.macs() == {b: MAC_B}
            to_b = packet(UPLINK, "192.0.2.100")
            assert two.programs["to_sibling"].test_run(to_b, skb.pack(a)).verdict == DROP
            two.config.set_timing()
            two.config.set_role(Role("ipvtap"), "bridge")
            assert two.programs["to_sibling"].test_run(to_b, skb.pack(a)).verdict == REDIRECT
            two.config.set_role(Role("macvtap"), "vepa")
            assert (two.config.kind(), two.config.parent_mac()) == ("macvtap", UPLINK)


def test_foreign_filters_and_their_clsact_stay(pins: Path) -> None:
    with devices("mn0") as [ifindex]:
        command("tc", "qdisc", "add", "dev", "mn0", "clsact")
        foreign = Hook(EGRESS, 7, "somebody_else")
        in_the_way = Hook(EGRESS, 0xA3, "somebody_else")

        async def scenario() -> None:
            async with AsyncIPRoute() as ipr:
                with opened() as found:
                    program = found.programs["from_guest"].fd
                    await attach_to(ipr, ifindex, foreign, program)
                    await found.programs.attach(ipr, ifindex, CHILD["macvtap"])
                    assert len(filters("mn0")) == 2
                    await detach(ipr, ifindex)
                    assert [f["bpf_name"] for f in filters("mn0")] == ["somebody_else"]
                    await attach_to(ipr, ifindex, in_the_way, program)
                    with pytest.raises(LinkError):
                        await found.programs.attach(ipr, ifindex, PARENT["macvtap"])
                    await detach(ipr, ifindex)

        asyncio.run(scenario())
        assert len(filters("mn0")) == 2
        assert "clsact" in qdiscs("mn0")


def test_an_ingress_qdisc_is_no_clsact(pins: Path) -> None:
    with devices("mn0") as [ifindex]:
        command("tc", "qdisc", "add", "dev", "mn0", "ingress")

        async def scenario() -> None:
            async with AsyncIPRoute() as ipr:
                with opened() as found:
                    with pytest.raises(LinkError) as caught:
                        await found.programs.attach(ipr, ifindex, PARENT["macvtap"])
                    assert caught.value.errno == errno.EEXIST
                    with pytest.raises(LinkNotFound):
                        await found.programs.attach(ipr, 99_999, PARENT["macvtap"])
                    await detach(ipr, 99_999)

        asyncio.run(scenario())
        assert filters("mn0") == []


def test_pins_of_another_version_are_replaced(pins: Path) -> None:
    with opened() as one:
        one.guests.add(7, MAC_A)
    (DIRECTORY / "addresses").unlink()
    (DIRECTORY / "guests").rename(DIRECTORY / "addresses")
    with opened() as two:
        assert two.guests.macs() == {}


# struct config as it was before it had a kind.
FORMER_CONFIG = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 32);
} config SEC(".maps");
"""


def test_a_config_of_the_former_layout_is_replaced(pins: Path, tmp_path: Path) -> None:
    with opened() as one:
        one.guests.add(7, MAC_A)
        one.config.set_role(Role("ipvtap"), "private")
    (DIRECTORY / "config").unlink()
    source, target = tmp_path / "former.bpf.c", tmp_path / "former.bpf.o"
    source.write_text(FORMER_CONFIG)
    compile_object(source, target)
    with Object(target.read_bytes(), "former") as former:
        former.pin_maps(DIRECTORY)
        former.load()
    with opened() as two:
        assert (two.config.kind(), two.config.parent_mac()) == ("macvtap", UNKNOWN_MAC)
        assert two.guests.macs() == {}


def test_a_missing_bpffs_is_named() -> None:
    with pytest.raises(Problem) as caught:
        open_macnat(Path("/run/airtap-no-bpffs/1"))
    assert caught.value.code == "no-macnat"
    assert "mount -t bpf" in caught.value.hint


# The names that the filters had in earlier versions.
FORMER_NAMES = {
    "from_guest": "airtap_learn",
    "to_host": "airtap_call",
    "uplink_egress": "airtap_meet",
    "to_uplink": "airtap_up",
    "to_sibling": "airtap_across",
    "from_uplink": "airtap_down",
}


@pytest.mark.parametrize("kind", ["macvtap", "ipvtap"])
def test_an_upgrade_leaves_no_filter_behind(pins: Path, kind: str) -> None:
    """The former version's filters are replaced where they are, or taken off, by another name."""
    role = Role(kind, host_access=True)
    with devices("mn0", "mn1") as [parent, child], opened() as found:

        def names(device: str) -> list[str]:
            return [each["bpf_name"] for each in filters(device)]

        async def attach_former(ipr: AsyncIPRoute) -> None:
            for ifindex, programs in ((parent, role.on_parent), (child, role.on_child)):
                for name in programs:
                    former = replace(HOOKS[name], name=FORMER_NAMES[name])
                    await attach_to(ipr, ifindex, former, found.programs[name].fd)
            for device, programs in (("mn0", role.on_parent), ("mn1", role.on_child)):
                assert sorted(names(device)) == sorted(FORMER_NAMES[name] for name in programs)

        async def scenario() -> None:
            async with AsyncIPRoute() as ipr:
                found.config.set_role(role, "bridge")
                await attach_former(ipr)
                await detach(ipr, parent, keep=role.on_parent)
                await detach(ipr, child, keep=role.on_child)
                assert len(names("mn0")) == len(role.on_parent)
                assert len(names("mn1")) == len(role.on_child)
                await found.programs.attach(ipr, parent, role.on_parent)
                await found.programs.attach(ipr, child, role.on_child)
                for device, programs in (("mn0", role.on_parent), ("mn1", role.on_child)):
                    assert sorted(names(device)) == sorted(HOOKS[name].name for name in programs)
                await attach_former(ipr)
                await detach(ipr, parent, keep=("uplink_egress",))
                assert names("mn0") == ["airtap_meet"]
                for ifindex in (parent, child):
                    await detach(ipr, ifindex)
                for device in ("mn0", "mn1"):
                    assert names(device) == []
                    assert "clsact" not in qdiscs(device)

        asyncio.run(scenario())
