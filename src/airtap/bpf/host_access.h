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
 * The host hears only what from_guest has marked as passed, also where MAC NAT is off: nothing from
 * a device that is not guarded yet, or that is out of our sight in another network namespace. Of
 * that it hears IPv4, IPv6 and their ARP, and nothing that configures it, see below.
 *
 * A MAC is not enough to get what the host sends: a guest may have chosen its router's. The packet
 * must be for an address on the link that was learned as that guest's; but questions for one it may
 * hear, and what a DHCP server answers it. The guest that the configuration names as a gateway of the
 * host's gets all that has its MAC, and may configure the host.
 *
 * Tagged frames pass by: they are of the host's VLAN devices, which have no guests here.
 */
#pragma once

#include "configures.h"
#include "target.h"

/* from_uplink, which takes this mark off again, is there only with MAC NAT. */
static __always_inline void mark_from_guest(struct __sk_buff *skb, const struct config *cfg)
{
	skb->tc_index = cfg->observe ? 0 : MARK_FROM_GUEST;
}

/*
 * Whether a guest asks for an address from nobody's, to see whether it is free. The host shall hear
 * that of an address that it has and uses, and will answer. Of one that it is about to take, it would
 * think that the guest has it (RFC 4862 5.4.3; RFC 5227 2.1.1).
 */
static __always_inline bool is_idle_probe(const struct key *source, const struct key *target)
{
	return is_unassignable(source) && usage_of(target) != IN_USE;
}

/* Of other hardware types than Ethernet's, ARP is not understood here. */
static __always_inline bool hears_arp(struct __sk_buff *skb, __u32 l3)
{
	struct key source = {}, target = {};
	struct arp arp;

	if (bpf_skb_load_bytes(skb, l3, &arp, sizeof(arp)))
		return false;
	set_ipv4(&source, joined(arp.spa));
	set_ipv4(&target, joined(arp.tpa));
	return is_ethernet_ipv4(&arp) && !is_idle_probe(&source, &target);
}

static __always_inline bool hears_ipv6(struct __sk_buff *skb, __u32 l3)
{
	struct key source = {}, target = {};
	struct in6_addr solicited;
	struct ipv6hdr ip;
	__u8 type;
	int at;

	if (bpf_skb_load_bytes(skb, l3, &ip, sizeof(ip)))
		return false;
	set_ipv6(&source, &ip.saddr);
	if (!is_unassignable(&source))
		return true;
	at = find_nd(skb, l3, ip.nexthdr);
	if (at <= 0)
		return !at;
	if (bpf_skb_load_bytes(skb, at, &type, sizeof(type)) || type != ND_NEIGHBOUR_SOLICIT)
		return true;
	if (bpf_skb_load_bytes(skb, at + sizeof(struct icmp6hdr), &solicited, sizeof(solicited)))
		return false;
	set_ipv6(&target, &solicited);
	return !is_idle_probe(&source, &target);
}

/* What is to be noted of a frame of a guest's that the host must not hear; 0: it may. */
static __noinline int withheld(struct __sk_buff *skb, __u32 guest)
{
	struct frame f;

	if (!parse_ethernet(skb, &f))
		return SAID_WITHHELD;
	if (configures(skb, f.proto, f.l3) && !is_gateway(guest))
		return SAID_CONFIGURES;
	if (f.proto == bpf_htons(ETH_P_IP))
		return 0;
	if (f.proto == bpf_htons(ETH_P_IPV6))
		return hears_ipv6(skb, f.l3) ? 0 : SAID_WITHHELD;
	return f.proto == bpf_htons(ETH_P_ARP) && hears_arp(skb, f.l3) ? 0 : SAID_WITHHELD;
}

/*
 * A copy to the host, at the uplink's own MAC: as a broadcast the ipvlan would give it to all its
 * devices, the guest's own included. What is inside keeps its group's address.
 */
static __noinline int copy_to_host(struct __sk_buff *skb, const struct config *cfg, __u32 guest)
{
	__u16 group[3], former = skb->tc_index;
	int why = withheld(skb, guest);

	if (why) {
		note_handed(why);
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

static __always_inline int redirect_to_host(struct __sk_buff *skb, const struct config *cfg,
					    __u32 guest)
{
	int why = withheld(skb, guest);

	if (why) {
		note_handed(why);
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

/*
 * Whether a frame of the host's is for the guest of a device, which has the frame's MAC. As the
 * LAN's DHCP server the host answers at an address that nobody has yet. All that the host sends to
 * the guest that may be its gateway is for that one.
 */
static __noinline int is_for_guest(struct __sk_buff *skb, __u32 ifindex, const struct mac *guest)
{
	struct key key = {};
	struct entry *entry;
	struct frame f;

	pull(skb, HEADERS);
	if (!parse_ethernet(skb, &f) || !find_target(skb, &f, &key))
		return false;
	entry = bpf_map_lookup_elem(&addresses, &key);
	if (usage_of(&key) || (entry && !are_one_guests(ifindex, entry->ifindex)))
		return is_gateway(ifindex);
	if (f.proto == bpf_htons(ETH_P_ARP) ||
	    (f.proto == bpf_htons(ETH_P_IPV6) && is_solicitation(skb, f.l3)))
		return true;
	return (entry ? is_on_link(&key) : is_answer_to(skb, guest)) || is_gateway(ifindex);
}

static __always_inline int handle_uplink_egress(struct __sk_buff *skb)
{
	struct config *cfg = configuration();
	struct mac to = {}, from = {};
	struct ethhdr *eth;
	__u32 *ifindex, guest;
	bool control, passed;

	if (skb->tc_index == MARK_FROM_GUEST) {
		skb->tc_index = 0;
		return PASS;
	}
	/* What came in somewhere since, as at a sibling in another network namespace, which may send
	 * it on as it likes, has the mark still. */
	passed = skb->tc_index == MARK_PASSED && !skb->ingress_ifindex;
	if (skb->tc_index == MARK_PASSED)
		skb->tc_index = 0;
	pull(skb, HEADERS);
	eth = (void *)(long)skb->data;
	if (!cfg || (void *)(eth + 1) > (void *)(long)skb->data_end)
		return PASS;
	__builtin_memcpy(to.w, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(from.w, eth->h_source, ETH_ALEN);
	/* With MAC NAT, to_uplink sees to that. */
	if (cfg->observe && !same(from.w, cfg->parent.w) && is_answer_to(skb, &cfg->parent) &&
	    !(passed && is_gateways_mac(&from))) {
		note_handed(SAID_CONFIGURES);
		return DROP;
	}
	if (skb->vlan_present || is_tag(eth->h_proto))
		return PASS;
	control = is_link_control(eth, eth->h_proto);
	if (!same(from.w, cfg->parent.w)) {
		if (!passed || control || !(is_group(to.w) || same(to.w, cfg->parent.w)))
			return PASS;
		ifindex = bpf_map_lookup_elem(&macs, &from);
		if (!ifindex)
			return PASS;
		guest = *ifindex;
		return is_group(to.w) ? copy_to_host(skb, cfg, guest) :
					redirect_to_host(skb, cfg, guest);
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
	return is_for_guest(skb, guest, &to) ? bpf_redirect(guest, BPF_F_INGRESS) : PASS;
}

/*
 * What the guest of an ipvtap sends to all, or to the uplink's MAC, where it takes its siblings
 * to be as well. ARP for an address that nobody here is known to have is left to to_sibling, and so
 * is what is for a sibling; the rest of what is left to it, it drops.
 */
static __always_inline int handle_to_host(struct __sk_buff *skb)
{
	struct config *cfg = configuration();
	struct key key = {};
	struct mac from = {};
	struct ethhdr eth;
	bool passed = skb->tc_index == MARK_PASSED;
	struct frame f;

	skb->tc_index = MARK_FROM_GUEST;
	pull(skb, HEADERS);
	if (!cfg || !passed || bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) || skb->vlan_present ||
	    is_tag(eth.h_proto))
		return PASS;
	__builtin_memcpy(from.w, eth.h_source, ETH_ALEN);
	if (is_link_control(&eth, eth.h_proto) || !bpf_map_lookup_elem(&macs, &from))
		return PASS;
	if (is_group((__u16 *)eth.h_dest))
		return copy_to_host(skb, cfg, skb->ifindex);
	if (!same((__u16 *)eth.h_dest, cfg->parent.w) || !parse_ethernet(skb, &f))
		return PASS;
	if (find_target(skb, &f, &key) && !is_host(&key) &&
	    (f.proto == bpf_htons(ETH_P_ARP) || bpf_map_lookup_elem(&addresses, &key) ||
	     (cfg->behind && find_behind(&key))))
		return PASS;
	return redirect_to_host(skb, cfg, skb->ifindex);
}
