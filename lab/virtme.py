"""A stock Debian kernel of lab/kernels.py, started by virtme-ng: the slow one of lab/machine.py.

It is emulated (TCG), so that it runs the same everywhere: /dev/kvm may be there and still hang a
stock kernel. A Python starts in seconds there.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from lab.kernels import REPOSITORY, kernel

_CPUS = 2

# Directories that do not change while a machine runs, and where it shows them first. virtme mounts
# without a cache, and then the imports of one test module take a minute.
_LASTING = {"usr": Path("/usr"), "repository": REPOSITORY}
_EXPORT = (
    "-fsdev local,id={tag},path={path},security_model=none,readonly=on,multidevs=remap "
    "-device virtio-9p-pci,fsdev={tag},mount_tag={tag}"
)

# Modules come when they are asked for, as everywhere.
PROLOGUE = """\
export AIRTAP_LAB_SLOWNESS=5
cached=ro,version=9p2000.L,trans=virtio,msize=524288,cache=loose
mkdir -p {repository} /tmp/usr
mount -t 9p -o $cached repository {repository}
mount -t 9p -o $cached usr /tmp/usr
# A kernel package has lib/modules, and this system may have no such directory to mount it on.
mount -t overlay -o lowerdir=$KERNEL:/tmp/usr overlay /usr
# The sandbox copies /etc: half a minute, file by file.
mount -t tmpfs -o mode=755 tmpfs /etc && tar -C /etc -xf {shared}/etc.tar
mkdir -p /dev/net && {{ [ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200; }}
mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
"""
EPILOGUE = ""


def argv(version: str, directory: Path, shared: Path, memory: str) -> list[str]:
    """The words that boot it and run the script "init" in directory, which it sees at shared.

    version: of lab.kernels.SUITES. memory: with a unit. FileNotFoundError says how to get it.
    """
    image = kernel(version)
    tree = shlex.quote(str(image.parent.parent))
    exports = (_EXPORT.format(tag=tag, path=path) for tag, path in _LASTING.items())
    return [
        *(str(Path(sys.executable).parent / "virtme-ng"), "--run", str(image)),
        *("--user", "root", "--memory", memory, "--cpus", str(_CPUS)),
        *("--disable-kvm", "--force-9p", "--verbose"),
        *("--rwdir", f"{shared}={directory}"),
        f"--qemu-opts={' '.join(exports)}",
        *("--exec", f"KERNEL={tree} bash {shared}/init"),
    ]
