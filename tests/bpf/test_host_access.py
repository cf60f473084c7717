"""What host_access.h hands to whom, and that a bent line of it, or of what it asks, is noticed."""

from collections.abc import Callable
from concurrent.futures import Future

import pytest

from tests.bpf.gateway import by_ipvtap, by_macvtap, claims
from tests.bpf.handing import (
    from_host,
    from_ipvtap,
    groups,
    leases,
    left_over,
    marks,
    to_host,
    unmarked,
)
from tests.bpf.rig import Rig
from tests.bpf.withholding import answers, configuring, ethertypes, probes

CHECKS = (
    from_host,
    marks,
    unmarked,
    groups,
    to_host,
    configuring,
    ethertypes,
    probes,
    from_ipvtap,
    left_over,
    answers,
    leases,
    by_macvtap,
    by_ipvtap,
    claims,
)
MUTANTS = {
    "another guest's address": (
        "if (usage_of(&key) || (entry && !are_one_guests(ifindex, entry->ifindex)))",
        "if (usage_of(&key))",
    ),
    "cards of one guest are two guests": (
        "(entry && !are_one_guests(ifindex, entry->ifindex))",
        "(entry && entry->ifindex != ifindex)",
    ),
    "the host's own address": (
        "if (usage_of(&key) || (entry && !are_one_guests(ifindex, entry->ifindex)))",
        "if (entry && !are_one_guests(ifindex, entry->ifindex))",
    ),
    "addresses behind a router": ("return (entry ? is_on_link(&key)", "return (entry ? true"),
    "addresses that nobody has": (
        "return (entry ? is_on_link(&key) : is_answer_to(skb, guest))",
        "return is_on_link(&key)",
    ),
    "no answers to guests that have no address yet": (": is_answer_to(skb, guest))", ": false)"),
    "answers to others": (": is_answer_to(skb, guest))", ": f.proto == bpf_htons(ETH_P_IP))"),
    "answers at another guest's address": (
        "if (usage_of(&key) || (entry && !are_one_guests(ifindex, entry->ifindex)))",
        "if (is_answer_to(skb, guest))\n\t\treturn true;\n"
        "\tif (usage_of(&key) || (entry && !are_one_guests(ifindex, entry->ifindex)))",
    ),
    "all that the host has for its gateway": (" || is_gateway(ifindex);", ";"),
    "what the host has for a gateway's address": (
        "entry->ifindex)))\n\t\treturn is_gateway(ifindex);",
        "entry->ifindex)))\n\t\treturn false;",
    ),
    "a gateway's MAC by others": (" || is_gateways_mac(&c.mac))", ")"),
    "gateways for all guests": ("allowed && *allowed == ifindex", "allowed"),
    "gateways for no guest": ("allowed && *allowed == ifindex", "false"),
    "the gateway for the host": (
        "usage && !(usage == GATEWAY && is_gateway",
        "usage && !(is_gateway",
    ),
    "gateways like the host": ("return usage && usage != GATEWAY;", "return usage;"),
    "the gateway asks in the host's name": ("!(m.op == BOOTREPLY && is_gateway", "!(is_gateway"),
    "the gateway's leases": ("!(m.op == BOOTREPLY && is_gateway(c->ifindex))", "1"),
    "the gateway's word": ("&& !is_gateway(guest))", ")"),
    "the gateway's broadcast leases": (" &&\n\t    !(passed && is_gateways_mac(&from)))", ")"),
    "leases by who has not passed": (
        "!(passed && is_gateways_mac(&from))",
        "!is_gateways_mac(&from)",
    ),
    "no ARP to guests": (
        "if (f.proto == bpf_htons(ETH_P_ARP) ||\n\t    (f.proto == bpf_htons(ETH_P_IPV6) &&",
        "if ((f.proto == bpf_htons(ETH_P_IPV6) &&",
    ),
    "no solicitations to guests": (
        "(f.proto == bpf_htons(ETH_P_IPV6) && is_solicitation(skb, f.l3)))",
        "0)",
    ),
    "prefixes of any family": ("if (p->family != key->family)", "if (0)"),
    "prefixes without their mask": (") & p->mask[word];", ");"),
    "the first prefix alone": ("if (!differs)\n\t\t\treturn true;", "return !differs;"),
    "IPv4 that configures": ("return configures_ipv4(skb, l3);", "return false;"),
    "IPv6 that configures": ("&& configures_ipv6(skb, l3);", "&& false;"),
    "DHCP for clients of IPv4": (
        "return ip.protocol == IPPROTO_UDP && is_to_port(skb, l4, BOOTPC);",
        "return false;",
    ),
    "DHCP for clients of IPv6": ("return is_to_port(skb, l4.at, DHCPV6_CLIENT);", "return false;"),
    "source ports": (
        "l4 + offsetof(struct udphdr, dest), &to",
        "l4 + offsetof(struct udphdr, source), &to",
    ),
    "ports that are not there": (
        "&to, sizeof(to)) ||\n\t       to ==",
        "&to, sizeof(to)) ? 0 :\n\t       to ==",
    ),
    "port 68 of TCP": ("return ip.protocol == IPPROTO_UDP && is_to_port", "return is_to_port"),
    "port 546 of TCP": ("if (l4.protocol == IPPROTO_UDP)", "if (l4.protocol != IPPROTO_ICMPV6)"),
    "port 68 in later fragments": ("if (ip.frag_off & bpf_htons(0x1fff))", "if (0)"),
    "port 68 of first fragments": (
        "if (ip.frag_off & bpf_htons(0x1fff))",
        "if (ip.frag_off & bpf_htons(0x3fff))",
    ),
    "port 68 behind IP options": ("l4 = l3 + ip.ihl * 4;", "l4 = l3 + 20;"),
    "port 67": ("#define BOOTPC 68", "#define BOOTPC 67"),
    "port 547": ("#define DHCPV6_CLIENT 546", "#define DHCPV6_CLIENT 547"),
    "ICMP redirects": ("type == ICMP_REDIRECT || type", "type"),
    "ICMP router advertisements": (
        "type == ICMP_REDIRECT || type == ICMP_ROUTER_ADVERT",
        "type == ICMP_REDIRECT",
    ),
    "ICMP without a type": (
        "return bpf_skb_load_bytes(skb, l4, &type, sizeof(type)) ||",
        "return !bpf_skb_load_bytes(skb, l4, &type, sizeof(type)) &&",
    ),
    "headers without an end": (
        "find_l4(skb, l3, next, &l4))\n\t\treturn true;",
        "find_l4(skb, l3, next, &l4))\n\t\treturn false;",
    ),
    "headers behind the end": ("at + LEAST_HEADER > end", "0"),
    "headers of the next fragment": (
        "if ((fragment || is_extension(next)) &&",
        "if (is_extension(next) &&",
    ),
    "packets without a length": (
        "end = length ? at + bpf_ntohs(length) : skb->len;",
        "end = at + bpf_ntohs(length);",
    ),
    "ICMPv6 without a type": (
        "sizeof(type)))\n\t\treturn true;\n\treturn type == ND_ROUTER",
        "sizeof(type)))\n\t\treturn false;\n\treturn type == ND_ROUTER",
    ),
    "router advertisements": ("type == ND_ROUTER_ADVERT || type", "type"),
    "redirects": ("type == ND_REDIRECT || (l4", "(l4"),
    "ND in fragments for the host": (" || (l4.fragment && is_nd(type));", ";"),
    "all ICMPv6 in fragments": ("(l4.fragment && is_nd(type));", "l4.fragment;"),
    "any protocol": (
        "return f.proto == bpf_htons(ETH_P_ARP) && hears",
        "return f.proto != bpf_htons(ETH_P_ARP) || hears",
    ),
    "ARP of any kind": ("return is_ethernet_ipv4(&arp) && !is_idle", "return !is_idle"),
    "half of ARP": (
        "sizeof(arp)))\n\t\treturn false;\n\tset_ipv4(&source",
        "sizeof(arp)))\n\t\treturn true;\n\tset_ipv4(&source",
    ),
    "ARP probes": (
        "is_ethernet_ipv4(&arp) && !is_idle_probe(&source, &target);",
        "is_ethernet_ipv4(&arp);",
    ),
    "solicitations from nobody": (
        "set_ipv6(&target, &solicited);\n\treturn !is_idle_probe(&source, &target);",
        "return true;",
    ),
    "what is no solicitation from nobody": (
        "&type, sizeof(type)) || type != ND_NEIGHBOUR_SOLICIT)\n\t\treturn true;",
        "&type, sizeof(type)))\n\t\treturn true;",
    ),
    "solicitations behind headers": (
        "if (at <= 0)\n\t\treturn !at;",
        "if (at != 54)\n\t\treturn true;",
    ),
    "half of a solicitation": (
        "&solicited, sizeof(solicited)))\n\t\treturn false;",
        "&solicited, sizeof(solicited)))\n\t\treturn true;",
    ),
    "probes for tentative addresses": ("usage_of(target) != IN_USE", "!usage_of(target)"),
    "probes of all": (
        "return is_unassignable(source) && usage_of(target)",
        "return usage_of(target)",
    ),
    "no probes": ("&& usage_of(target) != IN_USE;", ";"),
    "what from_guest has not seen": ("passed = skb->tc_index == MARK_PASSED &&", "passed ="),
    "what came in since": ("== MARK_PASSED && !skb->ingress_ifindex;", "== MARK_PASSED;"),
    "the mark on the wire": (
        "if (skb->tc_index == MARK_PASSED)\n\t\tskb->tc_index = 0;",
        "",
    ),
    "the mark on the wire, without host access": (
        "if (skb->tc_index == MARK_PASSED) /* where",
        "if (0) /* where",
    ),
    "unmarked on ipvtaps": ("if (!cfg || !passed || bpf_skb", "if (!cfg || bpf_skb"),
    "what is refused": ("verdict == PASS ? MARK_PASSED : 0;", "MARK_PASSED;"),
    "a mark that was there": (
        "skb->tc_index = verdict == PASS ? MARK_PASSED : 0;",
        "if (verdict == PASS)\n\t\tskb->tc_index = MARK_PASSED;",
    ),
    "nothing is passed": ("verdict == PASS ? MARK_PASSED : 0;", "0;"),
    "the host's own MAC where MAC NAT is off": (
        "if (same((__u16 *)eth.h_source, cfg->parent.w) || is_answer_to(skb, &cfg->parent))",
        "if (is_answer_to(skb, &cfg->parent))",
    ),
    "all of what is refused where MAC NAT is off": (
        "if (same((__u16 *)eth.h_source, cfg->parent.w) || is_answer_to(skb, &cfg->parent))",
        "if (1)",
    ),
    "DHCP in any version of IP": ("if (ip.version != 4 || header", "if (header"),
    "to_sibling to broadcast addresses": (
        "if (!ifindex || ifindex == NOBODY || ifindex == skb->ifindex)",
        "if (ifindex == NOBODY || ifindex == skb->ifindex)",
    ),
    "answers to the host where MAC NAT is off": (
        "if (cfg->observe && !same(from.w, cfg->parent.w) && is_answer",
        "if (0 && is_answer",
    ),
    "the host's own answers": (
        "if (cfg->observe && !same(from.w, cfg->parent.w) && is_answer",
        "if (cfg->observe && is_answer",
    ),
    "answers over TCP": (
        "&ip, sizeof(ip)) || ip.protocol != IPPROTO_UDP ||\n\t    ip.frag_off & bpf_htons(0x1fff))",
        "&ip, sizeof(ip)) || ip.frag_off & bpf_htons(0x1fff))",
    ),
    "answers in later fragments": (
        "ip.protocol != IPPROTO_UDP ||\n\t    ip.frag_off & bpf_htons(0x1fff))",
        "ip.protocol != IPPROTO_UDP)",
    ),
    "answers behind IP options": (
        "answers(skb, f.l3 + ip.ihl * 4, mac)",
        "answers(skb, f.l3 + 20, mac)",
    ),
    "what is left unnoted": ("note_handed(SAID_WITHHELD);\n\treturn DROP;", "return DROP;"),
    "an answer to a guest that has the uplink's MAC": (
        "if (entry && same(m.chaddr, entry->mac.w))\n\t\treturn HOLDER;\n\treturn same",
        "return same",
    ),
    "copies that configure": (
        "note_handed(why);\n\t\treturn PASS;",
        "note_handed(why);",
    ),
    "copies change the frame": (
        "return bpf_skb_store_bytes(skb, 0, group, ETH_ALEN, 0) ? DROP : PASS;",
        "return PASS;",
    ),
    "copies leave a mark": ("skb->tc_index = former;", ""),
    "marks where nobody takes them off": ("cfg->observe ? 0 : MARK_FROM_GUEST", "MARK_FROM_GUEST"),
    "no marks": ("cfg->observe ? 0 : MARK_FROM_GUEST", "0"),
    "link control to guests": ("if (!control && copy_to_guests(skb))", "if (copy_to_guests(skb))"),
    "link control to the host": ("if (!passed || control ||", "if (!passed ||"),
    "strangers to the host": (
        "if (!ifindex)\n\t\t\treturn PASS;\n\t\tguest = *ifindex;",
        "guest = ifindex ? *ifindex : 0;",
    ),
    "copies of nothing": ("return to && to->count;", "return true;"),
    "ipvtaps' frames unmarked": ("\tskb->tc_index = MARK_FROM_GUEST;\n", ""),
    "siblings' frames for the host": (" || bpf_map_lookup_elem(&addresses, &key) ||\n", " ||\n"),
    "siblings' questions for the host": (
        "(f.proto == bpf_htons(ETH_P_ARP) || bpf_map_lookup_elem(&addresses, &key) ||",
        "(bpf_map_lookup_elem(&addresses, &key) ||",
    ),
    "what is behind siblings for the host": ("(cfg->behind && find_behind(&key))))", "0))"),
    "what is the host's left to siblings": (
        "if (find_target(skb, &f, &key) && !is_host(&key) &&",
        "if (find_target(skb, &f, &key) &&",
    ),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_goes_where(loaded: Rig, check: Callable[[Rig], None]) -> None:
    try:
        check(loaded)
    finally:
        loaded.macnat.tracer.stop()


@pytest.mark.parametrize("name", MUTANTS)
def test_a_changed_line_is_noticed(name: str, noticed: dict[str, Future[bool]]) -> None:
    assert noticed[name].result()


def check_all(rig: Rig) -> None:
    for check in CHECKS:
        check(rig)
        rig.macnat.tracer.stop()
