"""What `airtap status` shows: uplinks and guests, read off the kernel at the time of asking."""

from collections import defaultdict
from collections.abc import AsyncIterator

from . import uplink
from .config import Config
from .errors import Problem
from .kernel.links import GROUP, Link, Links
from .kernel.peer import Peer
from .owner import Owner

_KINDS = {"macvlan": "macvtap", "macvtap": "macvtap", "ipvlan": "ipvtap", "ipvtap": "ipvtap"}


async def packets(links: Links, config: Config, peer: Peer) -> AsyncIterator[dict[str, object]]:
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
    named = config.parents.keys() | set(config.aliases.values())
    for link in dump:
        guests = [child for child in children[link.index] if child.group == GROUP]
        if not guests and link.name not in named:
            continue
        yield {"uplink": await _uplink(link, children[link.index])}
        for guest in sorted(guests, key=lambda child: child.index):
            owner = Owner.from_alias(guest.alias)
            if peer.uid == 0 or (owner is not None and owner.uid == peer.uid):
                yield {"guest": _guest(guest, owner)}


async def _uplink(link: Link, children: list[Link]) -> dict[str, object]:
    kinds = {_KINDS[child.kind] for child in children if child.kind in _KINDS}
    return {
        "name": link.name,
        "ifindex": link.index,
        "type": await _type(link),
        "mac": link.mac,
        "kind": kinds.pop() if kinds else None,
        "macnat": False,
        "host_access": False,
    }


async def _type(link: Link) -> str:
    try:
        return (await uplink.inspect(link)).type
    except Problem:  # one Wi-Fi driver's silence must not hide the rest
        return "other"


def _guest(link: Link, owner: Owner | None) -> dict[str, object]:
    # A tap bears the host's end of the cable: another MAC, and received is what was sent.
    is_tap = link.kind == "tun"
    known_mac = not is_tap and not (owner is not None and owner.learning)
    return {
        "device": link.name,
        "ifindex": link.index,
        "mac": link.mac if known_mac else None,
        "addresses": [],
        "owner": {
            "uid": owner.uid if owner else None,
            "pid": owner.pid if owner else None,
            "domain": None,
            "uuid": None,
        },
        "rx_bytes": link.tx_bytes if is_tap else link.rx_bytes,
        "tx_bytes": link.rx_bytes if is_tap else link.tx_bytes,
        "last_seen": None,
    }
