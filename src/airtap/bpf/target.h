/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The target of a frame: the address that it is for, in whichever protocol.
 */
#pragma once

#include <linux/ip.h>
#include "arp.h"

/* Whom a frame is for: key->address. False: it does not say so in a way that we understand. */
static __always_inline bool find_target(struct __sk_buff *skb, struct frame *f, struct key *key)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ip6 = data + f->l3;
	struct iphdr *ip = data + f->l3;
	struct arp arp;

	key->vlan = f->vlan;
	if (f->proto == bpf_htons(ETH_P_IP)) {
		if ((void *)(ip + 1) > end || ip->version != 4)
			return false;
		set_ipv4(key, ip->daddr);
		return true;
	}
	if (f->proto == bpf_htons(ETH_P_IPV6)) {
		if ((void *)(ip6 + 1) > end || ip6->version != 6)
			return false;
		set_ipv6(key, &ip6->daddr);
		return true;
	}
	if (f->proto != bpf_htons(ETH_P_ARP) ||
	    bpf_skb_load_bytes(skb, f->l3, &arp, sizeof(arp)) || !is_ethernet_ipv4(&arp))
		return false;
	set_ipv4(key, joined(arp.tpa));
	return true;
}
