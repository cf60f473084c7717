"""What test_offload.py tells of is noticed where a line of the programs is changed."""

from pathlib import Path

import pytest
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6

from hatch_build import SOURCES, compile_object
from tests.bpf.offload import wire
from tests.bpf.test_offload import (
    A6,
    GOOD,
    MISPLACED,
    UDP4,
    ether,
    expect_good,
    expect_refused,
    expect_refused_port,
    expect_whole,
)

MUTANTS = {
    "pending is not seen": ("ip_summed) == CHECKSUM_PARTIAL", "ip_summed) == 7"),
    "all is pending": ("ip_summed) == CHECKSUM_PARTIAL", "ip_summed) != 7"),
    "pending is not seen where it is asked": ("return bpf_csum_update(skb, 0) < 0;", "return 0;"),
    "two bytes before": ("(skb, l4 - 1, 0)", "(skb, l4 - 3, 0)"),
    "nowhere": ("bpf_skb_change_tail(skb, l4 - 1, 0) == -EINVAL", "0"),
    "into ICMPv6": ("l4.protocol == IPPROTO_ICMPV6)\n\t\treturn false", "0)\n\t\treturn false"),
    "into IPv6 fragments": ("l4.fragment || l4.protocol == IPPROTO_FRAGMENT ||", ""),
    "into IPv4 fragments": (
        "if (ip.ihl < 5 || ip.frag_off & bpf_htons(0x3fff))",
        "if (ip.ihl < 5)",
    ),
    "into no IP": (
        "if (checksum_pending(skb))\n\t\treturn refuse(&c",
        "if (0)\n\t\treturn refuse(&c",
    ),
    "into DHCP": ("(!whole || !keeps_payload(skb, l4 + sizeof(m.udp)))", "(!whole)"),
    "into a port": ("if (!whole || !checksum_pending(skb))", "if (1)"),
    "what is put back is cut": ("bpf_skb_store_bytes(skb, end, payload->octets, rest, 0)", "0"),
}


@pytest.mark.parametrize("change", MUTANTS.values(), ids=MUTANTS)
def test_a_changed_line_is_noticed(change: tuple[str, str], tmp_path: Path) -> None:
    with wire("macvtap", mutated(*change, tmp_path)) as two, pytest.raises(AssertionError):
        two.send(ether(UDP4))
        assert len(two.send(ether(IPv6(src=A6, dst="ff02::1") / ICMPv6EchoRequest()))) == 2
        expect_whole(two)
        for name in GOOD:
            expect_good(two, name)
        for name in MISPLACED:
            expect_refused(two, name)
        expect_refused_port(two)


def mutated(old: str, new: str, directory: Path) -> bytes:
    """The programs with a line changed that they have once."""
    texts = {path.name: path.read_text() for path in SOURCES.glob("*.[hc]")}
    assert sum(text.count(old) for text in texts.values()) == 1, old
    for name, text in texts.items():
        (directory / name).write_text(text.replace(old, new))
    compile_object(directory / "macnat.bpf.c", directory / "macnat.bpf.o", "-Wno-error")
    return (directory / "macnat.bpf.o").read_bytes()
