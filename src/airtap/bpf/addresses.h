/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Addresses: a guest claims one, is refused it, or has it learned as its own, and may lose it.
 */
#pragma once

#include "whose.h"
#include "trace_note.h"

#define SECOND 1000000000ULL
/* Events a guest may cause in a second. Eight guests' floods leave room in the ring for others. */
#define CHANGES_PER_SECOND 64
#define REFUSALS_PER_SECOND 8

struct claim {
	struct key key;
	__u32 ifindex;
	__u64 now;
	__u64 until;
	struct mac mac;
	bool learn;
	bool own; /* said by ARP or ND, which nobody forwards */
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
		event.what = SUPPRESSED;
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

/* Whose own, order and number in one word, and its minimum without a branch, of which the verifier
 * would follow both ways each time. clang makes one where it sees that the mask is 0 or all ones. */
static __always_inline __u32 oldest(struct table *table, __u32 first, __u32 past)
{
	__u64 least = ~0ULL >> 1;

	for (__u32 i = first; i < past; i++) {
		__u64 own = (__u64)table->slots[i].own << 56;
		__s64 below = (own | table->slots[i].order << 6 | i) - least;
		__s64 mask = below >> 63;

		barrier_var(mask);
		least += below & mask;
	}
	return least & 63;
}

/*
 * Take a slot for c->key: the one unused for longest of those whose addresses were sources of packets
 * only, which the guest may have forwarded for others, or else of its own. Its former key is left in
 * *former, if any. False: it is an own one, which a mere source does not get.
 */
static __always_inline bool take_slot(struct claim *c, struct table *table, struct key *former,
				      __u32 *slot)
{
	bool taken = false;
	__u32 chosen;

	bpf_spin_lock(&table->lock);
	if (c->key.family == 4)
		chosen = oldest(table, 0, IPV4_SLOTS);
	else
		chosen = oldest(table, IPV4_SLOTS, SLOTS);
	if (chosen < SLOTS) {
		*former = table->slots[chosen].key;
		taken = c->own || !table->slots[chosen].own;
		if (taken) {
			table->slots[chosen].key = c->key;
			table->slots[chosen].order = ++table->sequence;
			table->slots[chosen].own = c->own;
		}
	}
	bpf_spin_unlock(&table->lock);
	*slot = chosen;
	return taken;
}

/* Whether the entry of a slot is there, and not another slot's or another guest's by now. */
static __always_inline bool is_held(struct claim *c, struct key *key, __u32 slot)
{
	struct entry *entry = bpf_map_lookup_elem(&addresses, key);

	return entry && entry->ifindex == c->ifindex && entry->slot == slot;
}

/* Delete the entry that a slot held. */
static __always_inline void evict(struct claim *c, struct table *table, struct key *key, __u32 slot)
{
	if (!is_held(c, key, slot))
		return;
	bpf_map_delete_elem(&addresses, key);
	__sync_fetch_and_add(&table->evicted, 1);
	report(c, table, key, EVICTED, 0);
}

static __noinline int learn_address(struct claim *c, struct table *table, __u32 holder)
{
	struct entry entry = {
		.fresh_until = c->until,
		.last_seen = c->now,
		.ifindex = c->ifindex,
		.mac = c->mac,
	};
	struct key former = {};

	if (!take_slot(c, table, &former, &entry.slot)) {
		/* Nobody has that any more: the next packet gets the slot. */
		if (entry.slot < SLOTS && !is_held(c, &former, entry.slot))
			table->slots[entry.slot].own = 0;
		return PASS;
	}
	if (former.family)
		evict(c, table, &former, entry.slot);
	/* The kernel refuses while its bucket is taken on this CPU (EBUSY). Who heard this would answer
	 * an address that is not known here, for long; the guest says it again. */
	if (bpf_map_update_elem(&addresses, &c->key, &entry, BPF_ANY))
		return DROP;
	/* User space adds a host address or a route first, then deletes what was learned of it:
	 * whichever way that and this interleave, one of the two deletes. */
	if (is_reserved(c->ifindex, &c->key)) {
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

	entry->fresh_until = c->until;
	entry->last_seen = c->now;
	table->last_seen = c->now;
	if (slot < SLOTS)
		table->slots[slot].order = __sync_fetch_and_add(&table->sequence, 1) + 1;
}

static __always_inline bool is_behind_another(const struct claim *c)
{
	struct behind *found = find_behind(&c->key);

	return found && found->alone && !(c->learn && same(found->mac.w, c->mac.w));
}

/*
 * A guest says that c->key is its own. What comes of it:
 * - an address that nobody has: passes, nothing is learned
 * - its own already: passes, noted as seen from time to time
 * - of the host, a gateway, the LAN's broadcast address, or one that the host routes elsewhere:
 *   dropped
 * - of another card of the same guest: passes, and stays with that card
 * - another guest's who used it within config.alive: dropped, and user space told, which may ask
 *   the holder and delete the entry if no answer comes
 * - behind another guest, who routes for it: dropped
 * - another guest's who did not, or new: learned; dropped if that cannot be noted; but a mere source
 *   passes and is not learned where all that the guest may have are its own
 *
 * Global, as some functions below: the verifier then looks at it once, not once for each caller.
 */
__noinline int claim_address(struct claim *given)
{
	struct claim copy, *c = &copy; /* until 6.4 a map's key must be on the stack */
	struct table *table;
	struct entry *entry;
	struct config *cfg;
	__u32 holder = 0, slot;

	if (!given)
		return DROP;
	copy = *given;
	if (is_unassignable(&c->key))
		return PASS;
	cfg = configuration();
	table = bpf_map_lookup_elem(&tables, &c->ifindex);
	entry = bpf_map_lookup_elem(&addresses, &c->key);
	if (!cfg || !table)
		return DROP;
	c->until = bpf_jiffies64() + cfg->refresh;
	if (entry && entry->ifindex == c->ifindex && c->learn) {
		if (!same(entry->mac.w, c->mac.w))
			entry->mac = c->mac;
		if (bpf_jiffies64() >= entry->fresh_until)
			refresh(c, table, entry);
		slot = entry->slot;
		if (c->own && slot < SLOTS)
			table->slots[slot].own = 1;
		return PASS;
	}
	if (is_reserved(c->ifindex, &c->key) || (entry && !entry->ifindex))
		return refuse(c, table, HOST_ADDRESS, 0);
	if (cfg->behind && is_behind_another(c))
		return refuse(c, table, GUEST_ADDRESS, 0);
	if (entry && entry->ifindex != c->ifindex) {
		holder = entry->ifindex;
		if (are_one_guests(c->ifindex, holder))
			return PASS;
		if (c->now - entry->last_seen < cfg->alive)
			return refuse(c, table, GUEST_ADDRESS, holder);
	}
	return c->learn ? learn_address(c, table, holder) : PASS;
}

static __always_inline void keep_probe(const struct claim *c)
{
	struct probes *probes = bpf_map_lookup_elem(&probed, &c->ifindex);

	if (probes)
		probes->keys[probes->next++ % PROBES] = c->key;
}

/*
 * A guest asks whether an address is free: an ARP probe (RFC 5227) or duplicate address detection
 * (RFC 4862 5.4). That claims nothing: the address's holder should hear it. But the guest will have
 * the address soon if there is none, or none any more, and may not speak: user space is told, so
 * that it may ask.
 * An access point that answers for its stations knows the address from here on, and the LAN will
 * not ask the guest itself.
 */
static __noinline int note_probe(struct claim *c, struct table *table)
{
	struct entry *entry = bpf_map_lookup_elem(&addresses, &c->key);

	if (c->learn && !is_unassignable(&c->key) && !is_reserved(c->ifindex, &c->key) &&
	    (!entry || (entry->ifindex && entry->ifindex != c->ifindex))) {
		keep_probe(c);
		report(c, table, &c->key, PROBED, 0);
	}
	return PASS;
}

/*
 * A guest that is offered an address may have it soon, and not speak: it counts as having asked itself
 * whether that is free. Who on the LAN knows the address from before asks nobody for a while.
 */
static __noinline int note_offer(const struct mac *client, __be32 address, __u32 vlan)
{
	struct claim c = { .now = bpf_ktime_get_coarse_ns(), .mac = *client, .learn = true };
	struct bearer *bearer = bpf_map_lookup_elem(&bearers, &c.mac);
	struct table *table;

	if (!bearer || !bearer->ifindex)
		return 0;
	c.ifindex = bearer->ifindex;
	c.key.vlan = vlan;
	set_ipv4(&c.key, address);
	table = bpf_map_lookup_elem(&tables, &c.ifindex);
	return table ? note_probe(&c, table) : 0;
}
