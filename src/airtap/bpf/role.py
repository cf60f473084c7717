"""What the programs of macnat.bpf.c are there for at an uplink, and which device carries which."""

from collections.abc import Collection
from dataclasses import dataclass

from ..kernel.clsact import EGRESS, INGRESS, Hook

KINDS = ("macvtap", "ipvtap")
# Each program's place. On a device that carries several, the lower number comes first.
HOOKS = {
    "learn": Hook(EGRESS, 0xA1, "airtap_learn"),
    "call": Hook(EGRESS, 0xA2, "airtap_call"),
    "meet": Hook(EGRESS, 0xA2, "airtap_meet"),
    "up": Hook(EGRESS, 0xA3, "airtap_up"),
    "across": Hook(EGRESS, 0xA4, "airtap_across"),
    "down": Hook(INGRESS, 0xA1, "airtap_down"),
}
# What MAC NAT has on the uplink and its children, by the children's kind.
PARENT = {"macvtap": ("up", "down"), "ipvtap": ("down",)}
CHILD = {"macvtap": ("learn",), "ipvtap": ("learn", "up", "across")}


@dataclass(frozen=True)
class Role:
    """What the programs are there for at one uplink.

    kind: of its children, macvtap or ipvtap. translate: MAC NAT; on macvtaps, without it, learn
    only listens. host_access: the host and its guests meet.
    """

    kind: str
    translate: bool = True
    host_access: bool = False

    def __str__(self) -> str:
        names = ["MAC NAT"] if self.translate else []
        names += ["host access"] if self.host_access else []
        return " and ".join(names) or "delivery"

    @property
    def observes(self) -> bool:
        """Whether learn only listens."""
        return self.kind == "macvtap" and not self.translate

    @property
    def on_parent(self) -> tuple[str, ...]:
        """The programs that the uplink carries."""
        own = () if self.observes else PARENT[self.kind]
        return ("meet", *own) if self.host_access else own

    @property
    def on_child(self) -> tuple[str, ...]:
        """The programs that each child carries."""
        first, *rest = CHILD[self.kind]
        called = ("call",) if self.host_access and self.kind == "ipvtap" else ()
        return (first, *called, *rest)


def hooks(names: Collection[str]) -> list[Hook]:
    """Where the programs of those names (Role.on_parent, on_child) are attached."""
    return [HOOKS[name] for name in names]
