/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every map. One that is pinned keeps its name and its layout, or what is in it is lost at an
 * upgrade.
 */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

/* One value. */
#define SINGLE(name, contents)                          \
	struct {                                        \
		__uint(type, BPF_MAP_TYPE_ARRAY);       \
		__uint(max_entries, 1);                 \
		__type(key, __u32);                     \
		__type(value, contents);                \
	} name SEC(".maps")

/* The value of a map that has one. */
#define value_of(map) bpf_map_lookup_elem(&(map), &(__u32){ 0 })

/* A hash table that takes memory for what is in it. */
#define TABLE(name, entries, index, contents)           \
	struct {                                        \
		__uint(type, BPF_MAP_TYPE_HASH);        \
		__uint(max_entries, entries);           \
		__uint(map_flags, BPF_F_NO_PREALLOC);   \
		__type(key, index);                     \
		__type(value, contents);                \
	} name SEC(".maps")

SINGLE(config, struct config);

/* Addresses of the host and its gateways, in any VLAN (key.vlan is 0); IN_USE, TENTATIVE, GATEWAY. */
TABLE(hosts, 8192, struct key, __u32);

/* The ifindex of the guest that may be a gateway of the host's, or 0; written by user space. */
SINGLE(gateway, __u32);

/* What the host reaches on the uplink without a router. */
SINGLE(on_links, struct on_link);

/* Where the host's routes lead, as far as it matters: bits of enum elsewhere. The longest prefix
 * counts. Written by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, ROUTES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct route);
	__type(value, __u32);
} routes SEC(".maps");

/* What guests route for: the longest prefix counts. Written by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, BEHIND);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct route);
	__type(value, struct behind);
} behind SEC(".maps");

/* Devices under watch, written by user space. MAC all zero: not known yet, nothing is learned.
 * An ipvtap's is then the first that its guest uses; a macvtap must bear it, so user space learns
 * that. */
TABLE(guests, GUESTS, __u32, struct mac);

/* Devices that are cards of one guest, to a number of that guest; written by user space. */
TABLE(owners, GUESTS, __u32, __u32);

/* Guests that the host may reach, by MAC; written by user space. */
TABLE(macs, GUESTS, struct mac, __u32);

/* Their devices once more, to go through; written by user space. */
SINGLE(listeners, struct listeners);

/* What the programs keep of each of them; user space makes and deletes it. */
TABLE(tables, GUESTS, __u32, struct table);

/* 1024 more than all slots: broadcast addresses, and entries between delete and reuse. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, GUESTS * SLOTS + 1024);
	__type(key, struct key);
	__type(value, struct entry);
} addresses SEC(".maps");

/* What guests were about to take. User space makes and deletes it for each guest, and takes out what
 * it has asked about: kept here, as an event may be lost, and whoever reads it may end. */
TABLE(probed, GUESTS, __u32, struct probes);

/* MACs of guests, and of late; written by user space, but for when the LAN was seen to use them. */
TABLE(bearers, 4 * GUESTS, struct mac, struct bearer);

/* Devices that user space keeps down, as the LAN uses their MAC. */
TABLE(held, GUESTS, __u32, __u32);

SINGLE(dhcp_state, struct dhcp);

/* By the number that they have outside. Guests that ask in masses lose each other's. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4 * GUESTS);
	__type(key, __be32);
	__type(value, struct transaction);
} transactions SEC(".maps");

SINGLE(statistics, struct statistics);

/* What user space wants to find again, if it ends and comes back. */
SINGLE(note, struct note);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 512 * 1024);
} events SEC(".maps");

/* To the ifindex of the guest's device; written by user space. */
TABLE(tracees, 256, struct who, __u32);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct record);
} records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} traces SEC(".maps");

/* Room for keeps_payload(), too much for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct payload);
} payloads SEC(".maps");

struct tracing tracing;

static __always_inline struct config *configuration(void)
{
	return value_of(config);
}
