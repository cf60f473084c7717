"""A DHCP server that ignores the broadcast flag, which dnsmasq does not."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from scapy.compat import raw
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from lab.lan import Lan

OFFERED = "192.0.2.60"


@contextmanager
def answering_unicast(lan: Lan) -> Iterator[None]:
    """A DHCP server with one lease; dnsmasq is not heard meanwhile."""
    with lan.frames() as frames:

        def serve() -> None:
            while True:
                try:
                    asked = Ether(frames.recv(2048))
                except TimeoutError:
                    if ended.is_set():
                        return
                    continue
                if asked.haslayer(DHCP) and kind_of(asked) in ANSWERS:
                    frames.send(raw(answer(asked, lan)))

        frames.settimeout(0.2)
        ended = threading.Event()
        server = threading.Thread(target=serve)
        server.start()
        try:
            yield
        finally:
            ended.set()
            server.join()


ANSWERS = {1: "offer", 3: "ack"}


def kind_of(asked: Ether) -> int:
    kind: int = next(value for name, value in asked[DHCP].options if name == "message-type")
    return kind


def answer(asked: Ether, lan: Lan) -> Ether:
    settings = [
        ("message-type", ANSWERS[kind_of(asked)]),
        *(("server_id", "192.0.2.1"), ("lease_time", 600), ("subnet_mask", "255.255.255.0")),
        *(("router", "192.0.2.1"), "end"),
    ]
    reply = BOOTP(op=2, xid=asked[BOOTP].xid, yiaddr=OFFERED, chaddr=asked[BOOTP].chaddr)
    head = Ether(src=lan.far_mac, dst=asked.src) / IP(src="192.0.2.1", dst=OFFERED)
    return head / UDP(sport=67, dport=68) / reply / DHCP(options=settings)
