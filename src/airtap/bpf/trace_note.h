/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Notes of the programs in the record of the frame that they look at, for trace.h.
 */
#pragma once

#include "maps.h"

/* Read anew each time: kept, it would have the verifier follow every program twice. */
static __always_inline __u32 generation(void)
{
	return *(volatile __u32 *)&tracing.generation;
}

static __always_inline struct record *this_record(void)
{
	return value_of(records);
}

/* The record of the frame at hand, if somebody traces. */
static __always_inline struct record *open_record(void)
{
	return generation() ? this_record() : NULL;
}

/* Note what became of key in this record. what: as report() has it. */
static __always_inline void note_trace(const struct key *key, __u32 what)
{
	struct record *r = open_record();

	if (!r)
		return;
	r->said |= 1 << (what & 0xff);
	if ((what & 0xff) == EVICTED) {
		r->evicted = *key;
	} else {
		r->reason = what >> 8;
		r->key = *key;
	}
}

static __always_inline void note_handed(__u16 said)
{
	struct record *r = open_record();

	if (r)
		r->said |= said;
}
