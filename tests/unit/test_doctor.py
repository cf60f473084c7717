"""What the doctor decides on what was read: pure, so also for what this machine does not have."""

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airtap.acl import Acl
from airtap.config import Parent
from airtap.doctor import contents
from airtap.doctor.checks import devices, host, kernel, libvirt, macnat, uplink
from airtap.doctor.checks.kernel import Needs
from airtap.doctor.checks.uplink import Scene
from airtap.doctor.finding import Finding, ok, problem, summary, warning, word
from airtap.doctor.sources.daemon import Daemon
from airtap.doctor.sources.hooks import Hook
from airtap.doctor.sources.kernel import Kernel, module_name
from airtap.doctor.sources.kernel_log import Denials, denials, of_kernel
from airtap.doctor.sources.libvirt import within
from airtap.doctor.sources.managers import Managers, values
from airtap.doctor.sources.processes import Process
from airtap.doctor.sources.uplinks import Uplink
from airtap.doctor.sources.user import User
from airtap.errors import Problem
from airtap.kernel.clsact import EGRESS, INGRESS, Filter
from airtap.kernel.links import IFF_LOWER_UP, Link
from airtap.kernel.macnat import Role, hooks
from airtap.report import Report
from airtap.uplink import Uplink as Inspected
from tests.unit.links import ETH0

UP = replace(ETH0, flags=ETH0.flags | IFF_LOWER_UP)
KERNEL = Kernel("6.12", {}, "", True, "devtmpfs", True)
SCENE = Scene(
    Daemon("/run/airtap/airtapd.sock"),
    User(0, "root", True, False, "/etc/airtap/bridge.conf", Acl(allow_all=True)),
    Managers(frozenset(), False),
    (),
)


def an_uplink(link: Link = UP, type: str = "ethernet", **changes: Any) -> Uplink:
    plain = Uplink(
        inspected=Inspected(link, type),
        settings=Parent(),
        asked=False,
        one_of_several=False,
        devices=(),
        children=(),
        strangers=(),
        role=None,
        needs_macnat=False,
        qdisc="",
        filters=(),
        driver="",
        sysctls={},
        manager=("", ""),
    )
    return replace(plain, **changes)


def looked_at(subject: Uplink, scene: Scene = SCENE) -> dict[str, Finding]:
    """What every check of uplinks has to say, but for what is well."""
    found = [f for check in contents.UPLINK for f in check(subject, scene)]
    return {f.id: f for f in found if f.level != "ok"}


def bad(findings: Iterable[Finding]) -> list[str]:
    return [f.id for f in findings if f.level != "ok"]


def test_nothing_to_say_of_a_wire() -> None:
    assert looked_at(an_uplink()) == {}


@pytest.mark.parametrize("master", ["bond", "team", "openvswitch", "bridge"])
def test_port(master: str) -> None:
    found = looked_at(an_uplink(replace(UP, slave_kind=master, master=9)))
    assert set(found) == {"parent-busy"}
    assert found["parent-busy"].remedy.startswith(f"use the {master} instead")


def test_ipvlan_of_another_mode() -> None:
    child = replace(UP, name="ipvl0", kind="ipvlan", mode="private", parent=2)
    found = looked_at(an_uplink(children=(child,)))
    assert 'mode = "private"' in found["parent-busy"].remedy


@pytest.mark.parametrize(
    ("link", "id"),
    [
        (replace(UP, kind="macvlan"), "bad-parent"),
        (replace(UP, arptype=65534), "bad-parent"),
    ],
)
def test_no_parent(link: Link, id: str) -> None:
    kind = "other" if link.arptype != UP.arptype else "ethernet"
    assert set(looked_at(an_uplink(link, kind))) == {id}


def test_unplugged_member_of_an_alias_is_no_news() -> None:
    down = replace(ETH0, flags=0)
    assert looked_at(an_uplink(down, one_of_several=True)) == {}
    assert looked_at(an_uplink(down))["link-down"].level == "warning"
    assert (
        looked_at(an_uplink(down, one_of_several=True, asked=True))["link-down"].level == "problem"
    )


def test_station_that_is_not_associated() -> None:
    found = looked_at(an_uplink(ETH0, "wifi-station", asked=True))
    assert found["no-carrier"].remedy == "join the Wi-Fi network"


def test_station_without_mac_nat() -> None:
    off = an_uplink(type="wifi-station", settings=Parent(macnat="off"))
    assert set(looked_at(off)) == {"macnat-off-station"}
    assert looked_at(an_uplink(type="wifi-4addr", settings=Parent(macnat="off"))) == {}


@pytest.mark.parametrize(
    ("driver", "settings", "flags", "id"),
    [
        ("brcmfmac", Parent(), 0, "driver-arp-offload"),
        ("brcmfmac", Parent(), 0x100, ""),
        ("88x2bu", Parent(kind="ipvtap"), 0, "driver-br-ext"),
        ("88x2bu", Parent(), 0, ""),
        ("iwlwifi", Parent(kind="ipvtap"), 0, ""),
    ],
)
def test_driver(driver: str, settings: Parent, flags: int, id: str) -> None:
    link = replace(UP, flags=UP.flags | flags)
    found = looked_at(an_uplink(link, "wifi-station", driver=driver, settings=settings))
    assert set(found) == ({id} if id else set())


def test_iwd() -> None:
    station = an_uplink(type="wifi-station")
    running = Managers(frozenset({"iwd"}), False)
    assert set(looked_at(station, replace(SCENE, managers=running))) == {"iwd-recreates"}
    assert looked_at(station, replace(SCENE, managers=replace(running, iwd_keeps=True))) == {}
    assert looked_at(an_uplink(), replace(SCENE, managers=running)) == {}


@pytest.mark.parametrize(
    ("wanted", "setting", "remedy"),
    [
        ([("a", "macvtap"), ("b", "macvtap")], "auto", ""),
        ([("a", "macvtap"), ("b", "ipvtap")], "auto", "connect b --parent eth0 --kind macvtap"),
        ([("a", "macvtap"), ("b", "ipvtap")], "ipvtap", "connect a --parent eth0 --kind ipvtap"),
        ([("network n", "macvtap")], "ipvtap", '[parents.eth0]: kind = "macvtap"'),
        ([], "ipvtap", ""),
    ],
)
def test_kinds(wanted: list[tuple[str, str]], setting: str, remedy: str) -> None:
    subject = an_uplink(settings=Parent(kind=setting))
    found = looked_at(subject, replace(SCENE, wanted={"eth0": wanted}))
    assert set(found) == ({"kinds-mixed"} if remedy else set())
    assert not remedy or remedy in found["kinds-mixed"].remedy


def test_stranded_guest_of_libvirt() -> None:
    guest = {"device": "macvtap0", "stranded": True, "owner": {"domain": "it's"}, "refused": None}
    report = Report([{"name": "eth0", "guests": [guest]}])
    scene = replace(SCENE, daemon=replace(SCENE.daemon, report=report))
    [found] = devices.guests(an_uplink(), scene)
    assert (found.id, found.remedy) == ("guest-stranded", "airtap domain renew 'it'\"'\"'s'")


def test_programs_of_each_role() -> None:
    """Whatever is missing is seen; what is there and ours never."""
    for role in (Role("macvtap", True, True), Role("ipvtap", True), Role("macvtap", False, True)):
        wanted = hooks(role.on_parent)
        there = tuple(Filter(h.direction, h.priority, "bpf", h.name, 7) for h in wanted)
        assert looked_at(an_uplink(role=role, qdisc="clsact", filters=there)) == {}
        for number in range(len(there)):
            lacking = there[:number] + there[number + 1 :]
            found = looked_at(an_uplink(role=role, qdisc="clsact", filters=lacking))
            assert set(found) == {"macnat-not-attached"}
            level = "problem" if role.translate else "warning"
            assert found["macnat-not-attached"].level == level
            assert macnat.is_incomplete(an_uplink(role=role, filters=lacking))


def test_filters_behind_ours_are_no_news() -> None:
    role = Role("ipvtap")
    ours = tuple(Filter(h.direction, h.priority, "bpf", h.name, 7) for h in hooks(role.on_parent))
    for other, says in (
        (Filter(INGRESS, 0xA0, "matchall", "", 0), {"filter-before-ours"}),
        (Filter(INGRESS, 0xB0, "matchall", "", 0), set()),
        (Filter(EGRESS, 1, "matchall", "", 0), set()),
    ):
        assert set(looked_at(an_uplink(role=role, filters=(*ours, other)))) == says


def test_kernel() -> None:
    bare = replace(
        KERNEL,
        modules={"macvtap": False, "ipvtap": False, "sch_ingress": False, "cls_bpf": False},
        vhost_net=False,
        bpffs=False,
        dev="tmpfs",
        tun="No such file or directory",
        no_macnat=Problem("no-macnat", "no usable libbpf.so.1", "install libbpf 1.0"),
    )
    needs = Needs({"macvtap": "eth0", "ipvtap": "web"}, taps="br0", programs="eth0")
    everything = [f for check in contents.KERNEL for f in check(bare, needs)]
    assert set(bad(everything)) == {
        *("no-macvtap", "no-ipvtap", "no-clsact", "no-bpffs", "no-macnat", "no-tun"),
        "dev-not-devtmpfs",
    }
    unused = replace(bare, no_macnat=None)
    assert bad(f for check in contents.KERNEL for f in check(unused, Needs())) == []


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kernel/net/sched/cls_bpf.ko.xz", "cls_bpf"),
        ("kernel/net/sched/sch_ingress.ko", "sch_ingress"),
        ("kernel/drivers/net/a-b.ko.zst", "a_b"),
    ],
)
def test_module_name(path: str, name: str) -> None:
    assert module_name(path) == name


NOW = 1_700_000_000.0
HOOK = Hook("qemu", "/etc/libvirt/hooks/qemu.d/50-airtap", executable=True)


@pytest.mark.parametrize(
    ("file", "directory", "says"),
    [
        (NOW - 60, NOW - 60, []),
        (NOW + 60, NOW - 60, []),  # replaced by an upgrade, perhaps
        (NOW + 60, NOW + 60, ["hooks-inactive"]),
        (NOW + 60, 0.0, []),
    ],
)
def test_hooks_are_found_at_start(file: float, directory: float, says: list[str]) -> None:
    daemon = Process(7, "libvirtd", NOW)
    hook = replace(HOOK, since=file, place_since=directory, daemons=(daemon,))
    assert bad(libvirt.hook_active(hook, True)) == says


def test_records_that_a_program_wrote_do_not_count() -> None:
    denial = 'audit(1700000000.1:1): apparmor="DENIED" name="/usr/bin/airtap-bridge-helper"'
    assert of_kernel(f"5,1,1,-;{denial}") == denial
    for record in (f"13,1,1,-;{denial}", f"x,1,1,-;{denial}", denial, f"²,1;{denial}", ""):
        assert of_kernel(record) == ""
    assert list(denials([denial], NOW)) == [denial]
    assert list(denials([denial], NOW + 2 * 86400)) == []
    assert list(denials(['apparmor="DENIED" name="/usr/bin/other" for airtap'], NOW)) == []
    assert bad(host.denials(Denials(0, "", "/dev/kmsg", "Permission denied"))) == []


def test_settings_of_others() -> None:
    assert values("[device]\nmanaged=true\n# x=y\nrubbish\n = \n") == {"managed": "true", "": ""}


def test_libvirt_that_hangs() -> None:
    with pytest.raises(Problem, match="has not answered"):
        within(0.01, lambda: time.sleep(1))
    with pytest.raises(Problem, match="no"):
        within(5, lambda: (_ for _ in ()).throw(Problem("no", "no")))
    assert within(5, lambda: 7) == 7


def test_findings_are_bounded() -> None:
    assert len(ok("id", "x" * 5000, "y" * 5000, "z" * 5000).evidence) == 600
    assert word("\u202e") == "NAME" and word("a b") == "'a b'"


def test_summary() -> None:
    w, p = warning("a", "s", "w", "e", "r"), problem("a", "s", "w", "e", "r")
    assert summary([])["level"] == "ok"
    assert summary([w, ok("a", "s", "w")])["level"] == "warning"
    assert summary([w, p, w]) == {"level": "problem", "ok": 0, "warning": 2, "problem": 1}


CHECKS: list[Callable[..., Any]] = [
    check for name, section in vars(contents).items() if name.isupper() for check in section
]


def test_every_check_is_listed_and_says_what_it_finds() -> None:
    """No check is forgotten in the list, and its docstring tells its outcomes."""
    assert len(set(CHECKS)) == len(CHECKS)
    for module in (devices, host, kernel, libvirt, macnat, uplink):
        own = [f for f in vars(module).values() if callable(f) and f.__module__ == module.__name__]
        checks = [
            f for f in own if "Iterator" in str(getattr(f, "__annotations__", {}).get("return"))
        ]
        public = [f for f in checks if not f.__name__.startswith("_")]
        assert set(public) <= set(CHECKS), module
    assert all(check.__doc__ for check in CHECKS)


def test_every_id_is_in_the_documentation() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs/troubleshooting.md").read_text()
    ids = set()
    for file in (root / "src/airtap/doctor/checks").glob("*.py"):
        made = re.findall(r'(?:problem|warning|level)\(\s*"([a-z0-9-]+)"', file.read_text())
        ids |= set(made)
    assert len(ids) > 40
    assert {id for id in ids if f"`{id}`" not in page} == set()
