"""DHCP clients as guests run them: each gets a lease of its own behind the uplink's one MAC."""

import subprocess
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from lab.airtap import Airtapd
from lab.dhcp_server import OFFERED, answering_unicast
from lab.lan import Lan, wait_for
from lab.pump import PumpGuest
from lab.traffic import known, pump, running

_DHCLIENT_SCRIPT = """#!/bin/sh
case "$reason" in
BOUND|RENEW|REBIND|REBOOT) ip address replace "$new_ip_address/24" dev "$interface" ;;
esac
"""

# What a client keeps in /var and /run stays in the mount namespace that ip netns exec makes.
_DHCPCD = """
mount -t tmpfs tmpfs /var/lib/dhcpcd && mount -t tmpfs tmpfs /run &&
printf '%s\\n' 'duid ll' "$1" >/run/dhcpcd.conf &&
exec dhcpcd --nobackground --debug --nodev --script /bin/true --config /run/dhcpcd.conf eth0
"""

# udev tells networkd when a link is ready, unless /sys is read-only, as in a container.
_NETWORKD = """
mount -t tmpfs tmpfs /run && mount -o remount,ro,bind /sys &&
mkdir -p /run/systemd/network /run/systemd/netif &&
chown systemd-network:systemd-network /run/systemd/netif &&
printf '[Match]\\nName=eth0\\n[Network]\\nDHCP=ipv4\\n[DHCPv4]\\nRequestBroadcast=%s\\n' "$1" \
    >/run/systemd/network/eth0.network &&
exec /lib/systemd/systemd-networkd
"""


def shell(script: str, *arguments: str) -> list[str]:
    return ["sh", "-c", script, "sh", *arguments]


def dhclient(directory: Path, broadcast: bool) -> list[str]:
    script = directory / "dhclient-script"
    script.write_text(_DHCLIENT_SCRIPT)
    script.chmod(0o755)
    config = directory / "dhclient.conf"
    config.write_text("bootp-broadcast-always;\n" if broadcast else "")
    files = ("-sf", str(script), "-lf", str(directory / "leases"), "-pf", str(directory / "pid"))
    return ["dhclient", "-4", "-d", "-v", "-cf", str(config), *files, "eth0"]


def dhcpcd(directory: Path, broadcast: bool) -> list[str]:
    """Once with its probes for a duplicate, which take 5 s, and once without."""
    return shell(_DHCPCD, "broadcast\nnoarp" if broadcast else "")


def networkd(directory: Path, broadcast: bool) -> list[str]:
    return shell(_NETWORKD, "yes" if broadcast else "no")


@pytest.mark.parametrize("broadcast", [False, True], ids=["unicast", "broadcast"])
def test_clients(lan: Lan, airtapd: Airtapd, tmp_path: Path, broadcast: bool) -> None:
    """All at the same time, each in a guest of its own."""
    with ExitStack() as stack:
        guests = {}
        for number, client in enumerate((dhclient, dhcpcd, networkd)):
            mac = f"52:54:00:00:01:{number:02x}"
            guest = stack.enter_context(pump(airtapd, mac, name=client.__name__))
            argv = client(tmp_path, broadcast)
            guests[guest] = stack.enter_context(running(guest, argv))
        with pump(airtapd, name="udhcpc") as guest:
            guest.dhcp(5, *(["-B"] if broadcast else []))
            holds_its_lease(lan, airtapd, guest)
        for guest, process in guests.items():
            wait_for(partial(leased, guest, process), 20, f"the address of {guest.namespace}")
            holds_its_lease(lan, airtapd, guest)


def leased(guest: PumpGuest, client: subprocess.Popen[str]) -> list[str]:
    assert client.poll() is None, client.communicate()[0]
    return guest.addresses()


_NO_BROADCAST_ANSWERS = "add rule netdev wire out ether daddr ff:ff:ff:ff:ff:ff udp dport 68 drop"


def test_server_that_ignores_the_broadcast_flag(lan: Lan, airtapd: Airtapd) -> None:
    """Its answers go to the MAC that asked, the uplink's, and to the address on offer."""
    lan.run("nft", _NO_BROADCAST_ANSWERS)
    with answering_unicast(lan), pump(airtapd) as guest:
        assert guest.dhcp(10) == OFFERED
        assert lan.ping(OFFERED)
        assert OFFERED in known(airtapd, guest.mac)


def holds_its_lease(lan: Lan, airtapd: Airtapd, guest: PumpGuest) -> None:
    [address] = guest.addresses()
    assert lan.leases()[guest.mac] == address
    assert lan.ping(address)
    assert guest.ping("192.0.2.1")
    assert address in known(airtapd, guest.mac)
