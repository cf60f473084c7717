"""Which kind of device, and what airtapd is to do there."""

from __future__ import annotations

from dataclasses import dataclass

from lab.lan import NEAR_MAC


@dataclass(frozen=True)
class Setting:
    """A kind of device, its mode, and whether MAC NAT and host access are on."""

    kind: str = "macvtap"
    macnat: bool = True
    mode: str = "bridge"
    host_access: bool = True

    @property
    def meets(self) -> bool:
        """Whether the host and its guests reach each other."""
        return self.host_access and self.mode == "bridge" and not self.one_for_all

    @property
    def one_for_all(self) -> bool:
        """Whether the guests, too, must use the uplink's MAC."""
        return self.kind == "ipvtap" and not self.macnat

    def mac(self, own: str) -> str:
        """The MAC by which a guest speaks."""
        return NEAR_MAC if self.one_for_all else own

    @property
    def guarded(self) -> bool:
        """Whether the LAN and siblings are guarded, and not the host alone."""
        return self.macnat or self.kind == "ipvtap"

    def config(self) -> str:
        """The text of airtap.toml."""
        macnat, access = ("on" if self.macnat else "off"), str(self.host_access).lower()
        return (
            f'[parents.up0]\nkind = "{self.kind}"\nmode = "{self.mode}"\n'
            f'macnat = "{macnat}"\nhost_access = {access}\n'
        )

    def __str__(self) -> str:
        macnat = "with" if self.macnat else "without"
        access = "" if self.host_access else ", without host access"
        return f"{self.kind} {macnat} MAC NAT, {self.mode}{access}"
