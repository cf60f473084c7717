/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * IPv6: the walk through its extension headers, to neighbour discovery.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ipv6.h>
#include <bpf/bpf_helpers.h>

/* Nobody sends more; a packet that has more is dropped. */
#define EXTENSION_HEADERS 8

#define ND_ROUTER_SOLICIT 133
#define ND_ROUTER_ADVERT 134
#define ND_NEIGHBOUR_SOLICIT 135
#define ND_NEIGHBOUR_ADVERT 136
#define ND_REDIRECT 137

/* Whether ND, or headers behind which it can stand, comes next. */
static __always_inline bool leads_to_nd(__u8 next)
{
	return next == IPPROTO_ICMPV6 || next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING ||
	       next == IPPROTO_FRAGMENT || next == IPPROTO_DSTOPTS;
}

/*
 * Offset of the neighbour discovery message in an IPv6 packet. 0: it is something else, or the
 * later part of a fragmented packet. Negative: cannot be told, or ND in a fragment, which
 * receivers must ignore (RFC 6980) and which might hide the rest of itself. Behind ESP, AH or
 * mobility headers nothing is looked for: a receiver without that association drops it.
 */
__noinline int find_nd(struct __sk_buff *skb, __u32 l3, __u8 next)
{
	__u32 at = l3 + sizeof(struct ipv6hdr);
	bool fragment = false;
	__u8 head[4];

	for (int i = 0; i < EXTENSION_HEADERS; i++) {
		if (next == IPPROTO_ICMPV6) {
			if (bpf_skb_load_bytes(skb, at, head, 1))
				return -1;
			if (head[0] < ND_ROUTER_SOLICIT || head[0] > ND_REDIRECT)
				return 0;
			return fragment ? -1 : (int)at;
		}
		if (!leads_to_nd(next))
			return 0;
		if (bpf_skb_load_bytes(skb, at, head, sizeof(head)))
			return -1;
		if (next == IPPROTO_FRAGMENT) {
			if (head[2] | (head[3] & 0xf8))
				return 0;
			fragment = true;
			at += 8;
		} else {
			at += (head[1] + 1) * 8;
		}
		next = head[0];
	}
	return -1;
}
