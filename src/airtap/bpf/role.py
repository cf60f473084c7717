"""What the BPF programs are there for at an uplink, and which device carries which of them."""

from dataclasses import dataclass

# include/uapi/linux/pkt_sched.h: TC_H_CLSACT with TC_H_MIN_INGRESS, TC_H_MIN_EGRESS
INGRESS = 0xFFFFFFF2
EGRESS = 0xFFFFFFF3


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
        return " and ".join(names) or "delivery"

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
