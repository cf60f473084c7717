"""What the doctor decides on what was read: pure, so also for what this machine does not have."""

import ast
import inspect
import re
import time
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airtap import uplink as uplinks
from airtap.acl import Acl
from airtap.alias import Owner
from airtap.bpf.attach import EGRESS, HOOKS, INGRESS, Filter, Role
from airtap.config import Parent
from airtap.doctor import contents
from airtap.doctor.checks import daemon, devices, firewall, host, kernel, libvirt, macnat, uplink
from airtap.doctor.checks.kernel import Needs
from airtap.doctor.checks.libvirt import Guests
from airtap.doctor.checks.uplink import Context
from airtap.doctor.finding import Finding, ok, parent_table, problem, summary, warning, word
from airtap.doctor.sources.daemon import DaemonSnapshot
from airtap.doctor.sources.hooks import HookFile
from airtap.doctor.sources.kernel import Kernel, module_name
from airtap.doctor.sources.kernel_log import Denials, denials, of_kernel
from airtap.doctor.sources.libvirt import CheckedDomain, CheckedNic, Libvirt
from airtap.doctor.sources.managers import Managers, values
from airtap.doctor.sources.namespaces import Stranger
from airtap.doctor.sources.netfilter import Chain, Rule
from airtap.doctor.sources.processes import Process
from airtap.doctor.sources.uplinks import DeviceSnapshot, UplinkSnapshot
from airtap.doctor.sources.user import User
from airtap.errors import Problem
from airtap.ipc.status import StatusReply
from airtap.kernel.links import IFF_LOWER_UP, Link
from airtap.libvirt.connection import within
from airtap.libvirt.network_xml import Network
from airtap.libvirt.networks import ListedNetwork
from airtap.libvirt.nic import Nic
from tests.unit.links import ETH0

UP = replace(ETH0, flags=ETH0.flags | IFF_LOWER_UP)
KERNEL = Kernel("6.12", {}, "", True, "devtmpfs", True)
CONTEXT = Context(
    DaemonSnapshot("/run/airtap/airtapd.sock"),
    User(0, "root", True, False, "/etc/airtap/bridge.conf", Acl(allow_all=True)),
    Managers(frozenset(), False),
    (),
)


def an_uplink(link: Link = UP, type: str = "ethernet", **changes: Any) -> UplinkSnapshot:
    plain = UplinkSnapshot(
        inspected=uplinks.Uplink(link, type),
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
    )
    return replace(plain, **changes)


def a_device(link: Link, **changes: Any) -> DeviceSnapshot:
    """Of libvirt's own making, and well."""
    plain = DeviceSnapshot(link, None, "", False, None, {}, (), ("", ""), "", ())
    return replace(plain, **changes)


def looked_at(subject: UplinkSnapshot, context: Context = CONTEXT) -> dict[str, Finding]:
    """What every check of uplinks has to say, but for what is well."""
    found = [f for check in contents.UPLINK for f in check(subject, context)]
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


def test_passthru_on_wifi() -> None:
    settings = Parent(mode="passthru")
    for type in ("wifi-station", "wifi-4addr", "wifi-ap"):
        assert "passthru-on-wifi" in looked_at(an_uplink(type=type, settings=settings))
    assert looked_at(an_uplink(settings=settings)) == {}


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


VLAN = replace(UP, name="up0.100")


def test_a_name_with_a_dot_is_quoted_in_toml() -> None:
    """[parents.up0.100] would be a table in the table of up0."""
    held = replace(UP, name="ipvl0", kind="ipvlan", mode="private", parent=2)
    away = Stranger("mv0", "macvlan", 2, "namespace c")
    wants = replace(CONTEXT, wanted={"up0.100": [("network n", "macvtap")]})
    for subject, context in (
        (an_uplink(VLAN, children=(held,)), CONTEXT),
        (an_uplink(VLAN, children=(held,), settings=Parent(kind="macvtap")), CONTEXT),
        (an_uplink(VLAN, strangers=(away,), settings=Parent(kind="ipvtap")), CONTEXT),
        (an_uplink(VLAN, settings=Parent(kind="ipvtap")), wants),
        (an_uplink(VLAN, "wifi-station", settings=Parent(macnat="off")), CONTEXT),
        (an_uplink(VLAN, driver="88x2bu", settings=Parent(kind="ipvtap")), CONTEXT),
    ):
        [found] = looked_at(subject, context).values()
        where, _, setting = found.remedy.partition("; ")[0].partition("]: ")
        table = where.removeprefix("airtap.toml, ")
        key, value = tomllib.loads(setting).popitem()
        assert tomllib.loads(f"{table}]\n{setting}") == {"parents": {"up0.100": {key: value}}}
    assert parent_table("en-p_1") == "[parents.en-p_1]"
    assert parent_table("\u202e") == '[parents."NAME"]'
    odd = 'it\'s "x" é'
    assert tomllib.loads(parent_table(odd)) == {"parents": {odd: {}}}


def test_a_name_with_a_dot_in_a_sysctl() -> None:
    """sysctl(8): slashes and dots change places."""
    silent = an_uplink(VLAN, sysctls={"arp_ignore": 8}, role=Role("macvtap", False, True))
    remedy = next(iter(uplink.arp(silent, CONTEXT))).remedy
    assert remedy.endswith(" net.ipv4.conf.up0/100.arp_ignore=0")
    guest = a_device(replace(VLAN, name="a b.1"), sysctls={"disable_ipv6": 0})
    [found] = devices.host_kept_off(replace(silent, devices=(guest,)), CONTEXT)
    assert found.remedy == "sysctl -w 'net.ipv6.conf.a b/1.disable_ipv6'=1"


def test_device_that_is_down() -> None:
    """libvirt takes the macvtaps that it has made itself down while their guest is paused."""
    down = replace(ETH0, name="macvtap0", flags=0)
    ours = a_device(down, owner=Owner(0, 7))
    assert bad(devices.up(an_uplink(devices=(ours,)), CONTEXT)) == ["device-down"]
    assert bad(devices.up(an_uplink(devices=(replace(ours, held=False),)), CONTEXT)) == []
    assert bad(devices.up(an_uplink(devices=(a_device(down),)), CONTEXT)) == []


def test_containers_beside_taps() -> None:
    away = Stranger("ipvl0", "ipvlan", 2, "namespace c")
    assert bad(uplink.strangers(an_uplink(strangers=(away,)), CONTEXT)) == ["parent-held-elsewhere"]
    assert bad(uplink.strangers(an_uplink(type="bridge", strangers=(away,)), CONTEXT)) == []


ALL: frozenset[str] = frozenset()
DROP, ACCEPT, SOME = Rule("drop", "", ALL), Rule("accept", "", ALL), Rule("accept")


def chain(*rules: Rule, policy_drop: bool = False, **others: list[Rule]) -> Chain:
    there = {"c": rules, **others}
    return Chain("netdev", "t", "c", "ingress", ("eth0",), policy_drop, there)


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (chain(), ""),
        (chain(policy_drop=True), "problem"),
        (chain(Rule(""), policy_drop=True), "problem"),
        (chain(SOME, policy_drop=True), "warning"),
        (chain(Rule("map"), policy_drop=True), "warning"),
        (chain(Rule("jump", "mine"), policy_drop=True), "warning"),
        (chain(ACCEPT, policy_drop=True), ""),
        (chain(Rule("accept", "", frozenset({"eth0"})), DROP, policy_drop=True), ""),
        (chain(Rule("accept", "", frozenset({"eth1"})), policy_drop=True), "warning"),
        (chain(DROP), "warning"),
        (chain(DROP, ACCEPT), "warning"),
        (chain(ACCEPT, DROP), ""),
        (chain(other=[DROP]), ""),
        (chain(Rule("jump", "mine"), mine=[DROP]), "warning"),
        (chain(Rule("goto", "mine"), mine=[Rule("jump", "more")], more=[DROP]), "warning"),
        (chain(Rule("jump", "mine", ALL), mine=[ACCEPT], policy_drop=True), ""),
        (chain(Rule("jump", "mine"), mine=[ACCEPT], policy_drop=True), "warning"),
        (chain(Rule("jump", "c", ALL), DROP), "warning"),
    ],
)
def test_chains(found: Chain, level: str) -> None:
    """A rule counts where frames can meet it, and not behind one that accepts all of them."""
    said = list(firewall.devices(an_uplink(), replace(CONTEXT, chains=(found,))))
    assert [f.level for f in said] == [level or "ok"]


def test_rules_of_others_are_not_deleted() -> None:
    found = replace(chain(), rules={"c": [Rule("goto", "it's")], "it's": [DROP]})
    [said] = firewall.devices(an_uplink(), replace(CONTEXT, chains=(found,)))
    assert said.remedy.startswith("nft -a list chain netdev t 'it'\"'\"'s', ")


@pytest.mark.parametrize(
    ("systemd", "absent", "id", "remedy"),
    [
        (True, True, "airtapd-down", "systemctl enable --now airtapd.socket"),
        (True, False, "airtapd-silent", "journalctl -u airtapd"),
        (False, True, "airtapd-down", "airtap status"),
        (False, False, "airtapd-silent", "less /run/airtap/airtapd.sock.log, "),
    ],
)
def test_airtapd_without_an_answer(systemd: bool, absent: bool, id: str, remedy: str) -> None:
    silent = replace(CONTEXT.daemon, silence="no", absent=absent, systemd=systemd)
    [found] = daemon.answers(silent, CONTEXT.user)
    assert found.id == id and found.remedy.startswith(remedy)
    [found] = daemon.answers(silent, replace(CONTEXT.user, root=False))
    assert found.remedy.startswith("as root: ")


def test_acl_that_is_there_is_not_written_anew() -> None:
    who = replace(CONTEXT.user, rules=Problem("acl-unreadable", "no"), root=False)
    [found] = host.acl(who)
    assert found.remedy == "as root: chmod 644 /etc/airtap/bridge.conf"
    [found] = host.acl(replace(who, no_acl=True, root=True))
    assert found.remedy.startswith("install -D -m 644 /dev/null /etc/airtap/bridge.conf, ")


NO_CONNECTION = Problem("no-connection", "refused")


@pytest.mark.parametrize(
    ("uri", "root", "says"),
    [
        ("qemu:///system", False, []),
        ("qemu:///system", True, ["no-connection"]),
        ("qemu:///session", False, ["no-connection"]),
    ],
)
def test_libvirt_that_cannot_be_reached(uri: str, root: bool, says: list[str]) -> None:
    assert bad(libvirt.answers(Guests(Libvirt(uri, NO_CONNECTION), root=root))) == says


@pytest.mark.parametrize(
    ("uri", "connect"),
    [
        ("qemu:///system", ""),
        ("qemu:///session", " --connect qemu:///session"),
        ("qemu+unix:///system?socket=/a b", " --connect 'qemu+unix:///system?socket=/a b'"),
    ],
)
def test_remedies_mean_the_libvirt_that_was_asked(uri: str, connect: str) -> None:
    assert Guests(Libvirt(uri)).connect == connect
    mac = "52:54:00:00:00:01"
    nic = Nic(1, mac, "ipvtap", "eth9", connected=True, device="macvtap0", own=False)
    card = CheckedNic(nic, False, "there is no device eth9")
    copies = tuple(CheckedDomain(name, name, (card,)) for name in ("web", "copy"))
    mine = Network("mine", "macvtap", "eth0")
    gone = replace(mine, name="gone", parent="eth9")
    networks = (ListedNetwork(mine, "1", False, True), ListedNetwork(gone, "2", True, True))
    guests = Guests(Libvirt(uri, None, False, networks, copies, frozenset({"eth0"})))
    found = [f for check in contents.LIBVIRT for f in check(guests) if f.level != "ok"]
    assert {f.id for f in found} == {
        *("network-inactive", "network-parent-missing", "card-cannot-work", "device-cloned")
    }
    for finding in found:
        count = finding.remedy.count("airtap ")
        assert count and finding.remedy.count(connect) >= count
        assert ("--connect" in finding.remedy) is bool(connect)
    context = replace(
        CONTEXT, wanted={"eth0": [("a", "macvtap"), ("b", "ipvtap")]}, connect=connect
    )
    assert looked_at(an_uplink(), context)["kinds-mixed"].remedy.endswith(
        f"--kind macvtap{connect}"
    )


def test_station_without_mac_nat() -> None:
    off = an_uplink(type="wifi-station", settings=Parent(macnat="off"))
    assert set(looked_at(off)) == {"macnat-off-station"}
    standby = uplinks.Uplink(replace(UP, name="bond0", kind="bond"), "ethernet", UP)
    found = looked_at(replace(off, inspected=standby))
    assert "sends by eth0" in found["macnat-off-station"].what
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


@pytest.mark.parametrize(
    ("driver", "found"),
    [
        ("vmxnet3", {"driver-one-mac"}),
        ("ipheth", {"driver-one-mac"}),
        ("virtio_net", set()),
        ("e1000e", set()),
    ],
)
def test_driver_of_what_takes_one_mac(driver: str, found: set[str]) -> None:
    assert set(looked_at(an_uplink(type="ethernet", driver=driver))) == found
    told = an_uplink(type="ethernet", driver=driver, needs_macnat=True)
    assert "driver-one-mac" not in looked_at(told)


def test_iwd() -> None:
    station = an_uplink(type="wifi-station")
    running = Managers(frozenset({"iwd"}), False)
    assert set(looked_at(station, replace(CONTEXT, managers=running))) == {"iwd-recreates"}
    assert looked_at(station, replace(CONTEXT, managers=replace(running, iwd_keeps=True))) == {}
    assert looked_at(an_uplink(), replace(CONTEXT, managers=running)) == {}


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
    found = looked_at(subject, replace(CONTEXT, wanted={"eth0": wanted}))
    assert set(found) == ({"kinds-mixed"} if remedy else set())
    assert not remedy or remedy in found["kinds-mixed"].remedy


def test_stranded_guest_of_libvirt() -> None:
    guest = {"device": "macvtap0", "stranded": True, "owner": {"domain": "it's"}, "refused": None}
    status = StatusReply([{"name": "eth0", "guests": [guest]}])
    context = replace(CONTEXT, daemon=replace(CONTEXT.daemon, status=status))
    [found] = devices.guests(an_uplink(), context)
    assert (found.id, found.remedy) == ("guest-stranded", "airtap domain renew 'it'\"'\"'s'")


def test_programs_of_each_role() -> None:
    """Whatever is missing is seen; what is there and ours never."""
    for role in (Role("macvtap", True, True), Role("ipvtap", True), Role("macvtap", False, True)):
        wanted = [HOOKS[name] for name in role.on_parent]
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
    there = [HOOKS[name] for name in role.on_parent]
    ours = tuple(Filter(h.direction, h.priority, "bpf", h.name, 7) for h in there)
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
HOOK = HookFile("qemu", "/etc/libvirt/hooks/qemu.d/50-airtap", executable=True)


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
    daemon = Process(7, "libvirtd", 0, NOW)
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
    with pytest.raises(TimeoutError):
        within(0.01, lambda: time.sleep(1))
    with pytest.raises(Problem, match="no"):
        within(5, lambda: (_ for _ in ()).throw(Problem("no", "no")))
    assert within(5, lambda: 7) == 7


def test_findings_are_bounded() -> None:
    assert len(ok("id", "x" * 5000, what="y" * 5000, evidence="z" * 5000).evidence) == 600
    assert word("\u202e") == "NAME" and word("a b") == "'a b'"


def test_summary() -> None:
    w, p = (
        warning("a", "s", what="w", evidence="e", remedy="r"),
        problem("a", "s", what="w", evidence="e", remedy="r"),
    )
    assert summary([])["level"] == "ok"
    assert summary([w, ok("a", "s", what="w")])["level"] == "warning"
    assert summary([w, p, w]) == {"level": "problem", "ok": 0, "warning": 2, "problem": 1}


CHECKS: list[Callable[..., Any]] = [
    check for name, section in vars(contents).items() if name.isupper() for check in section
]


def made(check: Callable[..., Any]) -> set[tuple[str, str]]:
    """The levels and ids of what a check yields, by its code; "" for an id that is no literal."""
    tree = ast.parse(inspect.getsource(check))
    found: set[tuple[str, str]] = set()
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            continue
        name = call.func.id
        helper = vars(inspect.getmodule(check)).get(name)
        if name == "Finding":
            levels = {level.lower() for level in names & {"WARNING", "PROBLEM"}}
            [id] = [keyword.value for keyword in call.keywords if keyword.arg == "id"]
        elif name in ("ok", "warning", "problem"):
            levels, id = {name}, call.args[0]
        else:
            found |= made(helper) if inspect.isgeneratorfunction(helper) else set()
            continue
        literal = str(id.value) if isinstance(id, ast.Constant) else ""
        found |= {(level, literal) for level in levels}
    return found


def told(check: Callable[..., Any]) -> set[tuple[str, str]]:
    """The levels and ids that the last sentence of a check's docstring tells; "ok" has none."""
    text = " ".join((check.__doc__ or "").split())
    found = set()
    for part in text.rpartition("Yields ")[2].removesuffix(".").split("; "):
        level, _, rest = part.partition(" ")
        ids = re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)+", rest) or [""]
        found |= {(level, id) for id in ids}
    return found


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.__module__}.{check.__name__}")
def test_docstring_tells_the_outcomes(check: Callable[..., Any]) -> None:
    """Every level, and every id of what is not ok, and no other."""
    yielded = {(level, "" if level == "ok" else id) for level, id in made(check)}
    open_levels = {level for level, id in yielded if not id}
    assert {level for level, _ in told(check)} == {level for level, _ in yielded}
    literal = {(level, id) for level, id in yielded if id}
    assert literal <= told(check)
    assert {level for level, _ in told(check) - literal} <= open_levels


def test_every_check_is_listed() -> None:
    """No check is forgotten in the list."""
    assert len(set(CHECKS)) == len(CHECKS)
    for module in (daemon, devices, firewall, host, kernel, libvirt, macnat, uplink):
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
        found = re.findall(r'(?:(?:problem|warning)\(\s*|id=)"([a-z0-9-]+)"', file.read_text())
        ids |= set(found)
    ids |= {id for check in CHECKS for level, id in told(check) if level != "ok"}
    assert len(ids) > 40
    assert {id for id in ids if f"`{id}`" not in page} == set()
