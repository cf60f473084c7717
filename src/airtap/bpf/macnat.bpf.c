// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * MAC NAT: many guests, each with its own MAC, behind an uplink that carries one.
 *
 * Theory of operation
 *
 * from_guest   egress of each guest's device, where everything that the guest sends enters the host,
 *              also what only a sibling or the host will see. It knows by ifindex who speaks, checks
 *              the guards, and remembers (address, VLAN) -> guest.
 * to_uplink    egress of the uplink: every frame that is not the host's gets the uplink's MAC, in
 *              the Ethernet header and wherever ARP and neighbour discovery repeat it.
 * from_uplink  ingress of the uplink: what was sent to the uplink's MAC gets the MAC of the guest
 *              whose address it is for.
 *
 * A macvlan then delivers by that MAC. An ipvlan has one MAC for all and would deliver by the
 * addresses of its netdevs, which would be the host's addresses too. So these programs deliver for
 * it (bpf_redirect()), and its netdevs need no address:
 *
 * from_guest, to_uplink, to_sibling   egress of each ipvtap. to_sibling takes to a sibling what is
 *                                     for a sibling.
 * from_uplink                         ingress of the uplink. It takes to its guest's ipvtap what is
 *                                     for a guest.
 *
 * For uplink_egress and to_host, which carry frames between guests and the host, to which neither a
 * macvlan nor an ipvlan takes its guests, see host_access.h. What trace() and traced() tell, see
 * trace.h.
 *
 * All are tc programs in direct-action mode.
 *
 * What is kept
 *
 * "addresses" has one entry per learned address and is all that a packet costs: one lookup. Each
 * guest has a table with a slot for every address that it may hold; a new address takes the slot
 * unused for longest, and with it evicts that slot's former address. So a guest's flood turns over
 * its own table, "addresses" has room for every slot of every guest, and nothing is ever LRU over
 * all guests. What a guest has said to be its own, in ARP or ND, gives way to no mere source of
 * packets: one that routes for others has many of these. A slot whose address was taken over or
 * deleted is stale: it says nothing until it is taken again, and an entry names its slot, so that a
 * stale slot cannot evict it.
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
 * With a virtio header a guest may have the kernel write a checksum, after all of these programs and
 * where the guest says. It may stand behind what they have read only: see checksum.h.
 */
#include "from_guest.h"
#include "from_uplink.h"
#include "host_access.h"
#include "to_sibling.h"
#include "to_uplink.h"
#include "trace.h"

#define PROGRAM(name, number, verdict)                  \
	NAMED(name, "tc", number, verdict)

#define NAMED(name, section, number, verdict)           \
	SEC(section)                                    \
	int name(struct __sk_buff *skb)                 \
	{                                               \
		trace(skb, number);                     \
		return traced(skb, number, verdict);    \
	}

PROGRAM(from_guest, FROM_GUEST, handle_from_guest(skb))
/* In place of from_guest where there is a JIT: user space has one of the two loaded. */
NAMED(from_guest_jit, "?tc", FROM_GUEST, handle_from_guest_jit(skb))
PROGRAM(to_host, TO_HOST, handle_to_host(skb))
PROGRAM(uplink_egress, UPLINK_EGRESS, handle_uplink_egress(skb))
PROGRAM(to_uplink, TO_UPLINK, handle_to_uplink(skb))
PROGRAM(to_sibling, TO_SIBLING, handle_to_sibling(skb))
PROGRAM(from_uplink, FROM_UPLINK, handle_from_uplink(skb))

/* User space runs this (BPF_PROG_TEST_RUN) on a frame for the guest of device cb[0]. */
SEC("tc")
int inject(struct __sk_buff *skb)
{
	return bpf_clone_redirect(skb, skb->cb[0], BPF_F_INGRESS);
}

char _license[] SEC("license") = "GPL";
