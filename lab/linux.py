"""Linux as a guest's operating system: it sees its link come and go, and releases its cards.

Debian's kernel (lab/kernels.py), unpacked so that nobody has to do it in an emulated processor,
and busybox. The guest asks for a lease by every card that has a link, anew whenever the link has
been away, and autoconfigures IPv6. On its serial port it tells each lease:

    AIRTAP-GUEST <mac> <address> booted     the first of a card, by MAC, since the guest booted
    AIRTAP-GUEST <mac> <address> leased     every later one

Renewals are silent. Shell runs commands in it.
"""

from __future__ import annotations

import re
import socket
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import sandbox
from lab.guest import GUEST_UID, QemuGuest
from lab.kernels import GUESTS, REPOSITORY, STORE, vmlinux
from lab.lan import SLOWNESS, Lan

__all__ = ["CMDLINE", "MEMORY", "LinuxGuest", "Shell", "files", "leases"]

MEMORY = 128  # MiB; the kernel alone takes 60
# All but the first two spares an emulated processor work, a quarter of the whole. On a busy machine
# the kernel misses ticks of its timer, and panics (arch/x86/kernel/apic/io_apic.c: check_timer).
CMDLINE = (
    "console=ttyS0 no_timer_check"
    " quiet loglevel=1 mitigations=off rodata=off cryptomgr.notests noreplace-smp"
)

_BUSYBOX = Path("/bin/busybox")  # static
_INITRAMFS = Path("/run/airtap-guest.cpio")

# In the order of what they need of each other.
_MODULES = (
    *("drivers/virtio/virtio_ring.ko", "drivers/virtio/virtio.ko"),
    *("drivers/virtio/virtio_pci_legacy_dev.ko", "drivers/virtio/virtio_pci_modern_dev.ko"),
    *("drivers/virtio/virtio_pci.ko", "net/core/failover.ko"),
    *("drivers/net/net_failover.ko", "drivers/net/virtio_net.ko"),
)

_PORT = 514  # "shell"

# Process 1. busybox runs its own applets by /proc/self/exe, hence no names in /bin. A card's state
# has the count of its link's changes in it: a link that went and came between two looks tells.
_INIT = f"""\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
mount -t sysfs sys /sys
cd /proc/sys/net/ipv6/conf/default
echo 1 >disable_ipv6
echo 0 >router_solicitation_delay
cd /
for module in /lib/*; do insmod $module; done
ip link set lo up
nc -ll -p {_PORT} -e /bin/busybox sh &

disconnect() {{
    read client <$1
    rm $1
    kill $client
    ip -4 address flush dev ${{1##*/}}
    echo 1 >/proc/sys/net/ipv6/conf/${{1##*/}}/disable_ipv6
}}

connect() {{
    echo 0 >/proc/sys/net/ipv6/conf/$1/disable_ipv6
    udhcpc -f -i $1 -s /lease -t 3 -T 2 -A 1 &
    echo $! >/run/client/$1
}}

look() {{
    name=${{1##*/}}
    read index <$1/ifindex || return
    [ -e /run/$index ] || ip link set $name up
    read link <$1/carrier || return
    read changes <$1/carrier_changes || return
    read known </run/$index || known=
    [ "$known" = "$link $changes" ] && return
    echo $link $changes >/run/$index
    [ -e /run/client/$name ] && disconnect /run/client/$name
    [ "$link" = 1 ] && connect $name
}}

mkdir -p /run/client
exec 3<>/pipe >/dev/null 2>&1
while :; do
    for client in /run/client/*; do
        [ -e $client ] && [ ! -e /sys/class/net/${{client##*/}} ] && disconnect $client
    done
    for card in /sys/class/net/e*; do
        [ -e $card ] && look $card
    done
    read -t 0.2 <&3
done
"""

# What udhcpc calls: $1 is what has happened.
_LEASE = """\
#!/bin/busybox sh
read mac </sys/class/net/$interface/address
read index </sys/class/net/$interface/ifindex
case $1 in
deconfig)
    ip -4 address flush dev $interface
    ;;
bound)
    ip address add $ip/$mask dev $interface
    [ "$router" ] && ip route add default via $router dev $interface metric $index
    word=booted
    [ -e /run/$mac ] && word=leased
    : >/run/$mac
    echo "AIRTAP-GUEST $mac $ip $word" >/dev/console
    ;;
esac
"""

_TOLD = re.compile(r"AIRTAP-GUEST ([0-9a-f:]{17}) ([0-9.]+) (?:booted|leased)\s")


def files() -> tuple[Path, Path]:
    """Return kernel and initramfs, which every user in the sandbox can read; made when needed."""
    sandbox.require()
    if not _INITRAMFS.exists():
        _INITRAMFS.write_bytes(_initramfs())
        _INITRAMFS.chmod(0o644)
    return sandbox.TREE / vmlinux().relative_to(REPOSITORY), _INITRAMFS


def leases(serial: str, mac: str) -> list[str]:
    """Return the addresses that a guest has told to have leased, oldest first.

    serial: what it has printed. mac: of the card.
    """
    return [address for said, address in _TOLD.findall(serial) if said == mac.lower()]


class Shell:
    """The shell of a guest that runs, asked over TCP."""

    def __init__(self, address: str, lan: Lan | None = None) -> None:
        """Describe the way to it. address: the guest's, IPv4 or IPv6.

        lan: asked from its far end; None: from the host.
        """
        self.address = address
        self.namespace = lan.namespace if lan else None

    def run(self, command: str, timeout: float = 10.0) -> str:
        """Return what a command prints, on either stream.

        OSError if the guest cannot be reached or is silent, TimeoutError among these; timeout
        seconds, on a machine of usual speed, are for the whole.
        """
        deadline = time.monotonic() + timeout * SLOWNESS
        said = b""
        with self._connection(timeout * SLOWNESS) as peer:
            peer.sendall(f"exec 2>&1; {command}\n".encode())
            peer.shutdown(socket.SHUT_WR)
            while True:
                peer.settimeout(max(deadline - time.monotonic(), 0.01))
                if not (more := peer.recv(65536)):
                    return said.decode(errors="replace")
                said += more

    def ping(self, address: str, timeout: float = 3.0) -> bool:
        """Tell whether an address, IPv4 or IPv6, answers the guest within timeout seconds."""
        seconds = max(1, round(timeout * SLOWNESS))
        command = f"ping -q -c 1 -w {seconds} {address} >/dev/null && echo answers"
        return self.run(command, timeout + 10.0).strip() == "answers"

    def _connection(self, timeout: float) -> socket.socket:
        if self.namespace is None:
            return socket.create_connection((self.address, _PORT), timeout)
        with sandbox.inside(self.namespace):
            return socket.create_connection((self.address, _PORT), timeout)


class LinuxGuest(QemuGuest):
    """A QemuGuest that runs Linux; run() is for iPXE only, here it is shell()."""

    def __init__(
        self,
        mac: str,
        netdev: str | None,
        *,
        name: str = "guest",
        uid: int = GUEST_UID,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        extra: Sequence[str] = (),
    ) -> None:
        """Describe the guest, as QemuGuest does; nothing runs before start()."""
        kernel, initramfs = files()
        boot = [
            *("-kernel", str(kernel), "-initrd", str(initramfs), "-append", CMDLINE),
            *("-global", "virtio-net-pci.romfile="),  # iPXE: a second, in a Wi-Fi machine 40
        ]
        super().__init__(
            *(mac, netdev),
            name=name,
            uid=uid,
            env=env,
            pass_fds=pass_fds,
            memory=MEMORY,
            extra=[*boot, *extra],
        )

    def leases(self) -> list[str]:
        """Return the addresses leased to the card that has the guest's MAC, oldest first."""
        return leases(self.serial(), self.mac)

    def wait_leases(self, count: int, timeout: float = 30.0) -> str:
        """Return the last of so many leases() or more, waiting up to timeout seconds for them.

        Raises as wait_booted() does.
        """
        return self._wait(lambda: self.leases()[count - 1 :], timeout, f"get lease {count}")[-1]

    def shell(self, lan: Lan | None = None) -> Shell:
        """The shell of a booted guest, by its last IPv4 address; lan: as for Shell."""
        return Shell(self.wait_leases(1), lan)


def _initramfs() -> bytes:
    """The guest's files: busybox, the modules and two scripts, in cpio's format newc."""
    [modules] = (STORE / GUESTS / "lib/modules").iterdir()
    archive = _Archive()
    for directory in ("dev", "bin", "lib", "proc", "sys", "run"):
        archive.add(directory, stat.S_IFDIR)
    archive.add("dev/console", stat.S_IFCHR, device=(5, 1))
    archive.add("dev/null", stat.S_IFCHR, device=(1, 3))
    archive.add("pipe", stat.S_IFIFO)
    archive.add("bin/busybox", stat.S_IFREG, _BUSYBOX.read_bytes())
    for place, module in enumerate(_MODULES):
        content = (modules / "kernel" / module).read_bytes()
        archive.add(f"lib/{place}-{Path(module).name}", stat.S_IFREG, content)
    archive.add("init", stat.S_IFREG, _INIT.encode())
    archive.add("lease", stat.S_IFREG, _LEASE.encode())
    return archive.end()


class _Archive:
    """A cpio archive in the format newc: Documentation/driver-api/early-userspace/buffer-format."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._count = 0

    def add(
        self, name: str, kind: int, content: bytes = b"", *, device: tuple[int, int] = (0, 0)
    ) -> None:
        """Append a file, root's, that everybody may do everything with.

        kind: stat.S_IF*. device: the major and minor number of a node.
        """
        self._count += 1
        path = name.encode() + b"\0"
        fields = (
            *(self._count, kind | 0o777, 0, 0, 1, 0, len(content)),
            *(0, 0, *device, len(path), 0),
        )
        self._bytes += b"070701" + b"".join(b"%08x" % field for field in fields) + path
        self._pad()
        self._bytes += content
        self._pad()

    def end(self) -> bytes:
        """Return the archive; nothing can be added any more."""
        self.add("TRAILER!!!", 0)
        return bytes(self._bytes)

    def _pad(self) -> None:
        self._bytes += bytes(-len(self._bytes) % 4)
