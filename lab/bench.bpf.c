// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * For benchmarks/macnat_programs.py: each program on the same frame again in each repetition,
 * whose addresses are in cb[0] to cb[2] and its mark in cb[3]. bench_nothing is what that costs.
 */
#include <linux/if_packet.h>
#include "from_guest.h"
#include "from_uplink.h"
#include "host_access.h"
#include "to_sibling.h"
#include "to_uplink.h"
#include "trace.h"

static __always_inline void again(struct __sk_buff *skb)
{
	__u32 addresses[] = { skb->cb[0], skb->cb[1], skb->cb[2] };

	bpf_skb_store_bytes(skb, 0, addresses, sizeof(addresses), 0);
	bpf_skb_change_type(skb, PACKET_HOST);
}

SEC("tc")
int bench_nothing(struct __sk_buff *skb)
{
	again(skb);
	return PASS;
}

#define BENCH(name, number, handle)                                            \
	SEC("tc")                                                              \
	int bench_##name(struct __sk_buff *skb)                                \
	{                                                                      \
		int verdict;                                                   \
                                                                               \
		skb->tc_index = skb->cb[3];                                    \
		trace(skb, number);                                            \
		verdict = traced(skb, number, handle(skb));                    \
		again(skb);                                                    \
		return verdict;                                                \
	}

BENCH(from_guest, FROM_GUEST, handle_from_guest_jit)
BENCH(to_uplink, TO_UPLINK, handle_to_uplink)
BENCH(from_uplink, FROM_UPLINK, handle_from_uplink)
BENCH(to_sibling, TO_SIBLING, handle_to_sibling)
BENCH(uplink_egress, UPLINK_EGRESS, handle_uplink_egress)
BENCH(to_host, TO_HOST, handle_to_host)

char _license[] SEC("license") = "GPL";
