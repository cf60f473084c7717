"""libvirt's network and qemu hooks: ``50-airtap NAME OPERATION SUBOPERATION EXTRA``, XML on stdin.

https://libvirt.org/hooks.html. A status other than 0 and a line on stderr abort the start of a
guest, in ``prepare`` and ``port-created``; nothing else fails here, least of all ``reconnect``,
which would kill the guest. Bytes on stdout are XML for libvirt to use instead, in ``restore`` and
``migrate``. libvirt waits for all of this, so nobody asks it anything from here.

Runs several times at the start of every guest on the host, airtap's or not. So text is searched
before it is parsed, and whatever is not needed for that is imported where it is needed:
tests/unit/test_hook.py holds the list.
"""

import os
import sys
from time import monotonic

from .errors import Problem

TYPE_CHECKING = False  # typing's own costs its import
if TYPE_CHECKING:
    from collections.abc import Callable

    from .ipc.client import Connection
    from .ipc.protocol import Flat
    from .libvirt.reader import Domain, Interface, NicMetadata

    Operation = tuple[Callable[[bytes], None], tuple[bytes, ...]]

# libvirt.reader.MAX_XML, without importing that; one byte more is kept, which makes it too long.
MAX_XML = 4 << 20
# In everything that libvirt writes about a guest with a mark of ours, or with a macvtap.
_MARK = b"urn:airtap:libvirt:1"
_DIRECT = b"direct"

_ABORTING = ("prepare", "port-created")
# Of these airtapd did not say what it thinks of the guest.
_UNDECIDED = ("no-daemon", "busy", "bad-message", "internal")
_NET = "/sys/class/net"


def network_main() -> int:
    """Entry point of the network hook. Returns the exit status."""
    # Not "start": it comes before "started", and no guest can use the network in between.
    network = (_network, (b"<interface", _DIRECT))
    return _run({"started": network, "updated": network, "port-created": network})


def qemu_main() -> int:
    """Entry point of the qemu hook. Returns the exit status."""
    for_this_host = (_for_this_host, (b"bridge", _DIRECT, _MARK))
    return _run(
        {
            "prepare": (_prepare, (_DIRECT, _MARK)),
            "started": (_started, (_DIRECT, _MARK)),
            "release": (_release, (_MARK,)),
            "restore": for_this_host,
            "migrate": for_this_host,
        }
    )


def _run(operations: "dict[str, Operation]") -> int:
    """Run one of the operations, if the XML contains any of its marks."""
    xml = _stdin()  # first of all: libvirt writes it, whoever we are
    operation = sys.argv[2] if len(sys.argv) > 2 else ""
    act, marks = operations.get(operation, (None, ()))
    if act is None or not any(mark in xml for mark in marks):
        return 0
    if os.geteuid() != 0:  # a session daemon runs the system's hooks as its user
        return 0
    try:
        act(xml)
    except Problem as problem:
        _say(problem)
        # XML that we cannot read is libvirt's to judge.
        return 1 if operation in _ABORTING and problem.code != "bad-xml" else 0
    except Exception as exc:  # a bug is no reason to keep a guest from starting, or to kill it
        _say(f"the {operation} hook failed: {exc!r}")
    return 0


def _stdin() -> bytes:
    """All of stdin is read, at most MAX_XML + 1 bytes of it are kept."""
    kept = bytearray()
    try:
        while part := os.read(0, 1 << 16):
            kept += part[: MAX_XML + 1 - len(kept)]
    except OSError:  # closed
        pass
    return bytes(kept)


def _say(what: object) -> None:
    """One line on stderr, which virt-manager shows. Not by print(): that has none, if closed."""
    try:  # noqa: SIM105  contextlib costs its import
        os.write(2, f"airtap: {what}\n".encode(errors="backslashreplace"))
    except OSError:
        pass


# The operations. Each raises the Problem that there is to report.


def _network(xml: bytes) -> None:
    """A network has come, or a guest's port of one: make its devices ready for macvtaps."""
    from .libvirt.reader import scan_network

    _prepare_uplinks(Airtapd(), sorted(scan_network(xml).devices))


def _prepare(xml: bytes) -> None:
    """A guest is about to start: make the devices that it is to find, or none."""
    from .libvirt.reader import scan_domain

    domain = scan_domain(xml)
    airtapd = Airtapd()
    direct = [nic.source.get("dev", "") for nic in domain.interfaces if nic.type == "direct"]
    _prepare_uplinks(airtapd, [parent for parent in dict.fromkeys(direct) if parent])
    made = []
    try:
        for nic, noted in _prepared(domain):
            made.append(nic)
            fields = {"parent": noted.parent, "kind": noted.kind} | _whose(domain, nic)
            airtapd.call("create-device", **fields)
    except Problem as problem:
        if problem.code != "no-daemon":  # else it may have made this one too
            made.pop()
        _release_devices(airtapd, domain, [nic.target for nic in made])
        raise


def _started(xml: bytes) -> None:
    """A guest runs: tell airtapd which devices are whose, for its status."""
    from .libvirt.reader import scan_domain

    domain = scan_domain(xml)
    # libvirt writes a network's macvtap as of type direct here; its parent gives it away anyway.
    nics = [n for n in domain.interfaces if n.type in ("direct", "network") and "dev" in n.source]
    nics += [nic for nic, _ in _prepared(domain)]
    nics = [nic for nic in nics if nic.target and nic.mac]
    failed = _call_each(Airtapd(), "set-owner", [_whose(domain, nic) for nic in nics])
    if failed:
        raise failed


def _release(xml: bytes) -> None:
    """A guest has ended: remove what was made for it."""
    from .libvirt.reader import scan_domain

    domain = scan_domain(xml)
    # All that is noted: the NIC may have been unplugged, or its definition changed. What was not
    # made for this guest airtapd leaves alone.
    devices = [noted.device for noted in domain.nic_metadata if noted.device]
    failed = _release_devices(Airtapd(), domain, devices)
    if failed:
        raise failed


def _for_this_host(xml: bytes) -> None:
    """A guest comes from a file or another host: print its XML if it has to change for this one.

    libvirt goes on with the XML that it has if nothing is printed.
    """
    from .libvirt.incoming import devices_named, for_this_host
    from .libvirt.reader import scan_domain

    names = sorted(devices_named(scan_domain(xml)))
    if not names:
        return
    answer = Airtapd().call("map-devices", names=names)
    parents, aliases = answer.get("parents"), answer.get("aliases", [])
    if (
        not isinstance(parents, dict)
        or not all(isinstance(parent, str) for parent in parents.values())
        or not isinstance(aliases, list)
    ):
        raise Problem("bad-message", "airtapd sent an answer that makes no sense")
    changed = for_this_host(xml, parents, aliases)
    left = changed if changed != xml else b""
    while left:
        left = left[os.write(1, left) :]


# What they are made of.


def _prepared(domain: "Domain") -> "list[tuple[Interface, NicMetadata]]":
    """The interfaces whose devices are airtapd's to make, with what is noted of them."""
    pairs = [(nic, domain.metadata_of(nic)) for nic in domain.interfaces]
    return [(nic, noted) for nic, noted in pairs if noted]


def _whose(domain: "Domain", nic: "Interface") -> dict[str, str]:
    """The fields of a request about a guest's device."""
    return {"device": nic.target, "mac": nic.mac, "uuid": domain.uuid, "domain": domain.name}


def _prepare_uplinks(airtapd: "Airtapd", parents: list[str]) -> None:
    """Have parents prepared for macvtaps that libvirt is about to make.

    Raises Problem: airtapd's decision; where there is none, only for Wi-Fi, which needs MAC NAT.
    """
    for parent in parents:
        try:
            airtapd.call("prepare-uplink", parent=parent)
        except Problem as problem:
            if problem.code not in _UNDECIDED:
                raise
            if os.path.exists(f"{_NET}/{parent}/phy80211"):
                why = f"{parent} is Wi-Fi, where no guest is heard without airtapd"
                message = f"{why}: {problem.message}"
                raise Problem(problem.code, message, problem.hint) from problem


def _release_devices(airtapd: "Airtapd", domain: "Domain", devices: list[str]) -> Problem | None:
    fields = [{"device": name, "uuid": domain.uuid} for name in devices]
    return _call_each(airtapd, "release", fields)


def _call_each(airtapd: "Airtapd", op: str, requests: list[dict[str, str]]) -> Problem | None:
    """Send requests, given by their fields, whatever becomes of one.

    Returns the last Problem worth telling.
    """
    last = None
    for fields in requests:
        try:
            airtapd.call(op, **fields)
        except Problem as problem:
            if problem.code not in ("no-such-device", "not-ours"):  # nothing to do, then
                last = problem
    return last


class Airtapd:
    """The daemon, on one connection for all requests of a run.

    Where it hangs up, the next request connects anew, as systemd may have restarted it; where it
    cannot be reached, or let us wait for long, the other requests fail at once.
    """

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._gone: Problem | None = None
        self._begin = monotonic()

    def call(self, op: str, **fields: "Flat") -> dict[str, object]:
        """The answer to a request. Raises Problem: airtapd's own, or no-daemon."""
        from .ipc import protocol

        connection = self._connected()
        try:
            connection.send(op, **fields)
            answer, _ = connection.receive()
        except Problem as problem:
            connection.close()
            self._connection = None
            if monotonic() - self._begin > protocol.TIMEOUT_S / 2:
                self._gone = problem
            raise
        return protocol.read_answer(answer)

    def _connected(self) -> "Connection":
        if self._gone:
            raise self._gone
        if self._connection is None:
            from .ipc import client

            try:
                self._connection = client.Connection(client.socket_path())
            except Problem as problem:
                self._gone = problem
                raise
        return self._connection
