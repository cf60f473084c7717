"""airtapd's part of `airtap trace`: guests that are traced, and who is told of them.

The programs fill a ring (bpf/trace.h) that is emptied here in small helpings at a steady pace, so a
guest's flood costs a bounded share of a processor. What came in is dealt to listeners, one for each
client. A listener has room for a bounded number of records; those of a client that does not read
are lost, and counted. Records are passed on unread.
"""

import asyncio
import base64
import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field

from ..alias import Owner, guest_mac
from ..bpf.libbpf import BpfError
from ..bpf.trace_record import EVERYONE, NOBODY, SNAP, concerns
from ..errors import Problem
from ..kernel.credentials import Peer
from ..kernel.links import Link, LinkNotFound, Links
from ..macnat.reconciler import Reconciler
from ..macnat.uplink import UplinkState
from ..uplink import is_guest

log = logging.getLogger(__name__)

# Seconds between two looks at a ring, and how many records are taken out each time.
_LOOK_S = 0.05
_HELPING = 256
# How often a client hears of us, if nothing else happens: so its going is noticed.
_HEARTBEAT_S = 1.0
# Records kept for a client, and sent in a packet (wire.MAX_ANSWER).
_ROOM = 512
_PACKET = 12
# Traces at a time: of one user, and of all users together. Root is not counted.
_MOST_PER_USER = 4
_MOST = 16

Message = dict[str, object]


@dataclass(eq=False)
class _Subscriber:
    """One client's trace. uplink: what is at work there. lost: records that it did not get."""

    uplink: UplinkState
    ifindex: int
    device: str
    sees_all: bool
    records: deque[bytes] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    lost: int = 0
    lost_before: int = 0

    def hear(self, packed: bytes) -> None:
        if len(self.records) >= _ROOM:
            self.lost += 1
            return
        self.records.append(packed)
        self.news.set()

    def take(self) -> list[str]:
        """Some of the records, for a packet."""
        count = min(_PACKET, len(self.records))
        taken = [base64.b64encode(self.records.popleft()).decode() for _ in range(count)]
        if not self.records:
            self.news.clear()
        return taken

    def all_lost(self) -> int:
        return self.lost + self.uplink.tracer.lost() - self.lost_before

    def wants(self, whose: int, program: str) -> bool:
        """Root hears of frames that are nobody's; of the host's broadcasts, those who get them."""
        if whose == EVERYONE:
            return program != "meet" or self.uplink.host_meets(self.ifindex)
        return whose == self.ifindex or (whose == NOBODY and self.sees_all)


class Traces:
    """All traces of this daemon."""

    def __init__(self, links: Links, mac_nat: Reconciler) -> None:
        self._links = links
        self._mac_nat = mac_nat
        self._listeners: set[_Subscriber] = set()
        self._users: Counter[int] = Counter()
        self._dealing: asyncio.Task[None] | None = None
        self._ending = False

    def end(self) -> None:
        """Have all traces end, as airtapd does."""
        self._ending = True
        for listener in self._listeners:
            listener.news.set()

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
        listener = _Subscriber(uplink, link.index, link.name, sees_all=peer.uid == 0)
        self._admit(peer)
        try:
            self._begin(listener)
            yield {"tracing": _setting(listener)}
            while not (over := self._over(listener)):
                lost = listener.all_lost()
                yield {"events": listener.take(), "lost": lost, **_macs(listener)}
                with suppress(TimeoutError):
                    async with asyncio.timeout(_HEARTBEAT_S):
                        await listener.news.wait()
            yield {"ended": over}
        finally:
            self._users[peer.uid] -= 1
            self._end(listener)

    async def _find(self, guest: str, peer: Peer) -> Link:
        guests = [link for link in await self._links.dump() if is_guest(link)]
        owners = {link.index: Owner.from_alias(link.alias) for link in guests}

        def is_own(link: Link) -> bool:
            owner = owners[link.index]
            return peer.uid == 0 or (owner is not None and owner.uid == peer.uid)

        named = [link for link in guests if _is_called(link, owners[link.index], guest)]
        found = [link for link in named if is_own(link)]
        if len(found) > 1:
            names = ", ".join(link.name for link in found)
            raise Problem("ambiguous", f"{guest[:64]} has several devices: {names}", "name one")
        if found:
            return found[0]
        if any(link.name == guest for link in named):
            raise Problem("access-denied", f"{guest} was not made for user {peer.uid}")
        raise Problem(
            "no-such-guest",
            f"there is no guest with the device, domain or MAC {guest[:64]!r}",
            "see airtap status",
        )

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

    def _begin(self, listener: _Subscriber) -> None:
        self._listeners.add(listener)
        _follow(listener)
        listener.lost_before = listener.uplink.tracer.lost()
        if self._dealing is None or self._dealing.done():
            self._dealing = asyncio.create_task(self._deal_forever(), name="trace")

    def _end(self, listener: _Subscriber) -> None:
        self._listeners.discard(listener)
        if not self._is_at_work(listener.uplink):
            return
        tracer = listener.uplink.tracer
        there = self._at(listener.uplink)
        if not there:
            tracer.stop()
            return
        if all(other.ifindex != listener.ifindex for other in there):
            tracer.remove(listener.ifindex)
        if not any(other.sees_all for other in there):
            tracer.remove(NOBODY)

    def _drop(self, listener: _Subscriber) -> None:
        """Listen no more for a guest that has gone, whose MAC another may bear from now on.

        Its client is told when it next reads, which can be long hence.
        """
        self._end(listener)
        listener.news.set()

    def _at(self, uplink: UplinkState) -> list[_Subscriber]:
        return [listener for listener in self._listeners if listener.uplink is uplink]

    def _is_at_work(self, uplink: UplinkState) -> bool:
        """Whether its maps are still open."""
        return self._mac_nat.at(uplink.link.index) is uplink

    def _over(self, listener: _Subscriber) -> str:
        """Why a trace has ended; "" if it has not."""
        if self._ending:
            return "daemon-ends"
        at_work = self._is_at_work(listener.uplink)
        listens = listener in self._listeners
        if listens and at_work and listener.ifindex in listener.uplink.children:
            return ""
        try:
            self._links.name_of(listener.ifindex)
        except LinkNotFound:
            return "guest-gone"
        return "uplink-gone"

    async def _deal_forever(self) -> None:
        """Deal out what comes in, while anybody listens."""
        while self._listeners:
            try:
                self._deal()
                await asyncio.sleep(_LOOK_S)
            except BpfError as exc:
                log.error("trace: %s", exc)
                await asyncio.sleep(_HEARTBEAT_S)

    def _deal(self) -> None:
        for uplink in {listener.uplink for listener in self._listeners}:
            there = self._at(uplink)
            if not self._is_at_work(uplink):
                for listener in there:
                    self._drop(listener)
                continue
            for packed in uplink.tracer.read(_HELPING):
                whose, program = concerns(packed)
                for listener in there:
                    if listener.wants(whose, program):
                        listener.hear(packed)
            for listener in there:
                if listener.ifindex in uplink.children:
                    _follow(listener)
                else:
                    self._drop(listener)


def _follow(listener: _Subscriber) -> None:
    """Have the programs tell of a guest, at the MAC that it has now, and of what is nobody's."""
    uplink = listener.uplink
    is_macvtap = uplink.role.kind == "macvtap"
    mac = uplink.children.get(listener.ifindex) if is_macvtap else None
    uplink.tracer.add(listener.ifindex, mac)
    if listener.sees_all:
        uplink.tracer.add(NOBODY, None)


def _is_called(link: Link, owner: Owner | None, guest: str) -> bool:
    names = {link.name}
    if link.kind != "tun":
        names.add(guest_mac(link.mac, owner) or "")
    if owner is not None:
        names |= {owner.domain, owner.uuid}
    return bool(guest) and (guest in names or guest.lower() in names - {link.name})


def _macs(listener: _Subscriber) -> Message:
    uplink = listener.uplink
    return {"mac": uplink.children.get(listener.ifindex), "uplink_mac": uplink.link.mac}


def _setting(listener: _Subscriber) -> Message:
    uplink = listener.uplink
    held = [entry for entry in uplink.addresses() if entry.ifindex == listener.ifindex]
    return {
        "device": listener.device,
        "ifindex": listener.ifindex,
        **_macs(listener),
        "addresses": [str(entry.address) for entry in held],
        "uplink": uplink.link.name,
        "kind": uplink.role.kind,
        "macnat": uplink.role.translate,
        "host_access": uplink.host_meets(listener.ifindex),
        "snap": SNAP,
    }
