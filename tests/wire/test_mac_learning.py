"""A guest's MAC is taken from its first frame, if it can be a guest's at all."""

import os
import struct
import time

from lab.airtap import Airtapd, Attached
from lab.lan import Lan, wait_for
from lab.links import link
from lab.pump import PumpGuest
from lab.sandbox import command

MAC = "52:54:00:00:00:01"
OTHER_MAC = "52:54:00:00:00:02"


def vnet_hdr_size(tap: Attached) -> int:
    from fcntl import ioctl

    return int(struct.unpack("i", ioctl(tap.fd, 0x800454D7, bytes(4)))[0])


def learned(airtapd: Airtapd) -> list[str | None]:
    return [guest["mac"] for guest in airtapd.guests()]


def test_lease_without_a_mac_given(lan: Lan, airtapd: Airtapd) -> None:
    with PumpGuest(airtapd.attach(lan.near).take(), MAC) as guest:
        assert lan.ping(guest.dhcp())
        assert learned(airtapd) == [MAC]
        assert link("airtap0")["address"] == MAC
        assert "mac=learn" not in link("airtap0")["ifalias"]


def test_only_what_can_be_a_guests_is_learned(lan: Lan, airtapd: Airtapd) -> None:
    sibling = airtapd.attach(lan.near, OTHER_MAC)
    with airtapd.attach(lan.near) as tap:
        offset = vnet_hdr_size(tap)
        assert offset == 10
        for source in ("01:00:5e:00:00:01", "00:00:00:00:00:00", lan.near_mac, OTHER_MAC):
            send_raw(tap, source, offset)
        wait_for(lambda: "may not" in airtapd.log(), 3, "them to be seen")
        assert None in learned(airtapd)
        send_raw(tap, MAC, offset)
        wait_for(lambda: MAC in learned(airtapd), 3, "the MAC to be learned")
        # Once only: the next frame's source changes nothing.
        send_raw(tap, "52:54:00:00:00:99", offset)
        time.sleep(0.3)
        assert MAC in learned(airtapd)
    sibling.close()
    assert airtapd.log().count("may not") == 1


def send_raw(tap: Attached, source: str, offset: int) -> None:
    header = b"\xff" * 6 + bytes.fromhex(source.replace(":", "")) + b"\x88\xb5"
    os.write(tap.fd, bytes(offset) + header + bytes(46))


def test_a_flood_of_bad_frames_costs_the_daemon_little(lan: Lan, airtapd: Airtapd) -> None:
    with airtapd.attach(lan.near, OTHER_MAC), airtapd.attach(lan.near) as tap:
        # To load the programs takes more than all that follows.
        wait_for(lambda: "host access is on" in airtapd.log(), 5, "host access to be on")
        before = cpu_seconds(airtapd)
        end = time.monotonic() + 1
        sent = 0
        while time.monotonic() < end:
            send_raw(tap, OTHER_MAC, 10)
            sent += 1
        assert sent > 10_000
        assert cpu_seconds(airtapd) - before < 0.25
        assert airtapd.log().count("may not") == 1

        def learns() -> bool:
            send_raw(tap, MAC, 10)
            return MAC in learned(airtapd)

        wait_for(learns, 3, "the MAC to be learned after all")


def test_learning_goes_on_after_a_restart(lan: Lan, airtapd: Airtapd) -> None:
    with airtapd.attach(lan.near) as tap:
        airtapd.kill()
        airtapd.start()
        assert learned(airtapd) == [None]
        send_raw(tap, MAC, 10)
        wait_for(lambda: learned(airtapd) == [MAC], 3, "the MAC to be learned")


def test_learning_survives_a_device_that_goes_down_and_up(lan: Lan, airtapd: Airtapd) -> None:
    with airtapd.attach(lan.near) as tap:
        command("ip", "link", "set", tap.device, "down")
        time.sleep(0.3)
        command("ip", "link", "set", tap.device, "up")
        send_raw(tap, MAC, 10)
        wait_for(lambda: learned(airtapd) == [MAC], 3, "the MAC to be learned")


def test_passthru_gives_the_parent_its_mac_back(lan: Lan) -> None:
    with Airtapd(config='[parents.up0]\nmode = "passthru"\n') as airtapd:
        with airtapd.attach(lan.near) as tap:
            send_raw(tap, MAC, 10)
            wait_for(lambda: learned(airtapd) == [MAC], 3, "the MAC to be learned")
            assert link(lan.near)["address"] == MAC
        wait_for(lambda: link(lan.near)["address"] == lan.near_mac, 5, "the parent's own MAC")


def cpu_seconds(airtapd: Airtapd) -> float:
    with open(f"/proc/{airtapd.pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
