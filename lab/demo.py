"""make demo: two QEMU guests on a LAN through airtap, one step after another, on a terminal.

It is a check too: exit status 1 and a reason as soon as a step does not show what it should.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from libvirt import libvirtError

from airtap import config
from airtap.ipc import protocol
from lab import sandbox
from lab.airtap import BIN, HELPER, answers
from lab.domains import lease
from lab.guest import GUEST_UID, QemuGuest
from lab.lan import HOST4, NEAR_MAC, ROUTER4, Lan, end_process, host_links, slaac_address, wait_for
from lab.libvirt import Libvirtd, domain_xml

ACL = Path(config.Config.acl)
LOG = Path("/run/airtapd.log")
TOLD, LEARNED, REFUSED, LIBVIRTS = (f"52:54:00:0a:00:{n:02x}" for n in (1, 2, 3, 4))
NETWORK, DOMAIN = "wifi", "web"

_BOOT_S = 40.0
_REMOVAL_S = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoError(Exception):
    """A step did not show what it should."""


class Interrupted(Exception):
    """Somebody wants the demo to end."""


def main() -> int:
    """Run the demo. Returns the exit status: 0, 1 for a failed step, 130 when interrupted."""
    arguments = _arguments()
    _end_on_signals()
    narration = Narration()
    try:
        sandbox.enter()
        with Demo(narration) as demo:
            demo.show(keep=arguments.keep)
        _expect_only({"lo"}, set())
    except Interrupted:
        narration.failed("interrupted; guests, airtapd and LAN are ended")
        return 130
    except (DemoError, OSError, RuntimeError, subprocess.SubprocessError, libvirtError) as error:
        narration.failed(str(error))
        if LOG.exists():
            print(f"airtapd's log:\n{LOG.read_text()}", file=sys.stderr, end="")
        return 1
    print("\nEvery step showed what it should, and nothing is left.")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument(
        "--keep", action="store_true", help="leave everything running, to play with, until Ctrl-C"
    )
    return parser.parse_args()


def _end_on_signals() -> None:
    def interrupt(_number: int, _frame: object) -> NoReturn:
        for number in _SIGNALS:  # what follows is bounded, and must not be left half done
            signal.signal(number, signal.SIG_IGN)
        raise Interrupted

    for number in _SIGNALS:
        signal.signal(number, interrupt)


def _replies(prefix: list[str], address: str) -> list[str]:
    argv = [*prefix, "ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", address]
    done = subprocess.run(argv, text=True, capture_output=True, stdin=subprocess.DEVNULL)
    return [line for line in done.stdout.splitlines() if "bytes from" in line]


def _expect_only(links: set[str], processes: set[int]) -> None:
    """Raise DemoError if there are links or children of ours beyond these."""
    more_links, more_processes = host_links() - links, sandbox.children() - processes
    if more_links or more_processes:
        raise DemoError(f"left behind: links {more_links}, processes {more_processes}")


class Narration:
    """What the person at the terminal reads: numbered steps, and under each what it showed."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._number = 0

    def step(self, title: str) -> None:
        self._number += 1
        print(f"\n{self._number}. {title}  [{self._elapsed():.1f} s]", flush=True)

    def say(self, text: str) -> None:
        for line in text.splitlines():
            print(f"    {line}".rstrip(), flush=True)

    def failed(self, why: str) -> None:
        where = f"step {self._number}, {self._elapsed():.1f} s"
        print(f"\nmake demo: {where}: {why.rstrip()}", file=sys.stderr, flush=True)

    def _elapsed(self) -> float:
        return time.monotonic() - self._began


class Demo:
    """The LAN, airtapd and the guests, from __enter__ to __exit__."""

    def __init__(self, narration: Narration) -> None:
        self._step, self._say = narration.step, narration.say
        self._undo = contextlib.ExitStack()
        self._lan = Lan(one_mac=True)
        self._guests: list[QemuGuest] = []
        self._libvirt = contextlib.ExitStack()
        self._addresses: dict[str, str] = {}
        self._devices: set[str] = set()

    def __enter__(self) -> Demo:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._undo.close()

    def show(self, *, keep: bool) -> None:
        """Every step. Raises DemoError, or what the lab raises, at the first that fails."""
        self._build_lan()
        self._start_airtapd()
        links, processes = host_links(), sandbox.children()
        self._start_guests()
        self._show_leases()
        self._ping_guests()
        self._start_libvirt_guest()
        self._show_one_mac()
        self._show_status()
        self._show_refusal()
        if keep:
            self._stay()
        self._end_guests()
        if not keep:  # else there may be more: somebody has played with it
            _expect_only(links, processes)

    def _build_lan(self) -> None:
        self._step("A LAN in network namespaces, none of it outside of them")
        self._undo.enter_context(self._lan)
        lan = self._lan
        self._say(f"{lan.near}   the host's uplink, {HOST4}, {NEAR_MAC}")
        self._say(f"{lan.far}  the far end of the wire: router {ROUTER4} with DHCP and TFTP")
        self._say("      It drops every frame that is not from or to the uplink's own MAC,")
        self._say("      as a Wi-Fi access point, or a switch with port security, does.")

    def _start_airtapd(self) -> None:
        self._step("airtapd, and a policy: everybody may put guests behind the uplink")
        rule = f"allow {self._lan.near}"
        settings = f'[parents.{self._lan.near}]\nmacnat = "on"  # on a Wi-Fi station: by itself'
        _write_policy(rule, settings)
        self._say(f"$ echo '{rule}' > {ACL}")
        self._say(f"$ cat {config.DEFAULT_PATH}\n{settings}")
        self._say("$ airtapd &")
        with LOG.open("ab") as log:
            daemon = subprocess.Popen(
                sandbox.dying_with_us([str(BIN / "airtapd")]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the demo: airtapd is to see the guests go.
                start_new_session=True,
            )
        self._undo.callback(end_process, daemon)

        def ready() -> bool:
            if daemon.poll() is not None:
                raise DemoError(f"airtapd ended: {LOG.read_text()}")
            return answers(protocol.DEFAULT_SOCKET)

        wait_for(ready, 15, "airtapd's socket to answer")
        self._say(LOG.read_text())

    def _start_guests(self) -> None:
        self._step(f"Two guests, QEMU as user {GUEST_UID} without any privilege")
        told = f"tap,id=n0,helper={HELPER} --mac={TOLD},br={self._lan.near}"
        learned = f"tap,id=n0,helper={HELPER},br={self._lan.near}"
        self._say("guest1's device gets its MAC from the command line:")
        self._start_guest(QemuGuest(TOLD, told, name="guest1"))
        self._say("guest2's device learns it from the guest's first frame:")
        self._start_guest(QemuGuest(LEARNED, learned, name="guest2"))

    def _start_guest(self, guest: QemuGuest) -> None:
        self._undo.callback(guest.close)
        guest.start()
        self._guests.append(guest)
        self._say(_as_typed(wait_for(lambda: _qemu_words(guest), 5, f"{guest.name} to start")))

    def _show_leases(self) -> None:
        self._step("Each guest boots from the network (iPXE) and gets a lease of the LAN's own")
        self._say(f"waiting for both to boot, at most {_BOOT_S:g} s ...")
        for guest in self._guests:
            address = guest.wait_booted(_BOOT_S)
            lease = self._lan.leases().get(guest.mac)
            if lease != address:
                raise DemoError(f"{guest.name} has {address}, and the DHCP server says {lease}")
            # It runs what it has fetched before the server has logged that.
            wait_for(partial(self._lan.fetched, address), 5, f"the TFTP server to log {guest.name}")
            self._addresses[guest.name] = address
            self._say(f"{guest.name}  {guest.mac}  leased {address}, fetched its boot file")

    def _ping_guests(self) -> None:
        self._step("The LAN reaches both, and so does the host")
        for guest in self._guests:
            address = self._addresses[guest.name]
            self._ping("router", sandbox.netns_exec_prefix(self._lan.namespace), guest, address)
            self._ping("host", [], guest, address)
            for prefix in (sandbox.netns_exec_prefix(self._lan.namespace), []):
                if not _replies(prefix, slaac_address(guest.mac)):
                    raise DemoError(f"{guest.name} does not answer over IPv6")
            self._say(f"and both over IPv6: {slaac_address(guest.mac)}")

    def _ping(self, who: str, prefix: list[str], guest: QemuGuest, address: str) -> None:
        self._say(f"{who}$ ping -c 2 {address}")
        replies = _replies(prefix, address)
        if not replies:
            raise DemoError(f"{guest.name} does not answer the {who}")
        self._say("\n".join(replies))

    def _start_libvirt_guest(self) -> None:
        self._step("libvirt: a network for virt-manager's list, and a guest on it")
        self._undo.enter_context(self._libvirt)
        self._say("$ libvirtd &    # of the demo's own, with airtap's hooks")
        libvirtd = self._libvirt.enter_context(Libvirtd())
        define = ("network", "define", NETWORK, "--parent", self._lan.near)
        done = libvirtd.airtap(*define)
        self._say(f"$ airtap {' '.join(define)}\n{done.stdout}{done.stderr}")
        if done.returncode != 0:
            raise DemoError(f"exit status {done.returncode}")
        card = f'<interface type="network"><source network="{NETWORK}"/></interface>'
        self._say(f"a guest, {DOMAIN}, with {card}")
        connection = libvirtd.connect()
        self._libvirt.callback(connection.close)
        xml = domain_xml(DOMAIN, LIBVIRTS, libvirtd.serial_file(DOMAIN), card)
        domain = connection.createXML(xml)
        self._libvirt.callback(domain.destroy)
        address = lease(self._lan, libvirtd, LIBVIRTS, DOMAIN)
        wait_for(lambda: self._lan.fetched(address), _BOOT_S, f"{DOMAIN} to boot")
        if not self._lan.ping(address):
            raise DemoError(f"{DOMAIN} does not answer:\n{libvirtd.serial(DOMAIN)}")
        self._say(f"{DOMAIN}  {LIBVIRTS}  leased {address}, fetched its boot file, answers ping")

    def _show_one_mac(self) -> None:
        self._step("On the wire there is one MAC, the uplink's, and the router let all pass")
        command = ("ip", "neighbour", "show", "dev", self._lan.far)
        table = self._lan.run(*command).stdout
        self._say(f"router$ {' '.join(command)}")
        self._say("\n".join(line for line in table.splitlines() if "lladdr" in line))
        known = {row.split()[0]: row.split() for row in table.splitlines()}
        for guest in self._guests:
            if NEAR_MAC not in known.get(self._addresses[guest.name], []):
                raise DemoError(f"the router does not know {guest.name} at {NEAR_MAC}")
        self._say(f"frames that it dropped for another MAC: {self._lan.foreign_frames()}")
        if self._lan.foreign_frames():
            raise DemoError("a guest's own MAC got out on the wire")

    def _show_status(self) -> None:
        self._step("What airtap says")
        self._say(f"$ airtap status\n{_airtap('status')}")
        owners = {guest["mac"]: guest["owner"] for guest in _status()}
        shown = {(mac, o["uid"], o["pid"], o["domain"]) for mac, o in owners.items()}
        wanted: set[tuple[Any, ...]] = {(LIBVIRTS, 0, None, DOMAIN)}
        wanted |= {(guest.mac, GUEST_UID, guest.pid, None) for guest in self._guests}
        if shown != wanted:
            raise DemoError(f"airtap status is to show these guests and owners: {wanted}")
        self._devices = {guest["device"] for guest in _status()}

    def _show_refusal(self) -> None:
        self._step("What the policy does not allow is refused, and QEMU says why")
        guest = QemuGuest(REFUSED, f"tap,id=n0,helper={HELPER},br=lo", name="guest3")
        self._undo.callback(guest.close)
        guest.start()
        status = guest.wait_exit()
        self._say(f"$ qemu-system-x86_64 ... -netdev {guest.netdev}\n{guest.stderr()}")
        if status == 0 or "access denied" not in guest.stderr():
            raise DemoError(f"QEMU was to be refused; its exit status is {status}")
        if len(_status()) != len(self._guests) + 1:
            raise DemoError("the refused guest left a device")

    def _stay(self) -> None:
        self._step("Yours, until Ctrl-C")
        self._say(
            _INVITATION.format(
                pid=os.getpid(),
                log=LOG,
                uid=GUEST_UID,
                helper=HELPER,
                bin=HELPER.parent,
                near=self._lan.near,
                far=self._lan.namespace,
                address=self._addresses["guest1"],
            )
        )
        with contextlib.suppress(Interrupted):
            while True:
                signal.pause()

    def _end_guests(self) -> None:
        self._step(
            "libvirt's guest is destroyed, guest1 shut down, guest2 killed: devices go with them"
        )
        self._say(f"before: {', '.join(sorted(host_links()))}")
        self._libvirt.close()
        self._guests[0].stop()
        killing = time.monotonic()
        self._guests[1].kill()
        wait_for(self._devices_gone, _REMOVAL_S, "the guests' devices to go", interval=0.005)
        self._say(f"after:  {', '.join(sorted(host_links()))}")
        self._say(
            f"airtapd removed the last {1000 * (time.monotonic() - killing):.0f} ms after the kill"
        )
        self._say(f"$ airtap status\n{_airtap('status')}")

    def _devices_gone(self) -> bool:
        return not self._devices & host_links()


_INVITATION = """
A shell on the host of this LAN, as root:
    nsenter -t {pid} -n -m env PATH={bin}:$PATH bash
In it:
    airtap status
    ip -d link show type macvtap
    ip netns exec {far} ping {address}
    tail {log}
    airtap release DEVICE
A third guest (Ctrl-a x ends it):
    setpriv --reuid {uid} --regid {uid} --clear-groups qemu-system-x86_64 -nodefaults \\
        -machine pc,graphics=off -display none -serial mon:stdio -boot n \\
        -netdev tap,id=n0,helper={helper},br={near} \\
        -device virtio-net-pci,netdev=n0,mac=52:54:00:0a:00:05
"""


def _write_policy(rule: str, settings: str) -> None:
    """The whole configuration, in the sandbox's own /etc."""
    os.environ.pop("AIRTAP_SOCKET", None)
    ACL.parent.mkdir(exist_ok=True)
    Path(config.DEFAULT_PATH).write_text(f"{settings}\n")
    ACL.write_text(f"{rule}\n")
    ACL.parent.chmod(0o755)  # whatever the umask: callers must be able to read the rules
    ACL.chmod(0o644)


def _airtap(*arguments: str) -> str:
    """What the CLI prints. Raises DemoError with its complaint."""
    done = subprocess.run([str(BIN / "airtap"), *arguments], text=True, capture_output=True)
    if done.returncode != 0:
        raise DemoError(done.stderr)
    return done.stdout


def _status() -> list[dict[str, Any]]:
    """Every guest of `airtap status --json`."""
    report = json.loads(_airtap("status", "--json"))
    return [guest for uplink in report["uplinks"] for guest in uplink["guests"]]


def _qemu_words(guest: QemuGuest) -> list[str]:
    """The command line of a guest as the kernel has it; empty until QEMU runs."""
    if not guest.alive:
        raise DemoError(f"{guest.name} ended at once: {guest.stderr()}")
    words = Path(f"/proc/{guest.pid}/cmdline").read_text().split("\0")[:-1]
    return words if words and words[0].startswith("qemu") else []


def _as_typed(words: list[str]) -> str:
    """A command line as one types it, in lines of whole options."""
    options: list[str] = []
    for word in words:
        if word.startswith("-") or not options:
            options.append(shlex.quote(word))
        else:
            options[-1] += f" {shlex.quote(word)}"
    lines = ["$"]
    for option in options:
        if len(lines[-1]) + len(option) > 90:
            lines.append("   ")
        lines[-1] += f" {option}"
    return " \\\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
