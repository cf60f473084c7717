"""A real libvirt daemon in the sandbox, the system's or a user's own, and guests for it.

It has a PID and a mount namespace below the sandbox's, with fresh directories in place of the
machine's. What it leaves to run, QEMU and dnsmasq, ends with it; a shell as first process reaps
what has been orphaned, without which libvirt waits in vain for QEMU's end.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import libvirt
from lxml import etree

from lab import sandbox
from lab.guest import GUEST_UID, PROMPT
from lab.lan import end_process, wait_for
from lab.linux import CMDLINE, MEMORY, files
from lab.running import Running

__all__ = ["Libvirtd", "domain_xml"]

# Errors reach us as exceptions; without this the binding prints them as well.
libvirt.registerErrorHandler(lambda _context, _error: None, None)

_DAEMON = "/usr/sbin/libvirtd"
# Of the machine, hidden from the daemon. /run is the sandbox's own already, and so is /etc.
_CACHE = "/var/cache/libvirt"
_HIDDEN = ("/var/lib/libvirt", "/var/log/libvirt", _CACHE)

# Nor are these seen. KVM may be there and still hang a guest; of a second QEMU libvirtd would find
# out as well what it can do.
_UNUSED = ("/dev/kvm", "/usr/bin/qemu-system-i386")

# Of this network namespace. libvirt switches them on for a network with NAT, and leaves them so.
_FORWARDING = [
    Path("/proc/sys/net", name) for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
]

# Debian makes the first two with a package that also starts services; libvirtd looks for them
# before it reads in qemu.conf that it shall use others. It runs for no uid without a name.
_ACCOUNTS = {
    "libvirt-qemu": GUEST_UID + 1,
    "libvirt-dnsmasq": GUEST_UID + 2,
    "guest": GUEST_UID,
}

_QEMU_CONF = f"""
user = "+{GUEST_UID}"
group = "+{GUEST_UID}"
dynamic_ownership = 0
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
"""
_LIBVIRTD_CONF = """
auth_unix_ro = "none"
auth_unix_rw = "none"
"""
_KEY_SPACE = 57  # linux/input-event-codes.h
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Libvirtd(Running):
    """One libvirtd: qemu:///system, or with a uid the qemu:///session of that user.

    directory: holds its log, and all that belongs to a user. Defined networks and guests stay
    over stop() and start(); close() forgets them. The system's has airtap's hooks, which find
    airtapd at its default socket only: libvirt passes no environment on.
    """

    def __init__(self, uid: int = 0, env: Mapping[str, str] | None = None) -> None:
        """Describe the daemon; nothing runs before start(). env: for it and its guests' helpers."""
        sandbox.require()
        self.uid = uid
        self._env = dict(env or {})
        self._forwarding = [file.read_text() for file in _FORWARDING]
        self.directory = Path(tempfile.mkdtemp(prefix="libvirtd-", dir="/run"))
        self.directory.chmod(0o755)
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("config", "runtime", "data", "guests", "hidden"):
            self._own(self.directory / name)
        _add_accounts()
        if uid == 0:
            _write("/etc/libvirt/qemu.conf", _QEMU_CONF)
            _write("/etc/libvirt/libvirtd.conf", _LIBVIRTD_CONF)
            _install_hooks()

    @property
    def uri(self) -> str:
        """By which every process in the sandbox finds this daemon."""
        path = "system" if self.uid == 0 else "session"
        return f"qemu+unix:///{path}?socket={self._socket}"

    @property
    def env(self) -> dict[str, str]:
        """What this daemon's user has set; by it qemu:///session finds daemon and files."""
        if self.uid == 0:
            return self._env
        return {
            **self._env,
            "HOME": str(self.directory),
            "XDG_CONFIG_HOME": str(self.directory / "config"),
            "XDG_RUNTIME_DIR": str(self.directory / "runtime"),
            "XDG_CACHE_HOME": str(self._cache()),
            "XDG_DATA_HOME": str(self.directory / "data"),
        }

    @property
    def qemu_conf(self) -> Path:
        """The file with the settings of its QEMU driver."""
        if self.uid == 0:
            return Path("/etc/libvirt/qemu.conf")
        return self.directory / "config/libvirt/qemu.conf"

    def start(self) -> None:
        """Start it and wait until it answers. RuntimeError carries what it said."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                sandbox.dying_with_us(self._argv()),
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
            )
        wait_for(self._answers, 60, "libvirtd to answer")

    def restart(self) -> None:
        """End libvirtd alone, as systemctl does, and start it anew; guests run on."""
        assert self._process is not None
        daemon = self.pid
        os.kill(daemon, signal.SIGTERM)
        wait_for(lambda: not Path(f"/proc/{daemon}").exists(), 30, "libvirtd to end")
        wait_for(self._answers, 60, "libvirtd to answer again")
        with contextlib.closing(self.connect()) as connection:
            for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
                # This waits for the reconnection. Who ends a guest before that has libvirtd forget
                # it, and say that there is none.
                domain.memoryStats()

    def stop(self) -> None:
        """End it, and with it its PID namespace: guests and dnsmasq. Stopping twice is fine."""
        if self._process:
            self._end_shell(self._process.pid)
            end_process(self._process)
            self._process = None

    def close(self) -> None:
        """Stop, remove its files, and forward no more than before."""
        self.stop()
        for file, value in zip(_FORWARDING, self._forwarding, strict=True):
            file.write_text(value)
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.uid == 0:
            for path in ("/etc/libvirt", "/run/libvirt"):
                shutil.rmtree(path, ignore_errors=True)

    def connect(self) -> Any:
        """A virConnect; the caller closes it."""
        return libvirt.open(self.uri)

    def airtap(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run airtap as the daemon's user. It has lxml and libvirt of the virtual environment."""
        python = sandbox.TREE / ".venv/bin/python"
        return subprocess.run(
            [str(python), "-I", str(sandbox.TREE / "helper/airtap"), *argv],
            env={**os.environ, "LIBVIRT_DEFAULT_URI": self.uri, **self.env},
            user=self.uid,
            group=self.uid,
            extra_groups=[],
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            cwd="/",
        )

    @property
    def pid(self) -> int:
        """The process id of libvirtd itself."""
        [pid] = [pid for pid in self._running() if _comm(pid) == "libvirtd"]
        return pid

    def guest_pid(self, name: str) -> int:
        """The process id of a guest's QEMU."""
        wanted = f"guest={name},".encode()
        [pid] = [n for n in self._running() if wanted in Path(f"/proc/{n}/cmdline").read_bytes()]
        return pid

    def log(self) -> str:
        """What the daemon has said so far."""
        return (self.directory / "log").read_text(errors="replace")

    def serial_file(self, name: str) -> Path:
        """Where a guest of domain_xml() writes its serial port."""
        return self.directory / "guests" / f"{name}.serial"

    def serial(self, name: str) -> str:
        """What a guest has printed, without terminal escapes."""
        file = self.serial_file(name)
        return _ESCAPES.sub("", file.read_text(errors="replace")) if file.exists() else ""

    def hurry(self, name: str) -> str:
        """serial(), and where it ends with iPXE's waiting for a key, the guest gets one."""
        said = self.serial(name)
        if said.endswith(PROMPT):
            with contextlib.closing(self.connect()) as connection:
                guest = connection.lookupByName(name)
                guest.sendKey(libvirt.VIR_KEYCODE_SET_LINUX, 0, [_KEY_SPACE], 1)
        return said

    def _own(self, directory: Path) -> None:
        directory.mkdir()
        owner = self.uid or (GUEST_UID if directory.name == "guests" else 0)
        os.chown(directory, owner, owner)

    @property
    def _socket(self) -> str:
        if self.uid == 0:
            return "/run/libvirt/libvirt-sock"
        return f"{self.directory}/runtime/libvirt/libvirt-sock"

    def _argv(self) -> list[str]:
        # The shell never becomes the daemon: it is there to reap, and to start it again.
        hidden = [f"mount --bind {self._hidden(path)} {path}" for path in _HIDDEN]
        there = filter(os.path.exists, _UNUSED)
        hidden += [f"mount --bind {self._nothing()} {path}" for path in there]
        user = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups", "--"]
        daemon = " ".join([*(user if self.uid else []), _DAEMON])
        loop = f"until [ $stop ]; do {daemon} & wait $!; wait $!; sleep 0.1; done"
        script = f"stop=; trap 'stop=1; kill $!' TERM; {' && '.join(hidden)} && {loop}"
        return [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("sh", "-c", script),
        ]

    def _end_shell(self, unshare: int) -> None:
        """Ask the first process of the PID namespace to end; unshare itself ignores SIGTERM."""
        with contextlib.suppress(OSError):
            for pid in _children(unshare):
                os.kill(pid, signal.SIGTERM)

    def _running(self) -> list[int]:
        """What runs below the shell: libvirtd, guests, dnsmasq."""
        assert self._process is not None
        return [pid for shell in _children(self._process.pid) for pid in _children(shell)]

    def _hidden(self, path: str) -> Path:
        os.makedirs(path, exist_ok=True)
        if path == _CACHE:
            return self._cache()
        kept = self.directory / "hidden" / path.replace("/", "-")
        kept.mkdir(exist_ok=True)
        return kept

    def _cache(self) -> Path:
        """Where it keeps what it has found out of QEMU, for the next daemon too."""
        path = Path(f"/run/libvirtd-{self.uid}.cache")
        if not path.exists():
            self._own(path)
        return path

    def _nothing(self) -> Path:
        """A file that QEMU's user may not open, nor anybody run."""
        file = self.directory / "nothing"
        file.touch(0o600)
        return file

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"libvirtd: exit {self._process.returncode}: {self.log()}")
        try:
            self.connect().close()
        except libvirt.libvirtError:
            return False
        return True


def domain_xml(
    name: str,
    mac: str,
    serial: Path,
    interface: str,
    *,
    linux: bool = False,
    model: str = "virtio",
) -> str:
    """A guest that boots iPXE from the network and tells on its serial port what it does.

    interface: an `<interface>` element, to which MAC and model are added. linux: it runs Linux
    instead, see lab/linux.py.
    """
    root = etree.fromstring(_DOMAIN)
    root.find("name").text = name
    root.find("devices/serial/source").set("path", str(serial))
    nic = etree.fromstring(interface)
    etree.SubElement(nic, "mac", address=mac)
    etree.SubElement(nic, "model", type=model)
    root.find("devices").append(nic)
    if linux:
        _boot_linux(root)
    text: str = etree.tostring(root, encoding="unicode")
    return text


def _boot_linux(root: Any) -> None:
    system = root.find("os")
    system.remove(system.find("boot"))
    kernel, initramfs = files()
    for tag, value in (("kernel", kernel), ("initrd", initramfs), ("cmdline", CMDLINE)):
        etree.SubElement(system, tag).text = str(value)
    root.find("memory").text = str(MEMORY)
    etree.SubElement(root.find("devices/interface"), "rom", enabled="no")


_DOMAIN = """
<domain type="qemu">
  <name/>
  <memory unit="MiB">64</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch="x86_64" machine="pc">hvm</type>
    <boot dev="network"/>
    <bios useserial="yes"/>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type="usb" model="none"/>
    <serial type="file"><source path=""/></serial>
    <memballoon model="none"/>
  </devices>
</domain>
"""


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _install_hooks() -> None:
    """As `make install` does."""
    for name in ("network", "qemu"):
        launcher = (sandbox.TREE / "hooks" / name).read_text()
        target = Path(f"/etc/libvirt/hooks/{name}.d/50-airtap")
        path = f'sys.path.insert(0, "{sandbox.TREE / "src"}")'
        _write(str(target), re.sub(r"^sys\.path\.insert.*$", path, launcher, flags=re.MULTILINE))
        target.chmod(0o755)


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(path).write_text(text)


def _add_accounts() -> None:
    """Complete the sandbox's own passwd and group."""
    for path, line in (
        ("/etc/passwd", "{name}:x:{number}:{number}::/nonexistent:/bin/false\n"),
        ("/etc/group", "{name}:x:{number}:\n"),
    ):
        file = Path(path)
        known = {row.partition(":")[0] for row in file.read_text().splitlines()}
        with file.open("a") as table:
            for name in _ACCOUNTS.keys() - known:
                table.write(line.format(name=name, number=_ACCOUNTS[name]))
