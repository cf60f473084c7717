"""The requests that airtapd serves: the fields of each, and how they are read from a message.

Nothing here is valid yet but for its type: names, MACs and UUIDs are as the client wrote them.
This is for the daemon; what starts with every guest does without the imports below.
"""

from dataclasses import dataclass, fields
from typing import Any, Self, get_type_hints

from ..errors import Problem

Message = dict[str, object]

# Types of fields, in the words for who sent another.
_WORDS = {
    str: "text",
    str | None: "text",
    bool: "true|false",
    list[str]: "a list of text",
}


@dataclass(frozen=True)
class Request:
    """A request without fields. Each field of a subclass is one of the message, by its name."""

    @classmethod
    def parse(cls, message: Message) -> Self:
        """Read a message. Raises Problem bad-message: a field is unknown, lacking or of a wrong
        type."""
        types = get_type_hints(cls)
        for key in message:
            if key != "op" and key not in types:
                raise Problem("bad-message", f"the request has an unknown field {key[:64]!r}")
        given: dict[str, Any] = {
            field.name: message.get(field.name, field.default) for field in fields(cls)
        }
        if not all(_is_a(of, given[key]) for key, of in types.items()):
            wanted = ", ".join(f"{key}: {_WORDS[of]}" for key, of in types.items())
            raise Problem("bad-message", f"{message['op']} wants {wanted}")
        return cls(**given)


@dataclass(frozen=True)
class AttachRequest(Request):
    """Make a device for a guest behind br, a device's name or an alias, and send its tap.

    mac: the guest's; None to learn it.
    vnet_hdr: whether frames on the tap carry a struct virtio_net_hdr.
    kind: macvtap or ipvtap, for root to try one out; None for what goes with the uplink.
    """

    br: str
    mac: str | None = None
    vnet_hdr: bool = False
    kind: str | None = None


@dataclass(frozen=True)
class ReleaseRequest(Request):
    """Remove a guest device. uuid: of the domain that it must be of; None for anybody's."""

    device: str
    uuid: str | None = None


@dataclass(frozen=True)
class TraceRequest(Request):
    """Trace a guest: a device, a libvirt domain's name or UUID, or a MAC."""

    guest: str


@dataclass(frozen=True)
class PrepareUplinkRequest(Request):
    """Have MAC NAT on where a parent needs it, as libvirt is about to make a macvtap there."""

    parent: str


@dataclass(frozen=True)
class GuestDeviceRequest(Request):
    """Do something about the device of a libvirt guest's network card.

    device: the host's end of the card.
    mac: the card's.
    uuid, domain: of the libvirt guest; domain is its name.
    """

    device: str
    mac: str
    uuid: str
    domain: str


@dataclass(frozen=True)
class SetOwnerRequest(GuestDeviceRequest):
    """Note whose the device is."""


@dataclass(frozen=True)
class CreateDeviceRequest(GuestDeviceRequest):
    """Make the device, for libvirt to open: of a kind, macvtap or ipvtap, on a parent."""

    parent: str
    kind: str


@dataclass(frozen=True)
class MapDevicesRequest(Request):
    """Say which devices of this host stand for those that a guest of another host names."""

    names: list[str]


def _is_a(of: Any, value: object) -> bool:
    if of == list[str]:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, of)
