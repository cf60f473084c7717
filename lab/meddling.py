"""What stands between a host and its LAN, and meddles: a switch, an access point."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from lab.lan import FAR_MAC, Lan
from lab.traffic import asked

Echo = Callable[[Packet], Packet | None]


def snoop(lan: Lan, *stations: str) -> None:
    """Have the wire take no DHCP request whose client is another station than its sender.

    stations: the MACs that send; the host's uplink if there are none.
    """
    chain = "{ type filter hook ingress device " + lan.far + " priority 1; }"
    lan.run("nft", "add", "table", "netdev", "snooping")
    lan.run("nft", "add", "chain", "netdev", "snooping", "in", chain)
    for mac in stations or (lan.near_mac,):
        client = "0x" + mac.replace(":", "")
        rule = ["ether", "saddr", mac, "udp", "dport", "67", "@th,288,48", "!=", client, "drop"]
        lan.run("nft", "add", "rule", "netdev", "snooping", "in", *rule)


def snoop_no_more(lan: Lan) -> None:
    lan.run("nft", "delete", "table", "netdev", "snooping")


def as_an_answer(frame: Packet) -> Packet | None:
    """An answer in the station's name, as an access point gives that answers for its stations."""
    mac = frame.src
    ether = Ether(src=FAR_MAC, dst=mac)
    if ARP in frame:
        question = frame[ARP]
        answer = ARP(op=2, hwsrc=mac, psrc=question.pdst, hwdst=question.hwsrc, pdst=question.psrc)
        return ether / answer
    target = frame[ICMPv6ND_NS].tgt
    advert = ICMPv6ND_NA(tgt=target, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=mac)
    ether.dst = "33:33:00:00:00:01"
    return ether / IPv6(src=target, dst="ff02::1", hlim=255) / advert


def to_probes(frame: Packet) -> Packet | None:
    """An answer as_an_answer() to who asks whether its own address is another's."""
    return as_an_answer(frame) if asked(bytes(frame)) else None


@contextmanager
def echoing(lan: Lan, echo: Echo) -> Iterator[list[Packet]]:
    """What comes in and asks by ARP or ND comes back; the list fills with what did."""
    sent: list[Packet] = []
    ended = threading.Event()
    with lan.frames() as frames:
        frames.settimeout(0.05)

        def answer() -> None:
            while not ended.is_set():
                try:
                    frame = Ether(frames.recv(1 << 16))
                except TimeoutError:
                    continue
                asks = ARP in frame or ICMPv6ND_NS in frame
                if frame.src != lan.far_mac and asks and (answered := echo(frame)):
                    frames.send(bytes(answered))
                    sent.append(answered)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield sent
        finally:
            ended.set()
            thread.join()
