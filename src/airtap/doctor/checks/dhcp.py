"""Whether guests get leases, as airtapd's programs see it."""

from collections.abc import Iterator
from ipaddress import ip_address

from ..finding import Finding, parent_table, problem, warning
from ..sources.uplinks import UplinkSnapshot
from .uplink import Context

_MANY = 6  # more requests than a client sends before a slow server's first answer


def leases(uplink: UplinkSnapshot, context: Context) -> Iterator[Finding]:
    """Tell why guests get no leases, with MAC NAT.

    Silence of servers counts only where a guest lacks an IPv4 address: the host or another guest
    may be the server, whose answers are not counted.

    Yields problem one-lease-per-mac; warning dhcp-unanswered.
    """
    name = uplink.name
    seen = f"airtap status --json, dhcp of {name}:"
    found, _guest = context.daemon.status.find(name, "")
    dhcp = found.get("dhcp") or {}
    setting = f"airtap.toml, {parent_table(name)}: dhcp ="
    if count := dhcp.get("hosts_address"):
        yield problem(
            "one-lease-per-mac",
            name,
            what="the DHCP server leases one address for each MAC, and offers guests the host's",
            evidence=f"{seen} hosts_address {count}",
            remedy="give guests static addresses, or have the server go by client identifiers"
            f' (option 61); where the LAN takes requests that name a guest: {setting} "keep"',
        )
    elif dhcp.get("unanswered", 0) >= _MANY and any(map(_lacks_ipv4, found["guests"])):
        keeps = dhcp["choice"] == "keep"
        snooping = "; it names guests, which DHCP snooping of a switch or Wi-Fi controller drops"
        yield warning(
            "dhcp-unanswered",
            name,
            what=f"no DHCP server answers what guests ask{snooping if keeps else ''}",
            evidence=f"{seen} unanswered {dhcp['unanswered']}",
            remedy=f'{setting} "auto"'
            if keeps
            else f"see whether a DHCP server answers the host itself on {name}; without one,"
            " give guests static addresses",
        )


def _lacks_ipv4(guest: dict[str, list[str]]) -> bool:
    used = [ip_address(each) for each in guest["addresses"]]
    return not any(each.version == 4 and not each.is_link_local for each in used)
