/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * DHCP.
 */
#ifndef AIRTAP_DHCP_H
#define AIRTAP_DHCP_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "ethernet.h"
#include "maps.h"

#define BOOTPS 67
#define BOOTPC 68
#define BOOTREQUEST 1
#define BOOTREPLY 2
#define BROADCAST_FLAG 0x8000
#define DHCPV6_SERVER 547

/* False where it certainly is no message to a DHCP server. */
static __always_inline bool may_be_dhcp(struct iphdr *ip, void *end)
{
	struct udphdr *udp = (void *)ip + ip->ihl * 4;

	if (ip->protocol != IPPROTO_UDP || ip->frag_off & bpf_htons(0x1fff) || ip->version != 4)
		return false;
	return (void *)(udp + 1) > end || udp->dest == bpf_htons(BOOTPS);
}

/*
 * Ask the DHCP server to broadcast its answers (RFC 2131 4.1): a unicast OFFER goes to the
 * client's hardware address, which the uplink does not carry. The checksum helper leaves a
 * checksum of 0 and CHECKSUM_PARTIAL as they are.
 */
static __noinline int raise_dhcp(struct __sk_buff *skb, __u32 l3)
{
	struct {
		struct udphdr udp;
		__u8 op, htype, hlen, hops;
		__be32 xid;
		__be16 secs, flags;
	} m;
	struct iphdr ip;
	__u32 header, l4;
	__be16 flags;

	if (bpf_skb_load_bytes(skb, l3, &ip, sizeof(ip)))
		return 0;
	header = ip.ihl * 4;
	l4 = l3 + header;
	if (header < sizeof(ip) || bpf_ntohs(ip.tot_len) < header + sizeof(m) ||
	    bpf_skb_load_bytes(skb, l4, &m, sizeof(m)))
		return 0;
	flags = m.flags | bpf_htons(BROADCAST_FLAG);
	if (m.udp.dest != bpf_htons(BOOTPS) || m.op != BOOTREQUEST ||
	    bpf_ntohs(m.udp.len) < sizeof(m) || flags == m.flags)
		return 0;
	if (bpf_skb_store_bytes(skb, l4 + 18, &flags, sizeof(flags), 0))
		return -1;
	return bpf_l4_csum_replace(skb, l4 + offsetof(struct udphdr, check), m.flags, flags,
				   sizeof(flags) | BPF_F_MARK_MANGLED_0);
}

/* False where it certainly is no message to a DHCP client. */
static __always_inline bool may_be_dhcp_answer(struct iphdr *ip, void *end)
{
	struct udphdr *udp = (void *)ip + sizeof(*ip);

	if (ip->protocol != IPPROTO_UDP || ip->ihl != 5 || ip->frag_off & bpf_htons(0x1fff))
		return false;
	return (void *)(udp + 1) > end || udp->dest == bpf_htons(BOOTPC);
}

/*
 * A server may ignore the broadcast flag and send its answer to the address that it offers, at
 * the MAC from which it was asked. Nobody has that address yet, or a former guest has: all
 * guests get it, as they would the broadcast.
 */
static __noinline bool is_for_new_address(struct __sk_buff *skb, __u32 l3, const struct entry *entry,
					  const struct mac *parent)
{
	struct {
		struct udphdr udp;
		__u8 op, rest[27];
		__u16 chaddr[3];
	} m;

	if (bpf_skb_load_bytes(skb, l3 + sizeof(struct iphdr), &m, sizeof(m)))
		return false;
	if (m.udp.dest != bpf_htons(BOOTPC) || m.op != BOOTREPLY || same(m.chaddr, parent->w))
		return false;
	return !entry || !same(m.chaddr, entry->mac.w);
}

#endif
