"""airtap try that is ended amid a step, also in a way that lets it do nothing more.

Its namespace has no name and no process: it is there by descriptors of airtap try's alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from airtap.ipc import protocol
from lab.airtap import BIN, Airtapd, in_place_of
from lab.lan import Lan, wait_for
from lab.sandbox import dying_with_us
from lab.trial import deaf, drop_at_lan, unchanged

# How the LAN's router keeps a trial waiting, and what is then said.
WAITS: dict[str, tuple[Callable[[Lan], None], str]] = {
    "device": (lambda lan: None, "macvtap: guest"),
    "lease": (partial(drop_at_lan, rule="udp dport 67"), "...  DHCP lease: waiting"),
    "gateway4": (
        partial(drop_at_lan, rule="arp operation request"),
        "...  gateway by ARP: waiting",
    ),
    "address6": (
        partial(deaf, rule="icmpv6 type nd-router-advert", hook="output"),
        "...  IPv6 address (SLAAC): waiting",
    ),
}
ENDS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}


@contextmanager
def trying(airtapd: Airtapd, stderr: int = subprocess.STDOUT) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        dying_with_us([str(BIN / "airtap"), "try", "up0", "--timeout=60"]),
        env={**os.environ, **airtapd.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


CELLS = [
    *(("device", tuple(ENDS)), ("lease", tuple(ENDS))),
    *(("gateway4", (signal.SIGTERM,)), ("address6", (signal.SIGKILL,))),
    pytest.param("gateway4", (signal.SIGINT, signal.SIGKILL), marks=pytest.mark.slow),
    pytest.param("address6", (signal.SIGINT, signal.SIGTERM), marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("step", "numbers"), CELLS)
def test_nothing_is_left(
    lan: Lan, airtapd: Airtapd, step: str, numbers: tuple[signal.Signals, ...]
) -> None:
    keep_waiting, said = WAITS[step]
    keep_waiting(lan)
    for number in numbers:
        with unchanged(), trying(airtapd) as process:
            assert process.stdout
            lines = iter(process.stdout.readline, "")
            assert any(said in line for line in lines), "the trial has ended by itself"
            process.send_signal(number)
            rest = process.communicate(timeout=30)[0]
            assert process.returncode == ENDS[number]
            if number != signal.SIGKILL:
                assert "interrupted; what was made is undone" in rest
                assert "Traceback" not in rest
                assert lan.leases() == {}
            wait_for(lambda: not airtapd.guests(), 10, "the guest's device to go")


def test_airtapd_that_ends_meanwhile(lan: Lan, airtapd: Airtapd, systemd: None) -> None:
    """The next one removes the guest's device."""
    drop_at_lan(lan, "udp dport 67")
    with trying(airtapd) as process:
        assert process.stdout
        lines = iter(process.stdout.readline, "")
        assert any("DHCP lease: waiting" in line for line in lines)
        airtapd.kill()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 143
        airtapd.start()
        wait_for(lambda: not airtapd.guests(), 10, "the next airtapd to remove the device")


@pytest.mark.parametrize("answers", [0, 1])
def test_airtapd_that_is_silent(lan: Lan, airtapd: Airtapd, answers: int) -> None:
    """One Ctrl-C ends the waiting, be it for what a name means or for the guest's device."""
    with in_place_of(airtapd) as listener, unchanged(), trying(airtapd) as process:
        for _ in range(answers):
            with listener.accept()[0] as connection:
                connection.recv(protocol.MAX_REQUEST)
                connection.send(protocol.encode({"ok": True, "aliases": {}, "parents": {}}))
        with listener.accept()[0] as connection:
            connection.recv(protocol.MAX_REQUEST)
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=protocol.TIMEOUT_S * 2 / 3)[0]
        assert process.returncode == 130
        assert "interrupted" in said and "Traceback" not in said


def test_nobody_reads_on(lan: Lan, airtapd: Airtapd) -> None:
    """As in `airtap try up0 | head -1`: no step has failed."""
    with unchanged(), trying(airtapd, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        assert "guest" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == ""
    wait_for(lambda: not airtapd.guests(), 10, "the guest's device to go")
    assert lan.leases() == {}
