/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * DHCP in the uplink's name, for networks that take a request only where its client (chaddr) is the
 * station that sends it, as DHCP snooping does on some switches and controllers. The request gets the
 * uplink's MAC, and the guest's as its client identifier if it has none, so that every guest has a
 * lease of its own; the answer is given back by its transaction. That gets another number, which
 * no guest can guess: an answer is for the host, or for one guest.
 *
 * Where user space leaves the choice (dhcp = "auto"), both ways are tried in turn until one is
 * answered. That one is kept, on this network.
 */
#pragma once

#include "addresses.h"
#include "dhcp.h"

#define OPTION_PAD 0
#define OPTION_ADDRESS 50
#define OPTION_CLIENT_ID 61
#define OPTION_END 255
#define MAX_OPTIONS 64
#define OPTIONS (sizeof(struct udphdr) + 240) /* behind the magic cookie (RFC 2131 3) */
#define MAGIC_COOKIE 0x63825363
/* So many requests without an answer, in so long, and the next one is sent the other way. udhcpc asks
 * after 0, 3 and 6 s; iPXE after 0, 1, 3 and 7. */
#define TRIES 2
#define TRIED_FOR (5 * SECOND)

#define WINDOW 12 /* a chunk from an even place on, and even in length */

/* What is written at once: a client identifier that is a MAC, and the end of options. */
struct chunk {
	__u8 octets[10];
};

/* Count a request, and decide whether it goes in the uplink's name. */
static __always_inline bool ask(struct dhcp *dhcp)
{
	__u64 now = bpf_ktime_get_coarse_ns();

	dhcp->unanswered++;
	if (dhcp->settled)
		return dhcp->in_uplinks_name;
	if (!dhcp->tried)
		dhcp->since = now;
	if (dhcp->tried >= TRIES && now - dhcp->since >= TRIED_FOR) {
		dhcp->in_uplinks_name ^= 1;
		dhcp->tried = 0;
		dhcp->since = now;
	}
	dhcp->tried++;
	return dhcp->in_uplinks_name;
}

static __always_inline void settle(bool in_uplinks_name)
{
	struct dhcp *dhcp = value_of(dhcp_state);

	if (!dhcp)
		return;
	dhcp->unanswered = 0;
	dhcp->hosts_address = 0;
	if (dhcp->settled)
		return;
	dhcp->in_uplinks_name = in_uplinks_name;
	dhcp->settled = 1;
}

/* The option at a place: its code, and 8 bits higher how long it is in all; -1 where there is none.
 * Global, as the next one: the verifier would follow each option of each length. */
__noinline int option_at(struct __sk_buff *skb, __u32 at)
{
	__u8 code, length;

	if (bpf_skb_load_bytes(skb, at, &code, 1))
		return -1;
	if (code == OPTION_PAD || code == OPTION_END)
		return code | 1 << 8;
	if (bpf_skb_load_bytes(skb, at + 1, &length, 1))
		return -1;
	return code | (2 + length) << 8;
}

/* Where an option is in a message, whose options are from at to end; 0: nowhere. */
__noinline int find_option(struct __sk_buff *skb, __u32 at, __u32 end, __u32 code)
{
	for (int i = 0; i < MAX_OPTIONS && at < end; i++) {
		int option = option_at(skb, at);

		if (option < 0)
			break;
		if ((option & 0xff) == code)
			return at;
		if ((option & 0xff) == OPTION_END)
			break;
		at += option >> 8;
	}
	return 0;
}

/* Make the datagram longer, at its end. Its length is in the sum twice, of which one is pending where
 * the sum is. */
static __noinline int lengthen(struct __sk_buff *skb, __u32 l3, __u32 l4, __u32 by)
{
	__u32 check = l4 + offsetof(struct udphdr, check), total = l3 + offsetof(struct iphdr, tot_len);
	__be16 was, now;

	if (skb->gso_size || bpf_skb_load_bytes(skb, total, &was, sizeof(was)))
		return -1;
	now = bpf_htons(bpf_ntohs(was) + by);
	if (skb->len < l3 + bpf_ntohs(now) && bpf_skb_change_tail(skb, l3 + bpf_ntohs(now), 0))
		return -1;
	if (bpf_skb_store_bytes(skb, total, &now, sizeof(now), 0) ||
	    bpf_l3_csum_replace(skb, l3 + offsetof(struct iphdr, check), was, now, sizeof(now)) ||
	    bpf_skb_load_bytes(skb, l4 + offsetof(struct udphdr, len), &was, sizeof(was)))
		return -1;
	now = bpf_htons(bpf_ntohs(was) + by);
	return bpf_skb_store_bytes(skb, l4 + offsetof(struct udphdr, len), &now, sizeof(now), 0) ||
	       bpf_l4_csum_replace(skb, check, was, now, sizeof(now) | BPF_F_MARK_MANGLED_0) ||
	       bpf_l4_csum_replace(skb, check, was, now,
				   sizeof(now) | BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0);
}

/*
 * Write into the message at l4, which is made longer if need be; its checksum stays right. A window
 * is written, as the sum is over words; what is beyond the end has not counted yet.
 */
__noinline int write_chunk(struct __sk_buff *skb, __u32 l3, __u32 l4, __u32 at, struct chunk *chunk)
{
	__u8 before[16] = {}, after[16];
	__u32 odd = (at - l4) & 1, start = at - odd, counted, rest;
	__be16 length;

	if (!chunk || bpf_skb_load_bytes(skb, l4 + offsetof(struct udphdr, len), &length, sizeof(length)))
		return -1;
	counted = l4 + bpf_ntohs(length) - start;
	if (counted < WINDOW && lengthen(skb, l3, l4, WINDOW - counted))
		return -1;
	rest = (counted < WINDOW ? counted : WINDOW) - 1;
	barrier_var(rest); /* up to 6.1 at least the verifier knows the bounds of this only */
	if (bpf_skb_load_bytes(skb, start, before, (rest & (sizeof(before) - 1)) + 1))
		return -1;
	__builtin_memcpy(after, before, sizeof(after));
	if (odd)
		__builtin_memcpy(after + 1, chunk, sizeof(*chunk));
	else
		__builtin_memcpy(after, chunk, sizeof(*chunk));
	if (bpf_skb_store_bytes(skb, start, after, WINDOW, 0))
		return -1;
	return bpf_l4_csum_replace(skb, l4 + offsetof(struct udphdr, check), 0,
				   bpf_csum_diff((__be32 *)before, WINDOW, (__be32 *)after, WINDOW, 0),
				   BPF_F_MARK_MANGLED_0);
}

static __always_inline int write_word(struct __sk_buff *skb, __u32 l4, __u32 at, __be32 was,
				      __be32 now)
{
	return bpf_skb_store_bytes(skb, at, &now, sizeof(now), 0) ||
	       bpf_l4_csum_replace(skb, l4 + offsetof(struct udphdr, check), was, now,
				   sizeof(now) | BPF_F_MARK_MANGLED_0);
}

static __always_inline void set_client(struct chunk *chunk, const struct mac *mac)
{
	__builtin_memset(chunk, 0, sizeof(*chunk));
	__builtin_memcpy(chunk->octets, mac->w, ETH_ALEN);
}

/* Whether a message is about an address of the host's: in the uplink's name a guest could decline it. */
static __noinline bool names_host(struct __sk_buff *skb, __u32 at, __u32 end)
{
	struct key key = {};
	__u32 address;

	at = find_option(skb, at, end, OPTION_ADDRESS);
	if (!at || bpf_skb_load_bytes(skb, at + 2, &address, sizeof(address)))
		return false;
	set_ipv4(&key, address);
	return is_host(&key);
}

/* The message at l4 becomes one of the uplink's. */
static __noinline int ask_as_uplink(struct __sk_buff *skb, __u32 l3, __u32 l4,
				    const struct mac *parent)
{
	struct transaction transaction = {};
	struct chunk chunk;
	struct bootp m;
	__be32 cookie, number = bpf_get_prandom_u32();
	__u32 end, last;
	bool has_id;

	if (bpf_skb_load_bytes(skb, l4, &m, UP_TO(chaddr)) ||
	    bpf_skb_load_bytes(skb, l4 + OPTIONS - sizeof(cookie), &cookie, sizeof(cookie)))
		return 0;
	end = l4 + bpf_ntohs(m.udp.len);
	last = find_option(skb, l4 + OPTIONS, end, OPTION_END);
	has_id = find_option(skb, l4 + OPTIONS, end, OPTION_CLIENT_ID);
	/* A relay's client's, or of BOOTP: as it is. */
	if (!last || m.giaddr || m.hlen != ETH_ALEN || cookie != bpf_htonl(MAGIC_COOKIE))
		return 0;
	if (names_host(skb, l4 + OPTIONS, end))
		return -1;
	__builtin_memcpy(transaction.client.w, m.chaddr, ETH_ALEN);
	transaction.number = m.xid;
	transaction.is_named = !has_id;
	if (bpf_map_update_elem(&transactions, &number, &transaction, BPF_ANY) ||
	    write_word(skb, l4, l4 + offsetof(struct bootp, xid), m.xid, number))
		return -1;
	set_client(&chunk, parent);
	if (write_chunk(skb, l3, l4, l4 + offsetof(struct bootp, chaddr), &chunk))
		return -1;
	if (has_id)
		return 0;
	/* Of Ethernet (1). */
	chunk = (struct chunk){ { OPTION_CLIENT_ID, 1 + ETH_ALEN, 1, [9] = OPTION_END } };
	__builtin_memcpy(chunk.octets + 3, m.chaddr, ETH_ALEN);
	return write_chunk(skb, l3, l4, last, &chunk);
}

/* Note the message at l4, which stays a guest's own, so that its answer is known. */
static __noinline int note_own(struct __sk_buff *skb, __u32 l4)
{
	struct transaction transaction = { .is_own = 1 };
	struct bootp m;
	__be32 number;

	if (bpf_skb_load_bytes(skb, l4, &m, UP_TO(chaddr)))
		return 0;
	__builtin_memcpy(transaction.client.w, m.chaddr, ETH_ALEN);
	number = m.xid;
	bpf_map_update_elem(&transactions, &number, &transaction, BPF_NOEXIST);
	return 0;
}

/* What has come in is a DHCP server's answer to the guest that asked in the uplink's name: it becomes
 * that guest's. Not the answer that gives it the host's address, as a server does that knows clients
 * by MAC alone. */
static __noinline int give_back(struct __sk_buff *skb, __u32 l3, const struct bootp *m, __u32 vlan)
{
	struct transaction *transaction;
	struct chunk chunk;
	struct key key = {};
	__be32 number = m->xid;
	__u32 l4 = l3 + sizeof(struct iphdr), end = l4 + bpf_ntohs(m->udp.len), at;
	bool is_named;

	transaction = bpf_map_lookup_elem(&transactions, &number);
	if (!transaction || transaction->is_own)
		return 0;
	set_ipv4(&key, m->yiaddr);
	if (is_host(&key)) {
		struct dhcp *dhcp = value_of(dhcp_state);

		if (dhcp)
			dhcp->hosts_address++;
		return -1;
	}
	is_named = transaction->is_named;
	set_client(&chunk, &transaction->client);
	if (write_word(skb, l4, l4 + offsetof(struct bootp, xid), number, transaction->number) ||
	    write_chunk(skb, l3, l4, l4 + offsetof(struct bootp, chaddr), &chunk))
		return -1;
	settle(true);
	note_offer(&transaction->client, m->yiaddr, vlan);
	/* A client does not know an identifier that it has not sent (RFC 6842). */
	at = is_named ? find_option(skb, l4 + OPTIONS, end, OPTION_CLIENT_ID) : 0;
	__builtin_memset(&chunk, OPTION_PAD, sizeof(chunk));
	if (!at || bpf_skb_load_bytes(skb, at + 9, chunk.octets + 9, 1))
		return 0;
	return write_chunk(skb, l3, l4, at, &chunk);
}

/* Look at what has come in: an answer to a guest tells which way to ask, and what it may soon have. */
static __noinline int hear_answer(struct __sk_buff *skb, struct frame *f, const struct mac *parent)
{
	__u32 l3 = f->l3, l4 = l3 + sizeof(struct iphdr);
	struct transaction *transaction;
	struct mac client;
	struct bootp m;
	__be32 number;

	if (bpf_skb_load_bytes(skb, l4, &m, UP_TO(chaddr)) || m.udp.dest != bpf_htons(BOOTPC) ||
	    m.op != BOOTREPLY)
		return 0;
	if (same(m.chaddr, parent->w))
		return give_back(skb, l3, &m, f->vlan);
	__builtin_memcpy(client.w, m.chaddr, ETH_ALEN);
	note_offer(&client, m.yiaddr, f->vlan);
	number = m.xid;
	transaction = bpf_map_lookup_elem(&transactions, &number);
	if (transaction && transaction->is_own && same(m.chaddr, transaction->client.w))
		settle(false);
	return 0;
}

/*
 * Ask the DHCP server to broadcast its answers (RFC 2131 4.1): a unicast OFFER goes to the
 * client's hardware address, which the uplink does not carry. The checksum helper leaves a
 * checksum of 0 and CHECKSUM_PARTIAL as they are.
 */
static __noinline int egress_dhcp(struct __sk_buff *skb, __u32 l3, const struct mac *parent)
{
	struct dhcp *dhcp = value_of(dhcp_state);
	struct bootp m;
	struct iphdr ip;
	__u32 header, l4;
	__be16 flags;

	if (!dhcp || bpf_skb_load_bytes(skb, l3, &ip, sizeof(ip)))
		return 0;
	header = ip.ihl * 4;
	l4 = l3 + header;
	if (answers(skb, l4, parent)) {
		note_handed(SAID_CONFIGURES);
		return -1;
	}
	if (ip.version != 4 || header < sizeof(ip) || bpf_ntohs(ip.tot_len) < header + UP_TO(flags) ||
	    bpf_skb_load_bytes(skb, l4, &m, UP_TO(flags)))
		return 0;
	if (m.udp.dest != bpf_htons(BOOTPS) || m.op != BOOTREQUEST ||
	    bpf_ntohs(m.udp.len) < UP_TO(flags))
		return 0;
	flags = m.flags | bpf_htons(BROADCAST_FLAG);
	if (flags != m.flags &&
	    (bpf_skb_store_bytes(skb, l4 + offsetof(struct bootp, flags), &flags, sizeof(flags), 0) ||
	     bpf_l4_csum_replace(skb, l4 + offsetof(struct udphdr, check), m.flags, flags,
				 sizeof(flags) | BPF_F_MARK_MANGLED_0)))
		return -1;
	if (ip.frag_off & bpf_htons(0x3fff))
		return 0;
	if (ask(dhcp))
		return ask_as_uplink(skb, l3, l4, parent);
	return dhcp->settled ? 0 : note_own(skb, l4);
}
