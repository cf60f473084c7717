"""The report of `airtap status` for people: lines of text, readable at 80 columns. Pure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from shlex import quote
from textwrap import wrap
from typing import Any

from ...refusals import Refusal
from ..columns import aligned, printable

Json = dict[str, Any]
# Bytes per second that a guest receives and sends, by ifindex.
Rates = Mapping[int, tuple[float, float]]

_COLUMNS = ("DEVICE", "MAC", "RECEIVED", "SENT", "LAST SEEN", "GUEST")
_REFUSALS = {
    Refusal.WRONG_MAC: "with another source MAC than its own",
    Refusal.HOST_ADDRESS: "that used an address of the host or a gateway",
    Refusal.GUEST_ADDRESS: "that used another guest's address",
    Refusal.MALFORMED: "of malformed ARP or neighbour discovery",
    Refusal.LINK_CONTROL: "that spoke for the link itself",
}
_BOLD, _DIM, _YELLOW, _RED = "1", "2", "33", "31"


@dataclass(frozen=True)
class View:
    """How to show a report. now: s since 1970. width: columns to wrap at.

    user, process: the name behind a uid or a pid, "" if there is none. rates: None to show none.
    """

    now: float
    user: Callable[[int], str]
    process: Callable[[int], str]
    width: int = 80
    colour: bool = False
    rates: Rates | None = None

    def paint(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self.colour and text else text


def table(report: Json, view: View) -> str:
    """Return a line per uplink, and under it its guests: a row each, and lines with the rest."""
    parts = [_uplink(uplink, view) for uplink in report["uplinks"]] or ["no guests"]
    parts += [view.paint(_RED, _lost(loss)) for loss in report.get("lost", [])]
    return "\n\n".join(parts)


def _lost(loss: Json) -> str:
    owner = loss["owner"]
    return (
        f"{loss['device']} is gone with {loss['parent']}: the guest of user {owner['uid']},"
        f" pid {owner['pid']}, has no network until it is started anew"
    )


def _uplink(uplink: Json, view: View) -> str:
    facts = [uplink["type"], uplink["mac"], uplink["kind"]]
    facts += [text for name, text in _ON.items() if uplink[name]]
    name = view.paint(_BOLD, printable(uplink["name"]))
    head = f"{name}: {', '.join(fact for fact in facts if fact)}"
    if not uplink["guests"]:
        return f"{head}\n  no guests"
    return "\n".join([head, *_guests(uplink, view)])


_ON = {"macnat": "MAC NAT", "host_access": "host access"}


def _guests(uplink: Json, view: View) -> Iterator[str]:
    rows = [_COLUMNS, *(_row(guest, view) for guest in uplink["guests"])]
    head, *lines = (f"  {line}" for line in aligned(rows))
    yield view.paint(_DIM, head)
    indent = " " * (2 + max(len(device) for device, *_ in rows) + 2)
    for guest, line in zip(uplink["guests"], lines, strict=True):
        yield line
        yield from (indent + more for more in _more(guest, uplink, view, view.width - len(indent)))


def _row(guest: Json, view: View) -> tuple[str, ...]:
    return (
        printable(guest["device"]),
        guest["mac"] or "-",
        size(guest["rx_bytes"]),
        size(guest["tx_bytes"]),
        _seen(guest, view.now),
        _name(guest["owner"], view),
    )


def _name(owner: Json, view: View) -> str:
    """Return the libvirt domain, else the user."""
    if owner["domain"]:
        return printable(owner["domain"])
    if owner["uid"] is None:
        return "-"
    return printable(view.user(owner["uid"])) or f"user {owner['uid']}"


def _seen(guest: Json, now: float) -> str:
    if guest["last_seen"] is not None:
        return age(now - guest["last_seen"])
    return "-" if guest.get("refused") is None else "never"


def _more(guest: Json, uplink: Json, view: View, width: int) -> Iterator[str]:
    """Yield what is to be said of a guest beside its row."""
    yield from wrap("  ".join(guest["addresses"]), max(1, width), break_long_words=False)
    if process := _process(guest["owner"], view):
        yield process
    if view.rates is not None and guest["ifindex"] in view.rates:
        received, sent = view.rates[guest["ifindex"]]
        yield f"receives {size(received)}/s, sends {size(sent)}/s"
    for text in _refused(guest.get("refused") or {}, uplink["macnat"]):
        yield view.paint(_YELLOW, text)
    if guest["stranded"]:
        yield from (view.paint(_YELLOW, text) for text in _stranded(guest["owner"]))
    if why := guest.get("mac_in_use"):
        yield from (view.paint(_YELLOW, text) for text in ("kept off the LAN:", printable(why)))


def _stranded(owner: Json) -> Iterator[str]:
    yield "its uplink is on another network now, where it was not heard yet:"
    domain, uid = owner["domain"], owner["uid"]
    command = f"airtap domain renew {quote(domain)}" if domain else f"airtap renew --user {uid}"
    yield printable(f"have it ask for a new lease; try {command}")


def _process(owner: Json, view: View) -> str:
    if not owner["pid"]:
        return ""
    name = printable(view.process(owner["pid"]))
    return f"{name}, pid {owner['pid']}" if name else f"pid {owner['pid']}"


def _refused(counts: Json, translated: bool) -> Iterator[str]:
    """Yield what the guards dropped, as far as there is any. Without MAC NAT, the LAN gets it."""
    verb = "refused" if translated else "hidden from the host"
    for refusal, what in _REFUSALS.items():
        if count := counts.get(refusal.key):
            noun = "frame" if count == 1 else "frames"
            yield f"{verb}: {count} {noun} {what}"
    if count := counts.get("evicted"):
        noun = "address" if count == 1 else "addresses"
        yield f"forgotten: {count} {noun}, as it uses too many"


def age(seconds: float) -> str:
    """Return a length of time, and that it is over."""
    count = max(0, int(seconds))
    for unit, length in (("s", 60), ("min", 60), ("h", 24)):
        if count < length:
            return f"{count} {unit} ago"
        count //= length
    return f"{count} d ago"


def size(count: float) -> str:
    """Return a number of bytes."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def rates(before: Json, after: Json, seconds: float) -> Rates:
    """Return what went through each guest's device between two reports, so many seconds apart."""
    old = {guest["ifindex"]: guest for guest in _all(before)}
    found = {}
    for guest in _all(after):
        former = old.get(guest["ifindex"])
        if former and former["device"] == guest["device"] and seconds > 0:
            through = (max(0, guest[key] - former[key]) for key in ("rx_bytes", "tx_bytes"))
            received, sent = (count / seconds for count in through)
            found[guest["ifindex"]] = (received, sent)
    return found


def _all(report: Json) -> Iterator[Json]:
    for uplink in report["uplinks"]:
        yield from uplink["guests"]
