"""Records: what a program tells of one frame, as trace.h writes it. Pure."""

import struct
from typing import NamedTuple

# Of abi.h.
EVERYONE, NOBODY = 0, 0xFFFFFFFF
SNAP = 384
# enum program
PROGRAMS = ("from_guest", "to_host", "uplink_egress", "to_uplink", "to_sibling", "from_uplink")
PASS, DROP, REDIRECT = -1, 2, 7  # TC_ACT_UNSPEC, TC_ACT_SHOT, TC_ACT_REDIRECT

_HEAD = struct.Struct("=QIIIi2s2sHBB16sHH16sHHII")
_LONGEST = 1 << 20  # no frame is longer
_ETHERNET = 14


class Record(NamedTuple):
    """struct record of abi.h.

    time: ns of CLOCK_MONOTONIC.
    whose: ifindex of the guest's device, EVERYONE or NOBODY.
    before, after: the first SNAP bytes of a frame of before_length and after_length bytes.
    verdict: PASS, DROP or REDIRECT.
    tag, tag_proto: TCI, in the host's byte order, and ethertype, in the network's, of a tag beside
    the frame; the ethertype is 0 if there is none.
    said, reason: bits and a number of abi.h.
    key, evicted: addresses, 16 bytes each, with their VLANs and families.
    """

    time: int
    whose: int
    before_length: int
    after_length: int
    verdict: int
    tag: bytes
    tag_proto: bytes
    said: int
    program: int
    reason: int
    key: bytes
    key_vlan: int
    key_family: int
    evicted: bytes
    evicted_vlan: int
    evicted_family: int
    generation: int
    pad: int
    before: bytes
    after: bytes

    @property
    def name(self) -> str:
        """The program's name."""
        return PROGRAMS[self.program]


def trimmed(sample: bytes) -> bytes:
    """Cut the bytes of other frames off a record: they stand behind its heads."""
    head = _HEAD.unpack_from(sample)
    middle = _HEAD.size + SNAP
    before = sample[_HEAD.size : _HEAD.size + min(head[2], SNAP)]
    return sample[: _HEAD.size] + before + sample[middle : middle + min(head[3], SNAP)]


def record(packed: bytes) -> Record:
    """Read what trimmed() returned. Raises ValueError if it is nothing of the kind."""
    if len(packed) < _HEAD.size:
        raise ValueError("a record that is too short")
    head = _HEAD.unpack_from(packed)
    middle = _HEAD.size + min(head[2], SNAP)
    if len(packed) != middle + min(head[3], SNAP) or max(head[2], head[3]) > _LONGEST:
        raise ValueError("a record of another length than it says")
    if min(head[2], head[3]) < _ETHERNET:
        raise ValueError("a record of a frame that is too short")
    if head[8] >= len(PROGRAMS):
        raise ValueError("a record of an unknown program")
    heads = packed[_HEAD.size : middle], packed[middle:]
    return Record._make((*head, *heads))


def concerns(packed: bytes) -> tuple[int, str]:
    """Read whose a record is, and the name of its program."""
    head = _HEAD.unpack_from(packed)
    return head[1], PROGRAMS[head[8]]
