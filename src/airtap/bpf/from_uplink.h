/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * from_uplink: what comes in at the uplink's MAC goes to the guest whose address it is for.
 */
#pragma once

#include "arp.h"
#include "configures.h"

/* An access point may send a group's packet to each station's own MAC: RFC 1112 6.4 backwards. */
static __always_inline int ingress_ipv4(struct __sk_buff *skb, struct frame *f,
					const struct config *cfg, __u32 to, bool dhcp)
{
	struct entry *entry;
	struct key key = { .vlan = f->vlan };
	__u32 address = bpf_ntohl(to);
	__u16 group[] = { bpf_htons(0x0100), bpf_htons(0x5e00 | (address >> 16 & 0x7f)),
			  bpf_htons(address & 0xffff) };

	if (address == 0xffffffff)
		return deliver_to_all(skb);
	if (address >> 28 == 14)
		return deliver(skb, group, PACKET_MULTICAST);
	set_ipv4(&key, to);
	entry = bpf_map_lookup_elem(&addresses, &key);
	if (dhcp) {
		int recipient = dhcp_recipient(skb, f->l3, entry, &cfg->parent);

		if (recipient == HOST)
			return PASS;
		if (recipient == NEWCOMER && (entry || !is_host(&key)))
			return deliver_to_all(skb);
	}
	return deliver_to_entry(skb, cfg, entry);
}

/*
 * A group's packet gets its group MAC (RFC 2464 7). A solicitation for an address that nobody
 * here is known to have goes to all, as in ingress_arp(): to the MAC of its solicited-node
 * group (RFC 4291 2.7.1). That is a neighbour's question whether a guest that has not spoken
 * yet is still there.
 */
static __always_inline int ingress_ipv6(struct __sk_buff *skb, struct frame *f,
					const struct config *cfg, struct in6_addr *to)
{
	__u16 group[] = { 0x3333, to->s6_addr16[6], to->s6_addr16[7] };
	__u16 solicited[] = { 0x3333, bpf_htons(0xff00 | to->s6_addr[13]), to->s6_addr16[7] };
	struct key key = { .vlan = f->vlan };
	struct entry *entry;

	if ((to->s6_addr32[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000))
		return deliver(skb, group, PACKET_MULTICAST);
	set_ipv6(&key, to);
	entry = bpf_map_lookup_elem(&addresses, &key);
	if (!entry && is_solicitation(skb, f->l3) && !is_host(&key))
		return deliver(skb, solicited, PACKET_MULTICAST);
	return deliver_to_entry(skb, cfg, entry);
}

static __always_inline int handle_from_uplink(struct __sk_buff *skb)
{
	struct config *cfg = configuration();
	bool to_us, from_us;
	struct ipv6hdr *ip6;
	struct ethhdr *eth;
	struct iphdr *ip;
	struct frame f;
	struct in6_addr to;
	void *end;

	if (skb->tc_index == MARK_FROM_GUEST) { /* and for the host: see host_access.h */
		skb->tc_index = 0;
		return PASS;
	}
	pull(skb, HEADERS);
	if (!cfg || !parse_ethernet(skb, &f))
		return PASS;
	eth = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if ((void *)(eth + 1) > end)
		return PASS;
	to_us = same((__u16 *)eth->h_dest, cfg->parent.w);
	from_us = same((__u16 *)eth->h_source, cfg->parent.w);
	/* A guest's, which the LAN sends back: the host has not heard it when it left. */
	if (from_us && configures(skb, f.proto, f.l3))
		return drop_echo();
	if (f.proto == bpf_htons(ETH_P_ARP))
		return ingress_arp(skb, &f, cfg, to_us, from_us);
	ip = (void *)eth + f.l3;
	ip6 = (void *)eth + f.l3;
	if (f.proto == bpf_htons(ETH_P_IP)) {
		if (!to_us || (void *)(ip + 1) > end || ip->version != 4)
			return PASS;
		return ingress_ipv4(skb, &f, cfg, ip->daddr, may_be_dhcp_reply(ip, end));
	}
	if (f.proto != bpf_htons(ETH_P_IPV6) || (void *)(ip6 + 1) > end || ip6->version != 6)
		return PASS;
	to = ip6->daddr;
	if (ip6->nexthdr == IPPROTO_ICMPV6 && is_nd_echo(skb, f.l3, &cfg->parent, from_us))
		return drop_echo();
	return to_us ? ingress_ipv6(skb, &f, cfg, &to) : PASS;
}
