/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What configures those who hear it: router advertisements, redirects, and what is for a DHCP
 * client. It is judged by what its receivers look at, and never by what a sender may choose, as
 * the source port. What cannot be told configures, and so does the first of several fragments.
 */
#pragma once

#include "dhcp.h"
#include "ndp.h"

/* linux/icmp.h needs headers of the C library. */
#define ICMP_REDIRECT 5
#define ICMP_ROUTER_ADVERT 9 /* RFC 1256 */

/* Whether the UDP datagram at l4 is for a port. */
static __noinline bool is_to_port(struct __sk_buff *skb, __u32 l4, __u16 port)
{
	__be16 to;

	return bpf_skb_load_bytes(skb, l4 + offsetof(struct udphdr, dest), &to, sizeof(to)) ||
	       to == bpf_htons(port);
}

static __always_inline bool configures_ipv4(struct __sk_buff *skb, __u32 l3)
{
	struct iphdr ip;
	__u32 l4;
	__u8 type;

	if (bpf_skb_load_bytes(skb, l3, &ip, sizeof(ip)))
		return true;
	l4 = l3 + ip.ihl * 4;
	if (ip.frag_off & bpf_htons(0x1fff))
		return false;
	if (ip.protocol == IPPROTO_ICMP)
		return bpf_skb_load_bytes(skb, l4, &type, sizeof(type)) ||
		       type == ICMP_REDIRECT || type == ICMP_ROUTER_ADVERT;
	return ip.protocol == IPPROTO_UDP && is_to_port(skb, l4, BOOTPC);
}

static __always_inline bool configures_ipv6(struct __sk_buff *skb, __u32 l3)
{
	struct l4 l4 = {};
	__u8 next, type;

	if (bpf_skb_load_bytes(skb, l3 + offsetof(struct ipv6hdr, nexthdr), &next, sizeof(next)) ||
	    find_l4(skb, l3, next, &l4))
		return true;
	if (l4.protocol == IPPROTO_UDP)
		return is_to_port(skb, l4.at, DHCPV6_CLIENT);
	if (l4.protocol != IPPROTO_ICMPV6)
		return false;
	if (bpf_skb_load_bytes(skb, l4.at, &type, sizeof(type)))
		return true;
	return type == ND_ROUTER_ADVERT || type == ND_REDIRECT || (l4.fragment && is_nd(type));
}

static __noinline bool configures(struct __sk_buff *skb, __u16 proto, __u32 l3)
{
	if (proto == bpf_htons(ETH_P_IP))
		return configures_ipv4(skb, l3);
	return proto == bpf_htons(ETH_P_IPV6) && configures_ipv6(skb, l3);
}
