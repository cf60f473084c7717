"""How guests ask for leases: see dhcp_client.h."""

from .map import Map
from .records import DHCP_CHOICES, Dhcp, pack_index


class DhcpTable:
    """The map "dhcp_state", which the programs write too. All methods raise BpfError."""

    def __init__(self, table: Map) -> None:
        self._table = table

    def choose(self, choice: str) -> None:
        """Have requests keep their client ("keep"), name the "uplink" as it, or "auto".

        That is whichever of the two is answered; what was found of it stays.
        """
        if DHCP_CHOICES[self.state().choice] != choice:
            self._begin(choice)

    def restart(self) -> None:
        """Count anew, and where it is "auto" find out: that was on another network."""
        self._begin(DHCP_CHOICES[self.state().choice])

    def state(self) -> Dhcp:
        """Return what was chosen, and what has come of it."""
        value = self._table.lookup(pack_index(0))
        return Dhcp.unpack(value) if value else Dhcp()

    def _begin(self, choice: str) -> None:
        settled, as_uplink = int(choice in ("keep", "uplink")), int(choice == "uplink")
        number = DHCP_CHOICES.index(choice)
        new = Dhcp(in_uplinks_name=as_uplink, settled=settled, choice=number)
        self._table.update(pack_index(0), new.pack())
