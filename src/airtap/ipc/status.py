"""airtapd's answer to a status request, put together from its packets."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import Problem
from . import protocol

Json = dict[str, Any]

# More than there can be guests, uplinks and losses.
_MOST_PACKETS = 8192


@dataclass
class StatusReply:
    """Uplinks with their guests, and lost devices, as docs/status.md has them.

    version: airtapd's; config, acl: the files that count for it; "" if it does not tell.
    """

    uplinks: list[Json] = field(default_factory=list)
    lost: list[Json] = field(default_factory=list)
    version: str = ""
    config: str = ""
    acl: str = ""

    def to_json(self) -> Json:
        more = {"lost": self.lost, "config": self.config, "acl": self.acl}
        return {"uplinks": self.uplinks, **{name: value for name, value in more.items() if value}}

    def find(self, uplink: str, device: str) -> tuple[Json, Json]:
        """Find an uplink and a guest by their devices' names; {} stands for what is not there."""
        found = next((each for each in self.uplinks if each["name"] == uplink), {})
        guests = (guest for each in self.uplinks for guest in each["guests"])
        return found, next((guest for guest in guests if guest["device"] == device), {})


def read_reply(receive: Callable[[], bytes]) -> StatusReply:
    """Put an answer together of packets. Raises Problem: what airtapd says, bad-message."""
    report = StatusReply()
    for _ in range(_MOST_PACKETS):
        message: Json = protocol.decode(receive())
        if "uplink" in message:
            report.uplinks.append({**message["uplink"], "guests": []})
        elif "guest" in message and report.uplinks:
            report.uplinks[-1]["guests"].append(message["guest"])
        elif "lost" in message:
            report.lost.append(message["lost"])
        else:
            end = protocol.check(message)
            for name in ("version", "config", "acl"):
                setattr(report, name, str(end.get(name, "")))
            return report
    raise Problem("bad-message", "airtapd's answer has no end")
