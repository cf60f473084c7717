// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The programs, with what BPF_PROG_TEST_RUN neither sets nor shows: a VLAN tag beside the frame,
 * and pkt_type. It also takes no short IP packet (since 6.17), so a frame comes padded.
 *
 * In: cb[0] is a TCI + 0x10000 or 0, cb[1] a pkt_type, cb[3] the length without padding. Out: cb[1] is the pkt_type, cb[2] a TCI +
 * 0x10000 or 0.
 */
#include "macnat.bpf.c"

static __always_inline void prepare(struct __sk_buff *skb)
{
	if (skb->cb[3] < skb->len)
		bpf_skb_change_tail(skb, skb->cb[3], 0);
	if (skb->cb[0])
		bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), skb->cb[0] & 0xffff);
	bpf_skb_change_type(skb, skb->cb[1]);
}

static __always_inline int observe(struct __sk_buff *skb, int verdict)
{
	skb->cb[1] = skb->pkt_type;
	skb->cb[2] = skb->vlan_present ? 0x10000 + skb->vlan_tci : 0;
	return verdict;
}

SEC("tc")
int probe_learn(struct __sk_buff *skb)
{
	prepare(skb);
	return observe(skb, learn_frame(skb));
}

SEC("tc")
int probe_up(struct __sk_buff *skb)
{
	prepare(skb);
	return observe(skb, raise_frame(skb));
}

SEC("tc")
int probe_down(struct __sk_buff *skb)
{
	prepare(skb);
	return observe(skb, lower_frame(skb));
}

/* For benchmarks/macnat_programs.py: the same frame again in each repetition, whose addresses are
 * in cb[0] to cb[2]. bench_nothing is what that costs. */
static __always_inline int again(struct __sk_buff *skb)
{
	__u32 addresses[] = { skb->cb[0], skb->cb[1], skb->cb[2] };

	bpf_skb_store_bytes(skb, 0, addresses, sizeof(addresses), 0);
	bpf_skb_change_type(skb, PACKET_HOST);
	return PASS;
}

SEC("tc")
int bench_nothing(struct __sk_buff *skb)
{
	return again(skb);
}

SEC("tc")
int bench_learn(struct __sk_buff *skb)
{
	return learn_frame(skb) + again(skb) - PASS;
}

SEC("tc")
int bench_up(struct __sk_buff *skb)
{
	return raise_frame(skb) + again(skb) - PASS;
}

SEC("tc")
int bench_down(struct __sk_buff *skb)
{
	return lower_frame(skb) + again(skb) - PASS;
}
