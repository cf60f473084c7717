/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ethernet: MACs, tags, what speaks for the link itself, and what one program tells the next.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

/*
 * What one program tells the next of a frame, in skb->tc_index: an ipvlan keeps that where it
 * clears the mark (drivers/net/ipvlan: ipvlan_skb_crossing_ns). No guest can write it, as frames
 * begin without (net/core/skbuff.c: __alloc_skb), and none bears it on the wire.
 *
 * MARK_PASSED      from_guest has let it pass; on the way up. An earlier version marked what it
 *                  refused, by 0x6170.
 * MARK_FROM_GUEST  a guest's, and what there is to do for the host is done: at the uplink it is
 *                  neither the host's own nor the LAN's.
 */
#define MARK_FROM_GUEST 0x6169
#define MARK_PASSED 0x6171

/* Ethernet, one tag, IPv6: what the fast paths read. */
#define HEADERS (ETH_HLEN + 4 + sizeof(struct ipv6hdr))

#define ETH_P_RSN_PREAUTH 0x88C7
#define ETH_P_WAPI 0x88B4
#define ETH_P_TDLS_FRAMES 0x890D

struct frame {
	__u16 proto; /* network order, of what stands behind the tag */
	__u16 vlan;
	__u32 l3;
	bool stacked; /* tags within tags */
};

static __always_inline bool same(const __u16 *a, const __u16 *b)
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]));
}

static __always_inline bool is_zero(const __u16 *mac)
{
	return !(mac[0] | mac[1] | mac[2]);
}

static __always_inline bool is_group(const __u16 *mac)
{
	return mac[0] & bpf_htons(0x0100);
}

static __always_inline bool is_tag(__u16 proto)
{
	return proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD);
}

/* All that the host hears of its guests. */
static __always_inline bool is_of_ip(__u16 proto)
{
	return proto == bpf_htons(ETH_P_IP) || proto == bpf_htons(ETH_P_IPV6) ||
	       proto == bpf_htons(ETH_P_ARP);
}

/* Make the headers linear where a driver or tap left them in fragments. */
static __always_inline void pull(struct __sk_buff *skb, __u32 size)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (data + size <= end)
		return;
	if (end - data < skb->len)
		bpf_skb_pull_data(skb, size < skb->len ? size : skb->len);
}

/* What stands behind Ethernet and one tag, which may be in the frame or, since the driver or
 * __netif_receive_skb_core() took it off, beside it. False: shorter than an Ethernet header. */
static __always_inline bool parse_ethernet(struct __sk_buff *skb, struct frame *f)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	__be16 *tag = data + ETH_HLEN;

	if ((void *)(eth + 1) > end)
		return false;
	f->proto = eth->h_proto;
	f->l3 = ETH_HLEN;
	f->vlan = 0;
	f->stacked = false;
	if (skb->vlan_present)
		f->vlan = skb->vlan_tci & 0xfff;
	if (!is_tag(f->proto))
		return true;
	f->proto = 0;
	f->stacked = skb->vlan_present;
	if ((void *)(tag + 2) > end || f->stacked)
		return true;
	f->l3 = ETH_HLEN + 4;
	f->vlan = bpf_ntohs(tag[0]) & 0xfff;
	f->stacked = is_tag(tag[1]);
	if (!f->stacked)
		f->proto = tag[1];
	return true;
}

/* Frames that speak for the station or port itself, to the access point or switch: with the
 * uplink's MAC a guest's EAPOL-Logoff, TDLS or BPDU would be the host's. None of it is IP. */
static __always_inline bool is_link_control(const struct ethhdr *eth, __u16 proto)
{
	const __u8 *to = eth->h_dest;

	if (to[0] == 0x01 && to[1] == 0x80 && to[2] == 0xc2 && !(to[3] | to[4] | (to[5] & 0xf0)))
		return true;
	return proto == bpf_htons(ETH_P_PAE) || proto == bpf_htons(ETH_P_RSN_PREAUTH) ||
	       proto == bpf_htons(ETH_P_WAPI) || proto == bpf_htons(ETH_P_TDLS_FRAMES);
}

/*
 * Whether an IEEE 802.3 frame, which has a length in place of the ethertype, names an ethertype in a
 * SNAP header. On Wi-Fi that is the header of every frame: a driver adds none to this one
 * (net/mac80211/tx.c: ieee80211_build_hdr), and the access point makes Ethernet of it, so that it
 * would carry anything past the guards. Nothing that a guest needs looks like that.
 */
static __always_inline bool is_snap(struct __sk_buff *skb, struct frame *f)
{
	__u8 llc[3];

	return bpf_ntohs(f->proto) < ETH_P_802_3_MIN &&
	       !bpf_skb_load_bytes(skb, f->l3, llc, sizeof(llc)) &&
	       llc[0] == 0xaa && llc[1] == 0xaa && llc[2] == 0x03;
}
