/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whose an address is before any guest claims it: the host's, a gateway's, somebody's behind the host
 * or behind a guest that routes, nobody's; and which devices are one guest's.
 */
#pragma once

#include "ethernet.h"
#include "maps.h"

static __always_inline void set_ipv4(struct key *key, __u32 address)
{
	__builtin_memset(key->address, 0, sizeof(key->address));
	key->address[0] = address;
	key->family = 4;
}

static __always_inline void set_ipv6(struct key *key, const struct in6_addr *address)
{
	__builtin_memcpy(key->address, address, sizeof(key->address));
	key->family = 6;
}

/* What an address is to the host: IN_USE, TENTATIVE, GATEWAY, or 0 if it is neither its nor a
 * gateway's. */
static __always_inline __u32 usage_of(const struct key *key)
{
	struct key anywhere = *key;
	__u32 *usage;

	anywhere.vlan = 0;
	usage = bpf_map_lookup_elem(&hosts, &anywhere);
	return usage ? *usage : 0;
}

static __always_inline bool is_host(const struct key *key)
{
	__u32 usage = usage_of(key);

	return usage && usage != GATEWAY;
}

/* Whether a guest is the one that the configuration allows to be a gateway of the host's. */
static __always_inline bool is_gateway(__u32 ifindex)
{
	__u32 *allowed = value_of(gateway);

	return allowed && *allowed == ifindex;
}

/* Whether a MAC is that of the guest which may be the host's gateway. */
static __always_inline bool is_gateways_mac(const struct mac *mac)
{
	__u32 *ifindex = bpf_map_lookup_elem(&macs, mac);

	return ifindex && is_gateway(*ifindex);
}

/* Whether an address is the host's or a gateway's, and so not this guest's to have. */
static __always_inline bool is_kept_from(__u32 ifindex, const struct key *key)
{
	__u32 usage = usage_of(key);

	return usage && !(usage == GATEWAY && is_gateway(ifindex));
}

/* The key for what a trie has of an address. */
static __always_inline struct route route_to(const struct key *key)
{
	struct route route = { .bits = 8 * (sizeof(route) - sizeof(route.bits)) };

	route.family = key->family;
	__builtin_memcpy(route.address, key->address, sizeof(route.address));
	return route;
}

/* Whether the host has a route for an address that leads elsewhere than to this uplink. */
static __noinline bool is_elsewhere(const struct key *key)
{
	struct route route = route_to(key);
	__u32 *elsewhere;

	elsewhere = bpf_map_lookup_elem(&routes, &route);
	return elsewhere && *elsewhere & (key->vlan ? TAGGED : UNTAGGED);
}

/* Whether an address is not this guest's to have, nor another guest's. */
static __always_inline bool is_reserved(__u32 ifindex, const struct key *key)
{
	return is_kept_from(ifindex, key) || is_elsewhere(key);
}

/* Which guest routes for an address, in untagged frames; NULL: none does. Ask only where config.behind
 * says that some do. */
static __noinline struct behind *find_behind(const struct key *key)
{
	struct route route = route_to(key);
	struct behind *found;

	if (key->vlan || usage_of(key) || is_elsewhere(key))
		return NULL;
	found = bpf_map_lookup_elem(&behind, &route);
	return found && !is_zero(found->mac.w) ? found : NULL;
}

/* The device of that guest, and its MAC. 0: there is none, NOBODY: it is not here. */
static __noinline __u32 find_router(const struct key *key, struct mac *mac)
{
	struct behind *found = find_behind(key);
	struct bearer *bearer;
	struct mac bears;

	if (!found)
		return 0;
	bears = found->mac;
	*mac = bears;
	bearer = bpf_map_lookup_elem(&bearers, &bears);
	return bearer && bearer->ifindex ? bearer->ifindex : NOBODY;
}

/* Nobody has these addresses: unspecified (a DHCP client, a probe), multicast, broadcast, loopback. */
static __always_inline bool is_unassignable(const struct key *key)
{
	const __u32 *a = key->address;
	__u32 first = bpf_ntohl(a[0]);

	if (key->family == 4)
		return !first || first >> 24 == 127 || first >> 28 == 14 || first == 0xffffffff;
	return first >> 24 == 0xff || (!(a[0] | a[1] | a[2]) && bpf_ntohl(a[3]) <= 1);
}

/* Whether two devices are cards of one guest. A system with an address on each answers for both on
 * either, and sends from both by one (RFC 1122 3.3.4.2, the weak model). */
static __noinline bool are_cards(__u32 ifindex, __u32 other)
{
	__u32 *one = bpf_map_lookup_elem(&owners, &ifindex);
	__u32 *another = bpf_map_lookup_elem(&owners, &other);

	return one && another && *one == *another;
}

static __always_inline bool are_one_guests(__u32 ifindex, __u32 other)
{
	return ifindex == other || are_cards(ifindex, other);
}
