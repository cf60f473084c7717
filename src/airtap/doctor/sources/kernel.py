"""Reads what this kernel can do."""

import errno
import os
import platform
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from pyroute2.netlink.exceptions import NetlinkError

from ...bpf.macnat import open_macnat
from ...bpf.pins import is_bpffs
from ...errors import Problem, reason
from ...kernel.links import rtnetlink

KINDS = ("macvtap", "ipvtap")
_MODULES = ("sch_ingress", "cls_bpf")
_BPFFS = Path("/sys/fs/bpf")
_TUN = Path("/dev/net/tun")
_VHOST_NET = Path("/dev/vhost-net")
_TUN_DEVICE = os.makedev(10, 200)  # Documentation/admin-guide/devices.txt
_MOST_BYTES = 8 << 20


@dataclass(frozen=True)
class Kernel:
    """What this kernel can do.

    modules: by driver whether it is there, None where that cannot be told.
    tun: why /dev/net/tun is of no use, "" if it is.
    dev: the file system on /dev.
    no_macnat: why the programs cannot be loaded, None if they can or it was not tried.
    tried: whether that is known.
    """

    release: str
    modules: Mapping[str, bool | None]
    tun: str
    vhost_net: bool
    dev: str
    bpffs: bool
    no_macnat: Problem | None = None
    tried: bool = False


async def read(*, load: bool) -> Kernel:
    """Read what this kernel can do.

    As root the kernel is asked for macvtap and ipvtap, which loads their modules, as the first
    guest would; else the lists of modules are read.

    load: whether to try MAC NAT's programs on this kernel, which takes root and half a second.
    """
    release = platform.release()
    listed = _listed(Path("/lib/modules") / release)
    modules = {name: _known(name, listed) for name in (*KINDS, *_MODULES)}
    if os.geteuid() == 0:
        modules |= {kind: await _has_kind(kind) for kind in KINDS}
    return Kernel(
        release=release,
        modules=modules,
        tun=_tun(),
        vhost_net=_VHOST_NET.exists(),
        dev=file_system("/dev"),
        bpffs=_BPFFS.is_dir() and is_bpffs(_BPFFS),
        no_macnat=_load() if load else None,
    )


async def _has_kind(kind: str) -> bool | None:
    """Ask for a device of a kind without the device that it has to stand on.

    A kernel with the driver refuses that with EINVAL, one without with EOPNOTSUPP
    (net/core/rtnetlink.c: rtnl_newlink; drivers/net/macvlan.c, ipvlan_main.c: "!tb[IFLA_LINK]").
    """
    async with rtnetlink() as ipr:
        try:
            await ipr.link("add", ifname="airtap-doctor", kind=kind)
        except NetlinkError as exc:
            return {errno.EOPNOTSUPP: False, errno.EINVAL: True}.get(exc.code)
    return None


def _listed(directory: Path) -> frozenset[str] | None:
    """Return the modules that this kernel has, built in or as files; None if that is not known."""
    found: set[str] = set()
    for name in ("modules.builtin", "modules.dep"):
        try:
            with (directory / name).open("rb") as file:
                lines = file.read(_MOST_BYTES).decode(errors="replace").splitlines()
        except OSError:
            return None
        found |= {module_name(line.partition(":")[0]) for line in lines}
    return frozenset(found)


def module_name(path: str) -> str:
    """Return a module's name by its path: kernel/net/sched/cls_bpf.ko.xz is cls_bpf."""
    return path.rpartition("/")[2].partition(".")[0].replace("-", "_")


def _known(name: str, listed: frozenset[str] | None) -> bool | None:
    if Path("/sys/module", name).exists():
        return True
    return None if listed is None else name in listed


def _tun() -> str:
    try:
        info = _TUN.stat()
    except OSError as exc:
        return reason(exc)
    if not stat.S_ISCHR(info.st_mode) or info.st_rdev != _TUN_DEVICE:
        return "it is not the device 10:200"
    if os.geteuid() != 0:
        return ""  # airtapd opens it, as root
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        return reason(exc)
    return ""


def file_system(mount_point: str) -> str:
    """Return the type of what is mounted there, of several the last; "" for nothing."""
    found = ""
    for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
        _, target, kind, *_ = line.split(" ")
        found = kind if target == mount_point else found
    return found


def _load() -> Problem | None:
    try:
        open_macnat(None).close()
    except Problem as problem:
        return problem
    return None


def missing(kernel: Kernel, names: Collection[str]) -> list[str]:
    """Return those of the modules that this kernel is known to lack."""
    return [name for name in names if kernel.modules.get(name) is False]
