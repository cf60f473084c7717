"""DHCP clients as guests run them."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lab.airtap import Airtapd
from lab.pump import PumpGuest
from lab.roots import LAPTOP, root
from lab.traffic import pump, running

_DHCLIENT_SCRIPT = """#!/bin/sh
case "$reason" in
BOUND|RENEW|REBIND|REBOOT) ip address replace "$new_ip_address/24" dev "$interface" ;;
esac
"""

# What a client keeps in /var and /run stays in the mount namespace that ip netns exec makes.
_DHCPCD = """
mkdir -p /var/lib/dhcpcd && mount -t tmpfs tmpfs /var/lib/dhcpcd && mount -t tmpfs tmpfs /run &&
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

# Its eth0 is an Ethernet card behind the tap, as taps are another kind of device to it. It wants a
# bus of its own. Where /sys is read-only it asks no udev, as in a container.
_NETWORK_MANAGER = """
set -e
mac=$(cat /sys/class/net/eth0/address)
ip link set eth0 down && ip link set eth0 name card address 02:00:00:00:00:01
ip link add eth0 address "$mac" type veth peer name wire
ip link add between type bridge
for device in card wire between; do
    echo 1 >"/proc/sys/net/ipv6/conf/$device/disable_ipv6"
    ip link set "$device" arp off up  # else it answers for eth0's address
done
ip link set card master between && ip link set wire master between
mount -t tmpfs tmpfs /mnt && cd /mnt && mkdir upper work root
mount -t overlay overlay -o lowerdir="$1",upperdir=upper,workdir=work root && cd root
for place in proc sys dev; do mount --rbind "/$place" "$place"; done
mount -o remount,ro,bind sys && mount -t tmpfs tmpfs run && mkdir run/dbus
rm usr/share/dbus-1/system-services/*dispatcher*
printf '[main]\nno-auto-default=*\n' >etc/NetworkManager/conf.d/lab.conf
cat >etc/NetworkManager/system-connections/lan.nmconnection <<END
[connection]
id=lan
type=ethernet
interface-name=eth0
[ipv4]
method=auto
$2
[ipv6]
method=disabled
END
chmod 600 etc/NetworkManager/system-connections/*
chroot . dbus-daemon --system --nofork --nopidfile & bus=$!
until [ -S run/dbus/system_bus_socket ]; do sleep 0.05; done
chroot . NetworkManager --debug & manager=$!
trap 'kill $manager $bus' TERM
wait
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


def network_manager(directory: Path, broadcast: bool) -> list[str]:
    """It knows no broadcast flag."""
    return shell(_NETWORK_MANAGER, str(root(LAPTOP)))


MACS = {
    f"52:54:00:00:01:{number:02x}": client
    for number, client in enumerate((dhclient, dhcpcd, networkd, network_manager))
}


@contextmanager
def each_client(
    airtapd: Airtapd, directory: Path, broadcast: bool, *, uplink: str = "up0", mac: str = ""
) -> Iterator[dict[PumpGuest, subprocess.Popen[str]]]:
    """All at the same time, each in a guest of its own. broadcast: whether it asks for that.

    mac: which all of them have, as it is the uplink's; else each has one of MACS.
    """
    with ExitStack() as stack:
        guests = {}
        for own, client in MACS.items():
            card = pump(airtapd, mac or own, told=not mac, name=client.__name__, uplink=uplink)
            guest = stack.enter_context(card)
            argv = client(directory, broadcast)
            # These two have no identifier but the MAC.
            if mac and client is dhclient:
                argv.insert(1, "-i")
            if mac and client is network_manager:
                argv.append("dhcp-client-id=stable")
            guests[guest] = stack.enter_context(running(guest, argv))
        yield guests


def leased(guest: PumpGuest, client: subprocess.Popen[str]) -> list[str]:
    """The addresses of a guest whose client, which has to run, sees to them.

    Not a link-local one (RFC 3927): dhcpcd has that after 5 s without an answer, until one comes.
    """
    assert client.poll() is None, client.communicate()[0]
    return [address for address in guest.addresses() if not address.startswith("169.254.")]
