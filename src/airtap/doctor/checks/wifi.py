"""What Wi-Fi does not take, and who takes it away."""

from collections.abc import Iterator

from ..finding import Finding, parent_table, problem, warning
from ..sources.uplinks import UplinkSnapshot
from .uplink import Context


def macnat_wanted(uplink: UplinkSnapshot, _context: Context) -> Iterator[Finding]:
    """Tell whether MAC NAT is switched off where nothing works without it.

    Yields problem macnat-off-station.
    """
    inspected, settings = uplink.inspected, uplink.settings
    who = "ad hoc Wi-Fi hears" if inspected.type == "wifi-adhoc" else "a Wi-Fi station sends"
    below = f"it sends by {inspected.station.name}, and " if inspected.station else ""
    if inspected.may_take_one_mac and settings.macnat == "off" and settings.kind != "ipvtap":
        yield problem(
            "macnat-off-station",
            uplink.name,
            what=f"{below}{who} for its own MAC only, and MAC NAT is switched off for it",
            evidence=f'airtap.toml, {parent_table(uplink.name)}: macnat = "off"',
            remedy=f'airtap.toml, {parent_table(uplink.name)}: macnat = "auto"',
        )


def passthru(uplink: UplinkSnapshot, _context: Context) -> Iterator[Finding]:
    """Tell whether the uplink is to take a guest's MAC, and cannot.

    Yields warning passthru-on-wifi.
    """
    if uplink.settings.mode == "passthru" and uplink.inspected.keeps_its_mac:
        yield warning(
            "passthru-on-wifi",
            uplink.name,
            what="mode passthru gives it the guest's MAC, and Wi-Fi takes none but its own",
            evidence=f'airtap.toml, {parent_table(uplink.name)}: mode = "passthru"',
            remedy=f'airtap.toml, {parent_table(uplink.name)}: mode = "bridge"',
        )


def iwd(uplink: UplinkSnapshot, context: Context) -> Iterator[Finding]:
    """Tell whether iwd removes the uplink when it restarts.

    Yields warning iwd-recreates.
    """
    wifi = uplink.inspected.type.startswith("wifi") and uplink.link.kind not in ("bond", "team")
    if wifi and "iwd" in context.managers.running and not context.managers.iwd_keeps:
        yield warning(
            "iwd-recreates",
            uplink.name,
            what="iwd makes the device anew when it restarts, and all guests' devices go with it",
            evidence="iwd runs without UseDefaultInterface=true in /etc/iwd/main.conf",
            remedy="/etc/iwd/main.conf, [General]: UseDefaultInterface=true",
        )
