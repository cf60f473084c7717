/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tracing: what the programs make of a guest's frames, told to user space frame by frame.
 *
 * Each program calls trace() first and returns by way of traced(). While nobody traces, each of
 * these is one load and one branch. Otherwise trace() copies the head of the frame into this CPU's
 * record; what is learned, refused or handed over meanwhile is noted there; and traced() adds the
 * head as it is then, and the verdict, and puts the record into a ring if it concerns a guest that
 * is traced. tc programs run with bottom halves disabled and do not nest, so one record a CPU is
 * enough.
 *
 * A flood fills the ring, and what finds no room is counted and lost: user space empties the ring
 * at its own pace, unasked (BPF_RB_NO_WAKEUP).
 *
 * Of earlier frames, which may be another guest's, a record has bytes behind a head that is shorter
 * than SNAP, and nothing else. They are for nobody: user space cuts them off.
 */
#pragma once

#include "target.h"

static __always_inline bool copy_head(struct __sk_buff *skb, __u8 *head, __u32 *whole)
{
	__u32 length = skb->len;

	*whole = length;
	if (length > SNAP)
		length = SNAP;
	return length >= ETH_HLEN && !bpf_skb_load_bytes(skb, 0, head, length);
}

/* Whether a frame on its way out is the host's, and for no guest: see select_at_uplink(). */
static __always_inline bool is_hosts_own(struct __sk_buff *skb, __u32 program)
{
	struct config *cfg = configuration();
	struct ethhdr eth;
	struct mac to = {};

	if (!cfg || (program != UPLINK_EGRESS && (program != TO_UPLINK || cfg->kind != MACVTAP)))
		return false;
	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) ||
	    !same((__u16 *)eth.h_source, cfg->parent.w))
		return false;
	__builtin_memcpy(to.w, eth.h_dest, ETH_ALEN);
	return program == TO_UPLINK || !(is_group(to.w) || bpf_map_lookup_elem(&macs, &to));
}

__noinline int begin_trace(struct __sk_buff *skb, __u32 program)
{
	struct record *r = this_record();

	if (!r)
		return 0;
	r->generation = 0;
	/* On the uplink, of what a guest sends and was traced where it did: see host_access.h. */
	if ((program == UPLINK_EGRESS || program == FROM_UPLINK) &&
	    skb->tc_index == MARK_FROM_GUEST)
		return 0;
	/* These are the most, and must not pay for a trace that does not concern them. */
	if (is_hosts_own(skb, program))
		return 0;
	if (!copy_head(skb, r->before, &r->before_length))
		return 0;
	r->said = 0;
	r->reason = 0;
	r->key = (struct key){};
	r->evicted = (struct key){};
	r->program = program;
	r->generation = generation();
	return 0;
}

static __always_inline __u32 found(const struct who *who)
{
	__u32 *ifindex = bpf_map_lookup_elem(&tracees, who);

	return ifindex ? *ifindex : NOBODY;
}

/* A device's ifindex if its guest is traced, else NOBODY. */
static __always_inline __u32 tracee(__u32 ifindex)
{
	struct who who = { .ifindex = ifindex };

	return found(&who);
}

/* Whether somebody listens who may see what is nobody's. */
static __always_inline bool is_all_seen(void)
{
	struct who nobody = { .ifindex = NOBODY };

	return bpf_map_lookup_elem(&tracees, &nobody);
}

/*
 * Whom a frame from the LAN concerns:
 * - sent to a group, or made so: everyone
 * - for the address of a guest, and left at its MAC: that guest
 * - at the uplink's MAC and for nobody's address here, or dropped as an echo: nobody, which is said
 *   to those who may see all
 * - the host's, or not for this host at all: not to be traced
 */
static __always_inline bool select_from_lan(struct __sk_buff *skb, struct record *r,
					    struct config *cfg)
{
	struct key key = {};
	struct entry *entry;
	struct mac to = {};
	struct frame f;

	r->whose = NOBODY;
	if (r->verdict == DROP)
		return true;
	__builtin_memcpy(to.w, r->after, ETH_ALEN);
	if (is_group(to.w)) {
		r->whose = EVERYONE;
		return true;
	}
	if (!parse_ethernet(skb, &f) || !find_target(skb, &f, &key))
		return false;
	entry = bpf_map_lookup_elem(&addresses, &key);
	if (!entry)
		return same(to.w, cfg->parent.w) && !is_host(&key);
	if (!same(to.w, entry->mac.w))
		return false;
	r->whose = tracee(entry->ifindex);
	return r->whose != NOBODY;
}

/*
 * Whom a frame concerns that comes by the uplink on its way out:
 * - of a macvtap's guest: that guest
 * - the host's, sent to a group: everyone, if it was handed over
 * - the host's, at a guest's MAC: that guest, if uplink_egress gives it to the guest. If it goes to
 *   the LAN, nobody: the guest may have chosen its router's MAC, and must not read what goes there
 * - other frames of the host's: not to be traced
 */
static __always_inline bool select_at_uplink(struct record *r, struct config *cfg)
{
	struct who from = {};
	struct mac to = {};
	__u32 *guest;

	__builtin_memcpy(from.mac.w, r->before + ETH_ALEN, ETH_ALEN);
	__builtin_memcpy(to.w, r->before, ETH_ALEN);
	if (!same(from.mac.w, cfg->parent.w)) {
		r->whose = found(&from);
		return r->whose != NOBODY &&
		       (r->program == TO_UPLINK || r->said || r->verdict != PASS);
	}
	if (is_group(to.w)) {
		r->whose = EVERYONE;
		return r->said;
	}
	guest = bpf_map_lookup_elem(&macs, &to);
	r->whose = guest ? tracee(*guest) : NOBODY;
	if (r->whose == NOBODY)
		return false;
	if (r->verdict != TC_ACT_REDIRECT)
		r->whose = NOBODY;
	return true;
}

/* Whom a frame on a guest's own device concerns: who sent it, or to whom to_sibling takes it. */
static __always_inline bool select_at_guest(struct __sk_buff *skb, struct record *r)
{
	struct key key = {};
	struct entry *entry;
	struct frame f;

	r->whose = tracee(skb->ifindex);
	if (r->whose != NOBODY)
		return r->program != TO_HOST || r->said || r->verdict != PASS;
	if (r->program != TO_SIBLING || r->verdict != TC_ACT_REDIRECT || !parse_ethernet(skb, &f) ||
	    !find_target(skb, &f, &key))
		return false;
	entry = bpf_map_lookup_elem(&addresses, &key);
	r->whose = entry ? tracee(entry->ifindex) : NOBODY;
	return r->whose != NOBODY;
}

__noinline int end_trace(struct __sk_buff *skb, __u32 program, int verdict)
{
	struct config *cfg = configuration();
	struct record *r = this_record();
	bool wanted;

	if (!cfg || !r || !r->generation || r->generation != generation() || r->program != program)
		return 0;
	r->generation = 0;
	if (!copy_head(skb, r->after, &r->after_length))
		return 0;
	r->verdict = verdict;
	if (program == FROM_UPLINK)
		wanted = select_from_lan(skb, r, cfg);
	else if (program == UPLINK_EGRESS || (program == TO_UPLINK && cfg->kind == MACVTAP))
		wanted = select_at_uplink(r, cfg);
	else
		wanted = select_at_guest(skb, r);
	if (!wanted || (r->whose == NOBODY && !is_all_seen()))
		return 0;
	r->time = bpf_ktime_get_ns();
	r->tag = skb->vlan_tci;
	r->tag_proto = skb->vlan_present ? skb->vlan_proto : 0;
	if (bpf_ringbuf_output(&traces, r, sizeof(*r), BPF_RB_NO_WAKEUP))
		__sync_fetch_and_add(&tracing.lost, 1);
	return 0;
}

static __always_inline void trace(struct __sk_buff *skb, __u32 program)
{
	if (generation())
		begin_trace(skb, program);
}

/* Gives the verdict back. */
static __always_inline int traced(struct __sk_buff *skb, __u32 program, int verdict)
{
	if (generation())
		end_trace(skb, program, verdict);
	return verdict;
}
