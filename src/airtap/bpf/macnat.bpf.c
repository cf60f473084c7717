// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * MAC NAT: many guests, each with its own MAC, behind an uplink that carries one.
 *
 * Theory of operation
 *
 * learn   egress of each guest's device, where everything that the guest sends enters the host,
 *         also what only a sibling or the host will see. It knows by ifindex who speaks, checks
 *         the guards, and remembers (address, VLAN) -> guest.
 * up      egress of the uplink: every frame that is not the host's gets the uplink's MAC, in the
 *         Ethernet header and wherever ARP and neighbour discovery repeat it.
 * down    ingress of the uplink: what was sent to the uplink's MAC gets the MAC of the guest whose
 *         address it is for.
 *
 * A macvlan then delivers by that MAC. An ipvlan has one MAC for all and would deliver by the
 * addresses of its netdevs, which would be the host's addresses too. So these programs deliver for
 * it (bpf_redirect()), and its netdevs need no address:
 *
 * learn, up, across   egress of each ipvtap. across takes to a sibling what is for a sibling.
 * down                ingress of the uplink. It takes to its guest's ipvtap what is for a guest.
 *
 * For the host, to which neither a macvlan nor an ipvlan takes its guests, see host_access.h. What
 * trace() and traced() tell, see trace.h.
 *
 * All are tc programs in direct-action mode.
 *
 * What is kept
 *
 * "addresses" has one entry per learned address and is all that a packet costs: one lookup. Each
 * guest has a table with a slot for every address that it may hold; a new address takes the slot
 * unused for longest, and with it evicts that slot's former address. So a guest's flood turns over
 * its own table, "addresses" has room for every slot of every guest, and nothing is ever LRU over
 * all guests. A slot whose address was taken over or deleted is stale: it says nothing until it
 * is taken again, and an entry names its slot, so that a stale slot cannot evict it.
 *
 * Maps are written when something changes. That an address is still in use is noted at most once
 * in config.refresh.
 *
 * What passes, what does not
 *
 * A frame that says nothing these programs understand passes, with the uplink's MAC as its source.
 * Dropped is what breaks a guard, and ARP and ND cut or bent so that translation would be half
 * done: receivers discard such ND anyway (RFC 4861 6.1, 7.1; RFC 6980; RFC 7112), and half an ARP
 * packet that Ethernet padding completes would speak for a foreign MAC.
 *
 * On egress packet data is written by helpers only: for direct writes the verifier adds a prologue
 * that un-clones each frame, and the host's own TCP is all clones (net/core/filter.c:
 * bpf_unclone_prologue). On ingress clones are rare, and a direct write is cheaper.
 *
 * A limit: with a virtio header a guest may have the kernel write a checksum, late and where the
 * guest says (virtio_net_hdr_to_skb()), for instance into its IPv4 source address. For ARP and ND
 * checksum_pending() refuses that. Elsewhere it forges a source address in that guest's own
 * packet, to which no answer comes back, as any host of the LAN can.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* On to the next filter, if there is one: we do not decide for others. */
#define PASS TC_ACT_UNSPEC
#define DROP TC_ACT_SHOT

/* What one program tells the next of a frame, in skb->tc_index: an ipvlan keeps that where it
 * clears the mark (drivers/net/ipvlan: ipvlan_skb_crossing_ns). */
#define FROM_GUEST 0x6169
#define REFUSED_HERE 0x6170

#define GUESTS 1024
#define IPV4_SLOTS 16
#define IPV6_SLOTS 32
#define SLOTS (IPV4_SLOTS + IPV6_SLOTS)

#define PREFIXES 32

#define SECOND 1000000000ULL
/* Events a guest may cause in a second. Eight guests' floods leave room in the ring for others. */
#define CHANGES_PER_SECOND 64
#define REFUSALS_PER_SECOND 8

/* Ethernet, one tag, IPv6: what the fast paths read. */
#define HEADERS (ETH_HLEN + 4 + sizeof(struct ipv6hdr))
/* Bounds of two loops. Nobody sends more; a message that has more is dropped. */
#define EXTENSION_HEADERS 8
#define ND_OPTIONS 64

#define BOOTPS 67
#define BOOTPC 68
#define BOOTREQUEST 1
#define BOOTREPLY 2
#define BROADCAST_FLAG 0x8000
#define DHCPV6_SERVER 547

#define ETH_P_RSN_PREAUTH 0x88C7
#define ETH_P_WAPI 0x88B4
#define ETH_P_TDLS_FRAMES 0x890D

#define ND_ROUTER_SOLICIT 133
#define ND_ROUTER_ADVERT 134
#define ND_NEIGHBOUR_SOLICIT 135
#define ND_NEIGHBOUR_ADVERT 136
#define ND_REDIRECT 137
#define ND_OPT_SOURCE_LL 1
#define ND_OPT_TARGET_LL 2

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
	__u32 observe; /* 1: MAC NAT is off, and what the guards refuse only stays hidden from the host */
	__u64 alive; /* ns for which an address is its holder's without being used */
	__u64 refresh; /* jiffies between two notes that an address is in use */
	__u32 kind;
	__u32 mode; /* of an ipvlan; a macvlan knows its own */
};

struct key {
	__u32 address[4]; /* network order; IPv4 in the first */
	__u16 vlan; /* 0: none, or priority only */
	__u16 family; /* 4 or 6 */
};

/* ifindex 0: a broadcast address of the LAN, nobody's. */
struct entry {
	__u64 settled; /* jiffies up to which use need not be noted: a clock that costs 1 ns, not 13 */
	__u64 last_seen; /* ns of CLOCK_MONOTONIC_COARSE */
	__u32 ifindex;
	__u32 slot;
	struct mac mac;
};

enum reason { WRONG_MAC, HOST_ADDRESS, GUEST_ADDRESS, MALFORMED, LINK_CONTROL, REASONS };

struct slot {
	__u64 order; /* of last use, by table.sequence; 0: never */
	struct key key;
	__u32 pad;
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
	__u64 unreported; /* events withheld or lost */
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

struct note {
	char text[2048];
};

enum what { LEARNED, MOVED, EVICTED, REFUSED, WITHHELD, SPOKE, PROBED };

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

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

/* Addresses of the host and its gateways, in any VLAN (key.vlan is 0). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct key);
	__type(value, __u32);
} hosts SEC(".maps");

/* What the host reaches on the uplink without a router. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct on_link);
} on_links SEC(".maps");

/* Devices under watch, written by user space. MAC all zero: not known yet, nothing is learned.
 * An ipvtap's is then the first that its guest uses; a macvtap must bear it, so user space learns
 * that. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, GUESTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct mac);
} guests SEC(".maps");

/* Guests that the host may meet, by MAC; written by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, GUESTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mac);
	__type(value, __u32);
} macs SEC(".maps");

/* Their devices once more, to go through; written by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct listeners);
} listeners SEC(".maps");

/* What the programs keep of each of them; user space makes and deletes it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, GUESTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct table);
} tables SEC(".maps");

/* 1024 more than all slots: broadcast addresses, and entries between delete and reuse. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, GUESTS * SLOTS + 1024);
	__type(key, struct key);
	__type(value, struct entry);
} addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct statistics);
} statistics SEC(".maps");

/* What user space wants to find again, if it ends and comes back. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct note);
} note SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 512 * 1024);
} events SEC(".maps");

/* Frames */

struct frame {
	__u16 proto; /* network order, of what stands behind the tag */
	__u16 vlan;
	__u32 l3;
	bool stacked; /* tags within tags */
};

struct arp {
	__be16 hrd, pro;
	__u8 hln, pln;
	__be16 op;
	__u16 sha[3];
	__be16 spa[2];
	__u16 tha[3];
	__be16 tpa[2];
};

static __always_inline bool same(const __u16 *a, const __u16 *b)
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]));
}

static __always_inline bool is_zero(const __u16 *mac)
{
	return !(mac[0] | mac[1] | mac[2]);
}

static __always_inline __u32 joined(const __be16 *half)
{
	__u32 word;

	__builtin_memcpy(&word, half, sizeof(word));
	return word;
}

static __always_inline bool is_tag(__u16 proto)
{
	return proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD);
}

/* Make the headers linear where a driver or tap left them in fragments. */
static __always_inline void pull(struct __sk_buff *skb, __u32 size)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (data + size <= end)
		return;
	if (end - data < skb->len)
		bpf_skb_pull_data(skb, size < skb->len ? size : skb->len);
}

/* What stands behind Ethernet and one tag, which may be in the frame or, since the driver or
 * __netif_receive_skb_core() took it off, beside it. False: shorter than an Ethernet header. */
static __always_inline bool look(struct __sk_buff *skb, struct frame *f)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	__be16 *tag = data + ETH_HLEN;

	if ((void *)(eth + 1) > end)
		return false;
	f->proto = eth->h_proto;
	f->l3 = ETH_HLEN;
	f->vlan = 0;
	f->stacked = false;
	if (skb->vlan_present)
		f->vlan = skb->vlan_tci & 0xfff;
	if (!is_tag(f->proto))
		return true;
	f->proto = 0;
	f->stacked = skb->vlan_present;
	if ((void *)(tag + 2) > end || f->stacked)
		return true;
	f->l3 = ETH_HLEN + 4;
	f->vlan = bpf_ntohs(tag[0]) & 0xfff;
	f->stacked = is_tag(tag[1]);
	if (!f->stacked)
		f->proto = tag[1];
	return true;
}

/* Hardware type 6 is IEEE 802, which Linux takes for Ethernet (net/ipv4/arp.c: arp_process). */
static __always_inline bool is_ethernet_ipv4(const struct arp *arp)
{
	return (arp->hrd == bpf_htons(1) || arp->hrd == bpf_htons(6)) &&
	       arp->pro == bpf_htons(ETH_P_IP) && arp->hln == ETH_ALEN && arp->pln == 4;
}

/* Whether ND, or headers behind which it can stand, comes next. */
static __always_inline bool leads_to_nd(__u8 next)
{
	return next == IPPROTO_ICMPV6 || next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING ||
	       next == IPPROTO_FRAGMENT || next == IPPROTO_DSTOPTS;
}

/*
 * Offset of the neighbour discovery message in an IPv6 packet. 0: it is something else, or the
 * later part of a fragmented packet. Negative: cannot be told, or ND in a fragment, which
 * receivers must ignore (RFC 6980) and which might hide the rest of itself. Behind ESP, AH or
 * mobility headers nothing is looked for: a receiver without that association drops it.
 */
__noinline int find_nd(struct __sk_buff *skb, __u32 l3, __u8 next)
{
	__u32 at = l3 + sizeof(struct ipv6hdr);
	bool fragment = false;
	__u8 head[4];

	for (int i = 0; i < EXTENSION_HEADERS; i++) {
		if (next == IPPROTO_ICMPV6) {
			if (bpf_skb_load_bytes(skb, at, head, 1))
				return -1;
			if (head[0] < ND_ROUTER_SOLICIT || head[0] > ND_REDIRECT)
				return 0;
			return fragment ? -1 : (int)at;
		}
		if (!leads_to_nd(next))
			return 0;
		if (bpf_skb_load_bytes(skb, at, head, sizeof(head)))
			return -1;
		if (next == IPPROTO_FRAGMENT) {
			if (head[2] | (head[3] & 0xf8))
				return 0;
			fragment = true;
			at += 8;
		} else {
			at += (head[1] + 1) * 8;
		}
		next = head[0];
	}
	return -1;
}

/*
 * Whether the kernel will still write a checksum into this frame (CHECKSUM_PARTIAL), which no
 * sender does to ARP or ND. Not visible to tc programs, but the checksum helper leaves such frames
 * alone (net/core/utils.c: inet_proto_csum_replace4). at: any two bytes.
 */
__noinline int checksum_pending(struct __sk_buff *skb, __u32 at)
{
	__u16 before = 0, after = 0;

	if (bpf_skb_load_bytes(skb, at, &before, sizeof(before)) ||
	    bpf_l4_csum_replace(skb, at, 0, 1, sizeof(before)) ||
	    bpf_skb_load_bytes(skb, at, &after, sizeof(after)))
		return true;
	if (after == before)
		return true;
	return bpf_skb_store_bytes(skb, at, &before, sizeof(before), 0);
}

#include "trace.h"

/* learn */

struct claim {
	struct key key;
	__u32 ifindex;
	__u64 now;
	__u64 until;
	struct mac mac;
	bool learn;
};

/* How many events are left to this guest in this second, this one included. */
static __always_inline __u64 spend(struct budget *budget, __u64 limit, __u64 now)
{
	__u64 used;

	if (now - budget->since >= SECOND) {
		budget->since = now;
		budget->used = 0;
	}
	used = __sync_fetch_and_add(&budget->used, 1);
	return used < limit ? limit - used : 0;
}

/* The stack of all five nested calls is 512 bytes: the event is made here, not by the callers.
 * what: and, 8 bits higher, the reason of a refusal. */
static __noinline int report(struct claim *c, struct table *table, struct key *key, __u32 what,
			     __u32 other)
{
	struct event event = {
		.time = c->now, .key = *key, .ifindex = c->ifindex, .other = other,
		.mac = c->mac, .what = what, .reason = what >> 8,
	};
	bool refusal = event.what == REFUSED;
	__u64 left = refusal ? spend(&table->refusals, REFUSALS_PER_SECOND, c->now) :
			       spend(&table->changes, CHANGES_PER_SECOND, c->now);

	note_trace(key, what);
	/* The last word of a flood: look again in a second. */
	if (left == 1 && !refusal)
		event.what = WITHHELD;
	if (left <= 1 && !refusal)
		__sync_fetch_and_add(&table->unreported, 1);
	if (left && bpf_ringbuf_output(&events, &event, sizeof(event), 0))
		__sync_fetch_and_add(&table->unreported, 1);
	return 0;
}

static __noinline int refuse(struct claim *c, struct table *table, __u32 reason, __u32 holder)
{
	if (reason < REASONS)
		__sync_fetch_and_add(&table->refused[reason], 1);
	report(c, table, &c->key, REFUSED | reason << 8, holder);
	return DROP;
}

static __always_inline bool is_host(const struct key *key)
{
	struct key anywhere = *key;

	anywhere.vlan = 0;
	return bpf_map_lookup_elem(&hosts, &anywhere);
}

/* Nobody's: unspecified (a DHCP client, a probe), multicast, broadcast, loopback. */
static __always_inline bool is_nobodys(const struct key *key)
{
	const __u32 *a = key->address;
	__u32 first = bpf_ntohl(a[0]);

	if (key->family == 4)
		return !first || first >> 24 == 127 || first >> 28 == 14 || first == 0xffffffff;
	return first >> 24 == 0xff || (!(a[0] | a[1] | a[2]) && bpf_ntohl(a[3]) <= 1);
}

/* Order and number in one word, and its minimum without a branch, of which the verifier would follow
 * both ways each time. clang makes one where it sees that the mask is 0 or all ones. */
static __always_inline __u32 oldest(struct table *table, __u32 first, __u32 past)
{
	__u64 least = ~0ULL >> 1;

	for (__u32 i = first; i < past; i++) {
		__s64 below = (table->slots[i].order << 6 | i) - least;
		__s64 mask = below >> 63;

		barrier_var(mask);
		least += below & mask;
	}
	return least & 63;
}

/* Take the slot unused for longest for c->key. Its former key is left in *former, if any. */
static __always_inline __u32 take_slot(struct claim *c, struct table *table, struct key *former)
{
	__u32 chosen;

	bpf_spin_lock(&table->lock);
	if (c->key.family == 4)
		chosen = oldest(table, 0, IPV4_SLOTS);
	else
		chosen = oldest(table, IPV4_SLOTS, SLOTS);
	if (chosen < SLOTS) {
		*former = table->slots[chosen].key;
		table->slots[chosen].key = c->key;
		table->slots[chosen].order = ++table->sequence;
	}
	bpf_spin_unlock(&table->lock);
	return chosen;
}

/* Delete the entry that a slot held, unless it is another slot's or another guest's by now. */
static __always_inline void evict(struct claim *c, struct table *table, struct key *key, __u32 slot)
{
	struct entry *entry = bpf_map_lookup_elem(&addresses, key);

	if (!entry || entry->ifindex != c->ifindex || entry->slot != slot)
		return;
	bpf_map_delete_elem(&addresses, key);
	__sync_fetch_and_add(&table->evicted, 1);
	report(c, table, key, EVICTED, 0);
}

static __noinline int remember(struct claim *c, struct table *table, __u32 holder)
{
	struct entry entry = {
		.settled = c->until,
		.last_seen = c->now,
		.ifindex = c->ifindex,
		.mac = c->mac,
	};
	struct key former = {};

	entry.slot = take_slot(c, table, &former);
	if (former.family)
		evict(c, table, &former, entry.slot);
	if (bpf_map_update_elem(&addresses, &c->key, &entry, BPF_ANY))
		return PASS;
	/* User space adds a host address first, then deletes what was learned of it: whichever
	 * way that and this interleave, one of the two deletes. */
	if (is_host(&c->key)) {
		bpf_map_delete_elem(&addresses, &c->key);
		return refuse(c, table, HOST_ADDRESS, 0);
	}
	table->last_seen = c->now;
	__sync_fetch_and_add(&table->learned, 1);
	if (holder)
		__sync_fetch_and_add(&table->moved, 1);
	report(c, table, &c->key, holder ? MOVED : LEARNED, holder);
	return PASS;
}

static __always_inline void refresh(struct claim *c, struct table *table, struct entry *entry)
{
	__u32 slot = entry->slot;

	entry->settled = c->until;
	entry->last_seen = c->now;
	table->last_seen = c->now;
	if (slot < SLOTS)
		table->slots[slot].order = __sync_fetch_and_add(&table->sequence, 1) + 1;
}

/*
 * A guest says that c->key is its own. What comes of it:
 * - nobody's address: passes, nothing is learned
 * - its own already: passes, noted as seen from time to time
 * - of the host, a gateway, or the LAN's broadcast address: dropped
 * - another guest's who used it within config.alive: dropped, and user space told, which may ask
 *   the holder and delete the entry if no answer comes
 * - another guest's who did not, or new: learned
 *
 * Global, as some functions below: the verifier then looks at it once, not once for each caller.
 */
__noinline int settle(struct claim *given)
{
	struct claim copy, *c = &copy; /* until 6.4 a map's key must be on the stack */
	struct table *table;
	struct entry *entry;
	struct config *cfg;
	__u32 zero = 0, holder = 0;

	if (!given)
		return DROP;
	copy = *given;
	if (is_nobodys(&c->key))
		return PASS;
	cfg = bpf_map_lookup_elem(&config, &zero);
	table = bpf_map_lookup_elem(&tables, &c->ifindex);
	entry = bpf_map_lookup_elem(&addresses, &c->key);
	if (!cfg || !table)
		return DROP;
	c->until = bpf_jiffies64() + cfg->refresh;
	if (entry && entry->ifindex == c->ifindex && c->learn) {
		if (!same(entry->mac.w, c->mac.w))
			entry->mac = c->mac;
		if (bpf_jiffies64() >= entry->settled)
			refresh(c, table, entry);
		return PASS;
	}
	if (is_host(&c->key) || (entry && !entry->ifindex))
		return refuse(c, table, HOST_ADDRESS, 0);
	if (entry && entry->ifindex != c->ifindex) {
		holder = entry->ifindex;
		if (c->now - entry->last_seen < cfg->alive)
			return refuse(c, table, GUEST_ADDRESS, holder);
	}
	return c->learn ? remember(c, table, holder) : PASS;
}

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

/*
 * A guest asks whether an address is free: an ARP probe (RFC 5227) or duplicate address detection
 * (RFC 4862 5.4). That claims nothing: the address's holder should hear it. But the guest will have
 * the address soon if there is none, and may not speak: user space is told, so that it may ask.
 * An access point that answers for its stations knows the address from here on, and the LAN will
 * not ask the guest itself.
 */
static __noinline int note_probe(struct claim *c, struct table *table)
{
	if (c->learn && !is_nobodys(&c->key) && !is_host(&c->key) &&
	    !bpf_map_lookup_elem(&addresses, &c->key))
		report(c, table, &c->key, PROBED, 0);
	return PASS;
}

static __always_inline int hear_arp(struct __sk_buff *skb, struct frame *f, struct claim *c,
				    struct table *table)
{
	struct arp arp;

	if (bpf_skb_load_bytes(skb, f->l3, &arp, sizeof(arp)))
		return refuse(c, table, MALFORMED, 0);
	if (!is_ethernet_ipv4(&arp))
		return PASS;
	if (checksum_pending(skb, f->l3))
		return refuse(c, table, MALFORMED, 0);
	set_ipv4(&c->key, joined(arp.spa));
	if (c->key.address[0])
		return settle(c);
	set_ipv4(&c->key, joined(arp.tpa));
	return note_probe(c, table);
}

static __always_inline int hear_ipv4(struct __sk_buff *skb, struct frame *f, struct claim *c)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, f->l3, &ip, sizeof(ip)) || ip.version != 4)
		return PASS;
	set_ipv4(&c->key, ip.saddr);
	return settle(c);
}

/* An advertisement claims its target. A solicitation asks for one, from nobody's address to detect
 * a duplicate. c->key is the packet's source. */
static __always_inline int hear_nd(struct __sk_buff *skb, __u32 at, struct claim *c,
				   struct table *table)
{
	struct {
		struct icmp6hdr icmp;
		struct in6_addr target;
	} nd;
	bool claims;

	if (checksum_pending(skb, at + offsetof(struct icmp6hdr, icmp6_cksum)))
		return refuse(c, table, MALFORMED, 0);
	if (bpf_skb_load_bytes(skb, at, &nd.icmp, sizeof(nd.icmp)))
		return refuse(c, table, MALFORMED, 0);
	claims = nd.icmp.icmp6_type == ND_NEIGHBOUR_ADVERT;
	if (!claims && (nd.icmp.icmp6_type != ND_NEIGHBOUR_SOLICIT || !is_nobodys(&c->key)))
		return PASS;
	if (bpf_skb_load_bytes(skb, at + sizeof(nd.icmp), &nd.target, sizeof(nd.target)))
		return claims ? refuse(c, table, MALFORMED, 0) : PASS;
	set_ipv6(&c->key, &nd.target);
	return claims ? settle(c) : note_probe(c, table);
}

static __always_inline int hear_ipv6(struct __sk_buff *skb, struct frame *f, struct claim *c,
				     struct table *table)
{
	struct ipv6hdr ip;
	int verdict, at;

	if (bpf_skb_load_bytes(skb, f->l3, &ip, sizeof(ip)) || ip.version != 6)
		return PASS;
	set_ipv6(&c->key, &ip.saddr);
	verdict = settle(c);
	if (verdict != PASS || !leads_to_nd(ip.nexthdr))
		return verdict;
	at = find_nd(skb, f->l3, ip.nexthdr);
	if (at < 0)
		return refuse(c, table, MALFORMED, 0);
	return at ? hear_nd(skb, at, c, table) : PASS;
}

/* Frames that speak for the station or port itself, to the access point or switch: with the
 * uplink's MAC a guest's EAPOL-Logoff, TDLS or BPDU would be the host's. None of it is IP. */
static __always_inline bool is_link_control(const struct ethhdr *eth, __u16 proto)
{
	const __u8 *to = eth->h_dest;

	if (to[0] == 0x01 && to[1] == 0x80 && to[2] == 0xc2 && !(to[3] | to[4] | (to[5] & 0xf0)))
		return true;
	return proto == bpf_htons(ETH_P_PAE) || proto == bpf_htons(ETH_P_RSN_PREAUTH) ||
	       proto == bpf_htons(ETH_P_WAPI) || proto == bpf_htons(ETH_P_TDLS_FRAMES);
}

/*
 * Whether an IEEE 802.3 frame, which has a length in place of the ethertype, names an ethertype in a
 * SNAP header. On Wi-Fi that is the header of every frame: a driver adds none to this one
 * (net/mac80211/tx.c: ieee80211_build_hdr), and the access point makes Ethernet of it, so that it
 * would carry anything past the guards. Nothing that a guest needs looks like that.
 */
static __always_inline bool is_snap(struct __sk_buff *skb, struct frame *f)
{
	__u8 llc[3];

	return bpf_ntohs(f->proto) < ETH_P_802_3_MIN &&
	       !bpf_skb_load_bytes(skb, f->l3, llc, sizeof(llc)) &&
	       llc[0] == 0xaa && llc[1] == 0xaa && llc[2] == 0x03;
}

/* The first frame of an ipvtap's guest says its MAC. The uplink's own it may not have. */
static __always_inline bool is_first_word(struct claim *c, const struct mac *guest)
{
	__u32 zero = 0;
	struct config *cfg = bpf_map_lookup_elem(&config, &zero);

	if (!cfg || cfg->kind != IPVTAP || !is_zero(guest->w))
		return false;
	return !is_zero(c->mac.w) && !(c->mac.w[0] & bpf_htons(0x0100)) &&
	       !same(c->mac.w, cfg->parent.w);
}

static __always_inline bool is_uplinks(const struct mac *mac)
{
	__u32 zero = 0;
	struct config *cfg = bpf_map_lookup_elem(&config, &zero);

	return cfg && same(mac->w, cfg->parent.w);
}

/* All that the fast path did not settle. A device that user space did not announce has no voice:
 * nobody guards it. */
static __noinline int hear(struct __sk_buff *skb, struct frame *f)
{
	struct claim c = { .ifindex = skb->ifindex, .key.vlan = f->vlan };
	struct table *table = bpf_map_lookup_elem(&tables, &c.ifindex);
	struct mac *guest = bpf_map_lookup_elem(&guests, &c.ifindex);
	struct ethhdr eth;

	if (!guest || !table || bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return DROP;
	c.now = bpf_ktime_get_coarse_ns();
	__builtin_memcpy(c.mac.w, eth.h_source, ETH_ALEN);
	if (is_first_word(&c, guest)) {
		/* In one piece: other CPUs and user space read it. */
		*(__u64 *)guest = *(__u64 *)&c.mac;
		report(&c, table, &c.key, SPOKE, 0);
	}
	c.learn = !is_zero(guest->w);
	if (c.learn ? !same(c.mac.w, guest->w) : is_uplinks(&c.mac))
		return refuse(&c, table, WRONG_MAC, 0);
	/* Linux strips any number of priority tags (__netif_receive_skb_core()), so tags within
	 * tags would carry anything past the guards. */
	if (f->stacked)
		return refuse(&c, table, MALFORMED, 0);
	if (f->proto == bpf_htons(ETH_P_IP))
		return hear_ipv4(skb, f, &c);
	if (f->proto == bpf_htons(ETH_P_IPV6))
		return hear_ipv6(skb, f, &c, table);
	if (is_link_control(&eth, f->proto))
		return refuse(&c, table, LINK_CONTROL, 0);
	if (f->proto == bpf_htons(ETH_P_ARP))
		return hear_arp(skb, f, &c, table);
	return is_snap(skb, f) ? refuse(&c, table, MALFORMED, 0) : PASS;
}

/* Whether this guest's frame from this address was seen and noted a moment ago. */
static __always_inline bool is_settled(struct __sk_buff *skb, const __u16 *source, struct key *key)
{
	struct entry *entry = bpf_map_lookup_elem(&addresses, key);

	return entry && entry->ifindex == skb->ifindex && same(entry->mac.w, source) &&
	       bpf_jiffies64() < entry->settled;
}

static __always_inline int learn_frame(struct __sk_buff *skb)
{
	struct key key = {};
	struct frame f;
	struct ipv6hdr *ip6;
	struct ethhdr *eth;
	struct iphdr *ip;
	void *end;

	pull(skb, HEADERS);
	if (!look(skb, &f))
		return DROP;
	eth = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	key.vlan = f.vlan;
	ip = (void *)eth + f.l3;
	ip6 = (void *)eth + f.l3;
	if (f.proto == bpf_htons(ETH_P_IP) && (void *)(ip + 1) <= end && ip->version == 4) {
		set_ipv4(&key, ip->saddr);
	} else if (f.proto == bpf_htons(ETH_P_IPV6) && (void *)(ip6 + 1) <= end &&
		   ip6->version == 6 && !leads_to_nd(ip6->nexthdr)) {
		set_ipv6(&key, &ip6->saddr);
	} else {
		return hear(skb, &f);
	}
	if ((void *)(eth + 1) <= end && is_settled(skb, (__u16 *)eth->h_source, &key))
		return PASS;
	return hear(skb, &f);
}

/* up */

static __always_inline void count_malformed(void)
{
	__u32 zero = 0;
	struct statistics *s = bpf_map_lookup_elem(&statistics, &zero);

	if (s)
		__sync_fetch_and_add(&s->malformed, 1);
}

static __always_inline int raise_arp(struct __sk_buff *skb, __u32 l3, const struct mac *parent)
{
	struct arp arp;

	if (bpf_skb_load_bytes(skb, l3, &arp, sizeof(arp)))
		return -1;
	if (!is_ethernet_ipv4(&arp))
		return 0;
	return bpf_skb_store_bytes(skb, l3 + offsetof(struct arp, sha), parent->w, ETH_ALEN, 0);
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

static __always_inline __u32 nd_options(__u8 type)
{
	switch (type) {
	case ND_ROUTER_SOLICIT:
		return 8;
	case ND_ROUTER_ADVERT:
		return 16;
	case ND_REDIRECT:
		return 40;
	default:
		return 24;
	}
}

/* Put the uplink's MAC into one link-layer address option, and the change into the checksum. */
static __always_inline int raise_option(struct __sk_buff *skb, __u32 nd, __u32 at,
					const __u16 *old, const struct mac *parent)
{
	__u16 from[4] = { old[0], old[1], old[2], 0 };
	__u16 to[4] = { parent->w[0], parent->w[1], parent->w[2], 0 };
	__s64 change = bpf_csum_diff((__be32 *)from, sizeof(from), (__be32 *)to, sizeof(to), 0);

	if (change < 0 || bpf_skb_store_bytes(skb, at + 2, to, ETH_ALEN, 0))
		return -1;
	return bpf_l4_csum_replace(skb, nd + offsetof(struct icmp6hdr, icmp6_cksum), 0, change, 0);
}

static __noinline int raise_nd(struct __sk_buff *skb, __u32 l3, const struct mac *parent)
{
	struct {
		__u8 type, length;
		__u16 address[3];
	} option;
	struct ipv6hdr ip;
	__u32 at, end;
	__u8 type;
	int nd;

	if (bpf_skb_load_bytes(skb, l3, &ip, sizeof(ip)) || ip.version != 6)
		return 0;
	nd = find_nd(skb, l3, ip.nexthdr);
	if (nd <= 0)
		return nd;
	end = l3 + sizeof(ip) + bpf_ntohs(ip.payload_len);
	if (end > skb->len || bpf_skb_load_bytes(skb, nd, &type, sizeof(type)))
		return -1;
	at = nd + nd_options(type);
	for (int i = 0; i <= ND_OPTIONS; i++) {
		if (at == end)
			return 0;
		if (at > end || bpf_skb_load_bytes(skb, at, &option, sizeof(option)))
			return -1;
		if (!option.length || at + option.length * 8 > end)
			return -1;
		if ((option.type == ND_OPT_SOURCE_LL || option.type == ND_OPT_TARGET_LL) &&
		    raise_option(skb, nd, at, option.address, parent))
			return -1;
		at += option.length * 8;
	}
	return -1;
}

/* False where it certainly is no message to a DHCP server. */
static __always_inline bool may_be_dhcp(struct iphdr *ip, void *end)
{
	struct udphdr *udp = (void *)ip + ip->ihl * 4;

	if (ip->protocol != IPPROTO_UDP || ip->frag_off & bpf_htons(0x1fff) || ip->version != 4)
		return false;
	return (void *)(udp + 1) > end || udp->dest == bpf_htons(BOOTPS);
}

static __always_inline int raise_frame(struct __sk_buff *skb)
{
	enum { OTHER, ARP, DHCP, ND } kind = OTHER;
	__u32 zero = 0;
	struct config *cfg = bpf_map_lookup_elem(&config, &zero);
	struct ipv6hdr *ip6;
	struct iphdr *ip;
	struct ethhdr *eth;
	struct frame f;
	void *end;
	int failed;

	pull(skb, ETH_HLEN);
	eth = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (!cfg || (void *)(eth + 1) > end)
		return DROP;
	/* Without a MAC this is not set up yet. The host's own frames end here; none of them leaves
	 * by an ipvtap, where a guest may have the uplink's MAC. */
	if (is_zero(cfg->parent.w))
		return PASS;
	if (same((__u16 *)eth->h_source, cfg->parent.w) && cfg->kind != IPVTAP)
		return PASS;
	pull(skb, HEADERS);
	if (!look(skb, &f))
		return DROP;
	end = (void *)(long)skb->data_end;
	ip = (void *)(long)skb->data + f.l3;
	ip6 = (void *)ip;
	if (f.proto == bpf_htons(ETH_P_IP) && (void *)(ip + 1) <= end) {
		if (may_be_dhcp(ip, end))
			kind = DHCP;
	} else if (f.proto == bpf_htons(ETH_P_IPV6) && (void *)(ip6 + 1) <= end) {
		if (leads_to_nd(ip6->nexthdr))
			kind = ND;
	} else if (f.proto == bpf_htons(ETH_P_ARP)) {
		kind = ARP;
	}
	if (bpf_skb_store_bytes(skb, ETH_ALEN, cfg->parent.w, ETH_ALEN, 0))
		return DROP;
	if (kind == OTHER)
		return PASS;
	if (kind == ARP)
		failed = raise_arp(skb, f.l3, &cfg->parent);
	else if (kind == DHCP)
		failed = raise_dhcp(skb, f.l3);
	else
		failed = raise_nd(skb, f.l3, &cfg->parent);
	if (!failed)
		return PASS;
	count_malformed();
	return DROP;
}

/* down */

static __always_inline int drop_echo(void)
{
	__u32 zero = 0;
	struct statistics *s = bpf_map_lookup_elem(&statistics, &zero);

	if (s)
		__sync_fetch_and_add(&s->echoes, 1);
	return DROP;
}

/*
 * Readdress the frame. type: PACKET_OTHERHOST for a guest's, so that the host's stack will not
 * forward it when its device is gone (a macvlan makes it PACKET_HOST on delivery).
 */
static __always_inline int deliver(struct __sk_buff *skb, const __u16 *mac, __u32 type)
{
	__u16 *to = (void *)(long)skb->data;

	if ((void *)(to + 3) > (void *)(long)skb->data_end)
		return DROP;
	to[0] = mac[0];
	to[1] = mac[1];
	to[2] = mac[2];
	if (skb->pkt_type != type)
		bpf_skb_change_type(skb, type);
	return PASS;
}

static __always_inline int deliver_to_all(struct __sk_buff *skb)
{
	const __u16 broadcast[] = { 0xffff, 0xffff, 0xffff };

	return deliver(skb, broadcast, PACKET_BROADCAST);
}

static __always_inline int deliver_to_entry(struct __sk_buff *skb, const struct config *cfg,
					    const struct entry *entry)
{
	__u32 ifindex;

	if (!entry)
		return PASS;
	ifindex = entry->ifindex;
	if (!ifindex)
		return deliver_to_all(skb);
	if (deliver(skb, entry->mac.w, PACKET_OTHERHOST) == DROP)
		return DROP;
	return cfg->kind == IPVTAP ? bpf_redirect(ifindex, BPF_F_INGRESS) : PASS;
}

/*
 * ARP from the LAN. What comes of it:
 * - it says that something is at the uplink's own MAC: our own words, echoed or repeated by an
 *   access point that answers for its stations. A guest would see a conflict with its own
 *   address, or take the uplink's MAC for a sibling's: dropped
 * - sent to the uplink, for a guest's address: goes to that guest, with its MAC as target
 * - for an address of the host's: unchanged
 * - for an address that nobody here is known to have: to all. That is a broadcast that the access
 *   point turned into unicast (hostapd multicast_to_unicast does so to ARP too), or the answer
 *   to a probe, whose target is 0.0.0.0 (RFC 5227 2.1.1)
 */
static __noinline int lower_arp(struct __sk_buff *skb, struct frame *f, const struct config *cfg,
				bool to_us, bool from_us)
{
	struct key key = { .vlan = f->vlan };
	struct entry *entry;
	struct mac guest;
	struct arp arp;

	if (bpf_skb_load_bytes(skb, f->l3, &arp, sizeof(arp)) || !is_ethernet_ipv4(&arp))
		return PASS;
	if (from_us || same(arp.sha, cfg->parent.w))
		return drop_echo();
	if (!to_us)
		return PASS;
	set_ipv4(&key, joined(arp.tpa));
	entry = bpf_map_lookup_elem(&addresses, &key);
	if (!entry)
		return is_host(&key) ? PASS : deliver_to_all(skb);
	guest = entry->mac;
	if (entry->ifindex && same(arp.tha, cfg->parent.w) &&
	    bpf_skb_store_bytes(skb, f->l3 + offsetof(struct arp, tha), guest.w, ETH_ALEN,
				BPF_F_RECOMPUTE_CSUM))
		return DROP;
	return deliver_to_entry(skb, cfg, entry);
}

/* Whether ND says that something is at the uplink's MAC, as lower_arp() has it. */
static __noinline bool is_nd_echo(struct __sk_buff *skb, __u32 l3, const struct mac *parent,
				  bool from_us)
{
	struct {
		struct icmp6hdr icmp;
		struct in6_addr target;
		__u8 type, length;
		__u16 address[3];
	} nd;
	__u32 at = l3 + sizeof(struct ipv6hdr);

	if (bpf_skb_load_bytes(skb, at, &nd.icmp, sizeof(nd.icmp)))
		return false;
	if (nd.icmp.icmp6_type != ND_NEIGHBOUR_SOLICIT &&
	    nd.icmp.icmp6_type != ND_NEIGHBOUR_ADVERT)
		return false;
	if (from_us)
		return true;
	return nd.icmp.icmp6_type == ND_NEIGHBOUR_ADVERT &&
	       !bpf_skb_load_bytes(skb, at, &nd, sizeof(nd)) && nd.type == ND_OPT_TARGET_LL &&
	       same(nd.address, parent->w);
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

/* An access point may send a group's packet to each station's own MAC: RFC 1112 6.4 backwards. */
static __always_inline int lower_ipv4(struct __sk_buff *skb, struct frame *f,
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
	if (dhcp && is_for_new_address(skb, f->l3, entry, &cfg->parent) &&
	    (entry || !is_host(&key)))
		return deliver_to_all(skb);
	return deliver_to_entry(skb, cfg, entry);
}

/* Whether somebody asks for the MAC of an IPv6 address. */
static __noinline bool is_solicitation(struct __sk_buff *skb, __u32 l3)
{
	__u8 next, type;

	return !bpf_skb_load_bytes(skb, l3 + offsetof(struct ipv6hdr, nexthdr), &next, 1) &&
	       next == IPPROTO_ICMPV6 &&
	       !bpf_skb_load_bytes(skb, l3 + sizeof(struct ipv6hdr), &type, 1) &&
	       type == ND_NEIGHBOUR_SOLICIT;
}

/*
 * A group's packet gets its group MAC (RFC 2464 7). A solicitation for an address that nobody
 * here is known to have goes to all, as in lower_arp(): to the MAC of its solicited-node group
 * (RFC 4291 2.7.1). That is a neighbour's question whether a guest that has not spoken yet is
 * still there.
 */
static __always_inline int lower_ipv6(struct __sk_buff *skb, struct frame *f,
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
	return deliver_to_entry(skb, cfg, entry);
}

static __always_inline int lower_frame(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct config *cfg = bpf_map_lookup_elem(&config, &zero);
	bool to_us, from_us;
	struct ipv6hdr *ip6;
	struct ethhdr *eth;
	struct iphdr *ip;
	struct frame f;
	struct in6_addr to;
	void *end;

	if (skb->tc_index == FROM_GUEST) { /* and for the host: see host_access.h */
		skb->tc_index = 0;
		return PASS;
	}
	pull(skb, HEADERS);
	if (!cfg || !look(skb, &f))
		return PASS;
	eth = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if ((void *)(eth + 1) > end)
		return PASS;
	to_us = same((__u16 *)eth->h_dest, cfg->parent.w);
	from_us = same((__u16 *)eth->h_source, cfg->parent.w);
	if (f.proto == bpf_htons(ETH_P_ARP))
		return lower_arp(skb, &f, cfg, to_us, from_us);
	ip = (void *)eth + f.l3;
	ip6 = (void *)eth + f.l3;
	if (f.proto == bpf_htons(ETH_P_IP)) {
		if (!to_us || (void *)(ip + 1) > end || ip->version != 4)
			return PASS;
		return lower_ipv4(skb, &f, cfg, ip->daddr, may_be_dhcp_answer(ip, end));
	}
	if (f.proto != bpf_htons(ETH_P_IPV6) || (void *)(ip6 + 1) > end || ip6->version != 6)
		return PASS;
	to = ip6->daddr;
	if (ip6->nexthdr == IPPROTO_ICMPV6 && is_nd_echo(skb, f.l3, &cfg->parent, from_us))
		return drop_echo();
	return to_us ? lower_ipv6(skb, &f, cfg, &to) : PASS;
}

/* across */

/* Whom a frame is for: key->address. False: it does not say so in a way that we understand. */
static __always_inline bool find_target(struct __sk_buff *skb, struct frame *f, struct key *key)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ip6 = data + f->l3;
	struct iphdr *ip = data + f->l3;
	struct arp arp;

	key->vlan = f->vlan;
	if (f->proto == bpf_htons(ETH_P_IP)) {
		if ((void *)(ip + 1) > end || ip->version != 4)
			return false;
		set_ipv4(key, ip->daddr);
		return true;
	}
	if (f->proto == bpf_htons(ETH_P_IPV6)) {
		if ((void *)(ip6 + 1) > end || ip6->version != 6)
			return false;
		set_ipv6(key, &ip6->daddr);
		return true;
	}
	if (f->proto != bpf_htons(ETH_P_ARP) ||
	    bpf_skb_load_bytes(skb, f->l3, &arp, sizeof(arp)) || !is_ethernet_ipv4(&arp))
		return false;
	set_ipv4(key, joined(arp.tpa));
	return true;
}

/*
 * A guest takes the uplink's MAC for that of its siblings and of the host. What comes of a frame
 * that it sends there, after up:
 * - ARP for an address that nobody here is known to have: to all, as lower_arp() has it. The host
 *   would take it for an echo, and of a probe for a sibling's address this is the answer
 * - in mode vepa: leaves, and comes back from the switch
 * - for an address of a sibling's: goes to it, or is dropped where siblings are private
 * - else: is the host's, to whom the ipvlan gives it (drivers/net/ipvlan: ipvlan_xmit_mode_l2)
 */
static __always_inline int cross_frame(struct __sk_buff *skb)
{
	const __u16 broadcast[] = { 0xffff, 0xffff, 0xffff };
	__u32 zero = 0, ifindex;
	struct config *cfg = bpf_map_lookup_elem(&config, &zero);
	struct entry *entry;
	struct key key = {};
	struct ethhdr *eth;
	struct frame f;
	struct mac mac;
	bool is_arp;

	pull(skb, HEADERS);
	eth = (void *)(long)skb->data;
	if (!cfg || (void *)(eth + 1) > (void *)(long)skb->data_end)
		return DROP;
	if (!same((__u16 *)eth->h_dest, cfg->parent.w) || !look(skb, &f) ||
	    !find_target(skb, &f, &key))
		return PASS;
	is_arp = f.proto == bpf_htons(ETH_P_ARP);
	entry = bpf_map_lookup_elem(&addresses, &key);
	if (is_arp && !entry && !is_host(&key))
		return bpf_skb_store_bytes(skb, 0, broadcast, ETH_ALEN, 0) ? DROP : PASS;
	if (!entry || cfg->mode == VEPA)
		return PASS;
	ifindex = entry->ifindex;
	mac = entry->mac;
	if (!ifindex || ifindex == skb->ifindex)
		return PASS;
	if (cfg->mode == PRIVATE || bpf_skb_store_bytes(skb, 0, mac.w, ETH_ALEN, 0))
		return DROP;
	if (is_arp &&
	    bpf_skb_store_bytes(skb, f.l3 + offsetof(struct arp, tha), mac.w, ETH_ALEN, 0))
		return DROP;
	return bpf_redirect(ifindex, BPF_F_INGRESS);
}

#include "host_access.h"

SEC("tc")
int learn(struct __sk_buff *skb)
{
	trace(skb, LEARN);
	return traced(skb, LEARN, observed(skb, learn_frame(skb)));
}

SEC("tc")
int up(struct __sk_buff *skb)
{
	trace(skb, UP);
	return traced(skb, UP, raise_frame(skb));
}

SEC("tc")
int down(struct __sk_buff *skb)
{
	trace(skb, DOWN);
	return traced(skb, DOWN, lower_frame(skb));
}

SEC("tc")
int across(struct __sk_buff *skb)
{
	trace(skb, ACROSS);
	return traced(skb, ACROSS, cross_frame(skb));
}

SEC("tc")
int meet(struct __sk_buff *skb)
{
	trace(skb, MEET);
	return traced(skb, MEET, meet_frame(skb));
}

SEC("tc")
int call(struct __sk_buff *skb)
{
	trace(skb, CALL);
	return traced(skb, CALL, call_frame(skb));
}

/* User space runs this (BPF_PROG_TEST_RUN) on a frame for the guest of device cb[0]. */
SEC("tc")
int tell(struct __sk_buff *skb)
{
	return bpf_clone_redirect(skb, skb->cb[0], BPF_F_INGRESS);
}

char _license[] SEC("license") = "GPL";
