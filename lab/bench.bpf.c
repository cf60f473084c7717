// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * For benchmarks/macnat_programs.py: each program on the same frame again in each repetition,
 * whose addresses are in cb[0] to cb[2]. bench_nothing is what that costs.
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
		trace(skb, number);                                            \
		verdict = traced(skb, number, handle(skb));                    \
		again(skb);                                                    \
		skb->tc_index = 0;                                             \
		return verdict;                                                \
	}

BENCH(learn, LEARN, learn_frame)
BENCH(up, UP, raise_frame)
BENCH(down, DOWN, lower_frame)
BENCH(across, ACROSS, cross_frame)
BENCH(meet, MEET, meet_frame)
BENCH(call, CALL, call_frame)

char _license[] SEC("license") = "GPL";
