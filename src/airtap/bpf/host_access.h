/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Host access: the host and its guests as neighbours.
 *
 * Neither a macvlan nor an ipvlan gives its children's broadcasts to the parent's host, nor does a
 * macvlan give them its own; and what the host sends leaves by the uplink. So these programs hand
 * over what one has for the other, and it stays here:
 *
 * uplink_egress  egress of the uplink. The host's frames for a guest go to that guest's device, its
 *                broadcasts to all. On a macvlan a guest's frames come by here, too.
 * to_host        egress of each ipvtap, between from_guest and to_uplink: its guest's frames for
 *                the host.
 *
 * The host reaches its guests at their own MACs, and they reach it at the uplink's, on the uplink
 * itself: no device is added, no address and no route. Reverse path filters find what they expect.
 *
 * The host hears of a guest only what the guards of from_guest let pass, also where MAC NAT is off,
 * and nothing that configures it: no router advertisement, no redirect, no DHCP server. And a MAC is
 * not enough to get what the host sends: a guest may have chosen its router's. The packet must be for
 * an address on the link that was learned as that guest's; but questions for one it may hear.
 *
 * Tagged frames pass by: they are of the host's VLAN devices, which have no guests here.
 */
#pragma once

#include "dhcp.h"
#include "ndp.h"
#include "target.h"

/* from_uplink, which takes this mark off again, is there only with MAC NAT. */
static __always_inline void mark_from_guest(struct __sk_buff *skb, const struct config *cfg)
{
	skb->tc_index = cfg->observe ? 0 : MARK_FROM_GUEST;
}

/* Whether what a guest sends would configure those who hear it. */
static __noinline int configures(struct __sk_buff *skb)
{
	struct ipv6hdr ip6;
	struct frame f;
	__u8 type;
	int nd;

	if (!parse_ethernet(skb, &f))
		return true;
	if (f.proto == bpf_htons(ETH_P_IP))
		return is_from_dhcp_server(skb, f.l3);
	if (f.proto != bpf_htons(ETH_P_IPV6) || bpf_skb_load_bytes(skb, f.l3, &ip6, sizeof(ip6)))
		return false;
	if (ip6.nexthdr == IPPROTO_UDP)
		return is_from_port(skb, f.l3 + sizeof(ip6), DHCPV6_SERVER);
	nd = find_nd(skb, f.l3, ip6.nexthdr);
	if (nd <= 0)
		return nd < 0;
	return bpf_skb_load_bytes(skb, nd, &type, sizeof(type)) || type == ND_ROUTER_ADVERT ||
	       type == ND_REDIRECT;
}

/*
 * A copy to the host, at the uplink's own MAC: as a broadcast the ipvlan would give it to all its
 * devices, the guest's own included. What is inside keeps its group's address.
 */
static __noinline int copy_to_host(struct __sk_buff *skb, const struct config *cfg)
{
	__u16 group[3], former = skb->tc_index;

	if (configures(skb)) {
		note_handed(SAID_CONFIGURES);
		return PASS;
	}
	note_handed(SAID_COPIED);
	if (!cfg || bpf_skb_load_bytes(skb, 0, group, ETH_ALEN) ||
	    bpf_skb_store_bytes(skb, 0, cfg->parent.w, ETH_ALEN, 0))
		return DROP;
	mark_from_guest(skb, cfg);
	bpf_clone_redirect(skb, cfg->ifindex, BPF_F_INGRESS);
	skb->tc_index = former;
	return bpf_skb_store_bytes(skb, 0, group, ETH_ALEN, 0) ? DROP : PASS;
}

static __always_inline int redirect_to_host(struct __sk_buff *skb, const struct config *cfg)
{
	if (configures(skb)) {
		note_handed(SAID_CONFIGURES);
		return DROP;
	}
	mark_from_guest(skb, cfg);
	return bpf_redirect(cfg->ifindex, BPF_F_INGRESS);
}

/* A copy to each of macs. A loop, as the interpreter takes no callbacks (net.core.bpf_jit_enable=0). */
static __noinline int copy_to_guests(struct __sk_buff *skb)
{
	struct listeners *to = value_of(listeners);

	for (__u32 i = 0; to && i < GUESTS && i < to->count; i++)
		bpf_clone_redirect(skb, to->ifindex[i], BPF_F_INGRESS);
	return to && to->count;
}

/* Whether the host reaches an address without a router. */
static __noinline bool is_on_link(const struct key *key)
{
	struct on_link *on_link = value_of(on_links);
	__u32 differs;

	for (__u32 i = 0; on_link && i < PREFIXES; i++) {
		struct prefix *p = &on_link->prefixes[i];

		if (p->family != key->family)
			continue;
		differs = 0;
		for (int word = 0; word < 4; word++)
			differs |= (key->address[word] ^ p->address[word]) & p->mask[word];
		if (!differs)
			return true;
	}
	return false;
}

/* Whether a frame of the host's is for the guest of a device, which has the frame's MAC. */
static __noinline int is_for_guest(struct __sk_buff *skb, __u32 ifindex)
{
	struct key key = {};
	struct entry *entry;
	struct frame f;

	pull(skb, HEADERS);
	if (!parse_ethernet(skb, &f) || !find_target(skb, &f, &key))
		return false;
	entry = bpf_map_lookup_elem(&addresses, &key);
	if (is_host(&key) || (entry && entry->ifindex != ifindex))
		return false;
	if (f.proto == bpf_htons(ETH_P_ARP) ||
	    (f.proto == bpf_htons(ETH_P_IPV6) && is_solicitation(skb, f.l3)))
		return true;
	return entry && is_on_link(&key);
}

static __always_inline int handle_uplink_egress(struct __sk_buff *skb)
{
	struct config *cfg = configuration();
	struct mac to = {}, from = {};
	struct ethhdr *eth;
	__u32 *ifindex, guest;
	bool control;

	if (skb->tc_index == MARK_FROM_GUEST || skb->tc_index == MARK_REFUSED) {
		skb->tc_index = 0;
		return PASS;
	}
	pull(skb, ETH_HLEN);
	eth = (void *)(long)skb->data;
	if (!cfg || (void *)(eth + 1) > (void *)(long)skb->data_end || skb->vlan_present ||
	    is_tag(eth->h_proto))
		return PASS;
	__builtin_memcpy(to.w, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(from.w, eth->h_source, ETH_ALEN);
	control = is_link_control(eth, eth->h_proto);
	if (!same(from.w, cfg->parent.w)) {
		if (!(is_group(to.w) || same(to.w, cfg->parent.w)) || control ||
		    !bpf_map_lookup_elem(&macs, &from))
			return PASS;
		return is_group(to.w) ? copy_to_host(skb, cfg) : redirect_to_host(skb, cfg);
	}
	if (is_group(to.w)) {
		if (!control && copy_to_guests(skb))
			note_handed(SAID_COPIED);
		return PASS;
	}
	ifindex = bpf_map_lookup_elem(&macs, &to);
	if (!ifindex)
		return PASS;
	guest = *ifindex;
	return is_for_guest(skb, guest) ? bpf_redirect(guest, BPF_F_INGRESS) : PASS;
}

/*
 * What the guest of an ipvtap sends to all, or to the uplink's MAC, where it takes its siblings
 * to be as well. ARP for an address that nobody here is known to have is left to to_sibling.
 */
static __always_inline int handle_to_host(struct __sk_buff *skb)
{
	struct config *cfg = configuration();
	struct key key = {};
	struct mac from = {};
	struct ethhdr eth;
	struct frame f;

	skb->tc_index = MARK_FROM_GUEST;
	pull(skb, HEADERS);
	if (!cfg || bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) || skb->vlan_present ||
	    is_tag(eth.h_proto))
		return PASS;
	__builtin_memcpy(from.w, eth.h_source, ETH_ALEN);
	if (is_link_control(&eth, eth.h_proto) || !bpf_map_lookup_elem(&macs, &from))
		return PASS;
	if (is_group((__u16 *)eth.h_dest))
		return copy_to_host(skb, cfg);
	if (!same((__u16 *)eth.h_dest, cfg->parent.w) || !parse_ethernet(skb, &f))
		return PASS;
	if (find_target(skb, &f, &key) && !is_host(&key) &&
	    (f.proto == bpf_htons(ETH_P_ARP) || bpf_map_lookup_elem(&addresses, &key)))
		return PASS;
	return redirect_to_host(skb, cfg);
}
