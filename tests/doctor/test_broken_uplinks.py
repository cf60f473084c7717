"""Uplinks and guests' devices broken on purpose: the doctor names the cause, and how to mend it.

After each remedy that is a command, that very command is run, and the doctor has nothing to say.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.airtap import Airtapd
from lab.doctor import Doctor
from lab.guest import GUEST_UID
from lab.lan import HOST4, Lan, wait_for
from lab.sandbox import command, dying_with_us, host_links
from lab.traffic import GUEST4, pump, raw_guest

IN_OPEN = 0x20  # include/uapi/linux/inotify.h
GUEST_MAC = "52:54:00:00:00:01"
# Takes all frames away from whoever comes after it; this kernel has no other classifier.
STEAL = (
    "u32",
    *("match", "u32", "0", "0"),
    *("action", "mirred", "egress", "redirect", "dev", "lo"),
)


@pytest.fixture
def guest(airtapd: Airtapd) -> Iterator[str]:
    """The device of a guest on up0."""
    with airtapd.attach("up0", GUEST_MAC) as tap:
        yield tap.device


def tc_filter(direction: str, preference: int, device: str = "up0") -> None:
    place = ("dev", device, direction, "pref", str(preference), "protocol", "all")
    command("tc", "filter", "add", *place, *STEAL)


@contextlib.contextmanager
def nft(rules: str) -> Iterator[None]:
    """Rules in a table "t" of whichever family."""
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
    try:
        yield
    finally:
        command("nft", "flush", "ruleset")


@contextlib.contextmanager
def running(name: str, uid: int = 0) -> Iterator[None]:
    """A process of that name."""
    program = Path(tempfile.mkdtemp(dir="/run")) / name
    program.parent.chmod(0o755)
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen(
        dying_with_us([str(program), "600"]), user=uid, group=uid, extra_groups=[]
    ) as process:
        try:
            comm = Path(f"/proc/{process.pid}/comm")
            wait_for(lambda: comm.read_text().strip() == name[:15], 10, f"{name} to run")
            yield
        finally:
            process.kill()
            shutil.rmtree(program.parent)


def test_link_down(doctor: Doctor) -> None:
    command("ip", "link", "set", "up0", "down")
    assert doctor.only("link-down")["level"] == "warning", "nobody uses it"
    found = doctor.only("link-down", "up0")
    assert (found["level"], found["subject"]) == ("problem", "up0")
    doctor.cured(found["remedy"], "up0")


def test_cable_is_out(lan: Lan, doctor: Doctor) -> None:
    lan.run("ip", "link", "set", lan.far, "down")
    assert "cable of up0" in doctor.only("no-carrier", "up0")["remedy"]


def test_port_of_a_bridge(doctor: Doctor) -> None:
    command("ip", "link", "add", "br0", "type", "bridge")
    command("ip", "link", "set", "up0", "master", "br0")
    try:
        found = doctor.only("parent-busy", "up0")
        assert "port of a bridge" in found["what"]
        _, _, nomaster = found["remedy"].partition(", or: ")
        assert doctor.bad("br0")["bridge-on-one-mac"]["what"].startswith("its port up0")
        doctor.cured(nomaster, "up0")
    finally:
        command("ip", "link", "del", "br0")


@pytest.mark.parametrize("config", ['[parents.up0]\nkind = "ipvtap"\n'])
def test_holder_of_the_other_kind(doctor: Doctor, airtapd: Airtapd) -> None:
    command("ip", "link", "add", "link", "up0", "name", "mv0", "type", "macvlan")
    try:
        found = doctor.bad("up0")["parent-busy"]
        assert "mv0 (macvlan)" in found["what"]
        [key] = [line for line in found["remedy"].split(": ") if line.startswith("kind")]
        airtapd.config.write_text(airtapd.config.read_text().replace('kind = "ipvtap"', key))
        assert "parent-busy" not in doctor.bad("up0")
    finally:
        command("ip", "link", "del", "mv0")


@pytest.mark.parametrize("config", ['[parents.up0]\nkind = "ipvtap"\n'])
def test_holder_in_a_container(doctor: Doctor) -> None:
    """Docker's macvlan network: the device is in the container's namespace."""
    command("ip", "netns", "add", "container")
    try:
        command("ip", "link", "add", "link", "up0", "name", "mv0", "netns", "container",
                "type", "macvlan")  # fmt: skip
        assert not {"mv0"} & host_links()
        found = doctor.bad("up0")["parent-held-elsewhere"]
        assert "mv0 (macvlan, namespace container)" in found["evidence"]
        assert 'kind = "macvtap"' in found["remedy"]
        odd = os.fsdecode(b"mv\xff")
        command("ip", "-n", "container", "link", "set", "mv0", "name", odd)
        found = doctor.bad("up0")["parent-held-elsewhere"]
        assert "mv\ufffd (macvlan, namespace container)" in found["evidence"], "not UTF-8"
    finally:
        command("ip", "netns", "del", "container")


def test_ingress_qdisc(airtapd: Airtapd, doctor: Doctor, guest: str) -> None:
    assert not doctor.bad("up0")
    airtapd.stop()
    command("tc", "qdisc", "del", "dev", "up0", "clsact")
    command("tc", "qdisc", "add", "dev", "up0", "ingress")
    airtapd.start()
    found = doctor.only("ingress-qdisc", "up0")
    assert found["level"] == "problem"
    doctor.cured(found["remedy"], "up0")


def test_filter_in_our_place(airtapd: Airtapd, doctor: Doctor, guest: str) -> None:
    airtapd.stop()
    command("tc", "filter", "del", "dev", "up0", "egress")
    tc_filter("egress", 0xA3)
    airtapd.start()
    found = doctor.only("foreign-filter", "up0")
    doctor.cured(found["remedy"], "up0")


def test_filter_before_ours(doctor: Doctor, guest: str) -> None:
    tc_filter("ingress", 1)
    found = doctor.only("filter-before-ours", "up0")
    assert "pref 1 u32" in found["evidence"]
    doctor.cured(found["remedy"], "up0")


def test_programs_are_gone(airtapd: Airtapd, doctor: Doctor, guest: str) -> None:
    airtapd.kill()
    for device in ("up0", guest):
        command("tc", "qdisc", "del", "dev", device, "clsact")
    bad = [f for f in doctor.findings("up0") if f["id"] == "macnat-not-attached"]
    assert {f["subject"] for f in bad} == {"up0", guest}
    assert {f["remedy"] for f in bad} == {"airtap status"}
    airtapd.start()
    assert not doctor.bad("up0")


def test_host_answers_no_arp(doctor: Doctor, guest: str) -> None:
    command("sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=8")
    try:
        doctor.cured(doctor.only("arp-ignore", "up0")["remedy"], "up0")
    finally:
        command("sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=0")


def test_host_on_a_guests_device(doctor: Doctor, guest: str) -> None:
    # No link-local address: where the remedy comes late, the host has spoken from it, on the
    # guest's device and so as the guest; the guards refuse that, and the doctor tells it too.
    command("sysctl", "-qw", f"net.ipv6.conf.{guest}.addr_gen_mode=1")
    command("sysctl", "-qw", f"net.ipv6.conf.{guest}.disable_ipv6=0")
    command("sysctl", "-qw", f"net.ipv4.conf.{guest}.rp_filter=0")
    command("ip", "address", "add", "192.0.2.99/24", "dev", guest)
    bad = doctor.bad("up0")
    assert set(bad) == {"host-on-device", "address-on-device"}
    doctor.type(bad["host-on-device"]["remedy"])
    doctor.cured(bad["address-on-device"]["remedy"], "up0")


def test_device_of_a_guest_is_down(doctor: Doctor, guest: str) -> None:
    command("ip", "link", "set", guest, "down")
    doctor.cured(doctor.only("device-down", "up0")["remedy"], "up0")


@pytest.mark.parametrize(
    ("manager", "file", "taken", "left"),
    [
        ("NetworkManager", "NetworkManager/devices", "[device]\nmanaged=true\n", "managed=false\n"),
        ("systemd-networkd", "systemd/netif/links", "ADMIN_STATE=configured\n", "ADMIN_STATE=\n"),
    ],
)
def test_network_manager(
    doctor: Doctor, guest: str, manager: str, file: str, taken: str, left: str
) -> None:
    directory = Path("/run") / file
    directory.mkdir(parents=True, exist_ok=True)
    state = directory / Path(f"/sys/class/net/{guest}/ifindex").read_text().strip()
    state.write_text(taken)
    assert not doctor.bad("up0"), "it does not run"
    with running(manager):
        found = doctor.only("managed-device", "up0")
        assert manager in found["what"] and str(state) in found["evidence"]
        state.write_text(left)
        assert not doctor.bad("up0")
    state.unlink()
    os.removedirs(directory)


INGRESS = """table netdev t {
    chain c {
        type filter hook ingress device "up0" priority 0; policy %s;
        %s
    }
}
"""


def test_firewall_on_the_uplink(doctor: Doctor, guest: str) -> None:
    with nft(INGRESS % ("drop", "")):
        found = doctor.only("nft-netdev-drops", "up0")
        assert (found["level"], found["subject"]) == ("problem", "up0")
        doctor.cured(found["remedy"], "up0")
    with nft(INGRESS % ("drop", 'iifname "up0" ether type ip accept')):
        found = doctor.only("nft-netdev-drops", "up0")
        assert found["level"] == "warning", "it may be all that is wanted"
        doctor.cured(found["remedy"], "up0")
    with nft(INGRESS % ("accept", "ether type arp drop")):
        found = doctor.only("nft-netdev-drops", "up0")
        assert found["level"] == "warning"
        doctor.type(found["remedy"].partition(", and ")[0])
        assert "arp drop" in command("nft", "list", "ruleset"), "it may be there for a reason"


# The host's own rules in the table of a harmless chain, and of one that comes to a drop.
BESIDE = """table inet t {
    chain own {
        type filter hook input priority 0; policy drop;
        tcp dport 22 drop
    }
    chain more {
        meta mark 7 drop
    }
    chain %s {
        ether type ip goto more
    }
    chain c {
        type filter hook ingress device "up0" priority 0;
        counter jump inner
    }
    %s
}
"""


def test_firewall_of_the_host_beside(doctor: Doctor) -> None:
    with nft(BESIDE % ("unused", "chain inner { }")):
        assert not doctor.bad("up0")
    with nft(BESIDE.replace("chain c", "chain d", 1) % ("inner", "")):
        found = doctor.only("nft-netdev-drops", "up0")
        assert "1 rule that drops" in found["evidence"]
        assert found["remedy"].startswith("nft -a list chain inet t more,")


BRIDGE_NF = Path("/proc/sys/net/bridge")
FORWARD = """table %s t {
    chain c {
        type filter hook forward priority 0; policy drop;
    }
}
"""


FORWARDS = """
    chain own {
        type filter hook input priority 0; policy drop;
        tcp dport 22 drop
    }
    chain c {
        type filter hook forward priority 0;
    }
"""


@pytest.fixture
def bridge_nf() -> Iterator[None]:
    """As it was before a remedy has switched it off."""
    before = {file: file.read_text() for file in BRIDGE_NF.glob("bridge-nf-call-ip*")}
    for file in before:
        file.write_text("1")
    yield
    for file, value in before.items():
        file.write_text(value)


def knows_bridges() -> bool:
    """Whether this kernel has nft_meta_bridge."""
    rule = "chain c { type filter hook forward priority 0; meta ibrname br0 accept; }"
    asked = ["nft", "-c", f"table bridge probe {{ {rule} }}"]
    return subprocess.run(asked, capture_output=True).returncode == 0


@pytest.mark.usefixtures("bridge_nf")
def test_firewall_on_a_bridge() -> None:
    """Docker's forward policy, for one. On a bridge with a guest by the helper."""
    with Lan(bridge="br0"), Airtapd() as airtapd:
        doctor = Doctor.of(airtapd)
        with airtapd.attach("br0"):
            assert not doctor.bad()
            with nft(FORWARD % "inet"):
                if BRIDGE_NF.exists():
                    doctor.cured(doctor.only("bridge-nf-call")["remedy"])
                else:  # br_netfilter is not loaded, so there is nothing to see
                    assert not doctor.bad()
            with nft(f"table inet u {{ {FORWARDS} }}\ntable bridge u {{ {FORWARDS} }}"):
                assert not doctor.bad(), "a drop in another hook's chain is none of ours"
            with nft(FORWARD % "bridge"):
                remedy = doctor.only("bridge-forward-drop")["remedy"]
                if not knows_bridges():
                    remedy = remedy.replace("meta ibrname '\"br0\"' ", "")
                doctor.cured(remedy)


def test_name_with_a_dot(airtapd: Airtapd, doctor: Doctor) -> None:
    """As VLANs have it: in airtap.toml it is quoted, in a sysctl it has a slash."""
    command("ip", "link", "add", "up0.100", "type", "veth", "peer", "name", "far100")
    try:
        for device in ("up0.100", "far100"):
            command("ip", "link", "set", device, "up")
        wait_for(lambda: doctor.silent("up0.100"), 20, "the link to be up", interval=0.5)
        Path("/proc/sys/net/ipv4/conf/up0.100/arp_ignore").write_text("8")
        doctor.cured(doctor.only("arp-ignore", "up0.100")["remedy"], "up0.100")
        command("ip", "link", "add", "link", "up0.100", "name", "mv0", "type", "macvlan")
        acl = airtapd.config.read_text().partition("\n")[0]
        airtapd.config.write_text(f'{acl}\n[parents."up0.100"]\nkind = "ipvtap"\n')
        remedy = doctor.bad("up0.100")["parent-busy"]["remedy"]
        table, _, setting = remedy.removeprefix("airtap.toml, ").partition(": ")
        airtapd.config.write_text(f"{acl}\n{table}\n{setting}\n")
        assert not doctor.bad("up0.100")
    finally:
        command("ip", "link", "del", "up0.100")


def opened(path: str) -> Callable[[], bool]:
    """Whether a file has been opened since, as inotify(7) has it."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = os.fdopen(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)
    assert libc.inotify_add_watch(watch.fileno(), path.encode(), IN_OPEN) > 0
    return lambda: watch.read(4096) is not None


def test_taps_of_guests_are_left_alone(airtapd: Airtapd, doctor: Doctor, guest: str) -> None:
    """To open one gives the device a queue that nobody reads, for a moment."""
    node = f"/dev/tap{Path(f'/sys/class/net/{guest}/ifindex').read_text().strip()}"
    was_opened = opened(node)
    assert not doctor.bad("up0")
    assert not was_opened()
    airtapd.stop()
    assert set(doctor.bad("up0")) == {"airtapd-down"}
    assert was_opened(), "who holds it counts then"


def test_more_containers_than_are_looked_at(doctor: Doctor) -> None:
    names = [f"container{number}" for number in range(65)]
    try:
        for name in names:
            command("ip", "netns", "add", name)
        notes = [f["what"] for f in doctor.findings("up0") if f["id"] == "not-looked-at"]
        assert "of the network namespaces" in "".join(notes)
    finally:
        for name in names:
            if Path("/run/netns", name).exists():
                command("ip", "netns", "del", name)


def test_node_of_another_device(doctor: Doctor) -> None:
    """/dev is shared by namespaces, and its nodes are named by ifindex."""
    macvtap = ("type", "macvtap", "mode", "bridge")
    index = "7654321"
    command("ip", "netns", "add", "other")
    try:
        command("ip", "-n", "other", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
        command("ip", "-n", "other", "link", "add", "link", "v0", "name", "mv0", "index", index,
                *macvtap)  # fmt: skip
        command("ip", "link", "add", "link", "up0", "name", "mv0", "index", index, *macvtap)
        command("ip", "link", "set", "mv0", "up")
        found = doctor.bad("up0")["tap-node"]
        assert found["subject"] == "mv0" and f"/dev/tap{index}" in found["what"]
        doctor.type(found["remedy"].partition(", and")[0])
        wait_for(lambda: doctor.silent("up0"), 20, "the doctor to be content")
    finally:
        command("ip", "netns", "del", "other")
        if "mv0" in host_links():
            command("ip", "link", "del", "mv0")


def test_device_that_vanished(airtapd: Airtapd, doctor: Doctor) -> None:
    with airtapd.attach("up0", GUEST_MAC) as tap:
        command("ip", "link", "del", tap.device)
        found = wait_for(lambda: doctor.bad().get("guest-lost"), 10, "the loss to be seen")
        assert found and f"pid {os.getpid()}" in found["remedy"]


def test_guest_with_the_hosts_address(airtapd: Airtapd, doctor: Doctor) -> None:
    with raw_guest(airtapd, GUEST_MAC) as guest:
        guest.claim(HOST4)
        found = doctor.only("guest-refused", "up0")
        assert "claim an address of the host" in found["evidence"]


def test_healthy_with_a_guest(lan: Lan, airtapd: Airtapd, doctor: Doctor) -> None:
    """As root, and as the user whose guest it is."""
    with pump(airtapd, GUEST_MAC, GUEST4) as guest:
        assert guest.ping("192.0.2.1")
        assert not doctor.bad("up0")
        assert not doctor.bad(uid=GUEST_UID)
