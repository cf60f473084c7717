/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A checksum that the kernel is still to write (CHECKSUM_PARTIAL), late, and where a guest's virtio
 * header says (virtio_net_hdr_to_skb()). Anywhere else than in a transport header it would change
 * what the guards have read. Where it goes is not visible to tc programs; helpers tell.
 */
#pragma once

#include <linux/errno.h>
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ipv6.h>
#include <bpf/bpf_helpers.h>
#include "ipv6.h"
#include "maps.h"

/* CHECKSUM_NONE becomes UNNECESSARY and NONE again, PARTIAL and COMPLETE stay as they are; and
 * only COMPLETE, which no tap has, takes an update (net/core/filter.c: bpf_csum_level()). */
static __always_inline bool checksum_pending(struct __sk_buff *skb)
{
	bpf_csum_level(skb, BPF_CSUM_LEVEL_INC);
	if (bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0) {
		bpf_csum_level(skb, BPF_CSUM_LEVEL_DEC);
		return false;
	}
	return bpf_csum_update(skb, 0) < 0;
}

/*
 * Whether the headers up to the transport header at l4 stay as they are.
 *
 * No helper cuts a frame before its checksum: up to 6.18 that is where it ends, later where it
 * begins to sum (net/core/filter.c: __bpf_skb_min_len()). So that these cannot be cut off is what
 * is right; a frame that was cut must be dropped. Up to 6.18 a sum may stand in the last two bytes
 * before l4, of the destination or of options, which no guard reads. Pointers to the frame are
 * invalid afterwards.
 */
static __always_inline bool keeps_headers(struct __sk_buff *skb, __u32 l4)
{
	return !checksum_pending(skb) || bpf_skb_change_tail(skb, l4 - 1, 0) == -EINVAL;
}

/*
 * The same for IPv6, which may have extension headers. ICMPv6 whose checksum is pending no guest
 * sends, nor fragments: the sum is over all of them.
 */
__noinline int keeps_ipv6_headers(struct __sk_buff *skb, __u32 l3, __u8 next)
{
	__u32 at = l3 + sizeof(struct ipv6hdr);
	__u8 head[2];

	if (!checksum_pending(skb))
		return true;
	for (int i = 0; i < EXTENSION_HEADERS; i++) {
		if (!leads_to_nd(next))
			return keeps_headers(skb, at);
		if (next == IPPROTO_ICMPV6 || next == IPPROTO_FRAGMENT ||
		    bpf_skb_load_bytes(skb, at, head, sizeof(head)))
			return false;
		at += (head[1] + 1) * 8;
		next = head[0];
	}
	return false;
}

/*
 * Whether what stands behind `end` stays as it is: it is taken off, and put back. From 7.2 at the
 * latest a checksum there is then pending no more.
 */
static __noinline bool keeps_payload(struct __sk_buff *skb, __u32 end)
{
	struct payload *payload = value_of(payloads);
	__u32 length = skb->len, rest = length - end;

	if (!checksum_pending(skb))
		return true;
	if (!payload || skb->gso_size || !rest || rest > sizeof(payload->octets) ||
	    bpf_skb_load_bytes(skb, end, payload->octets, rest))
		return false;
	return !bpf_skb_change_tail(skb, end, 0) && !bpf_skb_change_tail(skb, length, 0) &&
	       !bpf_skb_store_bytes(skb, end, payload->octets, rest, 0);
}
