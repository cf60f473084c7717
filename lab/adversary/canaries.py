"""Datagrams from everybody to everybody: each arrives, and nobody else hears it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from lab.adversary import packets as p
from lab.adversary import world as w
from lab.adversary.ears import Port
from lab.adversary.setting import Setting
from lab.lan import FAR_MAC, HOST4, HOST6, NEAR_MAC, ROUTER4, ROUTER6, SLOWNESS
from lab.traffic import SIBLING4, SIBLING6, SIBLING_MAC

CANARY = b"a canary "
_PORT = 7777
# How long a way may be blocked, and how often it is tried.
_BLOCKED_S, _AGAIN_S = 3.0, 0.3
_AT = {
    "host": (HOST4, HOST6),
    "lan": (ROUTER4, ROUTER6, w.OTHER4, w.OTHER6),
    "sibling": (SIBLING4, SIBLING6, w.LEASES[SIBLING_MAC]),
}
Way = tuple[str, str, str]


class Canaries:
    """Sends them, and tells which are lost. places: namespaces by who is there."""

    def __init__(self, setting: Setting, places: dict[str, str | None]) -> None:
        self._ports = {name: Port(namespace, _PORT) for name, namespace in places.items()}
        pairs = [("host", "lan")]
        if setting.guarded:
            pairs += [("lan", "host"), ("lan", "sibling"), ("sibling", "lan")]
        if setting.meets:
            pairs += [("host", "sibling"), *([("sibling", "host")] if setting.guarded else [])]
        self._ways: list[Way] = [(*pair, address) for pair in pairs for address in _AT[pair[1]]]

    def close(self) -> None:
        for port in self._ports.values():
            port.close()

    def lost(self) -> list[str]:
        """Send one each way until it has arrived. Gives the ways that are blocked."""
        missing = dict.fromkeys(self._ways)
        end = time.monotonic() + _BLOCKED_S * SLOWNESS
        again = 0.0
        while missing and time.monotonic() < end:
            if time.monotonic() > again:
                self._send(missing)
                again = time.monotonic() + _AGAIN_S * SLOWNESS
            time.sleep(0.001)
            for data in (data for port in self._ports.values() for data in port.heard()):
                source, target, address = data.removeprefix(CANARY).decode().split()
                missing.pop((source, target, address), None)
        return [f"{source} does not reach {target} at {at}" for source, target, at in missing]

    def _send(self, ways: Iterable[Way]) -> None:
        for way in ways:
            self._ports[way[0]].send(way[2], CANARY + " ".join(way).encode())


# What is for the host by its MAC, though the address is none of its own: what lies behind it,
# and what it is offered by DHCP.
_OFFERED, _BEHIND = w.FORMER4, ((ROUTER4, w.BEHIND4), (ROUTER6, w.BEHIND6))


def send_to_the_host(send: Callable[[bytes], object], setting: Setting) -> list[str]:
    """Have the LAN's router send to addresses for which the host is to get it. Gives these.

    A guest that has the host's own MAC may be offered what the host is.
    """
    sent = [p.over_ip(*way, (9, 9), CANARY) for way in _BEHIND]
    if not setting.one_for_all:
        reply = p.bootp(2, 2, NEAR_MAC, yours=_OFFERED).replace(p.MARK, b"host")
        sent.append(p.over_ip(ROUTER4, _OFFERED, (67, 68), reply + CANARY))
    for kind, packet in sent:
        send(p.ethernet(NEAR_MAC, FAR_MAC, kind, packet))
    return [w.BEHIND4, w.BEHIND6, _OFFERED][: len(sent)]


def heard(frames: Iterable[bytes]) -> set[bytes]:
    """For which addresses canaries are among frames."""
    return {_target(frame) for frame in frames if CANARY in frame}


def _target(frame: bytes) -> bytes:
    return frame[38:54] if frame[12:14] == b"\x86\xdd" else frame[30:34]


def is_anothers(frame: bytes, mac: str) -> bool:
    """Whether a frame carries a canary that is not for this MAC."""
    return CANARY in frame and frame[:6] != p.octets(mac)
