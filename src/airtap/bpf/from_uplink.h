/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * from_uplink: what comes in at the uplink's MAC goes to the guest whose address it is for.
 */
#pragma once

#include "arp.h"
#include "configures.h"
#include "dhcp_client.h"

/*
 * What is for an address that nobody here is known to have, at the uplink's MAC: goes to the guest that
 * routes for it. Where that is not here, it is dropped: a host that forwards would take it to where it
 * came from, in the clear. Else it is the host's.
 */
static __noinline int deliver_to_router(struct __sk_buff *skb, const struct config *cfg,
					const struct key *key)
{
	struct mac mac = {};
	__u32 ifindex = find_router(key, &mac);

	if (!ifindex)
		return PASS;
	return ifindex == NOBODY ? DROP : deliver_to_guest(skb, cfg, &mac, ifindex);
}

/* An access point may send a group's packet to each station's own MAC: RFC 1112 6.4 backwards. */
static __always_inline int ingress_ipv4(struct __sk_buff *skb, struct frame *f,
					const struct config *cfg, __u32 to, bool dhcp)
{
	struct entry *entry;
	struct key key = { .vlan = f->vlan };
	__u32 address = bpf_ntohl(to);
	__u16 group[] = { bpf_htons(0x0100), bpf_htons(0x5e00 | (address >> 16 & 0x7f)),
			  bpf_htons(address & 0xffff) };

	if (address == 0xffffffff)
		return deliver_to_all(skb);
	if (address >> 28 == 14)
		return deliver(skb, group, PACKET_MULTICAST);
	set_ipv4(&key, to);
	entry = bpf_map_lookup_elem(&addresses, &key);
	if (dhcp) {
		int recipient = dhcp_recipient(skb, f->l3, entry, &cfg->parent);

		if (recipient == HOST)
			return PASS;
		if (recipient == NEWCOMER && (entry || !is_host(&key)))
			return deliver_to_all(skb);
	}
	if (!entry && cfg->behind)
		return deliver_to_router(skb, cfg, &key);
	return deliver_to_entry(skb, cfg, entry);
}

/*
 * A group's packet gets its group MAC (RFC 2464 7). A solicitation for an address that nobody
 * here is known to have goes to all, as in ingress_arp(): to the MAC of its solicited-node
 * group (RFC 4291 2.7.1). That is a neighbour's question whether a guest that has not spoken
 * yet is still there.
 */
static __always_inline int ingress_ipv6(struct __sk_buff *skb, struct frame *f,
					const struct config *cfg, struct in6_addr *to)
{
	__u16 group[] = { 0x3333, to->s6_addr16[6], to->s6_addr16[7] };
	__u16 solicited[] = { 0x3333, bpf_htons(0xff00 | to->s6_addr[13]), to->s6_addr16[7] };
	struct key key = { .vlan = f->vlan };
	struct entry *entry;

	if ((to->s6_addr32[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000))
		return deliver(skb, group, PACKET_MULTICAST);
	set_ipv6(&key, to);
	entry = bpf_map_lookup_elem(&addresses, &key);
	if (!entry && is_solicitation(skb, f->l3) && !is_host(&key))
		return deliver(skb, solicited, PACKET_MULTICAST);
	if (!entry && cfg->behind)
		return deliver_to_router(skb, cfg, &key);
	return deliver_to_entry(skb, cfg, entry);
}

/*
 * No guest's MAC comes in from the LAN, as it leaves with the uplink's. So one that does is used
 * there, and a macvlan would give its guest what siblings have for that station: user space is told,
 * once a second. Looked at is what a station says to all, and in ARP and ICMPv6, without which nobody
 * here speaks to it; a look at every frame would cost 10 ns. What one guest has for another comes by
 * here too, as a macvlan shows it to the parent (drivers/net/macvlan.c: macvlan_queue_xmit).
 */
static __noinline int note_source(struct __sk_buff *skb, struct frame *f)
{
	struct event event = { .what = MAC_SEEN };
	struct key key = {};
	struct mac from = {};
	struct bearer *bearer;

	if (bpf_skb_load_bytes(skb, ETH_ALEN, from.w, ETH_ALEN))
		return 0;
	bearer = bpf_map_lookup_elem(&bearers, &from);
	event.time = bpf_ktime_get_coarse_ns();
	if (!bearer || event.time - bearer->last_seen < SECOND)
		return 0;
	bearer->last_seen = event.time;
	key.vlan = f->vlan;
	key.family = f->proto == bpf_htons(ETH_P_IPV6) ? 6 : 4;
	if (f->proto == bpf_htons(ETH_P_IPV6))
		bpf_skb_load_bytes(skb, f->l3 + offsetof(struct ipv6hdr, saddr), key.address, 16);
	else if (f->proto == bpf_htons(ETH_P_IP))
		bpf_skb_load_bytes(skb, f->l3 + offsetof(struct iphdr, saddr), key.address, 4);
	else if (f->proto == bpf_htons(ETH_P_ARP))
		bpf_skb_load_bytes(skb, f->l3 + offsetof(struct arp, spa), key.address, 4);
	if (!is_unassignable(&key))
		bearer->address = key;
	event.key = bearer->address;
	event.ifindex = bearer->ifindex;
	event.mac = from;
	if (event.ifindex)
		bpf_ringbuf_output(&events, &event, sizeof(event), 0);
	return 0;
}

static __always_inline int handle_from_uplink(struct __sk_buff *skb)
{
	struct config *cfg = configuration();
	bool to_us, from_us, dhcp;
	struct ipv6hdr *ip6;
	struct ethhdr *eth;
	struct iphdr *ip;
	struct frame f;
	struct in6_addr to;
	__u32 destination;
	void *end;

	if (skb->tc_index == MARK_FROM_GUEST) { /* and for the host: see host_access.h */
		skb->tc_index = 0;
		return PASS;
	}
	pull(skb, HEADERS);
	if (!cfg || !parse_ethernet(skb, &f))
		return PASS;
	eth = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if ((void *)(eth + 1) > end)
		return PASS;
	to_us = same((__u16 *)eth->h_dest, cfg->parent.w);
	from_us = same((__u16 *)eth->h_source, cfg->parent.w);
	/* A guest's, which the LAN sends back: the host has not heard it when it left. */
	if (from_us && (!is_of_ip(f.proto) || configures(skb, f.proto, f.l3)))
		return drop_echo();
	if (is_group((__u16 *)eth->h_dest) || (to_us && f.proto == bpf_htons(ETH_P_ARP)))
		note_source(skb, &f);
	if (f.proto == bpf_htons(ETH_P_ARP))
		return ingress_arp(skb, &f, cfg, to_us, from_us);
	ip = (void *)eth + f.l3;
	ip6 = (void *)eth + f.l3;
	if (f.proto == bpf_htons(ETH_P_IP)) {
		if (!(to_us || is_group((__u16 *)eth->h_dest)) || (void *)(ip + 1) > end || ip->version != 4)
			return PASS;
		dhcp = may_be_dhcp_reply(ip, end);
		destination = ip->daddr;
		if (dhcp && hear_answer(skb, &f, &cfg->parent))
			return DROP;
		return to_us ? ingress_ipv4(skb, &f, cfg, destination, dhcp) : PASS;
	}
	if (f.proto != bpf_htons(ETH_P_IPV6) || (void *)(ip6 + 1) > end || ip6->version != 6)
		return PASS;
	to = ip6->daddr;
	if (ip6->nexthdr == IPPROTO_ICMPV6) {
		if (to_us)
			note_source(skb, &f);
		if (is_nd_echo(skb, f.l3, &cfg->parent, from_us))
			return drop_echo();
	}
	return to_us ? ingress_ipv6(skb, &f, cfg, &to) : PASS;
}
