"""airtap try that is ended amid a step, also in a way that lets it do nothing more.

Its namespace has no name and no process: it is there by descriptors of airtap try's alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.airtap import BIN, Airtapd
from lab.lan import Lan, wait_for
from lab.sandbox import dying_with_us
from tests.trial.conftest import drop_at_lan, unchanged

# The rule by which the LAN's router keeps a trial waiting, and what is then said.
WAITS = {
    "device": ("", "macvtap: guest"),
    "lease": ("udp dport 67", "...  DHCP lease: waiting"),
    "gateway4": ("arp operation request", "...  gateway by ARP: waiting"),
    "address6": ("icmpv6 type nd-router-solicit", "...  IPv6 address (SLAAC): waiting"),
}
ENDS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}


@contextmanager
def trying(airtapd: Airtapd) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        dying_with_us([str(BIN / "airtap"), "try", "up0", "--timeout=60"]),
        env={**os.environ, **airtapd.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("step", WAITS)
def test_nothing_is_left(lan: Lan, airtapd: Airtapd, step: str) -> None:
    rule, said = WAITS[step]
    if rule:
        drop_at_lan(lan, rule)
    for number, status in ENDS.items():
        with unchanged(), trying(airtapd) as process:
            assert process.stdout
            lines = iter(process.stdout.readline, "")
            assert any(said in line for line in lines), "the trial has ended by itself"
            process.send_signal(number)
            rest = process.communicate(timeout=30)[0]
            assert process.returncode == status
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
