"""A network device as the kernel tells of it, for tests that need one."""

from airtap.kernel.links import ARPHRD_ETHER, IFF_UP, Link

ETH0 = Link(
    name="eth0",
    index=2,
    mac="52:54:00:00:00:01",
    mtu=1500,
    flags=IFF_UP,
    arptype=ARPHRD_ETHER,
    kind="",
    slave_kind="",
    master=0,
    parent=0,
    parent_here=True,
    group=0,
    alias="",
    mode="",
    altnames=frozenset(),
    rx_bytes=0,
    tx_bytes=0,
    carrier_ups=0,
)
