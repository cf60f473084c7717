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
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include "ipv6.h"
#include "maps.h"

#define CHECKSUM_PARTIAL 3

/* The kernel's own, of which this is all that is needed. */
struct sk_buff {
	__u8 ip_summed : 2;
} __attribute__((preserve_access_index));

/* In Linux 6.2 and later, and no call there: the verifier makes a move of it. */
extern void *bpf_cast_to_kern_ctx(void *context) __ksym __weak;

/* checksum_pending() without the calls, of which each packet would have three. An interpreter runs
 * no program that has this. */
static __always_inline bool checksum_pending_jit(struct __sk_buff *skb)
{
	struct sk_buff *kernels = bpf_cast_to_kern_ctx(skb);

	return BPF_CORE_READ_BITFIELD(kernels, ip_summed) == CHECKSUM_PARTIAL;
}

/*
 * Whether a checksum is still to be written. CHECKSUM_NONE becomes UNNECESSARY and NONE again, PARTIAL
 * and COMPLETE stay as they are (net/core/filter.c: bpf_csum_level()), and only COMPLETE, which comes
 * from no tap, takes an update.
 */
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
static __always_inline bool keeps_headers(struct __sk_buff *skb, __u32 l4, bool pending)
{
	return !pending || bpf_skb_change_tail(skb, l4 - 1, 0) == -EINVAL;
}

/*
 * The same for IPv6, which may have extension headers. ICMPv6 whose checksum is pending no guest
 * sends, nor fragments: the sum is over all of them.
 */
static __always_inline bool keeps_ipv6_headers(struct __sk_buff *skb, __u32 l3, __u8 next)
{
	struct l4 l4 = {};

	if (!checksum_pending(skb))
		return true;
	if (find_l4(skb, l3, next, &l4) || l4.fragment || l4.protocol == IPPROTO_FRAGMENT ||
	    l4.protocol == IPPROTO_ICMPV6)
		return false;
	return keeps_headers(skb, l4.at, true);
}

/*
 * Whether what stands behind `end` stays as it is: it is taken off, and put back. From 7.2 at the
 * latest a checksum there is then pending no more.
 */
static __noinline bool keeps_payload(struct __sk_buff *skb, __u32 end)
{
	struct payload *payload = value_of(payloads);
	__u32 length = skb->len, rest = length - end - 1;

	if (!checksum_pending(skb))
		return true;
	if (!payload || skb->gso_size || rest >= sizeof(payload->octets))
		return false;
	barrier_var(rest); /* up to 6.1 at least the verifier knows the bounds of this only */
	rest = (rest & (sizeof(payload->octets) - 1)) + 1;
	if (bpf_skb_load_bytes(skb, end, payload->octets, rest))
		return false;
	return !bpf_skb_change_tail(skb, end, 0) && !bpf_skb_change_tail(skb, length, 0) &&
	       !bpf_skb_store_bytes(skb, end, payload->octets, rest, 0);
}
