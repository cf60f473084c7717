"""MAC NAT and host access of one uplink: maps, and programs on the clsact hooks of devices.

bpf/macnat.bpf.c and bpf/host_access.h say what the programs do; this module loads them. The modules
beside it fill and read their maps, and attach them. Nothing here decides when.

All state is in maps that are pinned below /sys/fs/bpf/airtap, one directory for each uplink. A
daemon that comes back takes the pinned maps, so no address is lost.
"""

import errno
from importlib import resources
from pathlib import Path

from ..errors import Problem, reason
from .attach import Programs
from .bearers import BearerTable
from .behind import BehindTable
from .dhcp import DhcpTable
from .host_access import HostAccessTable
from .libbpf import BpfError, NoLibbpf
from .map import Ring
from .object import Object
from .owners import OwnerTable
from .pins import load, remove_pins
from .probed import ProbeTable
from .records import UNKNOWN_MAC, unpack_event
from .settings import Note, UplinkConfig
from .tables import AddressTable, GuestTable, HostTable
from .tracer import Tracer


class Macnat:
    """MAC NAT of one uplink. Use as returned by open_macnat(); close() when done.

    events is what the programs report as it happens; the tracer tells what they make of guests'
    frames.
    """

    def __init__(self, loaded: Object, directory: Path | None) -> None:
        self._object = loaded
        self._directory = directory
        self.config = UplinkConfig(loaded.map("config"))
        hosts, routes = loaded.map("hosts"), loaded.map("routes")
        self.addresses = AddressTable(loaded.map("addresses"), hosts, routes)
        self.hosts = HostTable(hosts, loaded.map("on_links"), routes, self.addresses)
        self.guests = GuestTable(loaded.map("guests"), loaded.map("tables"), self.addresses)
        self.host_access = HostAccessTable(
            loaded.map("macs"), loaded.map("listeners"), loaded.map("gateway")
        )
        self.owners = OwnerTable(loaded.map("owners"))
        self.behind = BehindTable(loaded.map("behind"), self.config)
        self.probed = ProbeTable(loaded.map("probed"))
        self.bearers = BearerTable(loaded.map("bearers"), loaded.map("held"))
        self.dhcp = DhcpTable(loaded.map("dhcp_state"))
        self.note = Note(loaded.map("note"))
        self.events = Ring(loaded.map("events"), unpack_event)
        self.programs = Programs(loaded)
        self.tracer = Tracer(loaded)

    def close(self) -> None:
        """Close every descriptor. What is attached goes on, and what is pinned stays."""
        self.events.close()
        self.tracer.close()
        self._object.close()

    def remove(self) -> None:
        """Close everything and remove the pins: the state goes with the last attached program."""
        self.close()
        if self._directory is not None:
            remove_pins(self._directory)


def open_macnat(directory: Path | None) -> Macnat:
    """Load the programs, on the maps that are pinned in directory, or on new ones pinned there.

    directory is one of pin_directory(), or None to pin nothing. Pins whose layout is another
    version's are replaced: addresses are then learned anew. Raises Problem no-macnat, saying what
    is missing.
    """
    try:
        content = (resources.files("airtap") / "bpf/macnat.bpf.o").read_bytes()
        return _begin(load(content, "macnat", directory), directory)
    except FileNotFoundError as exc:
        raise Problem("no-macnat", f"{exc.filename} is not there", "install airtap anew") from exc
    except NoLibbpf as exc:
        hint = "install libbpf 1.0 or later (Debian: libbpf1)"
        raise Problem("no-macnat", f"no usable libbpf.so.1: {exc}", hint) from exc
    except BpfError as exc:
        raise Problem("no-macnat", f"the kernel takes no MAC NAT: {exc}", _hint(exc)) from exc
    except OSError as exc:
        raise Problem("no-macnat", f"cannot use {exc.filename}: {reason(exc)}") from exc


def _begin(loaded: Object, directory: Path | None) -> Macnat:
    try:
        macnat = Macnat(loaded, directory)
        macnat.tracer.clear()
        if macnat.config.parent_mac() == UNKNOWN_MAC:
            macnat.config.set_timing()
        macnat.host_access.update_listeners()  # an earlier version had no such list
    except BaseException:
        loaded.close()
        raise
    return macnat


def _hint(error: BpfError) -> str:
    if error.errno == errno.EPERM:
        return "it takes the capabilities CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
    return "it takes Linux 6.1 or later with CONFIG_NET_CLS_BPF and CONFIG_DEBUG_INFO_BTF"
