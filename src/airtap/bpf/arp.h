/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ARP: what a guest says in it, and the MACs in it on the way out and in.
 */
#pragma once

#include "addresses.h"
#include "deliver.h"

struct arp {
	__be16 hrd, pro;
	__u8 hln, pln;
	__be16 op;
	__u16 sha[3];
	__be16 spa[2];
	__u16 tha[3];
	__be16 tpa[2];
};

static __always_inline __u32 joined(const __be16 *half)
{
	__u32 word;

	__builtin_memcpy(&word, half, sizeof(word));
	return word;
}

/* Hardware type 6 is IEEE 802, which Linux takes for Ethernet (net/ipv4/arp.c: arp_process). */
static __always_inline bool is_ethernet_ipv4(const struct arp *arp)
{
	return (arp->hrd == bpf_htons(1) || arp->hrd == bpf_htons(6)) &&
	       arp->pro == bpf_htons(ETH_P_IP) && arp->hln == ETH_ALEN && arp->pln == 4;
}

static __always_inline int check_arp(struct __sk_buff *skb, struct frame *f, struct claim *c,
				     struct table *table)
{
	struct arp arp;

	if (bpf_skb_load_bytes(skb, f->l3, &arp, sizeof(arp)))
		return refuse(c, table, MALFORMED, 0);
	if (!is_ethernet_ipv4(&arp))
		return PASS;
	set_ipv4(&c->key, joined(arp.spa));
	c->own = true;
	if (c->key.address[0])
		return claim_address(c);
	set_ipv4(&c->key, joined(arp.tpa));
	return note_probe(c, table);
}

static __always_inline int egress_arp(struct __sk_buff *skb, __u32 l3, const struct mac *parent)
{
	struct arp arp;

	if (bpf_skb_load_bytes(skb, l3, &arp, sizeof(arp)))
		return -1;
	if (!is_ethernet_ipv4(&arp))
		return 0;
	return bpf_skb_store_bytes(skb, l3 + offsetof(struct arp, sha), parent->w, ETH_ALEN, 0);
}

/*
 * ARP from the LAN. What comes of it:
 * - it says that something is at the uplink's own MAC: our own words, echoed or repeated by an
 *   access point that answers for its stations. A guest would see a conflict with its own
 *   address, or take the uplink's MAC for a sibling's: dropped
 * - sent to the uplink, for a guest's address: goes to that guest, with its MAC as target
 * - for an address of the host's: unchanged
 * - for an address that nobody here is known to have: to all. That is a broadcast that the access
 *   point turned into unicast (hostapd multicast_to_unicast does so to ARP too), or the answer
 *   to a probe, whose target is 0.0.0.0 (RFC 5227 2.1.1)
 */
static __noinline int ingress_arp(struct __sk_buff *skb, struct frame *f, const struct config *cfg,
				  bool to_us, bool from_us)
{
	struct key key = { .vlan = f->vlan };
	struct entry *entry;
	struct mac guest;
	struct arp arp;

	if (bpf_skb_load_bytes(skb, f->l3, &arp, sizeof(arp)) || !is_ethernet_ipv4(&arp))
		return PASS;
	if (from_us || same(arp.sha, cfg->parent.w))
		return drop_echo();
	if (!to_us)
		return PASS;
	set_ipv4(&key, joined(arp.tpa));
	entry = bpf_map_lookup_elem(&addresses, &key);
	if (!entry)
		return is_host(&key) ? PASS : deliver_to_all(skb);
	guest = entry->mac;
	if (entry->ifindex && same(arp.tha, cfg->parent.w) &&
	    bpf_skb_store_bytes(skb, f->l3 + offsetof(struct arp, tha), guest.w, ETH_ALEN,
				BPF_F_RECOMPUTE_CSUM))
		return DROP;
	return deliver_to_entry(skb, cfg, entry);
}
