/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What user space sees: structures and numbers in maps, events and records. bpf/records.py and
 * bpf/trace_record.py mirror them, and tests/bpf/test_abi.py compares.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

/* On to the next filter, if there is one: we do not decide for others. */
#define PASS TC_ACT_UNSPEC
#define DROP TC_ACT_SHOT

#define GUESTS 1024
#define IPV4_SLOTS 16
#define IPV6_SLOTS 32
#define SLOTS (IPV4_SLOTS + IPV6_SLOTS)

#define PREFIXES 32 /* of what the host reaches without a router */
#define ROUTES 16384

/* Words as they stand in the frame; an Ethernet header is aligned to two bytes only. */
struct mac {
	__u16 w[3];
	__u16 pad;
};

enum kind { MACVTAP, IPVTAP };
/* How siblings on an ipvlan see each other (include/uapi/linux/if_link.h: IPVLAN_F_*). */
enum mode { BRIDGE, PRIVATE, VEPA };

struct config {
	struct mac parent;
	__u32 ifindex; /* of the uplink */
	__u32 observe; /* 1: MAC NAT is off; what the guards refuse is only hidden from the host */
	__u64 alive; /* ns for which an address is its holder's without being used */
	__u64 refresh; /* jiffies between two notes that an address is in use */
	__u32 kind;
	__u16 mode; /* of an ipvlan; a macvlan knows its own */
	__u16 behind; /* how many prefixes the map of that name has */
};

struct key {
	__u32 address[4]; /* network order; IPv4 in the first */
	__u16 vlan; /* 0: none, or priority only */
	__u16 family; /* 4 or 6 */
};

/* ifindex 0: a broadcast address of the LAN, nobody's. */
struct entry {
	__u64 fresh_until; /* jiffies; use need not be noted till then. 1 ns to read, not 13 */
	__u64 last_seen; /* ns of CLOCK_MONOTONIC_COARSE */
	__u32 ifindex;
	__u32 slot;
	struct mac mac;
};

enum reason { WRONG_MAC, HOST_ADDRESS, GUEST_ADDRESS, MALFORMED, LINK_CONTROL, REASONS };

/* Of an address in hosts: a tentative one is still the subject of duplicate address detection; the
 * third is of a gateway of the host's. */
#define IN_USE 1
#define TENTATIVE 2
#define GATEWAY 3

struct slot {
	__u64 order; /* of last use, by table.sequence; 0: never */
	struct key key;
	__u32 own; /* 1: the guest has said by ARP or ND that it has that; 0: it was a source */
};

struct budget {
	__u64 since;
	__u64 used;
};

struct table {
	struct bpf_spin_lock lock; /* guards slots and sequence while a slot is chosen */
	__u32 pad;
	__u64 sequence;
	__u64 last_seen;
	__u64 refused[REASONS];
	__u64 learned;
	__u64 moved; /* of these, taken over from another guest */
	__u64 evicted;
	__u64 unreported; /* events suppressed or lost */
	struct budget changes;
	struct budget refusals;
	struct slot slots[SLOTS];
};

/* For whoever looks: bpftool map dump. */
struct statistics {
	__u64 echoes;
	__u64 malformed;
};

struct prefix {
	__u32 address[4], mask[4]; /* network order, as in struct key */
	__u32 family; /* 0: none */
};

struct on_link {
	struct prefix prefixes[PREFIXES];
};

/* Frames of whom, untagged or tagged, may not be from there: the host routes it elsewhere. */
enum elsewhere { UNTAGGED = 1, TAGGED = 2 };

/* The key of a trie: bits says how many of what follows count. */
struct route {
	__u32 bits;
	__u32 family; /* 4 or 6 */
	__u32 address[4]; /* as in struct key */
};

#define BEHIND 1024

/* The guest behind which the addresses of a prefix are; MAC all zero: they are behind none. */
struct behind {
	struct mac mac;
	__u32 alone; /* 1: nobody else may send from there */
};

struct payload {
	__u8 octets[2048]; /* a power of two */
};

struct note {
	char text[2048];
};

#define PROBES 8

/* The addresses about which a guest has asked last whether they are free; family 0: none. */
struct probes {
	struct key keys[PROBES];
	__u32 next;
};

/* Who bears a MAC. */
struct bearer {
	__u64 last_seen; /* when the LAN used it, in ns of CLOCK_MONOTONIC_COARSE; 0: never */
	struct key address; /* from which that was; all zero: not known */
	__u32 ifindex; /* of the guest's device; 0: nobody any more */
};

/* How guests ask for leases. */
struct dhcp {
	__u64 since; /* when it was asked first this way without an answer */
	__u32 unanswered; /* requests, since the last answer */
	__u32 in_uplinks_name; /* the next ones */
	__u32 settled; /* by an answer, or by user space */
	__u32 choice; /* user space's */
	__u32 tried; /* requests this way, until it is settled */
	__u32 hosts_address; /* answers with an address of the host's, since the last with another */
};

/* Of a guest's that asks for a lease in the uplink's name; or in its own, while it is not known which
 * way is answered. */
struct transaction {
	struct mac client;
	__be32 number; /* that it has given it */
	__u32 is_named; /* by us: it has no client identifier itself */
	__u32 is_own; /* in its own name */
};

enum what { LEARNED, MOVED, EVICTED, REFUSED, SUPPRESSED, MAC_LEARNED, PROBED, MAC_SEEN, ARRIVED };

struct event {
	__u64 time;
	struct key key; /* all zero where none is at stake */
	__u32 ifindex;
	__u32 other; /* the guest that holds the address, or held it */
	struct mac mac; /* the frame's source; pad is 0 */
	__u8 what;
	__u8 reason;
	__u16 pad;
};

struct listeners {
	__u32 count;
	__u32 ifindex[GUESTS];
};

#define SNAP 384 /* up to the message type of DHCP */

/* In the order in which a frame of a guest's passes them. */
enum program { FROM_GUEST, TO_HOST, UPLINK_EGRESS, TO_UPLINK, TO_SIBLING, FROM_UPLINK };

/* Whom a frame concerns, if not one guest. */
#define EVERYONE 0
#define NOBODY 0xffffffff

/* Bits of record.said, beside one for each of enum what. */
#define SAID_WITHHELD (1 << 13) /* the host does not hear it */
#define SAID_COPIED (1 << 14) /* a copy went to the host, or to guests of the host's */
#define SAID_CONFIGURES (1 << 15) /* the host must not hear it: it would configure it */

/* generation: of this tracing, or 0 while nobody traces; user space sets it. A record that trace()
 * has begun in another one is not finished. */
struct tracing {
	__u32 generation;
	__u32 lost;
};

struct record {
	__u64 time; /* ns of CLOCK_MONOTONIC */
	__u32 whose; /* ifindex of the guest's device */
	__u32 before_length, after_length; /* of the whole frame */
	__s32 verdict;
	__u16 tag, tag_proto; /* beside the frame; tag_proto 0: none */
	__u16 said;
	__u8 program, reason;
	struct key key; /* that was learned, or for which the frame was refused */
	struct key evicted;
	__u32 generation;
	__u32 pad;
	__u8 before[SNAP], after[SNAP];
};

/* A guest that is traced, by its device (mac is 0) or, as a frame of a macvtap's guest comes by the
 * uplink, by its MAC (ifindex is 0). Two guests on ipvtaps may use one MAC. The device NOBODY is
 * there while somebody listens who may see all. */
struct who {
	__u32 ifindex;
	struct mac mac;
};
