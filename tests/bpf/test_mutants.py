"""One line of the C changed at a time: the model must notice every time.

This is a test of test_model.py. A rule that can be bent unnoticed is a rule that nobody checks.
"""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.bpf.rig import SOURCE, Rig, compile_probe
from tests.bpf.scenario import Scenario, Step, changes, traffic

T = TypeVar("T")

MUTANTS = {
    "any source MAC": ("if (c.learn && !same(c.mac.w, guest->w))", "if (0)"),
    "any source MAC with a known address": (" && same(entry->mac.w, source) &&", " && source &&"),
    "host addresses for all": ("if (is_host(&c->key) || (entry", "if ((entry"),
    "host addresses in their own VLAN only": ("anywhere.vlan = 0;", ""),
    "broadcast address for all": ("(entry && !entry->ifindex))", "false)"),
    "siblings' addresses for all": (
        "if (c->now - entry->last_seen < cfg->alive)",
        "if (c->now - entry->last_seen >= cfg->alive)",
    ),
    "no takeover": ("if (c->now - entry->last_seen < cfg->alive)", "if (1)"),
    "first slot evicted": ("if (word < least)", "if (least == ~0ULL)"),
    "15 of 16": ("oldest(table, 0, IPV4_SLOTS)", "oldest(table, 0, IPV4_SLOTS - 1)"),
    "31 of 32": ("oldest(table, IPV4_SLOTS, SLOTS)", "oldest(table, IPV4_SLOTS + 1, SLOTS)"),
    "stale slots evict": (" || entry->slot != slot)", ")"),
    "others' addresses evicted": ("entry->ifindex != c->ifindex || entry->slot", "entry->slot"),
    "use does not count": (
        "table->slots[slot].order = __sync_fetch_and_add(&table->sequence, 1) + 1;",
        "table->sequence++;",
    ),
    "loopback learned": ("first >> 24 == 127 ||", ""),
    "multicast source learned": ("first >> 28 == 14 || first", "first"),
    "unspecified learned": ("bpf_ntohl(a[3]) <= 1", "bpf_ntohl(a[3]) == 1"),
    "solicitations claim": (
        "if (nd.icmp.icmp6_type != ND_NEIGHBOUR_ADVERT)",
        "if (nd.icmp.icmp6_type != ND_NEIGHBOUR_SOLICIT)",
    ),
    "ND in fragments": ("return fragment ? -1 : (int)at;", "return at;"),
    "later fragments searched": ("if (head[2] | (head[3] & 0xf8))", "if (0)"),
    "header length off by one": ("at += (head[1] + 1) * 8;", "at += head[1] * 8;"),
    "tags within tags": ("if (f->stacked)\n\t\treturn", "if (0)\n\t\treturn"),
    "tag beside a tag": ("f->stacked = skb->vlan_present;", ""),
    "priority in the VLAN id": ("bpf_ntohs(tag[0]) & 0xfff", "bpf_ntohs(tag[0])"),
    "priority beside the VLAN id": ("skb->vlan_tci & 0xfff", "skb->vlan_tci"),
    "no 802.1ad": (" || proto == bpf_htons(ETH_P_8021AD)", ""),
    "EAPOL passes": ("proto == bpf_htons(ETH_P_PAE) ||", ""),
    "group address mask": ("(to[5] & 0xf0)", "to[5]"),
    "ARP without sha": ("l3 + offsetof(struct arp, sha)", "l3 + offsetof(struct arp, tha)"),
    "no IEEE 802 ARP": (" || arp->hrd == bpf_htons(6))", ")"),
    "ND checksum": ("sizeof(to), 0);", "sizeof(to), 1);"),
    "ND source option": ("option.type == ND_OPT_SOURCE_LL || ", ""),
    "redirect's options": ("return 40;", "return 24;"),
    "router advertisement's options": ("return 16;", "return 8;"),
    "first ND option only": ("at += option.length * 8;", "return 0;"),
    "UDP without checksum gets one": (" | BPF_F_MARK_MANGLED_0", ""),
    "UDP checksum": ("m.flags, flags,\n", "flags, m.flags,\n"),
    "IP options": ("header = ip.ihl * 4;", "header = 20;"),
    "DHCP replies": (" || m.op != BOOTREQUEST ||", " ||"),
    "DHCP in later fragments": (" || ip->frag_off & bpf_htons(0x1fff)", ""),
    "DHCP beyond its length": ("bpf_ntohs(m.udp.len) < sizeof(m) || ", ""),
    "host frames rewritten": ("if (same((__u16 *)eth->h_source, cfg->parent.w) ||", "if ("),
    "shim's frames leave": ("if (same((__u16 *)eth->h_source, cfg->shim.w))", "if (0)"),
    "pkt_type of a guest's": ("entry->mac.w, PACKET_OTHERHOST", "entry->mac.w, PACKET_HOST"),
    "tha kept": ("entry->ifindex && same(arp.tha", "!entry->ifindex && same(arp.tha"),
    "any tha": ("entry->ifindex && same(arp.tha, parent->w) &&", "entry->ifindex &&"),
    "IPv4 group bits": ("address >> 16 & 0x7f", "address >> 16 & 0xff"),
    "IPv6 group": ("to->s6_addr16[6], to", "to->s6_addr16[5], to"),
    "echoes pass": ("if (from_us || same(arp.sha", "if (same(arp.sha"),
    "repeated ARP passes": ("if (from_us || same(arp.sha, parent->w))", "if (from_us)"),
    "echoed ND passes": ("if (from_us)\n\t\treturn true;", ""),
    "repeated ND passes": ("nd.type == ND_OPT_TARGET_LL", "nd.type == ND_OPT_SOURCE_LL"),
    "host's ARP to all": ("return is_host(&key) ? PASS :", "return"),
    "down without VLAN": (
        "struct key key = { .vlan = f->vlan };\n\t__u32 address",
        "struct key key = { .vlan = 0 };\n\t__u32 address",
    ),
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    with ThreadPoolExecutor() as pool:
        directories = [tmp_path_factory.mktemp("mutant") for _ in MUTANTS]
        return dict(zip(MUTANTS, pool.map(_compile, MUTANTS, directories), strict=True))


def _compile(name: str, directory: Path) -> bytes:
    old, new = MUTANTS[name]
    text = SOURCE.read_text()
    assert text.count(old) == 1, f"{old!r} is not in the source exactly once"
    mutated = directory / SOURCE.name
    mutated.write_text(text.replace(old, new))
    return compile_probe(mutated, "-Wno-error")


@pytest.fixture(scope="module")
def corpus() -> list[list[Step]]:
    """The same sequences for every mutant and every time: what this finds, it finds again.

    Steps are drawn one by one, of which hypothesis makes more, and more different ones.
    """
    drawn = draw(traffic, 2500) + draw(changes, 800)
    random.Random(1).shuffle(drawn)
    floods = draw(st.lists(changes, min_size=20, max_size=40), 20)
    return [drawn[at : at + 25] for at in range(0, len(drawn), 25)] + floods


def draw(strategy: st.SearchStrategy[T], count: int) -> list[T]:
    drawn: list[T] = []

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(value=strategy)
    def keep(value: T) -> None:
        drawn.append(value)

    keep()
    return drawn


@pytest.mark.parametrize("name", MUTANTS)
def test_a_changed_line_is_noticed(
    name: str,
    compiled: dict[str, bytes],
    corpus: list[list[Step]],
    ifindexes: list[int],
) -> None:
    with pytest.raises(AssertionError):
        play(compiled[name], corpus, ifindexes)


def test_without_a_change_nothing_is_noticed(
    corpus: list[list[Step]], ifindexes: list[int]
) -> None:
    play(compile_probe(), corpus, ifindexes)


def play(content: bytes, corpus: list[list[Step]], ifindexes: list[int]) -> None:
    rig = Rig(content, ifindexes)
    try:
        for scenario in corpus:
            Scenario(rig).play(scenario)
    finally:
        rig.close()
