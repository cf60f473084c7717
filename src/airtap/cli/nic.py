"""Which network card of a domain a command line means."""

import argparse
from typing import TYPE_CHECKING

from ..errors import Problem
from ..names import mac_address

if TYPE_CHECKING:
    from ..libvirt.reader import Domain, Interface


def add_card(parser: argparse.ArgumentParser) -> None:
    """Let a command name one network card of a domain."""
    parser.add_argument("domain", metavar="DOMAIN", help="its name or UUID")
    parser.add_argument(
        "--nic",
        metavar="MAC|N",
        help="which network card, by MAC address or by number from 1; needed if there are several",
    )


def chosen_card(domain: "Domain", name: str, choice: str | None) -> "Interface":
    """The network card that --nic names, or the only one. Raises Problem which-nic, no-such-nic."""
    cards = domain.interfaces
    if not cards:
        raise Problem("no-such-nic", f"domain {name} has no network card")
    if choice is None:
        if len(cards) > 1:
            raise _which(f"domain {name} has {len(cards)} network cards", cards)
        return cards[0]
    wanted = mac_address(choice) if ":" in choice else choice
    for number, card in enumerate(cards, 1):
        if wanted in (card.mac, str(number)):
            return card
    raise _which(f"domain {name} has no network card {choice[:64]}", cards)


def chosen_mark(domain: "Domain", name: str, choice: str | None) -> str:
    """The MAC of the network card to disconnect. Raises Problem as chosen_card(), not-connected.

    A MAC may also be that of a card that has gone since.
    """
    marked = {mark.mac for mark in domain.marks}
    if not marked:
        raise Problem("not-connected", f"no network card of domain {name} was connected by airtap")
    if choice is None:
        if len(marked) > 1:
            cards = [card for card in domain.interfaces if card.mac in marked]
            raise _which(f"domain {name} has {len(marked)} connected network cards", cards)
        return next(iter(marked))
    if ":" in choice and mac_address(choice) in marked:
        return mac_address(choice)
    mac = chosen_card(domain, name, choice).mac
    if mac not in marked:
        raise Problem(
            "not-connected", f"network card {mac} of domain {name} was not connected by airtap"
        )
    return mac


def _which(what: str, cards: "list[Interface]") -> Problem:
    return Problem("which-nic", what, f"--nic takes: {', '.join(card.mac for card in cards)}")
