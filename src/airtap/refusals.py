"""Why MAC NAT's programs refuse a guest's frame."""

from enum import IntEnum


class Refusal(IntEnum):
    """A reason, by its number in the programs (enum reason), and by its name for programs."""

    WRONG_MAC = 0
    HOST_ADDRESS = 1
    GUEST_ADDRESS = 2
    MALFORMED = 3
    LINK_CONTROL = 4

    @property
    def key(self) -> str:
        """Its counter's name in `airtap status --json`."""
        return self.name.lower()
