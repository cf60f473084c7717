// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * For benchmarks/macnat_programs.py: each program on the same frame again in each repetition,
 * whose addresses are in cb[0] to cb[2]. bench_nothing is what that costs.
 */
#include "macnat.bpf.c"

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

SEC("tc")
int bench_learn(struct __sk_buff *skb)
{
	int verdict;

	trace(skb, LEARN);
	verdict = traced(skb, LEARN, learn_frame(skb));
	again(skb);
	return verdict;
}

SEC("tc")
int bench_up(struct __sk_buff *skb)
{
	int verdict;

	trace(skb, UP);
	verdict = traced(skb, UP, raise_frame(skb));
	again(skb);
	return verdict;
}

SEC("tc")
int bench_down(struct __sk_buff *skb)
{
	int verdict;

	trace(skb, DOWN);
	verdict = traced(skb, DOWN, lower_frame(skb));
	again(skb);
	return verdict;
}

SEC("tc")
int bench_across(struct __sk_buff *skb)
{
	int verdict;

	trace(skb, ACROSS);
	verdict = traced(skb, ACROSS, cross_frame(skb));
	again(skb);
	return verdict;
}

SEC("tc")
int bench_meet(struct __sk_buff *skb)
{
	int verdict;

	trace(skb, MEET);
	verdict = traced(skb, MEET, meet_frame(skb));
	again(skb);
	return verdict;
}

SEC("tc")
int bench_call(struct __sk_buff *skb)
{
	int verdict;

	trace(skb, CALL);
	verdict = traced(skb, CALL, call_frame(skb));
	again(skb);
	skb->tc_index = 0;
	return verdict;
}
