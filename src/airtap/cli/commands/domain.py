"""airtap domain: the NICs of libvirt's domains, brought to the LAN and back."""

import argparse
import json
import os
from functools import partial
from typing import Any

from ... import config
from ...config import Config
from ...errors import Problem
from ...libvirt import connectivity, domain_xml, domains, networks
from ...libvirt.connection import connected
from ...libvirt.domain_xml import Attachment
from ...libvirt.nic import nics
from ...libvirt.reader import Domain, Interface, scan_domain
from ...names import device_name
from ...uris import expect_local, is_session
from ..common import echo, libvirt_mode, notice, uri
from .change import diff, is_idle, left_out, redefine
from .domain_table import table, to_json, verdict_text
from .nic import chosen_interface, chosen_mac

_HOOK = "/etc/libvirt/hooks/qemu.d/50-airtap"


def connect(arguments: argparse.Namespace) -> None:
    if arguments.parent is None and (arguments.kind or arguments.mode):
        arguments.parser.error("--kind and --mode go with --parent only")
    if arguments.mode and arguments.kind == "ipvtap":
        arguments.parser.error("--mode is of macvtaps; that of ipvtaps is set in airtap.toml")
    settings = config.load(None)
    with connected(uri(arguments)) as connection:
        handle = domains.find(connection, arguments.domain)
        name = handle.name()
        wanted = _wanted(connection, arguments, settings)
        xml = domains.definition(handle, secrets=False)
        nic = chosen_interface(scan_domain(xml.encode()), name, arguments.nic)
        rewrite = partial(domain_xml.connect, nic=nic, wanted=wanted)
        after = rewrite(xml)
        target = f"{wanted.kind} {wanted.name}"
        if is_idle(xml, after, nic.mac):
            echo(f"domain {name}: network card {nic.mac} is on {target} already")
            return
        echo(diff(xml, after, name, "connected"))
        if arguments.dry_run:
            return
        handle = redefine(connection, handle, rewrite, xml)
        echo(f"domain {name}: network card {nic.mac} is now on {target}")
        kept = scan_domain(domains.definition(handle, secrets=False).encode())
        _explain(connection, handle, kept, nic, settings)


def disconnect(arguments: argparse.Namespace) -> None:
    with connected(uri(arguments)) as connection:
        handle = domains.find(connection, arguments.domain)
        name = handle.name()
        xml = domains.definition(handle, secrets=False)
        before = scan_domain(xml.encode())
        mac = chosen_mac(before, name, arguments.nic)
        rewrite = partial(domain_xml.disconnect, mac=mac)
        echo(diff(xml, rewrite(xml), name, "disconnected"))
        if arguments.dry_run:
            return
        handle = redefine(connection, handle, rewrite, xml)
        if any(nic.mac == mac for nic in before.interfaces):
            echo(f"domain {name}: network card {mac} is as it was before")
        else:
            echo(f"domain {name}: network card {mac} is gone, and now airtap's note of it too")
        if delay := domains.delays(handle):
            echo(delay)


def _wanted(connection: Any, arguments: argparse.Namespace, settings: Config) -> Attachment:
    """Return what to connect to, if it is there and fit. Raises Problem."""
    if arguments.parent is None:
        known = {entry.network.name for entry in networks.entries(connection)}
        if arguments.network not in known:
            what = f"there is no network {arguments.network} at {connection.getURI()}"
            raise Problem("no-network", what, "see: airtap network list --all")
        return Attachment("network", arguments.network)
    kind = arguments.kind or "macvtap"
    expect_local(connection.getURI())
    if is_session(connection.getURI()):
        raise Problem(
            "bad-uri",
            f"the libvirt of a session makes no {kind}, nor can it have one made",
            f"airtap network define NAME --parent {arguments.parent} --kind session, and then"
            " --network NAME",
        )
    asked = device_name(arguments.parent)
    parent = connectivity.choose(asked, settings)
    connectivity.expect_parent(connectivity.inspect(parent), kind)
    if settings.is_choice(asked):
        if arguments.mode:
            what = f"the device for {asked} is chosen at each start, and each has its own mode"
            raise Problem("bad-mode", what, "set mode in airtap.toml, in [parents.NAME] of each")
        return Attachment(kind, asked, alias=True)
    mode = arguments.mode or settings.parent(parent).mode
    return Attachment(kind, parent, libvirt_mode(mode))


def _explain(
    connection: Any, handle: Any, kept: Domain, before: Interface, settings: Config
) -> None:
    """Say when a new connection counts, whether it works, and what went with the old one."""
    if delay := domains.delays(handle):
        echo(delay)
    [nic] = [nic for nic in nics(kept) if nic.mac == before.mac]
    host = connectivity.inspect_host(connection, [nic], settings)
    works, why = connectivity.check(nic, host)
    if works is False:
        notice(f"it cannot work so: {why}")
    elif why:
        echo(f"does it work? {verdict_text((works, why))}")
    [now] = [nic for nic in kept.interfaces if nic.mac == before.mac]
    if lost := left_out(before, now):
        notice(f"not on {nic.kind} {nic.name}, and so left out: {', '.join(lost)}")
    if nic.prepared:
        # libvirt sets its rules up, for ports of bridges (nwfilter_ebiptables_driver.c), and a
        # guest whose filter drops everything gets its lease.
        if now.element.all("filterref"):
            notice("libvirt's <filterref> does nothing on an ipvtap or macvtap of airtapd's")
        if not os.path.exists(_HOOK):
            notice(f"without libvirt's hook {_HOOK}, the guest will not start")


def list_all(arguments: argparse.Namespace) -> None:
    with connected(uri(arguments), read_only=True) as connection:
        found = domains.entries(connection)
        shown = [nic for entry in found for nic in entry.nics]
        host = connectivity.inspect_host(connection, shown, config.load(None))
    rows = [
        (entry, [(nic, connectivity.check(nic, host)) for nic in entry.nics]) for entry in found
    ]
    text = json.dumps({"domains": [to_json(*row) for row in rows]}, indent=2)
    echo(text if arguments.json else table(rows))
