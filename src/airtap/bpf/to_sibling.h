/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * to_sibling: what the guest of an ipvtap sends to another goes to that one.
 */
#pragma once

#include "target.h"

/* The ipvlan would give it to the host (drivers/net/ipvlan: ipvlan_xmit_mode_l2). */
static __always_inline int keep_from_host(void)
{
	note_handed(SAID_WITHHELD);
	return DROP;
}

/*
 * A guest takes the uplink's MAC for that of its siblings and of the host. What comes of a frame
 * that it sends there, after to_uplink, and that to_host has not taken to the host:
 * - ARP for an address that nobody here is known to have: to all, as ingress_arp() has it. The host
 *   would take it for an echo, and of a probe for a sibling's address this is the answer
 * - in mode vepa: leaves, and comes back from the switch
 * - for an address of a sibling's, or behind one: goes to it, or is dropped where siblings are private
 * - else, whatever it is: dropped, or the host would have it. Tagged frames among it, those of a
 *   guest whose MAC is not known yet, and all where there is no host access
 */
static __always_inline int handle_to_sibling(struct __sk_buff *skb)
{
	const __u16 broadcast[] = { 0xffff, 0xffff, 0xffff };
	struct config *cfg = configuration();
	struct entry *entry;
	struct key key = {};
	struct ethhdr *eth;
	struct frame f;
	struct mac mac = {};
	__u32 ifindex;
	bool is_arp;

	pull(skb, HEADERS);
	eth = (void *)(long)skb->data;
	if (!cfg || (void *)(eth + 1) > (void *)(long)skb->data_end)
		return DROP;
	if (!same((__u16 *)eth->h_dest, cfg->parent.w))
		return PASS;
	if (!parse_ethernet(skb, &f) || !find_target(skb, &f, &key))
		return cfg->mode == VEPA ? PASS : keep_from_host();
	is_arp = f.proto == bpf_htons(ETH_P_ARP);
	entry = bpf_map_lookup_elem(&addresses, &key);
	if (is_arp && !entry && !is_host(&key))
		return bpf_skb_store_bytes(skb, 0, broadcast, ETH_ALEN, 0) ? DROP : PASS;
	if (cfg->mode == VEPA)
		return PASS;
	if (!entry && !cfg->behind)
		return keep_from_host();
	ifindex = entry ? entry->ifindex : find_router(&key, &mac);
	if (entry)
		mac = entry->mac;
	if (!ifindex || ifindex == NOBODY || ifindex == skb->ifindex)
		return keep_from_host();
	if (cfg->mode == PRIVATE || bpf_skb_store_bytes(skb, 0, mac.w, ETH_ALEN, 0))
		return DROP;
	if (is_arp &&
	    bpf_skb_store_bytes(skb, f.l3 + offsetof(struct arp, tha), mac.w, ETH_ALEN, 0))
		return DROP;
	return bpf_redirect(ifindex, BPF_F_INGRESS);
}
