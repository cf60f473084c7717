"""What `airtap status` shows: uplinks and guests, read off the kernel at the time of asking."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator

from .. import uplink
from ..alias import Owner, guest_mac, may_manage
from ..bpf.records import DHCP_CHOICES, Dhcp, GuestCounters, Learned
from ..errors import Problem
from ..kernel.credentials import Peer
from ..kernel.links import FAMILY, Link, Links
from ..macnat.uplink import UplinkState
from ..refusals import Refusal
from .broker import Broker
from .registry import LostDevice

# Frames of a guest that MAC NAT's guards dropped are counted by guard; evicted counts addresses.
_GUARDS = (*(refusal.key for refusal in Refusal), "evicted")


async def packets(
    links: Links, broker: Broker, peer: Peer
) -> AsyncGenerator[dict[str, object], None]:
    """The packets of a status answer: each uplink, followed by its guests.

    Uplinks are the devices that carry guests and those that the configuration names. Root
    sees every guest, others their own. The fields are those of docs/status.md.
    """
    children: dict[int, list[Link]] = defaultdict(list)
    dump = await links.dump()
    for link in dump:
        if link.kind == "tun":
            children[link.master].append(link)
        elif link.parent_here:
            children[link.parent].append(link)
    targets = {target for alias in broker.config.aliases.values() for target in alias}
    named = {*broker.config.parents, *await uplink.devices(links, targets)}
    for link in dump:
        guests = [child for child in children[link.index] if uplink.is_guest(child)]
        if not guests and link.name not in named:
            continue
        kind = await asyncio.to_thread(_type, link)
        yield {"uplink": _uplink(link, kind, children[link.index], broker.mac_nat.at(link.index))}
        active = broker.mac_nat.at(link.index)  # anew: it may have ended while that was sent
        learned = active.addresses() if active else []
        counters = active.counters() if active else {}
        for guest in sorted(guests, key=lambda child: child.index):
            owner = Owner.from_alias(guest.alias)
            if may_manage(peer.uid, owner):
                own = [entry for entry in learned if entry.ifindex == guest.index]
                shown = _guest(guest, owner, own, counters.get(guest.index))
                stranded = active is not None and active.needs_renew(guest.index)
                held_for = _held_for(active, guest.index) if active else ""
                mac_in_use = held_for or broker.learning.refused(guest, dump) or None
                states = {"stranded": stranded, "mac_in_use": mac_in_use}
                yield {"guest": {**shown, **states}}
    for device in broker.registry.lost_devices():
        if peer.uid in (0, device.guest.owner.uid):
            yield {"lost": _lost(device)}


def _held_for(active: UplinkState, index: int) -> str:
    return active.lan_macs.held_for(index) or active.mac_changes.refused(index)


def _uplink(
    link: Link, kind: str, children: list[Link], active: UplinkState | None
) -> dict[str, object]:
    kinds = {FAMILY[child.kind] for child in children if child.kind in FAMILY}
    return {
        "name": link.name,
        "ifindex": link.index,
        "type": kind,
        "mac": link.mac,
        "kind": kinds.pop() if kinds else None,
        "macnat": active is not None and active.role.translate,
        "host_access": active is not None and active.has_host_access,
        "dhcp": _dhcp(active.dhcp()) if active and active.role.translate else None,
    }


def _dhcp(state: Dhcp) -> dict[str, object]:
    return {
        "choice": DHCP_CHOICES[state.choice],
        "as_uplink": bool(state.in_uplinks_name),
        "unanswered": state.unanswered,
        "hosts_address": state.hosts_address,
    }


def _type(link: Link) -> str:
    try:
        return uplink.inspect(link).type
    except Problem:  # one Wi-Fi driver's silence must not hide the rest
        return "other"


def _guest(
    link: Link, owner: Owner | None, learned: list[Learned], counters: GuestCounters | None
) -> dict[str, object]:
    # A tap bears the host's end of the cable: another MAC, and received is what was sent.
    is_tap = link.kind == "tun"
    last_seen = max((entry.last_seen for entry in learned), default=None)
    return {
        "device": link.name,
        "ifindex": link.index,
        "mac": None if is_tap else guest_mac(link.mac, owner),
        "addresses": [str(entry.address) for entry in sorted(learned, key=_by_family)],
        "owner": {
            "uid": owner.uid if owner else None,
            "pid": owner.pid if owner and not owner.uuid else None,
            "domain": owner.domain or None if owner else None,
            "uuid": owner.uuid or None if owner else None,
        },
        "rx_bytes": link.tx_bytes if is_tap else link.rx_bytes,
        "tx_bytes": link.rx_bytes if is_tap else link.tx_bytes,
        "last_seen": None if last_seen is None else _unix_time(last_seen),
        "refused": counters and {guard: getattr(counters, guard) for guard in _GUARDS},
    }


def _lost(device: LostDevice) -> dict[str, object]:
    owner = device.guest.owner
    return {
        "device": device.guest.name,
        "parent": device.guest.parent,
        "owner": {"uid": owner.uid, "pid": owner.pid},
        "since": round(device.since, 1),
    }


def _by_family(entry: Learned) -> tuple[int, bytes, int]:
    return entry.address.version, entry.address.packed, entry.vlan


def _unix_time(monotonic: float) -> float:
    return round(time.time() - time.monotonic() + monotonic, 1)
