"""The host and a guest that meet, and what the kernel makes of where packets come from."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.lan import HOST4, HOST6, wait_for
from lab.pump import PumpGuest
from lab.sandbox import command


def reaches(address: str, seconds: int = 8, *options: str) -> bool:
    """Whether the host reaches an address, asked until answered. options: of ping."""
    argv = ["ping", "-n", "-q", "-i", "0.1", "-c", "1", "-w", str(seconds), *options, address]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def link_local(namespace: PumpGuest | None, device: str) -> str:
    """The address of a device in a guest's namespace, or the host's, once it may be used."""
    argv = ["ip", "-6", "-br", "address", "show", "dev", device, "scope", "link", "-tentative"]

    def shown() -> str:
        return namespace.run(*argv).stdout if namespace else command(*argv)

    return wait_for(shown, 5, f"the address of {device}").split()[2].split("/")[0]


def meet(guest: PumpGuest, uplink: str = "up0") -> None:
    """The host and a guest reach each other at every address of theirs."""
    for address in guest.addresses(4) + guest.addresses(6):
        assert reaches(address), f"the host does not reach {address}"
    assert reaches(f"{link_local(guest, 'eth0')}%{uplink}")
    for address in (HOST4, HOST6, f"{link_local(None, uplink)}%eth0"):
        assert guest.ping(address, timeout=5), f"{guest.namespace} does not reach {address}"


@contextmanager
def rp_filter(value: int, uplink: str = "up0") -> Iterator[None]:
    files = [Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter") for name in ("all", uplink)]
    before = [file.read_text() for file in files]
    try:
        for file in files:
            file.write_text(str(value))
        yield
    finally:
        for file, text in zip(files, before, strict=True):
            file.write_text(text)
