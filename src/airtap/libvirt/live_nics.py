"""NICs of running guests, and their links taken down and up.

Which device a NIC has stands in its guest's live XML; whether that device is there, and on what
it stands, says the kernel.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any, TypeVar

from .. import uplink
from ..config import MODES
from ..errors import Problem
from ..kernel.links import Link
from ..uris import is_session
from .connection import binding, problems
from .connectivity import devices
from .domains import look_up
from .nic import LiveNic, of_interface
from .reader import Domain, Interface, NicMetadata, scan_domain
from .xml import parse, serialize

log = logging.getLogger(__name__)

# libvirt waits for a guest's QEMU as long as that lives, and we no longer than this.
ANSWER_S = 30.0
# How long links stay down: a guest that is slow to answer an interrupt, or that looks every so
# often only, has to find them down.
_DOWN_S = 1.0

T = TypeVar("T")


class Ended(Problem):
    """The guest has ended meanwhile, and with it what was to be done."""


# Who is there?


def find(connection: Any, name: str) -> Any:
    """Return the domain of that name or UUID, which runs. Raises Problem no-domain, not-running."""
    handle = look_up(connection, name)
    with problems(f"look for domain {name}"):
        if not handle.isActive():
            hint = f"airtap domain connect {name} changes what its next start uses"
            raise Problem("not-running", f"domain {name} does not run", hint)
    return handle


def live_xml(guest: Any) -> str:
    """Return a running guest's XML. Raises Problem libvirt-error."""
    with problems(f"read domain {guest.name()}"):
        xml: str = guest.XMLDesc(0)
    return xml


def of_guest(guest: Any) -> list[LiveNic]:
    """Return the NICs of one guest. Raises Problem libvirt-error, bad-xml."""
    xml = live_xml(guest).encode()
    return of_xml(guest, xml, scan_domain(xml))


def guests(connection: Any) -> Iterator[tuple[Any, bytes, Domain]]:
    """Yield guests that run or are paused, each with its live XML. Raises Problem libvirt-error."""
    libvirt = binding()
    states = libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING | libvirt.VIR_CONNECT_LIST_DOMAINS_PAUSED
    with problems("list domains"):
        handles = connection.listAllDomains(states)
    for guest in handles:
        with suppress(Ended), unless_ended(guest):
            xml = live_xml(guest).encode()
            try:
                domain = scan_domain(xml)
            except Problem as problem:  # no reason to do nothing for the others
                log.warning("airtap: domain %s is left alone: %s", guest.name(), problem)
                continue
            yield guest, xml, domain


def of_xml(guest: Any, xml: bytes, domain: Domain) -> list[LiveNic]:
    """Return the NICs in a guest's live XML, in its order."""
    return [
        from_interface(
            *(guest, domain, each, domain.metadata_of(each)),
            *(xml[each.start : each.end].decode(), number),
        )
        for number, each in enumerate(domain.interfaces, 1)
    ]


def from_interface(
    guest: Any,
    domain: Domain,
    interface: Interface,
    metadata: NicMetadata | None,
    xml: str,
    number: int = 0,
) -> LiveNic:
    """Return the NIC of a guest that an <interface> is.

    metadata: what airtap noted of its device, if it did.
    xml: the text of the <interface>.
    """
    return LiveNic(
        **vars(of_interface(domain, interface, metadata, number)),
        guest=guest,
        domain=domain.name,
        uuid=domain.uuid,
        run=guest.ID(),
        alias=interface.element.first("alias").get("name"),
        target=interface.target,
        down=interface.element.first("link").get("state") == "down",
        xml=xml,
    )


def stands_on(nic: LiveNic, parent: str, here: Mapping[str, Link]) -> bool:
    """Return whether a NIC's device is a macvtap or ipvtap on parent."""
    device, below = here.get(nic.target), here.get(parent)
    if device is None or below is None or device.kind not in MODES or not device.parent_here:
        return False
    return device.parent == below.index


# Links down and up.


def renewable(connection: Any, parent: str | None) -> list[LiveNic]:
    """Return NICs on a macvtap or ipvtap, on parent only if it is named, whose links are up.

    Whatever libvirt calls their type: a session's are bridges to it. Raises Problem
    libvirt-error, bad-xml, no-such-device.
    """
    here = devices()
    expect_there(parent, here)
    nics = [nic for guest in guests(connection) for nic in of_xml(*guest) if not nic.down]
    if parent is not None:
        return [nic for nic in nics if stands_on(nic, parent, here)]
    return [nic for nic in nics if (link := here.get(nic.target)) and link.kind in MODES]


def renew(nics: list[LiveNic], ended: Event) -> list[Problem | None]:
    """Take the links of NICs down and up again: their guests then ask for new leases.

    All at the same time; a guest that hangs delays no other. ended: when it is set, links come
    up at once. Returns what failed, for each NIC.
    """
    done: list[Problem | None] = [unanswered(nic) for nic in nics]

    def flap(nic: LiveNic) -> None:
        try:
            _set_link(nic, up=False)
            ended.wait(_DOWN_S)
        finally:
            _set_link(nic, up=True)

    def one(number: int) -> None:
        done[number] = attempt(flap, nics[number], ended)

    at_once(one, range(len(nics)), _DOWN_S + ANSWER_S, ended)
    return list(done)


def linked_down(xml: str) -> str:
    """Return an <interface> with its link down."""
    root = parse(xml.encode())
    for link in root.findall("link"):
        root.remove(link)
    root.append(root.makeelement("link", state="down"))
    return serialize(root)


def _set_link(nic: LiveNic, *, up: bool) -> None:
    with unless_ended(nic.guest):
        try:
            with problems(f"set the link of {nic}"):
                if is_session(nic.guest.connect().getURI()):
                    _set_link_by_qmp(nic, up)
                else:
                    xml = nic.xml if up else linked_down(nic.xml)
                    nic.guest.updateDeviceFlags(xml, binding().VIR_DOMAIN_AFFECT_LIVE)
        except Problem as problem:
            hint = f"if it is down now: virsh domif-setlink {nic.domain} {nic.mac} up"
            raise Problem(problem.code, problem.message, hint) from problem


def _set_link_by_qmp(nic: LiveNic, up: bool) -> None:
    """Set a NIC's link past libvirt: of a session's network, libvirt 9.0 would first have the
    device join its bridge anew, which only the helper may (qemu_hotplug.c: qemuDomainChangeNet)."""
    import libvirt_qemu

    command = {"execute": "set_link", "arguments": {"name": nic.alias, "up": up}}
    answer = json.loads(libvirt_qemu.qemuMonitorCommand(nic.guest, json.dumps(command), 0))
    if "error" in answer:
        raise Problem("libvirt-error", f"cannot set the link of {nic}: {answer['error']}")


# What is done to NICs can fail, for one and not for others.


def at_once(
    act: Callable[[T], None], items: Iterable[T], seconds: float, ended: Event | None = None
) -> None:
    """Do something with each item, in a thread of its own. Those not done in time are left alone.

    ended: is set when time is up; what then still runs has as long again to come to its end. The
    threads are daemons: they end with us, also where libvirt never answers them.
    """
    threads = [Thread(target=act, args=[item], daemon=True) for item in items]
    for thread in threads:
        thread.start()
    _join(threads, seconds)
    if ended and any(thread.is_alive() for thread in threads):
        ended.set()
        _join(threads, seconds)


def _join(threads: list[Thread], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def unanswered(nic: LiveNic) -> Problem:
    """Return the Problem of a NIC that at_once() has left alone."""
    return Problem("no-answer", f"{nic}: libvirt does not answer; does the guest hang?")


def attempt(act: Callable[[Any], None], what: Any, ended: Event) -> Problem | None:
    """Do something unless ended is set. Returns the Problem that it raised."""
    if ended.is_set():
        return Problem("interrupted", "ended before all was done")
    try:
        act(what)
    except Problem as problem:
        return problem
    except Exception as exc:  # in a thread it would pass for a libvirt that does not answer
        log.exception("airtap: this should not be")
        return Problem("internal", f"airtap failed: {exc}")
    return None


@contextmanager
def unless_ended(guest: Any) -> Iterator[None]:
    """Raise a Problem as Ended if its reason is that the guest has."""
    try:
        yield
    except Problem as problem:
        libvirt = binding()
        try:
            ended = not guest.isActive()
        except libvirt.libvirtError as exc:  # none of that name is left, or libvirt itself has gone
            ended = exc.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN
        if not ended:
            raise
        raise Ended("guest-ended", f"domain {guest.name()} has ended meanwhile") from problem


def expect_there(parent: str | None, here: Mapping[str, Link]) -> None:
    """Raise Problem no-such-device if parent is not None and not here."""
    if parent is not None and parent not in here:
        raise uplink.absent(parent)
