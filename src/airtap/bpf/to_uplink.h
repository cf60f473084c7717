/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * to_uplink: what leaves gets the uplink's MAC, also inside ARP and ND; DHCP asks for broadcasts.
 */
#pragma once

#include "arp.h"
#include "dhcp_client.h"
#include "ndp.h"

static __always_inline int drop_malformed(void)
{
	struct statistics *s = value_of(statistics);

	if (s)
		__sync_fetch_and_add(&s->malformed, 1);
	return DROP;
}

static __always_inline int handle_to_uplink(struct __sk_buff *skb)
{
	enum { OTHER, ARP, DHCP, ND } kind = OTHER;
	struct config *cfg = configuration();
	struct ipv6hdr *ip6;
	struct iphdr *ip;
	struct ethhdr *eth;
	struct frame f;
	void *end;
	int failed;

	pull(skb, ETH_HLEN);
	eth = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (!cfg || (void *)(eth + 1) > end)
		return DROP;
	/* Without a MAC this is not set up yet. The host's own frames end here; none of them leaves
	 * by an ipvtap, where a guest may have the uplink's MAC. */
	if (is_zero(cfg->parent.w))
		return PASS;
	if (same((__u16 *)eth->h_source, cfg->parent.w) && cfg->kind != IPVTAP)
		return PASS;
	if (skb->tc_index == MARK_PASSED) /* where uplink_egress or to_host did not need it */
		skb->tc_index = 0;
	pull(skb, HEADERS);
	if (!parse_ethernet(skb, &f))
		return DROP;
	end = (void *)(long)skb->data_end;
	ip = (void *)(long)skb->data + f.l3;
	ip6 = (void *)ip;
	if (f.proto == bpf_htons(ETH_P_IP) && (void *)(ip + 1) <= end) {
		if (may_be_dhcp(ip, end))
			kind = DHCP;
	} else if (f.proto == bpf_htons(ETH_P_IPV6) && (void *)(ip6 + 1) <= end) {
		if (leads_to_nd(ip6->nexthdr))
			kind = ND;
	} else if (f.proto == bpf_htons(ETH_P_ARP)) {
		kind = ARP;
	}
	if (bpf_skb_store_bytes(skb, ETH_ALEN, cfg->parent.w, ETH_ALEN, 0))
		return DROP;
	if (kind == OTHER)
		return PASS;
	if (kind == ARP)
		failed = egress_arp(skb, f.l3, &cfg->parent);
	else if (kind == DHCP)
		failed = egress_dhcp(skb, f.l3, &cfg->parent);
	else
		failed = egress_nd(skb, f.l3, &cfg->parent);
	return failed ? drop_malformed() : PASS;
}
