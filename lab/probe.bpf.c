// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The programs, with what BPF_PROG_TEST_RUN neither sets nor shows: a VLAN tag beside the frame,
 * pkt_type, tc_index, and where a redirected frame goes. It also takes no short IP packet (since
 * 6.17), so a frame comes padded.
 *
 * In: cb[0] is a TCI + 0x10000 or 0, cb[1] a pkt_type, cb[2] a tc_index, cb[3] the length without
 * padding.
 * Out: cb[0] is the tc_index, cb[1] the pkt_type, cb[2] a TCI + 0x10000 or 0, cb[3] and cb[4] the
 * flags and the ifindex of the last bpf_redirect(), or 0.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

static __always_inline long noted_redirect(struct __sk_buff *skb, __u32 ifindex, __u64 flags)
{
	skb->cb[3] = flags;
	skb->cb[4] = ifindex;
	return bpf_redirect(ifindex, flags);
}

/* Wherever the programs call it, their packet is called skb. */
#define bpf_redirect(ifindex, flags) noted_redirect(skb, ifindex, flags)
#include "from_guest.h"
#include "from_uplink.h"
#include "host_access.h"
#include "to_sibling.h"
#include "to_uplink.h"
#include "trace.h"

static __always_inline void prepare(struct __sk_buff *skb)
{
	if (skb->cb[3] < skb->len)
		bpf_skb_change_tail(skb, skb->cb[3], 0);
	if (skb->cb[0])
		bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), skb->cb[0] & 0xffff);
	bpf_skb_change_type(skb, skb->cb[1]);
	skb->tc_index = skb->cb[2];
	skb->cb[3] = 0;
	skb->cb[4] = 0;
}

static __always_inline int observe(struct __sk_buff *skb, int verdict)
{
	skb->cb[0] = skb->tc_index;
	skb->cb[1] = skb->pkt_type;
	skb->cb[2] = skb->vlan_present ? 0x10000 + skb->vlan_tci : 0;
	return verdict;
}

#define PROBE(name, number, handle)                                            \
	SEC("tc")                                                              \
	int probe_##name(struct __sk_buff *skb)                                \
	{                                                                      \
		prepare(skb);                                                  \
		trace(skb, number);                                            \
		return observe(skb, traced(skb, number, handle(skb)));         \
	}

PROBE(from_guest, FROM_GUEST, handle_from_guest)
PROBE(to_uplink, TO_UPLINK, handle_to_uplink)
PROBE(from_uplink, FROM_UPLINK, handle_from_uplink)
PROBE(to_sibling, TO_SIBLING, handle_to_sibling)
PROBE(to_host, TO_HOST, handle_to_host)
PROBE(uplink_egress, UPLINK_EGRESS, handle_uplink_egress)

char _license[] SEC("license") = "GPL";
