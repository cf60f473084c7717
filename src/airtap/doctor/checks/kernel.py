"""Whether this kernel can do what is asked of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..finding import Finding, ok, problem, warning
from ..sources.kernel import KINDS, Kernel, missing


@dataclass(frozen=True)
class Needs:
    """What the uplinks and guests of this host use.

    kinds: macvtap, ipvtap, each with who wants it. taps: a bridge. programs: an uplink that does.
    """

    kinds: dict[str, str] = field(default_factory=dict)
    taps: str = ""
    programs: str = ""


def kinds(kernel: Kernel, needs: Needs) -> Iterator[Finding]:
    """ok, problem no-macvtap, no-ipvtap."""
    for kind in KINDS:
        there, who = kernel.modules.get(kind), needs.kinds.get(kind, "")
        evidence = f"Linux {kernel.release}"
        if there is False and who:
            yield problem(
                f"no-{kind}",
                "kernel",
                f"it has no {kind}, which {who} asks for",
                f"{evidence} makes no device of kind {kind}",
                f"modprobe {kind}, or boot a kernel with CONFIG_{kind.upper()}",
            )
        else:
            said: dict[bool | None, str] = {
                True: f"has {kind}",
                False: f"has no {kind}, and nobody asks for it",
            }
            yield ok(
                kind, "kernel", said.get(there, f"cannot tell whether it has {kind}"), evidence
            )


def clsact(kernel: Kernel, needs: Needs) -> Iterator[Finding]:
    """ok, problem no-clsact."""
    lacking = missing(kernel, ("sch_ingress", "cls_bpf"))
    if lacking and needs.programs:
        yield problem(
            "no-clsact",
            "kernel",
            f"it has no {' and no '.join(lacking)}, on which MAC NAT and host access stand",
            f"/lib/modules/{kernel.release}",
            "boot a kernel with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF",
        )


def programs(kernel: Kernel, needs: Needs) -> Iterator[Finding]:
    """ok, problem no-bpffs, no-macnat."""
    if not kernel.bpffs and needs.programs:
        yield problem(
            "no-bpffs",
            "/sys/fs/bpf",
            f"no BPF file system is there, where {needs.programs} keeps what it learns",
            "statfs(2) of /sys/fs/bpf",
            "mount -t bpf bpf /sys/fs/bpf",
        )
    if kernel.no_macnat:
        yield problem(
            "no-macnat",
            "kernel",
            "it does not take MAC NAT's programs",
            kernel.no_macnat.message,
            kernel.no_macnat.hint or "boot Linux 6.1 or later",
        )
    elif needs.programs:
        note = "takes MAC NAT's programs" if kernel.tried else "was not asked to take MAC NAT"
        yield ok("bpf", "kernel", note)


def tun(kernel: Kernel, needs: Needs) -> Iterator[Finding]:
    """ok, problem no-tun."""
    if kernel.tun and needs.taps:
        yield problem(
            "no-tun",
            "/dev/net/tun",
            f"guests on the bridge {needs.taps} get no tap",
            f"/dev/net/tun: {kernel.tun}",
            "modprobe tun",
        )
    else:
        note = f"is of no use ({kernel.tun}), and only bridges need it" if kernel.tun else "works"
        yield ok("tun", "/dev/net/tun", note)


def vhost_net(kernel: Kernel, _needs: Needs) -> Iterator[Finding]:
    """ok."""
    note = "is there" if kernel.vhost_net else "is not there; guests are slower, and work"
    yield ok("vhost-net", "/dev/vhost-net", note)


def dev(kernel: Kernel, needs: Needs) -> Iterator[Finding]:
    """ok, warning dev-not-devtmpfs."""
    if kernel.dev in ("devtmpfs", "") or not needs.kinds:
        yield ok("dev", "/dev", "the kernel makes the nodes of taps there")
    else:
        yield warning(
            "dev-not-devtmpfs",
            "/dev",
            "nodes of new macvtaps do not appear here by themselves",
            f"/proc/self/mounts: {kernel.dev} on /dev",
            "run airtapd where /dev is the host's devtmpfs",
        )
