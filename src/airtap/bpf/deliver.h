/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Delivery: what comes in at the uplink's MAC gets the MAC of whom it is for.
 */
#pragma once

#include <linux/if_packet.h>
#include "ethernet.h"
#include "maps.h"

static __always_inline int drop_echo(void)
{
	struct statistics *s = value_of(statistics);

	if (s)
		__sync_fetch_and_add(&s->echoes, 1);
	return DROP;
}

/*
 * Readdress the frame. type: PACKET_OTHERHOST for a guest's, so that the host's stack will not
 * forward it when its device is gone (a macvlan makes it PACKET_HOST on delivery).
 */
static __always_inline int deliver(struct __sk_buff *skb, const __u16 *mac, __u32 type)
{
	__u16 *to = (void *)(long)skb->data;

	if ((void *)(to + 3) > (void *)(long)skb->data_end)
		return DROP;
	to[0] = mac[0];
	to[1] = mac[1];
	to[2] = mac[2];
	if (skb->pkt_type != type)
		bpf_skb_change_type(skb, type);
	return PASS;
}

static __always_inline int deliver_to_all(struct __sk_buff *skb)
{
	const __u16 broadcast[] = { 0xffff, 0xffff, 0xffff };

	return deliver(skb, broadcast, PACKET_BROADCAST);
}

static __always_inline int deliver_to_guest(struct __sk_buff *skb, const struct config *cfg,
					    const struct mac *mac, __u32 ifindex)
{
	if (deliver(skb, mac->w, PACKET_OTHERHOST) == DROP)
		return DROP;
	return cfg->kind == IPVTAP ? bpf_redirect(ifindex, BPF_F_INGRESS) : PASS;
}

static __always_inline int deliver_to_entry(struct __sk_buff *skb, const struct config *cfg,
					    const struct entry *entry)
{
	if (!entry)
		return PASS;
	return entry->ifindex ? deliver_to_guest(skb, cfg, &entry->mac, entry->ifindex) :
				deliver_to_all(skb);
}
