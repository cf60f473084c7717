/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * DHCP: requests that ask for broadcast answers, answers for addresses that nobody has yet, and
 * those that are for the host. What is leased is not read: addresses are learned from use, see
 * addresses.h.
 */
#pragma once

#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include "ethernet.h"
#include "trace_note.h"

#define BOOTPS 67
#define BOOTPC 68
#define BOOTREQUEST 1
#define BOOTREPLY 2
#define BROADCAST_FLAG 0x8000
#define DHCPV6_CLIENT 546

/* UDP and BOOTP behind it (RFC 951), up to the client's MAC. */
struct bootp {
	struct udphdr udp;
	__u8 op, htype, hlen, hops;
	__be32 xid;
	__be16 secs, flags;
	__be32 ciaddr, yiaddr, siaddr, giaddr;
	__u16 chaddr[3];
};
/* The length of a struct bootp that ends with a field. */
#define UP_TO(field) (offsetof(struct bootp, field) + sizeof(((struct bootp *)0)->field))

/* False where it certainly is no message to a DHCP server or client. */
static __always_inline bool may_be_dhcp(struct iphdr *ip, void *end)
{
	struct udphdr *udp = (void *)ip + ip->ihl * 4;

	if (ip->protocol != IPPROTO_UDP || ip->frag_off & bpf_htons(0x1fff))
		return false;
	return (void *)(udp + 1) > end || udp->dest == bpf_htons(BOOTPS) ||
	       udp->dest == bpf_htons(BOOTPC);
}

/*
 * Whether the UDP datagram at l4 answers the DHCP client that has a MAC. A guest's answer to the
 * uplink's is for nobody out there, and must not leave: a client of the host's that listens on a
 * packet socket for all protocols, as dhclient, hears what leaves as well (net/core/dev.c:
 * dev_queue_xmit_nit).
 */
static __noinline bool answers(struct __sk_buff *skb, __u32 l4, const struct mac *mac)
{
	struct bootp m;

	return !bpf_skb_load_bytes(skb, l4, &m, UP_TO(chaddr)) &&
	       m.udp.dest == bpf_htons(BOOTPC) && same(m.chaddr, mac->w);
}

/* The same of a frame, behind a tag or not. Nobody who listens so looks at an IP version. */
static __noinline bool is_answer_to(struct __sk_buff *skb, const struct mac *mac)
{
	struct frame f;
	struct iphdr ip;

	if (!parse_ethernet(skb, &f) || f.proto != bpf_htons(ETH_P_IP) ||
	    bpf_skb_load_bytes(skb, f.l3, &ip, sizeof(ip)) || ip.protocol != IPPROTO_UDP ||
	    ip.frag_off & bpf_htons(0x1fff))
		return false;
	return answers(skb, f.l3 + ip.ihl * 4, mac);
}

/* False where it certainly is no message to a DHCP client. */
static __always_inline bool may_be_dhcp_reply(struct iphdr *ip, void *end)
{
	struct udphdr *udp = (void *)ip + sizeof(*ip);

	if (ip->protocol != IPPROTO_UDP || ip->ihl != 5 || ip->frag_off & bpf_htons(0x1fff))
		return false;
	return (void *)(udp + 1) > end || udp->dest == bpf_htons(BOOTPC);
}

/* Whom an answer of a DHCP server's is for: who has its address, a client that has none yet, or the
 * host. */
enum recipient { HOLDER, NEWCOMER, HOST };

/*
 * A server may ignore the broadcast flag and send its answer to the address that it offers, at
 * the MAC from which it was asked. Nobody has that address yet, or a former guest has: all
 * guests get it, as they would the broadcast. What is for the uplink's own MAC is the host's,
 * whoever has the address; but for a guest that uses that MAC.
 */
static __noinline int dhcp_recipient(struct __sk_buff *skb, __u32 l3, const struct entry *entry,
				     const struct mac *parent)
{
	struct bootp m;

	if (bpf_skb_load_bytes(skb, l3 + sizeof(struct iphdr), &m, UP_TO(chaddr)))
		return HOLDER;
	if (m.udp.dest != bpf_htons(BOOTPC) || m.op != BOOTREPLY)
		return HOLDER;
	if (entry && same(m.chaddr, entry->mac.w))
		return HOLDER;
	return same(m.chaddr, parent->w) ? HOST : NEWCOMER;
}
