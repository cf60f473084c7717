"""Whether guests' devices are as they should be, and their guests well."""

from collections.abc import Iterator
from ipaddress import ip_address

from ...kernel.addresses import Address
from ...refusals import Refusal
from ..finding import Finding, parent_table, problem, sysctl_of, warning, word
from ..sources.uplinks import UplinkSnapshot
from .daemon import start
from .uplink import Context

# What keep_host_off() sets, at least (Documentation/networking/ip-sysctl.rst).
_HOST_OFF = (("ipv6", "disable_ipv6", 1), ("ipv4", "arp_ignore", 8), ("ipv4", "rp_filter", 1))
_UNMANAGED = {
    "NetworkManager": (
        "/etc/NetworkManager/conf.d/airtap.conf: [keyfile] unmanaged-devices="
        "interface-name:airtap*;interface-name:macvtap*, then: nmcli general reload"
    ),
    "systemd-networkd": (
        "/etc/systemd/network/10-airtap.network: [Match] Kind=macvtap ipvtap [Link] Unmanaged=yes,"
        " then: networkctl reload"
    ),
}
# What is wrong with refused frames, and what to do.
_REFUSED = {
    Refusal.WRONG_MAC: (
        "with another source MAC than its own",
        "behind a bridge in the guest no other MAC can be used; a guest that gives its card another"
        " one has to be started with that one, or by a helper without --mac=, so that airtapd"
        " follows it; or in libvirt, with model virtio, have trustGuestRxFilters='yes'",
    ),
    Refusal.HOST_ADDRESS: (
        "that claim an address of the host or a gateway, or behind the host",
        "give the guest an address of its own, or have it ask for a lease; if it is the host's own"
        ' router (OPNsense in a VM), in airtap.toml: gateway = "{mac}" in {table}',
    ),
    Refusal.GUEST_ADDRESS: (
        "that claim another guest's address",
        "a clone? its machine-id is the other's, and so its lease: in the guest rm /etc/machine-id,"
        " then systemd-machine-id-setup, and a new lease; of two cards of one guest,"
        " which neither libvirt nor one QEMU has started, take one off, or in the guest: sysctl -w"
        " net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2, and source routing",
    ),
}


def up(uplink: UplinkSnapshot, context: Context) -> Iterator[Finding]:
    """Tell which devices of airtap's guests are down.

    Devices of others are not looked at: libvirt takes its own down while their guest is paused
    (src/qemu/qemu_interface.c: qemuInterfaceStopDevice). Nor are those that airtapd keeps down.

    Yields problem device-down.
    """
    kept = {guest["device"] for guest in _reported(uplink, context) if guest.get("mac_in_use")}
    for device in uplink.devices:
        if device.name in kept:
            continue
        if device.owner and not device.link.up and device.held is not False:
            yield problem(
                "device-down",
                device.name,
                what="it is down, so its guest neither sends nor receives",
                evidence=f"ip link show {device.name}: no UP",
                remedy=f"ip link set dev {word(device.name)} up",
            )


def nodes(uplink: UplinkSnapshot, _context: Context) -> Iterator[Finding]:
    """Tell which nodes in /dev are another device's than their name says.

    Yields problem tap-node.
    """
    for device in uplink.devices:
        if device.wrong_node:
            removal = "ip link del" if device.owner is None else "airtap release"
            node = f"/sys/class/net/{device.name}/tap{device.link.index}/dev"
            yield problem(
                "tap-node",
                device.name,
                what=f"{device.node} is not its node, but another namespace's device's, or none",
                evidence=f"{node} against {device.node}",
                remedy=f"{removal} {word(device.name)}, and start its guest anew",
            )


def stale(uplink: UplinkSnapshot, context: Context) -> Iterator[Finding]:
    """Tell which devices nobody holds any more, while airtapd does not see to it.

    Yields warning device-stale.
    """
    for device in uplink.devices:
        of_libvirt = device.owner is not None and device.owner.uuid
        if device.held is False and not of_libvirt and context.daemon.silence:
            yield warning(
                "device-stale",
                device.name,
                what="nobody holds it any more; airtapd removes it when it starts",
                evidence=f"F_OFD_GETLK of {device.node}",
                remedy=start(context.daemon, context.user),
            )


def host_kept_off(uplink: UplinkSnapshot, _context: Context) -> Iterator[Finding]:
    """Tell on which guests' devices the host itself may speak.

    Yields warning host-on-device.
    """
    if uplink.role is None:
        return
    for device in uplink.devices:
        name, values = device.name, device.sysctls
        wrong = {
            sysctl_of(family, name, key): (values[key], should)
            for family, key, should in _HOST_OFF
            if key in values and values[key] < should
        }
        if wrong:
            yield warning(
                "host-on-device",
                name,
                what="the host itself speaks on a guest's device, or listens there",
                evidence=", ".join(f"{key}: {value}" for key, (value, _) in wrong.items()),
                remedy="sysctl -w "
                + " ".join(f"{key}={value}" for key, (_, value) in wrong.items()),
            )


def addresses(uplink: UplinkSnapshot, _context: Context) -> Iterator[Finding]:
    """Tell on which guests' devices the host has an address.

    Yields problem address-on-device.
    """
    for device in uplink.devices:
        found = [each for each in device.addresses if not ip_address(each).is_link_local]
        if found:
            yield problem(
                "address-on-device",
                device.name,
                what="the host has an address on a guest's device, and takes what is for the guest",
                evidence=f"ip address show {device.name}: {', '.join(found[:8])}",
                remedy=f"ip address flush dev {word(device.name)}",
            )


def managed(uplink: UplinkSnapshot, _context: Context) -> Iterator[Finding]:
    """Tell which guests' devices a network manager of the host has taken.

    Yields warning managed-device.
    """
    for device in uplink.devices:
        manager, evidence = device.manager
        if manager:
            yield warning(
                "managed-device",
                device.name,
                what=f"{manager} manages a guest's device, and may configure it or take it down",
                evidence=evidence,
                remedy=_UNMANAGED[manager],
            )


def guests(uplink: UplinkSnapshot, context: Context) -> Iterator[Finding]:
    """Tell what airtapd reports of guests that are not well.

    Yields problem mac-in-use; warning guest-stranded or guest-refused.
    """
    for guest in _reported(uplink, context):
        yield from _kept_off(guest)
        yield from _stranded(guest)
        yield from _refused(guest, uplink.name)


def routers(uplink: UplinkSnapshot, context: Context) -> Iterator[Finding]:
    """Tell in which guests' place the host may forward, with MAC NAT.

    They route for others, and the configuration does not say for whom.

    Yields warning host-forwards.
    """
    if not (uplink.role and uplink.role.translate):
        return
    for guest in _reported(uplink, context):
        behind = [each for each in _addresses(guest) if _may_be_forwarded(each, uplink)]
        if behind:
            yield warning(
                "host-forwards",
                _domain(guest) or str(guest["device"]),
                what="this guest routes for others; what comes for those who have not spoken of"
                " late, the host forwards in its place, past the guest",
                evidence=f"airtap status: {behind[0]}; the host forwards IPv{behind[0].version}",
                remedy=f"airtap.toml, {parent_table(uplink.name)}:"
                f' routes = {{ "PREFIX" = "{guest["mac"]}" }}',
            )


def _addresses(guest: dict[str, object]) -> list[Address]:
    found = guest.get("addresses")
    return [ip_address(each) for each in found] if isinstance(found, list) else []


def _may_be_forwarded(address: Address, uplink: UplinkSnapshot) -> bool:
    """Tell whether an address is behind a guest, the configuration does not say so, and the host
    forwards. Where it has no network of that family itself, nothing can be told."""
    own = [net for net in uplink.networks if net.version == address.version]
    known = [*own, *uplink.settings.routes]
    return (
        bool(uplink.sysctls.get(f"forwarding{address.version}"))
        and any(not net.is_link_local for net in own)
        and not any(address in net for net in known)
    )


def _reported(uplink: UplinkSnapshot, context: Context) -> list[dict[str, object]]:
    """Return what airtapd reports of the guests of an uplink."""
    entries = context.daemon.status.uplinks
    return [guest for each in entries if each["name"] == uplink.name for guest in each["guests"]]


def _kept_off(guest: dict[str, object]) -> Iterator[Finding]:
    if why := guest.get("mac_in_use"):
        yield problem(
            "mac-in-use",
            _domain(guest) or str(guest["device"]),
            what="this guest has no network, or only broadcasts: its MAC address is another's",
            evidence=f"airtap status: {why}",
            remedy="give the guest a MAC address of its own (QEMU: mac=, another for each), and"
            " start it anew",
        )


def _stranded(guest: dict[str, object]) -> Iterator[Finding]:
    domain = _domain(guest)
    lease = "airtap renew, as its user, says what there is to do"
    if guest.get("stranded"):
        yield warning(
            "guest-stranded",
            domain or str(guest["device"]),
            what="its uplink is on another network now, and the guest was not heard there",
            evidence=f"airtap status: {guest['device']} is stranded",
            remedy=f"airtap domain renew {word(domain)}" if domain else lease,
        )


def _refused(guest: dict[str, object], uplink: str) -> Iterator[Finding]:
    refused = guest.get("refused")
    if not isinstance(refused, dict):
        return
    for cause, (why, remedy) in _REFUSED.items():
        if count := refused.get(cause.key):
            yield warning(
                "guest-refused",
                _domain(guest) or str(guest["device"]),
                what="frames of this guest are dropped",
                evidence=f"airtap status --json, {guest['device']}: {count} {why}",
                remedy=remedy.format(mac=guest.get("mac"), table=parent_table(uplink)),
            )


def _domain(guest: dict[str, object]) -> str:
    owner = guest.get("owner")
    return str(owner.get("domain") or "") if isinstance(owner, dict) else ""
