/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * from_guest: the guards take each frame that a guest sends, and learn its addresses.
 */
#pragma once

#include <linux/ip.h>
#include "arp.h"
#include "checksum.h"
#include "dhcp.h"
#include "ndp.h"

static __always_inline bool is_uplink_mac(const struct mac *mac)
{
	struct config *cfg = configuration();

	return cfg && same(mac->w, cfg->parent.w);
}

/* Whether an address is the host's, a gateway's or another guest's. */
static __always_inline __u32 holder_reason(struct claim *c)
{
	struct entry *entry = bpf_map_lookup_elem(&addresses, &c->key);

	if (is_kept_from(c->ifindex, &c->key))
		return HOST_ADDRESS;
	if (!entry || !entry->ifindex)
		return REASONS;
	return are_one_guests(c->ifindex, entry->ifindex) ? REASONS : GUEST_ADDRESS;
}

/* Whether a MAC is that of another guest of this uplink. */
static __always_inline bool is_siblings_mac(const struct mac *mac, __u32 ifindex)
{
	struct bearer *bearer = bpf_map_lookup_elem(&bearers, mac);

	return bearer && bearer->ifindex && !are_one_guests(ifindex, bearer->ifindex);
}

/*
 * A DHCP message. A request in the name of the uplink's MAC or a sibling's, or for an address of the
 * host's, a gateway's or another guest's (ciaddr), would renew, release or decline what is theirs:
 * refused, as is what cannot be told, because it is cut or in fragments, of which nobody sends any. A
 * relay's requests are from MACs and for addresses of its own clients.
 *
 * An answer to the uplink's MAC would configure the host, whomever it is sent to: a macvlan shows its
 * uplink what one guest has for another (drivers/net/macvlan.c: macvlan_queue_xmit), and some clients
 * read all that is there (ETH_P_ALL). That is for the guest which may be the host's gateway.
 *
 * What a pending checksum may give the port of either is looked at too, see may_be_bootp().
 */
static __noinline int check_dhcp(struct __sk_buff *skb, __u32 l3, const struct iphdr *ip,
				 struct claim *c, struct table *table)
{
	__u32 header = ip->ihl * 4, l4 = l3 + header, reason;
	struct mac client = {};
	struct bootp m;
	bool whole, own;

	if (bpf_skb_load_bytes(skb, l4, &m, sizeof(m.udp)))
		return refuse(c, table, MALFORMED, 0);
	whole = !bpf_skb_load_bytes(skb, l4 + sizeof(m.udp), &m.op, UP_TO(chaddr) - sizeof(m.udp)) &&
		bpf_ntohs(ip->tot_len) >= header + UP_TO(chaddr) &&
		bpf_ntohs(m.udp.len) >= UP_TO(chaddr) && !(ip->frag_off & bpf_htons(0x2000));
	if (m.udp.dest != bpf_htons(BOOTPS) && m.udp.dest != bpf_htons(BOOTPC)) {
		if (!whole || !checksum_pending(skb))
			return PASS;
	} else if (!whole || !keeps_payload(skb, l4 + sizeof(m.udp))) {
		return refuse(c, table, MALFORMED, 0);
	}
	__builtin_memcpy(client.w, m.chaddr, ETH_ALEN);
	own = same(client.w, c->mac.w);
	if (!own && is_uplink_mac(&client) && !(m.op == BOOTREPLY && is_gateway(c->ifindex)))
		return refuse(c, table, WRONG_MAC, 0);
	if (m.op == BOOTREPLY)
		return PASS;
	if (!own && is_siblings_mac(&client, c->ifindex))
		return refuse(c, table, WRONG_MAC, 0);
	set_ipv4(&c->key, m.ciaddr);
	reason = holder_reason(c);
	return reason == REASONS ? PASS : refuse(c, table, reason, 0);
}

static __always_inline int check_ipv4(struct __sk_buff *skb, struct frame *f, struct claim *c,
				      struct table *table)
{
	struct iphdr ip;
	int verdict;

	if (bpf_skb_load_bytes(skb, f->l3, &ip, sizeof(ip)) || ip.version != 4)
		return checksum_pending(skb) ? refuse(c, table, MALFORMED, 0) : PASS;
	if (ip.ihl < 5 || ip.frag_off & bpf_htons(0x3fff)) {
		if (checksum_pending(skb))
			return refuse(c, table, MALFORMED, 0);
	} else if (!keeps_headers(skb, f->l3 + ip.ihl * 4, checksum_pending(skb))) {
		return refuse(c, table, MALFORMED, 0);
	}
	set_ipv4(&c->key, ip.saddr);
	verdict = claim_address(c);
	if (verdict != PASS || ip.protocol != IPPROTO_UDP || ip.frag_off & bpf_htons(0x1fff))
		return verdict;
	return check_dhcp(skb, f->l3, &ip, c, table);
}

static __always_inline int check_ipv6(struct __sk_buff *skb, struct frame *f, struct claim *c,
				      struct table *table)
{
	struct ipv6hdr ip;
	int verdict, at;

	if (bpf_skb_load_bytes(skb, f->l3, &ip, sizeof(ip)) || ip.version != 6)
		return checksum_pending(skb) ? refuse(c, table, MALFORMED, 0) : PASS;
	if (!keeps_ipv6_headers(skb, f->l3, ip.nexthdr))
		return refuse(c, table, MALFORMED, 0);
	at = leads_to_nd(ip.nexthdr) ? find_nd(skb, f->l3, ip.nexthdr) : 0;
	c->own = at > 0;
	set_ipv6(&c->key, &ip.saddr);
	verdict = claim_address(c);
	if (verdict != PASS)
		return verdict;
	if (at < 0)
		return refuse(c, table, MALFORMED, 0);
	return at ? check_nd(skb, at, c, table) : PASS;
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
	if (c.learn ? !same(c.mac.w, guest->w) : is_uplink_mac(&c.mac) || is_gateways_mac(&c.mac))
		return refuse(&c, table, WRONG_MAC, 0);
	/* Linux strips any number of priority tags (__netif_receive_skb_core()), so tags within
	 * tags would carry anything past the guards. */
	if (f->stacked)
		return refuse(&c, table, MALFORMED, 0);
	if (f->proto == bpf_htons(ETH_P_IP))
		return check_ipv4(skb, f, &c, table);
	if (f->proto == bpf_htons(ETH_P_IPV6))
		return check_ipv6(skb, f, &c, table);
	if (checksum_pending(skb))
		return refuse(&c, table, MALFORMED, 0);
	if (is_link_control(&eth, f->proto))
		return refuse(&c, table, LINK_CONTROL, 0);
	if (f->proto == bpf_htons(ETH_P_ARP))
		return check_arp(skb, f, &c, table);
	if (f->proto == bpf_htons(ETH_P_RARP) && c.learn)
		report(&c, table, &c.key, ARRIVED, 0);
	return is_snap(skb, f) ? refuse(&c, table, MALFORMED, 0) : PASS;
}

/* Whether this guest's frame from this address was seen and noted a moment ago. */
static __always_inline bool is_fresh(struct __sk_buff *skb, const __u16 *source, struct key *key)
{
	struct entry *entry = bpf_map_lookup_elem(&addresses, key);

	return entry && entry->ifindex == skb->ifindex && same(entry->mac.w, source) &&
	       bpf_jiffies64() < entry->fresh_until;
}

/* Whether a packet is, or once its checksum is written may be, a message of DHCP. Nor is it known of
 * what is cut, or of a header that is too short. */
static __always_inline bool may_be_bootp(struct iphdr *ip, void *end)
{
	struct bootp *m = (void *)ip + ip->ihl * 4;

	if (ip->protocol != IPPROTO_UDP)
		return false;
	return (void *)m + UP_TO(op) > end || m->udp.dest == bpf_htons(BOOTPS) ||
	       m->udp.dest == bpf_htons(BOOTPC) || m->op == BOOTREQUEST || m->op == BOOTREPLY;
}

static __always_inline bool is_pending(struct __sk_buff *skb, bool jit)
{
	return jit && bpf_cast_to_kern_ctx ? checksum_pending_jit(skb) : checksum_pending(skb);
}

static __always_inline int judge(struct __sk_buff *skb, bool jit)
{
	struct key key = {};
	struct frame f;
	struct ipv6hdr *ip6;
	struct ethhdr *eth;
	struct iphdr *ip;
	__u32 l4;
	void *end;

	pull(skb, HEADERS);
	if (!parse_ethernet(skb, &f))
		return DROP;
	eth = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	key.vlan = f.vlan;
	ip = (void *)eth + f.l3;
	ip6 = (void *)eth + f.l3;
	if (f.proto == bpf_htons(ETH_P_IP) && (void *)(ip + 1) <= end && ip->version == 4 &&
	    ip->ihl >= 5 && !(ip->frag_off & bpf_htons(0x3fff)) && !may_be_bootp(ip, end)) {
		set_ipv4(&key, ip->saddr);
		l4 = f.l3 + ip->ihl * 4;
	} else if (f.proto == bpf_htons(ETH_P_IPV6) && (void *)(ip6 + 1) <= end &&
		   ip6->version == 6 && !leads_to_nd(ip6->nexthdr)) {
		set_ipv6(&key, &ip6->saddr);
		l4 = f.l3 + sizeof(*ip6);
	} else {
		return check_frame(skb, &f);
	}
	if ((void *)(eth + 1) <= end && is_fresh(skb, (__u16 *)eth->h_source, &key) &&
	    keeps_headers(skb, l4, is_pending(skb, jit)))
		return PASS;
	return check_frame(skb, &f);
}

/*
 * What passes is marked, and only that reaches the host. Where MAC NAT is off, the LAN gets what is
 * refused as well, without the mark; but not at the uplink's own MAC, by which uplink_egress knows
 * the host's frames, and no answer to the uplink's DHCP client, see check_dhcp().
 */
static __always_inline int judge_and_mark(struct __sk_buff *skb, bool jit)
{
	int verdict = judge(skb, jit);
	struct config *cfg;
	struct ethhdr eth;

	skb->tc_index = verdict == PASS ? MARK_PASSED : 0;
	if (verdict == PASS)
		return PASS;
	cfg = configuration();
	if (!cfg || !cfg->observe || bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return DROP;
	if (same((__u16 *)eth.h_source, cfg->parent.w) || is_answer_to(skb, &cfg->parent))
		return DROP;
	return PASS;
}

static __always_inline int handle_from_guest(struct __sk_buff *skb)
{
	return judge_and_mark(skb, false);
}

static __always_inline int handle_from_guest_jit(struct __sk_buff *skb)
{
	return judge_and_mark(skb, true);
}
