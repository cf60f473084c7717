/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * from_guest: the guards take each frame that a guest sends, and learn its addresses.
 */
#pragma once

#include <linux/ip.h>
#include "arp.h"
#include "ndp.h"

static __always_inline int check_ipv4(struct __sk_buff *skb, struct frame *f, struct claim *c)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, f->l3, &ip, sizeof(ip)) || ip.version != 4)
		return PASS;
	set_ipv4(&c->key, ip.saddr);
	return claim_address(c);
}

static __always_inline int check_ipv6(struct __sk_buff *skb, struct frame *f, struct claim *c,
				      struct table *table)
{
	struct ipv6hdr ip;
	int verdict, at;

	if (bpf_skb_load_bytes(skb, f->l3, &ip, sizeof(ip)) || ip.version != 6)
		return PASS;
	set_ipv6(&c->key, &ip.saddr);
	verdict = claim_address(c);
	if (verdict != PASS || !leads_to_nd(ip.nexthdr))
		return verdict;
	at = find_nd(skb, f->l3, ip.nexthdr);
	if (at < 0)
		return refuse(c, table, MALFORMED, 0);
	return at ? check_nd(skb, at, c, table) : PASS;
}

static __always_inline bool is_uplink_mac(const struct mac *mac)
{
	struct config *cfg = configuration();

	return cfg && same(mac->w, cfg->parent.w);
}

/* The first frame of an ipvtap's guest says its MAC. The uplink's own it may not have. */
static __always_inline bool is_initial_mac(struct claim *c, const struct mac *guest)
{
	struct config *cfg = configuration();

	return cfg && cfg->kind == IPVTAP && is_zero(guest->w) && !is_zero(c->mac.w) &&
	       !is_group(c->mac.w) && !is_uplink_mac(&c->mac);
}

/* Check all that the fast path did not. A device that user space did not announce has no voice:
 * nobody guards it. */
static __noinline int check_frame(struct __sk_buff *skb, struct frame *f)
{
	struct claim c = { .ifindex = skb->ifindex, .key.vlan = f->vlan };
	struct table *table = bpf_map_lookup_elem(&tables, &c.ifindex);
	struct mac *guest = bpf_map_lookup_elem(&guests, &c.ifindex);
	struct ethhdr eth;

	if (!guest || !table || bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return DROP;
	c.now = bpf_ktime_get_coarse_ns();
	__builtin_memcpy(c.mac.w, eth.h_source, ETH_ALEN);
	if (is_initial_mac(&c, guest)) {
		/* In one piece: other CPUs and user space read it. */
		*(__u64 *)guest = *(__u64 *)&c.mac;
		report(&c, table, &c.key, MAC_LEARNED, 0);
	}
	c.learn = !is_zero(guest->w);
	if (c.learn ? !same(c.mac.w, guest->w) : is_uplink_mac(&c.mac))
		return refuse(&c, table, WRONG_MAC, 0);
	/* Linux strips any number of priority tags (__netif_receive_skb_core()), so tags within
	 * tags would carry anything past the guards. */
	if (f->stacked)
		return refuse(&c, table, MALFORMED, 0);
	if (f->proto == bpf_htons(ETH_P_IP))
		return check_ipv4(skb, f, &c);
	if (f->proto == bpf_htons(ETH_P_IPV6))
		return check_ipv6(skb, f, &c, table);
	if (is_link_control(&eth, f->proto))
		return refuse(&c, table, LINK_CONTROL, 0);
	if (f->proto == bpf_htons(ETH_P_ARP))
		return check_arp(skb, f, &c, table);
	return is_snap(skb, f) ? refuse(&c, table, MALFORMED, 0) : PASS;
}

/* Whether this guest's frame from this address was seen and noted a moment ago. */
static __always_inline bool is_fresh(struct __sk_buff *skb, const __u16 *source, struct key *key)
{
	struct entry *entry = bpf_map_lookup_elem(&addresses, key);

	return entry && entry->ifindex == skb->ifindex && same(entry->mac.w, source) &&
	       bpf_jiffies64() < entry->fresh_until;
}

static __always_inline int judge(struct __sk_buff *skb)
{
	struct key key = {};
	struct frame f;
	struct ipv6hdr *ip6;
	struct ethhdr *eth;
	struct iphdr *ip;
	void *end;

	pull(skb, HEADERS);
	if (!parse_ethernet(skb, &f))
		return DROP;
	eth = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	key.vlan = f.vlan;
	ip = (void *)eth + f.l3;
	ip6 = (void *)eth + f.l3;
	if (f.proto == bpf_htons(ETH_P_IP) && (void *)(ip + 1) <= end && ip->version == 4) {
		set_ipv4(&key, ip->saddr);
	} else if (f.proto == bpf_htons(ETH_P_IPV6) && (void *)(ip6 + 1) <= end &&
		   ip6->version == 6 && !leads_to_nd(ip6->nexthdr)) {
		set_ipv6(&key, &ip6->saddr);
	} else {
		return check_frame(skb, &f);
	}
	if ((void *)(eth + 1) <= end && is_fresh(skb, (__u16 *)eth->h_source, &key))
		return PASS;
	return check_frame(skb, &f);
}

/*
 * What passes is marked, and only that reaches the host. Where MAC NAT is off, the LAN gets what is
 * refused as well, without the mark; but not at the uplink's own MAC, by which uplink_egress knows
 * the host's frames.
 */
static __always_inline int handle_from_guest(struct __sk_buff *skb)
{
	int verdict = judge(skb);
	struct config *cfg;
	struct ethhdr eth;

	skb->tc_index = verdict == PASS ? MARK_PASSED : 0;
	if (verdict == PASS)
		return PASS;
	cfg = configuration();
	if (!cfg || !cfg->observe || bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return DROP;
	return same((__u16 *)eth.h_source, cfg->parent.w) ? DROP : PASS;
}
