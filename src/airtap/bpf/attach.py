"""The programs of one uplink, and the clsact hooks of devices that carry them.

A daemon that comes back leaves programs attached that are the same as its own, if it may ask about
them; others it replaces in place (net/sched/cls_bpf.c: cls_bpf_change swaps them under RCU), so no
packet is lost.
"""

import struct
from collections.abc import Collection

from pyroute2 import AsyncIPRoute

from ..kernel import clsact
from .object import Object, Program, program_by_id
from .role import HOOKS

_SKB = struct.Struct("=48xI140x")  # struct __sk_buff with its cb[0]


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
                await clsact.attach(ipr, ifindex, HOOKS[name], self[name].fd)

    async def is_attached(self, ipr: AsyncIPRoute, ifindex: int, names: Collection[str]) -> bool:
        """Tell whether these very programs are on a device: same instructions, and on our maps.

        False for those of an earlier daemon that we may not ask about: they are replaced, once.
        Raises BpfError, LinkNotFound, LinkError.
        """
        for name in names:
            number = await clsact.attached(ipr, ifindex, HOOKS[name])
            ours = self[name].info()
            if number == ours.id:
                continue
            there = program_by_id(number) if number else None
            if there is None or (there.tag, there.map_ids) != (ours.tag, ours.map_ids):
                return False
        return True


async def detach(ipr: AsyncIPRoute, ifindex: int, keep: Collection[str] = ()) -> None:
    """Take programs off a device, parent or child, of whichever version.

    keep names those that stay; without any, the clsact goes too unless a filter that is not ours
    is on it. It is no error that neither program nor device is there. Raises LinkError.
    """
    await clsact.detach(ipr, ifindex, [HOOKS[name] for name in keep])
