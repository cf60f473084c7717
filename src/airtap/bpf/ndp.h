/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Neighbour discovery: what a guest says in it, and the MACs in it on the way out; echoes of it.
 */
#pragma once

#include <linux/icmpv6.h>
#include "addresses.h"
#include "ipv6.h"

/* Nobody sends more; a message that has more is dropped. */
#define ND_OPTIONS 64

#define ND_OPT_SOURCE_LL 1
#define ND_OPT_TARGET_LL 2

/* An advertisement claims its target. A solicitation asks for one, from nobody's address to detect
 * a duplicate. c->key is the packet's source. */
static __always_inline int check_nd(struct __sk_buff *skb, __u32 at, struct claim *c,
				    struct table *table)
{
	struct {
		struct icmp6hdr icmp;
		struct in6_addr target;
	} nd;
	bool claims;

	if (bpf_skb_load_bytes(skb, at, &nd.icmp, sizeof(nd.icmp)))
		return refuse(c, table, MALFORMED, 0);
	claims = nd.icmp.icmp6_type == ND_NEIGHBOUR_ADVERT;
	if (!claims && (nd.icmp.icmp6_type != ND_NEIGHBOUR_SOLICIT || !is_unassignable(&c->key)))
		return PASS;
	if (bpf_skb_load_bytes(skb, at + sizeof(nd.icmp), &nd.target, sizeof(nd.target)))
		return claims ? refuse(c, table, MALFORMED, 0) : PASS;
	set_ipv6(&c->key, &nd.target);
	return claims ? claim_address(c) : note_probe(c, table);
}

static __always_inline __u32 nd_options(__u8 type)
{
	switch (type) {
	case ND_ROUTER_SOLICIT:
		return 8;
	case ND_ROUTER_ADVERT:
		return 16;
	case ND_REDIRECT:
		return 40;
	default:
		return 24;
	}
}

/* Put the uplink's MAC into one link-layer address option, and the change into the checksum. */
static __always_inline int egress_nd_option(struct __sk_buff *skb, __u32 nd, __u32 at,
					    const __u16 *old, const struct mac *parent)
{
	__u16 from[4] = { old[0], old[1], old[2], 0 };
	__u16 to[4] = { parent->w[0], parent->w[1], parent->w[2], 0 };
	__s64 change = bpf_csum_diff((__be32 *)from, sizeof(from), (__be32 *)to, sizeof(to), 0);

	if (change < 0 || bpf_skb_store_bytes(skb, at + 2, to, ETH_ALEN, 0))
		return -1;
	return bpf_l4_csum_replace(skb, nd + offsetof(struct icmp6hdr, icmp6_cksum), 0, change, 0);
}

static __noinline int egress_nd(struct __sk_buff *skb, __u32 l3, const struct mac *parent)
{
	struct {
		__u8 type, length;
		__u16 address[3];
	} option;
	struct ipv6hdr ip;
	__u32 at, end;
	__u8 type;
	int nd;

	if (bpf_skb_load_bytes(skb, l3, &ip, sizeof(ip)) || ip.version != 6)
		return 0;
	nd = find_nd(skb, l3, ip.nexthdr);
	if (nd <= 0)
		return nd;
	end = l3 + sizeof(ip) + bpf_ntohs(ip.payload_len);
	if (end > skb->len || bpf_skb_load_bytes(skb, nd, &type, sizeof(type)))
		return -1;
	at = nd + nd_options(type);
	for (int i = 0; i <= ND_OPTIONS; i++) {
		if (at == end)
			return 0;
		if (at > end || bpf_skb_load_bytes(skb, at, &option, sizeof(option)))
			return -1;
		if (!option.length || at + option.length * 8 > end)
			return -1;
		if ((option.type == ND_OPT_SOURCE_LL || option.type == ND_OPT_TARGET_LL) &&
		    egress_nd_option(skb, nd, at, option.address, parent))
			return -1;
		at += option.length * 8;
	}
	return -1;
}

/*
 * Whether ND says that something is at the uplink's MAC, as ingress_arp() has it. A router that
 * redirects one guest to another says that, too, and the host would get what the guest then sends.
 */
static __noinline bool is_nd_echo(struct __sk_buff *skb, __u32 l3, const struct mac *parent,
				  bool from_us)
{
	struct {
		__u8 type, length;
		__u16 address[3];
	} option;
	__u32 at = l3 + sizeof(struct ipv6hdr);
	__u8 type;

	if (bpf_skb_load_bytes(skb, at, &type, sizeof(type)))
		return false;
	if (type != ND_NEIGHBOUR_SOLICIT && type != ND_NEIGHBOUR_ADVERT && type != ND_REDIRECT)
		return false;
	if (from_us)
		return true;
	return type != ND_NEIGHBOUR_SOLICIT &&
	       !bpf_skb_load_bytes(skb, at + nd_options(type), &option, sizeof(option)) &&
	       option.type == ND_OPT_TARGET_LL && same(option.address, parent->w);
}

/* Whether somebody asks for the MAC of an IPv6 address. */
static __noinline bool is_solicitation(struct __sk_buff *skb, __u32 l3)
{
	__u8 next, type;

	return !bpf_skb_load_bytes(skb, l3 + offsetof(struct ipv6hdr, nexthdr), &next, 1) &&
	       next == IPPROTO_ICMPV6 &&
	       !bpf_skb_load_bytes(skb, l3 + sizeof(struct ipv6hdr), &type, 1) &&
	       type == ND_NEIGHBOUR_SOLICIT;
}
