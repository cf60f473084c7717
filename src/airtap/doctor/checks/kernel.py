"""Whether this kernel can do what is asked of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..finding import Finding, ok, problem, warning
from ..sources.kernel import KINDS, Kernel, missing


@dataclass(frozen=True)
class Needs:
    """What the uplinks and guests of this host use.

    kinds: macvtap and ipvtap, each with who wants it.
    taps: a bridge whose guests get taps, or "".
    programs: an uplink that carries BPF programs, or "".
    """

    kinds: dict[str, str] = field(default_factory=dict)
    taps: str = ""
    programs: str = ""


def kinds(kernel: Kernel, needs: Needs) -> Iterator[Finding]:
    """Tell which kinds of devices the kernel can make.

    Yields ok; problem no-macvtap or no-ipvtap, where somebody asks for it.
    """
    for kind in KINDS:
        there, who = kernel.modules.get(kind), needs.kinds.get(kind, "")
        evidence = f"Linux {kernel.release}"
        if there is False and who:
            yield problem(
                f"no-{kind}",
                "kernel",
                what=f"it has no {kind}, which {who} asks for",
                evidence=f"{evidence} makes no device of kind {kind}",
                remedy=f"modprobe {kind}, or boot a kernel with CONFIG_{kind.upper()}",
            )
        else:
            known = f"has {kind}" if there else f"has no {kind}, and nobody asks for it"
            what = f"cannot tell whether it has {kind}" if there is None else known
            yield ok(kind, "kernel", what=what, evidence=evidence)


def clsact(kernel: Kernel, needs: Needs) -> Iterator[Finding]:
    """Tell what BPF programs lack to be attached.

    Yields problem no-clsact.
    """
    lacking = missing(kernel, ("sch_ingress", "cls_bpf"))
    if lacking and needs.programs:
        yield problem(
            "no-clsact",
            "kernel",
            what=f"it has no {' and no '.join(lacking)}, on which MAC NAT and host access stand",
            evidence=f"/lib/modules/{kernel.release}",
            remedy="boot a kernel with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF",
        )


def programs(kernel: Kernel, needs: Needs) -> Iterator[Finding]:
    """Tell whether the kernel takes MAC NAT's programs, and keeps what they learn.

    Yields ok; problem no-bpffs or no-macnat.
    """
    if not kernel.bpffs and needs.programs:
        yield problem(
            "no-bpffs",
            "/sys/fs/bpf",
            what=f"no BPF file system is there, where {needs.programs} keeps what it learns",
            evidence="statfs(2) of /sys/fs/bpf",
            remedy="mount -t bpf bpf /sys/fs/bpf",
        )
    if kernel.no_macnat:
        yield problem(
            "no-macnat",
            "kernel",
            what="it does not take MAC NAT's programs",
            evidence=kernel.no_macnat.message,
            remedy=kernel.no_macnat.hint or "boot Linux 6.1 or later",
        )
    elif needs.programs:
        note = "takes MAC NAT's programs" if kernel.tried else "was not asked to take MAC NAT"
        yield ok("bpf", "kernel", what=note)


def tun(kernel: Kernel, needs: Needs) -> Iterator[Finding]:
    """Tell whether guests on a bridge can get taps.

    Yields ok; problem no-tun.
    """
    if kernel.tun and needs.taps:
        yield problem(
            "no-tun",
            "/dev/net/tun",
            what=f"guests on the bridge {needs.taps} get no tap",
            evidence=f"/dev/net/tun: {kernel.tun}",
            remedy="modprobe tun",
        )
    else:
        note = f"is of no use ({kernel.tun}), and only bridges need it" if kernel.tun else "works"
        yield ok("tun", "/dev/net/tun", what=note)


def vhost_net(kernel: Kernel, _needs: Needs) -> Iterator[Finding]:
    """Tell whether the kernel can carry guests' frames itself.

    Yields ok.
    """
    note = "is there" if kernel.vhost_net else "is not there; guests are slower, and work"
    yield ok("vhost-net", "/dev/vhost-net", what=note)


def dev(kernel: Kernel, needs: Needs) -> Iterator[Finding]:
    """Tell whether nodes of new macvtaps appear in /dev.

    Yields ok; warning dev-not-devtmpfs.
    """
    if kernel.dev in ("devtmpfs", "") or not needs.kinds:
        yield ok("dev", "/dev", what="the kernel makes the nodes of taps there")
    else:
        yield warning(
            "dev-not-devtmpfs",
            "/dev",
            what="nodes of new macvtaps do not appear here by themselves",
            evidence=f"/proc/self/mounts: {kernel.dev} on /dev",
            remedy="run airtapd where /dev is the host's devtmpfs",
        )
