"""Generic netlink, whose families are found by name and then take requests.

pyroute2 decodes a message whole, down to the elements of a beacon, which any transmitter nearby
may have written; here only what is asked for is read.
"""

import socket
import struct
from collections.abc import Iterator

from .netlink import ACK, Attributes, ask, attribute, attributes, number

# include/uapi/linux/genetlink.h
NETLINK_GENERIC = 16
_CTRL = 16  # GENL_ID_CTRL
_GETFAMILY = 3
_FAMILY_ID, _FAMILY_NAME, _MCAST_GROUPS = 1, 2, 7
_GROUP_NAME, _GROUP_ID = 1, 2
_GENL_BYTES = 4
# The kernel answers before a request's send() returns, so this is for answers that got lost.
_ANSWER_S = 5.0


# Ids and groups of families, by name: the kernel keeps them as long as a family's module is loaded.
_resolved: dict[str, tuple[int, dict[str, int]]] = {}


class Family:
    """A generic netlink family, which is asked from one thread at a time. All requests block.

    number: its id, the type of its messages.
    groups: the ids of its multicast groups, by name.
    """

    def __init__(self, name: str, *, anew: bool = False) -> None:
        """Raises OSError (ENOENT: the kernel has no such family).

        anew: have the kernel tell the ids, though they are known.
        """
        self._name = name
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        try:
            self._socket.settimeout(_ANSWER_S)
            self._socket.bind((0, 0))
            self._resolve(anew=anew)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> "Family":
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.close()

    def _resolve(self, *, anew: bool) -> None:
        if anew or self._name not in _resolved:
            asked = attribute(_FAMILY_NAME, self._name.encode() + b"\0")
            [family] = self._ask(_CTRL, _GETFAMILY, asked, ACK)
            groups = dict(_groups(family.get(_MCAST_GROUPS, b"")))
            _resolved[self._name] = number(family[_FAMILY_ID]), groups
        self.number, self.groups = _resolved[self._name]

    def request(self, command: int, asked: bytes, flags: int = ACK) -> list[Attributes]:
        """Run a command with encoded attributes, and return those of its answers.

        flags: DUMP for a command that lists something. Raises OSError: what the kernel refuses
        with.
        """
        known = self.number
        try:
            return self._ask(known, command, asked, flags)
        except FileNotFoundError:  # ENOENT: the command's answer, or there is no family of that id
            self._resolve(anew=True)
            if self.number == known:
                raise
            return self._ask(self.number, command, asked, flags)

    def _ask(self, kind: int, command: int, asked: bytes, flags: int) -> list[Attributes]:
        body = struct.pack("=BBH", command, 1, 0) + asked
        answers = ask(self._socket, kind, body, flags)
        return [of_message(payload) for answer, payload in answers if answer == kind]


def _groups(nested: bytes) -> Iterator[tuple[str, int]]:
    for group in attributes(nested).values():
        entry = attributes(group)
        yield entry[_GROUP_NAME].rstrip(b"\0").decode(), number(entry[_GROUP_ID])


def of_message(payload: bytes) -> Attributes:
    """The attributes of a generic netlink message."""
    return attributes(payload[_GENL_BYTES:])
