"""airtap status: uplinks and the guests behind them."""

import argparse
import json
from typing import Any

from .. import client, wire
from .columns import aligned, printable

Json = dict[str, Any]

_COLUMNS = ("DEVICE", "MAC", "ADDRESSES", "USER", "PID", "DOMAIN", "RECEIVED", "SENT")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "status",
        help="show uplinks and guests",
        description="Show the uplinks that carry guests or stand in airtap.toml, and the "
        "guests behind them: all of them for root, for others their own.",
    )
    parser.add_argument("--json", action="store_true", help="for programs: see docs/status.md")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, connection: client.Connection) -> None:
    report = fetch(connection)
    print(json.dumps(report, indent=2) if arguments.json else table(report), flush=True)


def fetch(connection: client.Connection) -> Json:
    """Ask airtapd for its status and put the packets of the answer together."""
    connection.send(wire.encode({"op": "status"}))
    uplinks: list[Json] = []
    lost: list[Json] = []
    while True:
        packet, _ = connection.receive()
        message: Json = wire.decode(packet)
        if "uplink" in message:
            uplinks.append({**message["uplink"], "guests": []})
        elif "guest" in message and uplinks:
            uplinks[-1]["guests"].append(message["guest"])
        elif "lost" in message:
            lost.append(message["lost"])
        else:
            wire.check(message)
            return {"uplinks": uplinks, **({"lost": lost} if lost else {})}


def table(report: Json) -> str:
    """The report for people: a line per uplink, under it a table of its guests."""
    parts = [_uplink(uplink) for uplink in report["uplinks"]] or ["no guests"]
    parts += [_lost(loss) for loss in report.get("lost", [])]
    return "\n\n".join(parts)


def _lost(loss: Json) -> str:
    owner = loss["owner"]
    return (
        f"{loss['device']} is gone with {loss['parent']}: the guest of user {owner['uid']},"
        f" pid {owner['pid']}, has no network until it is started anew"
    )


def _uplink(uplink: Json) -> str:
    facts = [uplink["type"], uplink["mac"], uplink["kind"]]
    facts += [name for name in ("macnat", "host_access") if uplink[name]]
    head = f"{uplink['name']}: {', '.join(fact for fact in facts if fact)}"
    guests = [_row(guest) for guest in uplink["guests"]]
    if not guests:
        return f"{head}\n  no guests"
    notes = [_stranded(guest) for guest in uplink["guests"] if guest["stranded"]]
    return "\n".join([head, *(f"  {line}" for line in [*aligned([_COLUMNS, *guests]), *notes])])


def _stranded(guest: Json) -> str:
    return (
        f"{guest['device']}: its uplink is on another network now, and the guest was not heard"
        " there: have it ask for a new lease"
    )


def _row(guest: Json) -> tuple[str, ...]:
    owner = guest["owner"]
    return (
        guest["device"],
        guest["mac"] or "-",
        " ".join(guest["addresses"]) or "-",
        _or_dash(owner["uid"]),
        _or_dash(owner["pid"]),
        printable(owner["domain"] or "-"),
        _size(guest["rx_bytes"]),
        _size(guest["tx_bytes"]),
    )


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
