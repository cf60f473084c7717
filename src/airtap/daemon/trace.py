"""airtapd's part of `airtap trace`: guests that are traced, and who is told of them.

The programs fill a ring (bpf/trace.h) that is emptied here in small batches at a steady pace, so a
guest's flood costs a bounded share of a processor. What came in is dispatched to subscribers, one
for each client. A subscriber has room for a bounded number of records; those of a client that does
not read are lost, and counted. Records are passed on unread.
"""

import asyncio
import base64
import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field

from ..alias import Owner, guest_mac, may_manage
from ..bpf.libbpf import BpfError
from ..bpf.trace_record import EVERYONE, NOBODY, SNAP, concerns
from ..errors import Problem
from ..ipc.requests import Message
from ..kernel.credentials import Peer
from ..kernel.links import Link, LinkNotFound, Links
from ..macnat.reconciler import Reconciler
from ..macnat.uplink import UplinkState
from ..uplink import is_guest

log = logging.getLogger(__name__)

# Seconds between two looks at a ring, and how many records are taken out each time.
_LOOK_S = 0.05
_BATCH = 256
# How often a client hears of us, if nothing else happens: so its going is noticed.
_HEARTBEAT_S = 1.0
# Records kept for a client, and sent in a packet (protocol.MAX_ANSWER).
_ROOM = 512
_PACKET = 12
# Traces at a time: of one user, and of all users together. Root is not counted.
_MOST_PER_USER = 4
_MOST = 16


@dataclass(eq=False)
class _Subscriber:
    """One client's trace.

    uplink: what is at work there.
    sees_all: whether it gets frames that are of no guest, too.
    lost: how many records it did not get; lost_before: how many nobody got before it began.
    """

    uplink: UplinkState
    ifindex: int
    device: str
    sees_all: bool
    records: deque[bytes] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    lost: int = 0
    lost_before: int = 0

    def enqueue(self, packed: bytes) -> None:
        if len(self.records) >= _ROOM:
            self.lost += 1
            return
        self.records.append(packed)
        self.news.set()

    def dequeue(self) -> list[str]:
        """Some of the records, for a packet."""
        count = min(_PACKET, len(self.records))
        taken = [base64.b64encode(self.records.popleft()).decode() for _ in range(count)]
        if not self.records:
            self.news.clear()
        return taken

    def all_lost(self) -> int:
        return self.lost + self.uplink.tracer.lost() - self.lost_before

    def wants(self, whose: int, program: str) -> bool:
        """Root wants frames that are nobody's; guests want the host's broadcasts that they get."""
        if whose == EVERYONE:
            return program != "uplink_egress" or self.uplink.host_meets(self.ifindex)
        return whose == self.ifindex or (whose == NOBODY and self.sees_all)


class Traces:
    """All traces of this daemon."""

    def __init__(self, links: Links, mac_nat: Reconciler) -> None:
        self._links = links
        self._mac_nat = mac_nat
        self._subscribers: set[_Subscriber] = set()
        self._users: Counter[int] = Counter()
        self._dispatching: asyncio.Task[None] | None = None
        self._ending = False

    def end(self) -> None:
        """Have all traces end, as airtapd does."""
        self._ending = True
        for subscriber in self._subscribers:
            subscriber.news.set()

    async def packets(self, guest: str, peer: Peer) -> AsyncGenerator[Message, None]:
        """The packets of a trace, until the guest or airtapd ends or the caller has enough.

        guest: a device, a libvirt domain's name or UUID, or a MAC. Root may trace any, others their
        own. First {"tracing": ...}, what is traced; then {"events": [...], "lost": n, "mac": ...,
        "uplink_mac": ...}, at least once a second: records in base64, how many were lost so far,
        and the MACs that count now; last {"ended": code}.
        Raises Problem no-such-guest, ambiguous, access-denied, not-traceable, too-many-traces.
        """
        link = await self._find(guest, peer)
        uplink = self._uplink_of(link)
        subscriber = _Subscriber(uplink, link.index, link.name, sees_all=peer.uid == 0)
        self._admit(peer)
        try:
            self._begin(subscriber)
            yield {"tracing": _setting(subscriber)}
            while not (over := self._over(subscriber)):
                lost = subscriber.all_lost()
                yield {"events": subscriber.dequeue(), "lost": lost, **_macs(subscriber)}
                with suppress(TimeoutError):
                    async with asyncio.timeout(_HEARTBEAT_S):
                        await subscriber.news.wait()
            yield {"ended": over}
        finally:
            self._users[peer.uid] -= 1
            self._end(subscriber)

    async def _find(self, guest: str, peer: Peer) -> Link:
        guests = [link for link in await self._links.dump() if is_guest(link)]
        owners = {link.index: Owner.from_alias(link.alias) for link in guests}
        named = [link for link in guests if _is_called(link, owners[link.index], guest)]
        found = [link for link in named if may_manage(peer.uid, owners[link.index])]
        if len(found) > 1:
            names = ", ".join(link.name for link in found)
            raise Problem("ambiguous", f"{guest[:64]} has several devices: {names}", "name one")
        if found:
            return found[0]
        if any(link.name == guest for link in named):
            raise Problem("access-denied", f"{guest} was not made for user {peer.uid}")
        what = f"there is no guest with the device, domain or MAC {guest[:64]!r}"
        raise Problem("no-such-guest", what, "see airtap status")

    def _uplink_of(self, link: Link) -> UplinkState:
        """What is at work on a guest's uplink, and knows the guest. Raises Problem."""
        uplink = self._mac_nat.at(link.parent) if link.parent_here else None
        if uplink is not None and link.index in uplink.children:
            return uplink
        hint = f"see its frames with tcpdump -i {link.name}"
        if link.kind == "tun":
            what = f"{link.name} is the port of a bridge, where airtap changes no frame"
        else:
            what = f"neither MAC NAT nor host access is on for {link.name}"
        raise Problem("not-traceable", what, hint)

    def _admit(self, peer: Peer) -> None:
        users = sum(count for uid, count in self._users.items() if uid)
        if peer.uid and (self._users[peer.uid] >= _MOST_PER_USER or users >= _MOST):
            raise Problem("too-many-traces", "too many traces run", "end one of them")
        self._users[peer.uid] += 1

    def _begin(self, subscriber: _Subscriber) -> None:
        self._subscribers.add(subscriber)
        _follow(subscriber)
        subscriber.lost_before = subscriber.uplink.tracer.lost()
        if self._dispatching is None or self._dispatching.done():
            self._dispatching = asyncio.create_task(self._dispatch_forever(), name="trace")

    def _end(self, subscriber: _Subscriber) -> None:
        self._subscribers.discard(subscriber)
        if not self._is_at_work(subscriber.uplink):
            return
        tracer = subscriber.uplink.tracer
        there = self._at(subscriber.uplink)
        if not there:
            tracer.stop()
            return
        if all(other.ifindex != subscriber.ifindex for other in there):
            tracer.remove(subscriber.ifindex)
        if not any(other.sees_all for other in there):
            tracer.remove(NOBODY)

    def _at(self, uplink: UplinkState) -> list[_Subscriber]:
        return [subscriber for subscriber in self._subscribers if subscriber.uplink is uplink]

    def _is_at_work(self, uplink: UplinkState) -> bool:
        """Whether its maps are still open."""
        return self._mac_nat.at(uplink.link.index) is uplink

    def _is_there(self, subscriber: _Subscriber) -> bool:
        """Whether its guest is still there to be traced."""
        uplink = subscriber.uplink
        return self._is_at_work(uplink) and subscriber.ifindex in uplink.children

    def _over(self, subscriber: _Subscriber) -> str:
        """Why a trace has ended; "" if it has not."""
        if self._ending:
            return "daemon-ends"
        if subscriber in self._subscribers and self._is_there(subscriber):
            return ""
        try:
            self._links.name_of(subscriber.ifindex)
        except LinkNotFound:
            return "guest-gone"
        return "uplink-gone"

    async def _dispatch_forever(self) -> None:
        """Dispatch what comes in, while anybody is subscribed."""
        while self._subscribers:
            try:
                self._dispatch()
                await asyncio.sleep(_LOOK_S)
            except BpfError as exc:
                log.error("trace: %s", exc)
                await asyncio.sleep(_HEARTBEAT_S)

    def _dispatch(self) -> None:
        for uplink in {subscriber.uplink for subscriber in self._subscribers}:
            there = self._at(uplink)
            for packed in uplink.tracer.read(_BATCH) if self._is_at_work(uplink) else ():
                whose, program = concerns(packed)
                for subscriber in there:
                    if subscriber.wants(whose, program):
                        subscriber.enqueue(packed)
            for subscriber in there:
                if self._is_there(subscriber):
                    _follow(subscriber)
                else:  # another may bear its MAC from now on, and its client read long hence
                    self._end(subscriber)
                    subscriber.news.set()


def _follow(subscriber: _Subscriber) -> None:
    """Have the programs tell of a guest, at the MAC that it has now, and of what is nobody's."""
    uplink = subscriber.uplink
    is_macvtap = uplink.role.kind == "macvtap"
    mac = uplink.children.get(subscriber.ifindex) if is_macvtap else None
    uplink.tracer.add(subscriber.ifindex, mac)
    if subscriber.sees_all:
        uplink.tracer.add(NOBODY, None)


def _is_called(link: Link, owner: Owner | None, guest: str) -> bool:
    names = {link.name}
    if link.kind != "tun":
        names.add(guest_mac(link.mac, owner) or "")
    if owner is not None:
        names |= {owner.domain, owner.uuid}
    return bool(guest) and (guest in names or guest.lower() in names - {link.name})


def _macs(subscriber: _Subscriber) -> Message:
    uplink = subscriber.uplink
    return {"mac": uplink.children.get(subscriber.ifindex), "uplink_mac": uplink.link.mac}


def _setting(subscriber: _Subscriber) -> Message:
    uplink = subscriber.uplink
    held = [entry for entry in uplink.addresses() if entry.ifindex == subscriber.ifindex]
    return {
        "device": subscriber.device,
        "ifindex": subscriber.ifindex,
        **_macs(subscriber),
        "addresses": [str(entry.address) for entry in held],
        "uplink": uplink.link.name,
        "kind": uplink.role.kind,
        "macnat": uplink.role.translate,
        "host_access": uplink.host_meets(subscriber.ifindex),
        "snap": SNAP,
    }
