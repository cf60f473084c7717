"""One line of the C changed at a time: the model must notice every time.

This is a test of test_model.py. A rule that can be bent unnoticed is a rule that nobody checks.
"""

import random
from concurrent.futures import Future
from functools import partial
from itertools import cycle
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scapy.compat import raw
from scapy.layers.dhcp import BOOTP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Ether

from tests.bpf.frames import GATEWAY6, GUEST_MACS, PARENT, ROUTER
from tests.bpf.mutants import judged
from tests.bpf.rig import Rig
from tests.bpf.scenario import NOBODYS, POINTED, SETTINGS, Scenario, Step, cards, changes, traffic

T = TypeVar("T")

MUTANTS = {
    "any source MAC": ("c.learn ? !same(c.mac.w, guest->w) :", "c.learn ? 0 :"),
    "the uplink's MAC while none is known": (": is_uplink_mac(&c.mac)", ": 0"),
    "any source MAC with a known address": (" && same(entry->mac.w, source) &&", " && source &&"),
    "host addresses for all": (
        "if (is_reserved(c->ifindex, &c->key) || (entry",
        "if ((entry",
    ),
    "host addresses in their own VLAN only": ("anywhere.vlan = 0;", ""),
    "broadcast address for all": ("(entry && !entry->ifindex))", "false)"),
    "what is routed elsewhere for all": (
        "return is_kept_from(ifindex, key) || is_elsewhere(key);",
        "return is_kept_from(ifindex, key);",
    ),
    "what is routed elsewhere for tagged frames": ("(key->vlan ? TAGGED : UNTAGGED)", "TAGGED"),
    "what is routed elsewhere for untagged frames": (
        "(key->vlan ? TAGGED : UNTAGGED)",
        "UNTAGGED",
    ),
    "routes of one family": ("route.family = key->family;", "route.family = 6;"),
    "half of a prefix": ("8 * (sizeof(route) - sizeof(route.bits))", "32 + 24"),
    "DHCP in the uplink's name": ("!own && is_uplink_mac(&client)", "0"),
    "DHCP for any address": ("return reason == REASONS ? PASS :", "return 1 ? PASS :"),
    "DHCP for the host's address": (
        "if (is_kept_from(c->ifindex, &c->key))\n\t\treturn HOST_ADDRESS;",
        "",
    ),
    "DHCP for a guest's own address": (
        "are_one_guests(c->ifindex, entry->ifindex) ? REASONS",
        "0 ? REASONS",
    ),
    "DHCP for a sibling's address": (
        "are_one_guests(c->ifindex, entry->ifindex) ? REASONS",
        "1 ? REASONS",
    ),
    "DHCP for the other card's address": (
        "are_one_guests(c->ifindex, entry->ifindex) ? REASONS",
        "c->ifindex == entry->ifindex ? REASONS",
    ),
    "DHCP from a known address": ("&& !may_be_bootp(ip, end)", ""),
    "DHCP in a first fragment": ("&& !(ip->frag_off & bpf_htons(0x2000));", ";"),
    "DHCP beyond its packet": ("bpf_ntohs(ip->tot_len) >= header + UP_TO(chaddr) &&", ""),
    "DHCP beyond its datagram": ("bpf_ntohs(m.udp.len) >= UP_TO(chaddr) &&", ""),
    "DHCP answers to a relay": ("if (m.op == BOOTREPLY)", "if (0)"),
    "all of UDP for DHCP": (
        "if (m.udp.dest != bpf_htons(BOOTPS) && m.udp.dest != bpf_htons(BOOTPC)) {",
        "if (0) {",
    ),
    "siblings' addresses for all": (
        "if (c->now - entry->last_seen < cfg->alive)",
        "if (c->now - entry->last_seen >= cfg->alive)",
    ),
    "no takeover": ("if (c->now - entry->last_seen < cfg->alive)", "if (1)"),
    "first slot evicted": ("least += below & mask;", "least += i == first ? below : 0;"),
    "15 of 16": ("oldest(table, 0, IPV4_SLOTS)", "oldest(table, 0, IPV4_SLOTS - 1)"),
    "31 of 32": ("oldest(table, IPV4_SLOTS, SLOTS)", "oldest(table, IPV4_SLOTS + 1, SLOTS)"),
    "sources take what is a guest's own": (
        "taken = c->own || !table->slots[chosen].own;",
        "taken = true;",
    ),
    "own slots are like others": (
        "(own | table->slots[i].order << 6 | i)",
        "(table->slots[i].order << 6 | i)",
    ),
    "own slots that nobody has any more stay so": ("table->slots[entry.slot].own = 0;", ";"),
    "own slots given up": ("entry.slot < SLOTS && !is_held", "entry.slot < SLOTS && is_held"),
    "what is said later is not noted": ("if (c->own && slot < SLOTS)", "if (0 && slot < SLOTS)"),
    "use is ownership": ("if (c->own && slot < SLOTS)", "if (slot < SLOTS)"),
    "first use is not ownership": (".own = c->own;", ".own = 0;"),
    "ARP is no ownership": ("c->own = true;\n\tif (c->key", "if (c->key"),
    "ND is no ownership": ("c->own = at > 0;", "c->own = false;"),
    "all of ICMPv6 is ownership": ("c->own = at > 0;", "c->own = leads_to_nd(ip.nexthdr);"),
    "stale slots evict": (" && entry->slot == slot;", ";"),
    "others' addresses evicted": ("entry->ifindex == c->ifindex && entry->slot", "entry->slot"),
    "use does not count": (
        "table->slots[slot].order = __sync_fetch_and_add(&table->sequence, 1) + 1;",
        "table->sequence++;",
    ),
    "loopback learned": ("first >> 24 == 127 ||", ""),
    "multicast source learned": ("first >> 28 == 14 || first", "first"),
    "unspecified learned": ("bpf_ntohl(a[3]) <= 1", "bpf_ntohl(a[3]) == 1"),
    "solicitations claim": (
        "claims = nd.icmp.icmp6_type == ND_NEIGHBOUR_ADVERT;",
        "claims = nd.icmp.icmp6_type == ND_NEIGHBOUR_SOLICIT;",
    ),
    "ND in fragments": ("return l4.fragment ? -1 : (int)l4.at;", "return l4.at;"),
    "later fragments searched": (
        "(next == IPPROTO_FRAGMENT && (head[2] | (head[3] & 0xf8)))",
        "0",
    ),
    "header length off by one": ("(head[1] + 1) * 8;", "head[1] * 8;"),
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
    "UDP without checksum gets one": ("sizeof(flags) | BPF_F_MARK_MANGLED_0", "sizeof(flags)"),
    "UDP checksum": ("m.flags, flags,\n", "flags, m.flags,\n"),
    "IP options": ("header = ip.ihl * 4;", "header = 20;"),
    "DHCP replies": (" || m.op != BOOTREQUEST ||", " ||"),
    "DHCP in later fragments": (
        "if (ip->protocol != IPPROTO_UDP || ip->frag_off & bpf_htons(0x1fff))",
        "if (ip->protocol != IPPROTO_UDP)",
    ),
    "answers to the host leave": ("if (answers(skb, l4, parent))", "if (0)"),
    "only DHCP requests are looked at": (
        "udp->dest == bpf_htons(BOOTPS) ||\n\t       udp->dest == bpf_htons(BOOTPC);",
        "udp->dest == bpf_htons(BOOTPS);",
    ),
    "no DHCP answers leave": (
        "m.udp.dest == bpf_htons(BOOTPC) && same(m.chaddr, mac->w);",
        "m.udp.dest == bpf_htons(BOOTPC);",
    ),
    "what the host's MAC stands in does not leave": (
        "m.udp.dest == bpf_htons(BOOTPC) && same(m.chaddr, mac->w);",
        "same(m.chaddr, mac->w);",
    ),
    "DHCP beyond its length": (" ||\n\t    bpf_ntohs(m.udp.len) < UP_TO(flags))", ")"),
    "host frames rewritten": (
        "cfg->parent.w) && cfg->kind != IPVTAP)\n\t\treturn PASS;",
        "cfg->parent.w) && 0)\n\t\treturn PASS;",
    ),
    "pkt_type of a guest's": ("mac->w, PACKET_OTHERHOST", "mac->w, PACKET_HOST"),
    "tha kept": ("entry->ifindex && same(arp.tha", "!entry->ifindex && same(arp.tha"),
    "any tha": ("entry->ifindex && same(arp.tha, cfg->parent.w) &&", "entry->ifindex &&"),
    "IPv4 group bits": ("address >> 16 & 0x7f", "address >> 16 & 0xff"),
    "IPv6 group": ("to->s6_addr16[6], to", "to->s6_addr16[5], to"),
    "echoes pass": ("if (from_us || same(arp.sha", "if (same(arp.sha"),
    "repeated ARP passes": ("if (from_us || same(arp.sha, cfg->parent.w))", "if (from_us)"),
    "echoed ND passes": ("if (from_us)\n\t\treturn true;", ""),
    "repeated ND passes": (
        "option.type == ND_OPT_TARGET_LL &&",
        "option.type == ND_OPT_SOURCE_LL &&",
    ),
    "redirects to the uplink's MAC pass": (
        "type != ND_NEIGHBOUR_ADVERT && type != ND_REDIRECT)",
        "type != ND_NEIGHBOUR_ADVERT)",
    ),
    "redirects read as advertisements": ("at + nd_options(type), &option", "at + 24, &option"),
    "IPv6 questions to nobody": ("if (!entry && is_solicitation", "if (0 && is_solicitation"),
    "IPv6 questions for the host to all": (
        "l3) && !is_host(&key))\n\t\treturn deliver",
        "l3))\n\t\treturn deliver",
    ),
    "all of ICMPv6 to all": ("type == ND_NEIGHBOUR_SOLICIT;\n}", "type;\n}"),
    "solicited-node group": ("0xff00 | to->s6_addr[13]", "0xff00 | to->s6_addr[12]"),
    "an ipvtap's guest with the uplink's MAC not translated": (
        "cfg->parent.w) && cfg->kind != IPVTAP)",
        "cfg->parent.w))",
    ),
    "host's ARP to all": ("return is_host(&key) ? PASS :", "return"),
    "from_uplink without VLAN": (
        "struct key key = { .vlan = f->vlan };\n\t__u32 address",
        "struct key key = { .vlan = 0 };\n\t__u32 address",
    ),
    "a macvtap's initial MAC": ("cfg && cfg->kind == IPVTAP && is_zero", "cfg && is_zero"),
    "every MAC is initial": ("cfg->kind == IPVTAP && is_zero(guest->w)", "cfg->kind == IPVTAP"),
    "a group's MAC adopted": ("!is_group(c->mac.w) &&", ""),
    "the other bit of a group's MAC": (
        "return mac[0] & bpf_htons(0x0100);",
        "return mac[0] & 0x0100;",
    ),
    "the uplink's MAC adopted": (" && !is_uplink_mac(&c->mac);", ";"),
    "initial MAC forgotten": ("*(__u64 *)guest = *(__u64 *)&c.mac;", ""),
    "first frame's address not learned": (
        "report(&c, table, &c.key, MAC_LEARNED, 0);",
        "report(&c, table, &c.key, MAC_LEARNED, 0);\n\t\treturn PASS;",
    ),
    "from_uplink leaves delivery to the ipvlan": (
        "cfg->kind == IPVTAP ? bpf_redirect(ifindex, BPF_F_INGRESS) : PASS",
        "ifindex ? PASS : DROP",
    ),
    "from_uplink redirects to macvtaps": ("return cfg->kind == IPVTAP ?", "return ifindex ?"),
    "from_uplink redirects to egress": (
        "IPVTAP ? bpf_redirect(ifindex, BPF_F_INGRESS)",
        "IPVTAP ? bpf_redirect(ifindex, 0)",
    ),
    "from_uplink redirects elsewhere": (
        "bpf_redirect(ifindex, BPF_F_INGRESS) :",
        "bpf_redirect(1, 1) :",
    ),
    "DHCP answers to nobody": ("if (dhcp) {", "if (0) {"),
    "DHCP answers of any looks": ("if (dhcp) {", "if (1) {"),
    "DHCP answers over TCP": ("ip->protocol != IPPROTO_UDP || ip->ihl", "ip->ihl"),
    "DHCP answers behind IP options": ("IPPROTO_UDP || ip->ihl != 5 ||", "IPPROTO_UDP ||"),
    "DHCP answers in later fragments": (
        "ip->ihl != 5 || ip->frag_off & bpf_htons(0x1fff))",
        "ip->ihl != 5)",
    ),
    "DHCP answers in any fragment": (
        "ip->ihl != 5 || ip->frag_off & bpf_htons(0x1fff))",
        "ip->ihl != 5 || ip->frag_off & bpf_htons(0x3fff))",
    ),
    "DHCP answers to the server's port": (
        "> end || udp->dest == bpf_htons(BOOTPC)",
        "> end || udp->dest == 67 << 8",
    ),
    "DHCP requests": (" || m.op != BOOTREPLY)", ")"),
    "the host's own DHCP answers to all": ("parent->w) ? HOST : NEWCOMER", "parent->w), NEWCOMER"),
    "the host's own DHCP answers to the holder": (
        "parent->w) ? HOST : NEWCOMER",
        "parent->w) ? HOLDER : NEWCOMER",
    ),
    "DHCP client's MAC elsewhere": ("__u16 chaddr[3];", "__u16 gap, chaddr[3];"),
    "DHCP answers to new addresses": (
        "if (entry && same(m.chaddr",
        "if (!entry || same(m.chaddr",
    ),
    "DHCP answers to former guests": ("if (entry && same(m.chaddr, entry->mac.w))", "if (entry)"),
    "DHCP answers to all always": ("if (entry && same(m.chaddr, entry->mac.w))", "if (0)"),
    "to_sibling without VLAN": (
        "key->vlan = f->vlan;",
        "key->vlan = 0;",
    ),
    "to_sibling by the IPv4 source": ("set_ipv4(key, ip->daddr)", "set_ipv4(key, ip->saddr)"),
    "to_sibling by the IPv6 source": ("set_ipv6(key, &ip6->daddr)", "set_ipv6(key, &ip6->saddr)"),
    "to_sibling by the ARP sender": (
        "joined(arp.tpa));\n\treturn true;",
        "joined(arp.spa));\n\treturn true;",
    ),
    "to_sibling takes any ARP": (
        "sizeof(arp)) || !is_ethernet_ipv4(&arp))\n\t\treturn false;",
        "sizeof(arp)))\n\t\treturn false;",
    ),
    "to_sibling leaves ARP alone": (
        "if (f->proto != bpf_htons(ETH_P_ARP) ||\n\t    bpf_skb_load",
        "if (1 ||\n\t    bpf_skb_load",
    ),
    "to_sibling takes foreign frames": (
        "if (!same((__u16 *)eth->h_dest, cfg->parent.w))\n\t\treturn PASS;\n\tif (!parse",
        "if (!parse",
    ),
    "to_sibling in mode vepa": ("if (cfg->mode == VEPA)\n\t\treturn PASS;", ""),
    "to_sibling in other modes": ("if (cfg->mode == VEPA)\n\t\treturn PASS;", "return PASS;"),
    "what no sibling has left to the ipvlan": (
        "if (!entry && !cfg->behind)\n\t\treturn keep_from_host();",
        "if (!entry && !cfg->behind)\n\t\treturn PASS;",
    ),
    "what is behind a sibling left to the host": (
        "if (!entry && !cfg->behind)",
        "if (!entry)",
    ),
    "what is behind nobody here to nobody": (
        " || ifindex == NOBODY || ifindex ==",
        " || ifindex ==",
    ),
    "what is behind a guest to the host": (
        "__u32 ifindex = find_router(key, &mac);",
        "__u32 ifindex = 0;",
    ),
    "what is behind who is not here to the host": (
        "return bearer && bearer->ifindex ? bearer->ifindex : NOBODY;",
        "return bearer && bearer->ifindex ? bearer->ifindex : 0;",
    ),
    "what is the host's behind a guest": (
        "if (key->vlan || usage_of(key) || is_elsewhere(key))\n\t\treturn NULL;",
        "if (key->vlan || is_elsewhere(key))\n\t\treturn NULL;",
    ),
    "what is elsewhere behind a guest": (
        "if (key->vlan || usage_of(key) || is_elsewhere(key))\n\t\treturn NULL;",
        "if (key->vlan || usage_of(key))\n\t\treturn NULL;",
    ),
    "tagged frames behind a guest": (
        "if (key->vlan || usage_of(key) || is_elsewhere(key))\n\t\treturn NULL;",
        "if (usage_of(key) || is_elsewhere(key))\n\t\treturn NULL;",
    ),
    "what is on the link behind a guest": (
        "return found && !is_zero(found->mac.w) ? found : NULL;",
        "return found;",
    ),
    "what is behind a guest from all": ("if (cfg->behind && is_behind_another(c))", "if (0)"),
    "all the rest from one alone": ("found && found->alone && !", "found && !"),
    "what is behind a guest from none": ("!(c->learn && same(found->mac.w, c->mac.w));", "true;"),
    "what is the sender's own left to the ipvlan": (
        "ifindex == skb->ifindex)\n\t\treturn keep_from_host();",
        "ifindex == skb->ifindex)\n\t\treturn PASS;",
    ),
    "what is not understood left to the ipvlan": (
        "return cfg->mode == VEPA ? PASS : keep_from_host();",
        "return PASS;",
    ),
    "what is not understood dropped in mode vepa": (
        "return cfg->mode == VEPA ? PASS : keep_from_host();",
        "return keep_from_host();",
    ),
    "what configures comes back": (
        "(!is_of_ip(f.proto) || configures(skb, f.proto, f.l3))",
        "!is_of_ip(f.proto)",
    ),
    "what the host does not hear comes back": (
        "(!is_of_ip(f.proto) || configures(skb, f.proto, f.l3))",
        "configures(skb, f.proto, f.l3)",
    ),
    "what configures is always an echo": (
        "from_us && (!is_of_ip(f.proto) || configures(skb, f.proto, f.l3))",
        "(!is_of_ip(f.proto) || configures(skb, f.proto, f.l3))",
    ),
    "to_sibling to the sender itself": (
        "if (!ifindex || ifindex == NOBODY || ifindex == skb->ifindex)",
        "if (!ifindex || ifindex == NOBODY)",
    ),
    "private siblings reached": ("if (cfg->mode == PRIVATE || bpf_skb_store", "if (bpf_skb_store"),
    "siblings private in mode bridge": (
        "if (cfg->mode == PRIVATE ||",
        "if (cfg->mode == BRIDGE ||",
    ),
    "uplink's MAC kept for siblings": (
        "PRIVATE || bpf_skb_store_bytes(skb, 0, mac.w, ETH_ALEN, 0))",
        "PRIVATE)",
    ),
    "tha kept for siblings": (
        "if (is_arp &&\n\t    bpf_skb_store_bytes",
        "if (0 && bpf_skb_store_bytes",
    ),
    "tha set in whatever siblings get": (
        "if (is_arp &&\n\t    bpf_skb_store_bytes",
        "if (bpf_skb_store_bytes",
    ),
    "sources of all are looked at": (
        "if (is_group((__u16 *)eth->h_dest) || (to_us &&",
        "if ((1 ||",
    ),
    "what is said to all is not looked at": (
        "if (is_group((__u16 *)eth->h_dest) || (",
        "if ((1 && ",
    ),
    "ARP to the uplink is not looked at": ("(to_us && f.proto == bpf_htons(ETH_P_ARP))", "(0)"),
    "ARP between guests is looked at": (
        "(to_us && f.proto == bpf_htons(ETH_P_ARP))",
        "f.proto == bpf_htons(ETH_P_ARP)",
    ),
    "ICMPv6 to the uplink is not looked at": (
        "\t\tif (to_us)\n\t\t\tnote_source",
        "\t\tif (0)\n\t\t\tnote_source",
    ),
    "ICMPv6 between guests is looked at": (
        "\t\tif (to_us)\n\t\t\tnote_source",
        "\t\tif (1)\n\t\t\tnote_source",
    ),
    "a destination is noted": (
        "if (bpf_skb_load_bytes(skb, ETH_ALEN, from.w",
        "if (bpf_skb_load_bytes(skb, 0, from.w",
    ),
    "what was seen is not noted": ("bearer->last_seen = event.time;", ""),
    "seen without VLAN": ("key.vlan = f->vlan;\n\tkey.family = f", "key.family = f"),
    "seen at nobody's address": ("if (!is_unassignable(&key))\n\t\tbearer", "if (1)\n\t\tbearer"),
    "seen at the ARP target": (
        "offsetof(struct arp, spa), key.address, 4)",
        "offsetof(struct arp, tpa), key.address, 4)",
    ),
    "seen at the IPv4 destination": (
        "offsetof(struct iphdr, saddr), key",
        "offsetof(struct iphdr, daddr), key",
    ),
    "seen at the IPv6 destination": (
        "offsetof(struct ipv6hdr, saddr), key",
        "offsetof(struct ipv6hdr, daddr), key",
    ),
    "no cards of one guest": ("return one && another && *one == *another;", "return false;"),
    "all are cards of one guest": ("return one && another && *one == *another;", "return true;"),
    "guests with several cards are one": ("another && *one == *another;", "another;"),
    "probes are not kept": ("probes->keys[probes->next++ % PROBES] = c->key;", ";"),
    "the latest probe only is kept": ("probes->keys[probes->next++ % PROBES]", "probes->keys[0]"),
    "probes for known addresses are kept": (
        "(!entry || (entry->ifindex && entry->ifindex != c->ifindex))",
        "(!entry || entry->ifindex)",
    ),
    "SNAP passes": ("return is_snap(skb, f) ? refuse", "return 0 ? refuse"),
    "all of 802.3 refused": ("bpf_ntohs(f->proto) < ETH_P_802_3_MIN &&", "1 || llc[0] &&"),
    "ethertypes that look like SNAP": ("bpf_ntohs(f->proto) < ETH_P_802_3_MIN &&", ""),
    "other LLC refused": ("llc[0] == 0xaa && llc[1] == 0xaa && llc[2] == 0x03", "llc[2] == 0x03"),
    "to_sibling takes IPv4 of any version": (
        "(void *)(ip + 1) > end || ip->version != 4)\n\t\t\treturn false",
        "(void *)(ip + 1) > end)\n\t\t\treturn false",
    ),
    "to_sibling takes IPv6 of any version": (
        "(void *)(ip6 + 1) > end || ip6->version != 6)\n\t\t\treturn false",
        "(void *)(ip6 + 1) > end)\n\t\t\treturn false",
    ),
    "ARP for nobody to the host": ("if (is_arp && !entry && !is_host(&key))", "if (0)"),
    "ARP for the host to all": ("if (is_arp && !entry && !is_host(&key))", "if (is_arp && !entry)"),
    "all for nobody to all": ("if (is_arp && !entry && !is_host", "if (!entry && !is_host"),
    "the host's DHCP answers to all": (" && (entry || !is_host(&key)))", ")"),
    "to_sibling redirects to egress": (
        "return DROP;\n\treturn bpf_redirect(ifindex, BPF_F_INGRESS)",
        "return DROP;\n\treturn bpf_redirect(ifindex, 0)",
    ),
    "to_sibling redirects to the sender": (
        "return DROP;\n\treturn bpf_redirect(ifindex, ",
        "return DROP;\n\treturn bpf_redirect(skb->ifindex, ",
    ),
    "to_sibling passes on": (
        "return DROP;\n\treturn bpf_redirect(ifindex, BPF_F_INGRESS)",
        "return DROP;\n\treturn PASS",
    ),
}


@pytest.fixture(scope="module")
def corpus() -> list[list[Step]]:
    """The same sequences for every mutant and every time: what this finds, it finds again.

    Steps are drawn one by one, of which hypothesis makes more, and more different ones. It takes
    constants from all modules that are loaded, so what is rare is among them by luck, or added.
    """
    drawn = draw(traffic, 2000) + draw(changes, 800)
    drawn += [step for strategy in POINTED for step in draw(strategy, 300)]
    random.Random(1).shuffle(drawn)
    floods = draw(st.lists(changes, min_size=20, max_size=40), 20)
    floods += draw(st.lists(cards, min_size=60, max_size=60), 40)
    by_hand: list[list[Step]] = [
        [("say", (0, probe(n)), None) for n in (101, 102)],
        [("use", 0, 4, 0, None), ("say", (0, renewal()), None)],
        [("say", (0, echo()), None), ("forward", 0, 6, 1, 32)],
        [  # 16 of its own, of which one is the host's by then: the second packet gets that place
            *(("use", 0, 4, n, None) for n in range(1, 33, 2)),
            ("host", "192.0.2.101"),
            *[("use", 0, 4, 40, None)] * 2,
        ],
        [("behind", {"192.0.2.0/24": ROUTER}), ("say", (0, packet(GUEST_MACS[0])), None)],
        [("behind", {"192.0.2.0/24": NOBODYS}), ("say", (0, packet(GUEST_MACS[0])), None)],
        [
            ("route", {"192.0.2.96/28": 1}),
            ("behind", {"192.0.2.0/24": ROUTER}),
            ("hear", packet(ROUTER), None),
        ],
        [("hear", packet(ROUTER, to="ff:ff:ff:ff:ff:ff"), None)],
    ]
    played = cycle(by_hand)  # with each of the settings
    floods += [next(played) for _ in range(3 * len(by_hand))]
    return [*(drawn[at : at + 25] for at in range(0, len(drawn), 25)), *floods]


def probe(n: int) -> bytes:
    mac = GUEST_MACS[0]
    arp = ARP(hwsrc=mac, psrc="0.0.0.0", pdst=f"192.0.2.{n}")
    return raw(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / arp)


def renewal() -> bytes:
    """In the uplink's name, from an address that the guest has just used."""
    ip = IP(src="192.0.2.100", dst="192.0.2.1") / UDP(sport=68, dport=67)
    message = BOOTP(op=1, chaddr=bytes.fromhex(PARENT.replace(":", "")))
    return raw(Ether(src=GUEST_MACS[0], dst=ROUTER) / ip / message)


def packet(source: str, to: str = PARENT) -> bytes:
    """For an address that nobody is known to have, at the uplink's MAC."""
    return raw(Ether(src=source, dst=to) / IP(src="192.0.2.101", dst="192.0.2.103") / UDP())


def echo() -> bytes:
    """ICMPv6 that is forwarded as other packets are."""
    ip = IPv6(src="2001:db8::1:0", dst=GATEWAY6)
    return raw(Ether(src=GUEST_MACS[0], dst=ROUTER) / ip / ICMPv6EchoRequest())


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


@pytest.fixture(scope="module")
def noticed(corpus: list[list[Step]], ifindexes: list[int]) -> dict[str, Future[bool]]:
    return judged(MUTANTS, partial(play, corpus), ifindexes)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_changed_line_is_noticed(name: str, noticed: dict[str, Future[bool]]) -> None:
    assert noticed[name].result()


def test_without_a_change_nothing_is_noticed(loaded: Rig, corpus: list[list[Step]]) -> None:
    play(corpus, loaded)


def play(corpus: list[list[Step]], rig: Rig) -> None:
    macvtap, *ipvtap = SETTINGS
    for scenario, setting in zip(corpus, cycle(ipvtap), strict=False):
        Scenario(rig, *macvtap).play(scenario)
        Scenario(rig, *setting).play(scenario)
