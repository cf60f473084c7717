"""What the programs are there for at an uplink, and the clsact hooks that carry them (tc-bpf(8)).

A daemon that comes back leaves programs attached that are the same as its own, if it may ask about
them; others it replaces in place (net/sched/cls_bpf.c: cls_bpf_change swaps them under RCU), so no
packet is lost.

A filter of ours is known by the prefix of its name, and stands at a fixed priority and handle. The
rest of the name may be another version's: what stands at a place is replaced there, or taken off.
Others' filters, and a clsact that others use, are left alone.
"""

import errno
import struct
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.rtnl.tcmsg import sched_bpf

from ..kernel.links import LinkError, LinkNotFound, link_errors
from .object import Object, Program, program_by_id

# include/uapi/linux/pkt_sched.h: TC_H_CLSACT with TC_H_MIN_INGRESS, TC_H_MIN_EGRESS
INGRESS = 0xFFFFFFF2
EGRESS = 0xFFFFFFF3
_SKB = struct.Struct("=48xI140x")  # struct __sk_buff with its cb[0]
_TC_H_CLSACT = 0xFFFFFFF1
_ETH_P_ALL = 0x0003
_HANDLE = 1
_OURS = "airtap_"
_GONE = (errno.ENOENT, errno.EINVAL)  # no such filter, no clsact

# include/uapi/linux/pkt_cls.h: what pyroute2 0.9 does not decode
sched_bpf.options.nla_map += (
    ("TCA_BPF_FLAGS_GEN", "uint32"),
    ("TCA_BPF_TAG", "hex"),
    ("TCA_BPF_ID", "uint32"),
)


@dataclass(frozen=True)
class Hook:
    """A filter's place and name.

    direction: INGRESS or EGRESS.
    priority: lower ones run first.
    """

    direction: int
    priority: int
    name: str

    @property
    def place(self) -> tuple[int, int]:
        return self.direction, self.priority


KINDS = ("macvtap", "ipvtap")
# Each program's place. On a device that carries several, the lower number comes first.
HOOKS = {
    "from_guest": Hook(EGRESS, 0xA1, "airtap_from_guest"),
    "to_host": Hook(EGRESS, 0xA2, "airtap_to_host"),
    "uplink_egress": Hook(EGRESS, 0xA2, "airtap_uplink_egress"),
    "to_uplink": Hook(EGRESS, 0xA3, "airtap_to_uplink"),
    "to_sibling": Hook(EGRESS, 0xA4, "airtap_to_sibling"),
    "from_uplink": Hook(INGRESS, 0xA1, "airtap_from_uplink"),
}
# What MAC NAT has on the uplink and its children, by the children's kind.
PARENT = {"macvtap": ("to_uplink", "from_uplink"), "ipvtap": ("from_uplink",)}
CHILD = {"macvtap": ("from_guest",), "ipvtap": ("from_guest", "to_uplink", "to_sibling")}


@dataclass(frozen=True)
class Role:
    """What the programs are there for at one uplink.

    kind: the kind of its children, macvtap or ipvtap.
    translate: whether MAC NAT is on; on macvtaps, without it, from_guest only observes.
    host_access: whether the host and its guests reach each other.
    """

    kind: str
    translate: bool = True
    host_access: bool = False

    def __str__(self) -> str:
        names = ["MAC NAT"] if self.translate else []
        names += ["host access"] if self.host_access else []
        return " and ".join(names) or ("observation" if self.observes else "delivery")

    @property
    def observes(self) -> bool:
        """Tell whether from_guest only observes."""
        return self.kind == "macvtap" and not self.translate

    @property
    def on_parent(self) -> tuple[str, ...]:
        """The names of the programs that the uplink carries."""
        own = () if self.observes else PARENT[self.kind]
        return ("uplink_egress", *own) if self.host_access else own

    @property
    def on_child(self) -> tuple[str, ...]:
        """The names of the programs that each child carries."""
        first, *rest = CHILD[self.kind]
        called = ("to_host",) if self.host_access and self.kind == "ipvtap" else ()
        return (first, *called, *rest)


@dataclass(frozen=True)
class Filter:
    """A tc filter on a device, anybody's.

    name, program: the name and the program's id of a BPF filter; "" and 0 of another.
    """

    direction: int
    priority: int
    kind: str
    name: str
    program: int

    @property
    def hook(self) -> Hook:
        return Hook(self.direction, self.priority, self.name)


class Programs:
    """The loaded programs, by their names in role.HOOKS; "inject" is never attached."""

    def __init__(self, loaded: Object) -> None:
        self._object = loaded

    def __getitem__(self, name: str) -> Program:
        return self._object.program(name)

    def inject(self, ifindex: int, frame: bytes) -> None:
        """Have a guest receive a frame of ours. It is no error that the guest is gone or down.

        Raises BpfError.
        """
        self["inject"].test_run(frame, _SKB.pack(ifindex))

    async def attach(self, ipr: AsyncIPRoute, ifindex: int, names: Collection[str]) -> None:
        """Put programs on a device. What is attached already stays.

        Configure the uplink, and add the guest, before. Raises BpfError, LinkNotFound, LinkError
        (EEXIST: an ingress qdisc or a foreign filter is in the way).
        """
        for name in names:
            if not await self.is_attached(ipr, ifindex, (name,)):
                await attach_to(ipr, ifindex, HOOKS[name], self[name].fd)

    async def is_attached(self, ipr: AsyncIPRoute, ifindex: int, names: Collection[str]) -> bool:
        """Tell whether these very programs are on a device: same instructions, and on our maps.

        False for those of an earlier daemon that we may not ask about: they are replaced, once.
        Raises BpfError, LinkNotFound, LinkError.
        """
        for name in names:
            number = await attached(ipr, ifindex, HOOKS[name])
            ours = self[name].info()
            if number == ours.id:
                continue
            there = program_by_id(number) if number else None
            if there is None or (there.tag, there.map_ids) != (ours.tag, ours.map_ids):
                return False
        return True


async def attach_to(ipr: AsyncIPRoute, ifindex: int, hook: Hook, program: int) -> None:
    """Put the program with descriptor program on a hook, in place of what we have there.

    Raises LinkNotFound, LinkError (EEXIST: an ingress qdisc or a foreign filter is in the way).
    """
    is_new = await _request(ipr, "add", "clsact", ifindex, fine=(errno.EEXIST,))
    # An ingress qdisc has the same handle and takes filters for egress, but runs them at ingress
    # (net/sched/sch_ingress.c: ingress_tcf_block). It is not called clsact, and so to change
    # nothing of "the clsact" fails (net/sched/sch_api.c: tc_modify_qdisc). A dump would be of all
    # devices.
    if not is_new and not await _request(ipr, "change", "clsact", ifindex, fine=(errno.EINVAL,)):
        raise LinkError(errno.EEXIST, "an ingress qdisc is in the place of clsact")
    there = await _filters(ipr, ifindex, hook.direction)
    if any(at.priority == hook.priority and not at.name.startswith(_OURS) for at in there):
        raise LinkError(errno.EEXIST, f"a foreign tc filter has priority {hook.priority}")
    place = _place(hook) | {"fd": program, "name": hook.name, "direct_action": True}
    await _request(ipr, "replace-filter", "bpf", ifindex, **place)


async def filters(ipr: AsyncIPRoute, ifindex: int) -> list[Filter]:
    """List all filters of a device's clsact, or of an ingress qdisc there. Raises LinkError."""
    return await _filters(ipr, ifindex, INGRESS) + await _filters(ipr, ifindex, EGRESS)


async def is_ours(ipr: AsyncIPRoute, ifindex: int) -> bool:
    """Tell whether a program of ours, of whichever version, is on a device. Raises LinkError."""
    try:
        return any(each.name.startswith(_OURS) for each in await filters(ipr, ifindex))
    except LinkNotFound:
        return False


async def qdiscs(ipr: AsyncIPRoute) -> dict[int, str]:
    """Tell what devices have where clsact goes, by ifindex: "clsact" or "ingress".

    Raises LinkError.
    """
    return {
        message["index"]: str(message.get("kind"))
        for message in await _dump(ipr, "dump")
        if message["parent"] == _TC_H_CLSACT
    }


async def attached(ipr: AsyncIPRoute, ifindex: int, hook: Hook) -> int:
    """Return the id of the program that we have on a hook, or 0.

    Raises LinkNotFound, LinkError.
    """
    there = await _filters(ipr, ifindex, hook.direction)
    return next((at.program for at in there if at.hook == hook), 0)


async def detach(ipr: AsyncIPRoute, ifindex: int, keep: Collection[str] = ()) -> None:
    """Take our programs off a device, parent or child, then the clsact if nothing is left on it.

    Those of other versions go too, whatever their names. It is no error that neither program nor
    device is there.
    keep: the names of those that stay. Another version's at the place of one of these stays as
    well, until attach() replaces it, so that nothing passes unguarded meanwhile.
    Raises LinkError.
    """
    kept = [HOOKS[name].place for name in keep]
    with suppress(LinkNotFound):
        there = await filters(ipr, ifindex)
        ours = [at.hook for at in there if at.name.startswith(_OURS) and at.hook.place not in kept]
        for hook in ours:
            await _request(ipr, "del-filter", "bpf", ifindex, fine=_GONE, **_place(hook))
        if len(ours) == len(there):  # an ingress qdisc, by its kind, is none to delete
            await _request(ipr, "del", "clsact", ifindex, fine=_GONE)


def _place(hook: Hook) -> dict[str, Any]:
    return {
        "parent": hook.direction,
        "prio": hook.priority,
        "handle": _HANDLE,
        "protocol": _ETH_P_ALL,
    }


async def _request(
    ipr: AsyncIPRoute, *words: str | int, fine: Collection[int] = (), **what: Any
) -> bool:
    """Tell whether it was done, or failed with an errno that is fine. Raises LinkError."""
    try:
        with link_errors():
            await ipr.tc(*words, **what)
    except LinkError as exc:
        if exc.errno not in fine:
            raise
        return False
    return True


async def _filters(ipr: AsyncIPRoute, ifindex: int, direction: int) -> list[Filter]:
    found = []
    for message in await _dump(ipr, "dump-filter", index=ifindex, parent=direction):
        options = message.get("options")
        if message["handle"]:
            kind = str(message.get("kind"))
            name = options.get("TCA_BPF_NAME") or "" if kind == "bpf" else ""
            number = options.get("TCA_BPF_ID") or 0 if name else 0
            found.append(Filter(direction, message["info"] >> 16, kind, name, number))
    return found


async def _dump(ipr: AsyncIPRoute, command: str, **what: int) -> list[Any]:
    try:
        with link_errors():
            return [message async for message in await ipr.tc(command, **what)]
    except LinkError as exc:
        if exc.errno not in _GONE:
            raise
        return []
