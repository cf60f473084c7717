/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * IPv6: the walk through its extension headers, to neighbour discovery and DHCPv6.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Nobody sends more; a packet that has more is dropped. */
#define EXTENSION_HEADERS 8

#define LEAST_HEADER 8 /* of extensions, UDP and ICMPv6 */

#define ND_ROUTER_SOLICIT 133
#define ND_ROUTER_ADVERT 134
#define ND_NEIGHBOUR_SOLICIT 135
#define ND_NEIGHBOUR_ADVERT 136
#define ND_REDIRECT 137

static __always_inline bool is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_FRAGMENT ||
	       next == IPPROTO_DSTOPTS;
}

/* Whether ND, or headers behind which it can stand, comes next. */
static __always_inline bool leads_to_nd(__u8 next)
{
	return next == IPPROTO_ICMPV6 || is_extension(next);
}

/* What an IPv6 packet carries. */
struct l4 {
	__u32 at;
	__u8 protocol; /* IPPROTO_FRAGMENT: the later part of a fragmented packet */
	bool fragment; /* the first part of one */
};

/*
 * Find what stands behind the extension headers. next: the first of them. Negative: cannot be told.
 * The first fragment has all headers (RFC 7112), or else Linux takes the rest from the next one
 * (net/ipv6/reassembly.c: ipv6frag_thdr_truncated()); what is behind the packet's end no receiver
 * sees. Behind ESP, AH or mobility headers nothing is looked for: a receiver without that
 * association drops it.
 */
__noinline int find_l4(struct __sk_buff *skb, __u32 l3, __u8 next, struct l4 *l4)
{
	__u32 at = l3 + sizeof(struct ipv6hdr), end;
	bool fragment = false;
	__be16 length;
	__u8 head[4];

	if (!l4 || bpf_skb_load_bytes(skb, l3 + offsetof(struct ipv6hdr, payload_len), &length,
				      sizeof(length)))
		return -1;
	end = length ? at + bpf_ntohs(length) : skb->len; /* none: ipv6_parse_hopopts() cuts it */
	for (int i = 0; i < EXTENSION_HEADERS; i++) {
		if ((fragment || is_extension(next)) && at + LEAST_HEADER > end)
			return -1;
		if (is_extension(next) && bpf_skb_load_bytes(skb, at, head, sizeof(head)))
			return -1;
		if (!is_extension(next) ||
		    (next == IPPROTO_FRAGMENT && (head[2] | (head[3] & 0xf8)))) {
			l4->at = at;
			l4->protocol = next;
			l4->fragment = fragment;
			return 0;
		}
		fragment |= next == IPPROTO_FRAGMENT;
		at += next == IPPROTO_FRAGMENT ? 8 : (head[1] + 1) * 8;
		next = head[0];
	}
	return -1;
}

static __always_inline bool is_nd(__u8 type)
{
	return type >= ND_ROUTER_SOLICIT && type <= ND_REDIRECT;
}

/*
 * Offset of the neighbour discovery message in an IPv6 packet. 0: it is something else, or the
 * later part of a fragmented packet. Negative: cannot be told, or ND in a fragment, which
 * receivers must ignore (RFC 6980) and which might hide the rest of itself.
 */
static __noinline int find_nd(struct __sk_buff *skb, __u32 l3, __u8 next)
{
	struct l4 l4 = {};
	__u8 type;

	if (find_l4(skb, l3, next, &l4))
		return -1;
	if (l4.protocol != IPPROTO_ICMPV6)
		return 0;
	if (bpf_skb_load_bytes(skb, l4.at, &type, sizeof(type)))
		return -1;
	if (!is_nd(type))
		return 0;
	return l4.fragment ? -1 : (int)l4.at;
}
