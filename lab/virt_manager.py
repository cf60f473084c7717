"""virt-manager on an airtap network: `make picture`, or python -m lab.virt_manager OUT.png as root.

The wizard of a real virt-manager makes and starts a guest on the network that `airtap network
define` has made, on a LAN that takes one MAC only. It is a check: exit status 0 only if the network
was in the wizard's list, and the guest got a lease of its own and booted. OUT.png shows that list,
and the README has it. It is no part of `make test`, for it needs Debian packages beyond those of
`make setup`: PICTURE_PACKAGES in the Makefile.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from libvirt import libvirtError
from lxml import etree

from airtap.ipc import protocol
from lab import sandbox
from lab.airtap import Airtapd
from lab.lan import Lan, host_links, wait_for
from lab.libvirt import Libvirtd
from lab.running import Running

NETWORK, DOMAIN = "wifi", "web"
LISTED = f"Virtual network '{NETWORK}' : "

_CONFIG = '[parents.up0]\nmacnat = "on"\n'
_PATIENCE_S = 30.0
_BOOT_S = 90.0
_MEMORY_MIB = 512
_PROGRAMS = ("virt-manager", "Xvfb", "dbus-daemon", "openbox", "convert")
# gi is Debian's, and the virtual environment has the same Python.
_DEBIANS = "/usr/lib/python3/dist-packages"

T = TypeVar("T")


def main() -> int:
    """Run it. Returns the exit status: 0, 1 if something is not as it should be, 2 for usage."""
    if len(sys.argv) != 2:
        print("usage: python -m lab.virt_manager OUT.png", file=sys.stderr)
        return 2
    out = Path(sys.argv[1]).resolve()
    try:
        if missing := [name for name in _PROGRAMS if not shutil.which(name)]:
            raise RuntimeError(f"not installed: {', '.join(missing)}")
        sandbox.enter()
        show(out)
        if left := (host_links() - {"lo"}) | sandbox.children():
            raise RuntimeError(f"left behind: {left}")
    except (ImportError, OSError, RuntimeError, ValueError, libvirtError) as error:
        print(f"lab.virt_manager: {error}", file=sys.stderr)
        return 1
    return 0


def show(out: Path) -> None:
    """Build the LAN and the rest, and see it all. Raises what the lab raises, or RuntimeError."""
    with (
        Lan(one_mac=True) as lan,
        Airtapd(config=_CONFIG, socket=protocol.DEFAULT_SOCKET) as airtapd,
        Libvirtd() as libvirtd,
    ):
        done = libvirtd.airtap("network", "define", NETWORK, "--parent", lan.near)
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        print(done.stdout, end="")
        with Desktop(f"virt-manager --debug --connect {shlex.quote(libvirtd.uri)}") as gui:
            make_guest(gui, out)
            check_guest(lan, airtapd, libvirtd)


def make_guest(gui: Desktop, out: Path) -> None:
    """Go through the wizard, to a guest without a disk that boots from the network."""
    gui.press("push button", "New$")
    gui.press("radio button", "Manual install")
    gui.press("push button", "Forward")
    system = gui.find("text", "oslist-entry")
    system.set_text_contents("generic linux")
    gui.find("table cell", "Generic Linux").grab_focus()  # which selects its row
    system.do_action(0)
    gui.wait_gone("table cell", "Generic Linux")
    gui.press("push button", "Forward")
    gui.find("spin button", "$").set_current_value(_MEMORY_MIB)
    gui.press("push button", "Forward")
    gui.press("check box", "Enable storage")
    gui.press("push button", "Forward")
    gui.find("label", "Ready to begin the installation")
    gui.find("text", "$").set_text_contents(DOMAIN)
    gui.press("check box", "Customize configuration")
    choose_network(gui, out)
    gui.press("push button", "Finish")
    gui.find("table cell", "Boot Options").grab_focus()
    gui.click("table cell", "$", below="boot-tab")
    gui.press("push button", "config-apply")
    gui.press("push button", "Begin Installation")
    gui.find("table cell", f"{DOMAIN}\\n")  # at times "Paused": it can miss that the guest runs


def choose_network(gui: Desktop, out: Path) -> None:
    """Choose it in the wizard's list, and make the screenshot while that is open."""
    gui.press("toggle button", "Network selection")
    gui.press("combo box", "net-source")
    print(f"virt-manager lists: {gui.find('menu item', LISTED).get_name()}")
    gui.screenshot("New VM", out)
    gui.press("menu item", LISTED)
    gui.wait_gone("menu item", "")


def check_guest(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    """It is on the LAN, with its own MAC and lease, and is airtap's guest. End it."""
    with contextlib.closing(libvirtd.connect()) as connection:
        domain = connection.lookupByName(DOMAIN)
        card = etree.fromstring(domain.XMLDesc()).find("devices/interface")
        mac = card.find("mac").get("address")
        address = lan.wait_lease(mac, _BOOT_S)
        wait_for(lambda: lan.fetched(address), _BOOT_S, f"{DOMAIN} to boot")
        if not lan.ping(address):
            raise RuntimeError(f"{DOMAIN} does not answer at {address}")
        shown = [(guest["mac"], guest["owner"]["domain"]) for guest in airtapd.guests()]
        if card.find("source").get("network") != NETWORK or shown != [(mac, DOMAIN)]:
            raise RuntimeError(f"{DOMAIN} is not on {NETWORK}, or not in airtap status: {shown}")
        if lan.foreign_frames():
            raise RuntimeError(f"{DOMAIN}'s own MAC got out on the wire")
        domain.destroy()
    print(f"{DOMAIN}  {mac}  leased {address}, fetched its boot file, answers ping")


class Desktop(Running):
    """A program on an X server of its own, worked by way of its accessibility tree.

    They have a PID and a mount namespace below the sandbox's, so nothing outlives them. directory:
    holds the program's home and log, D-Bus's socket and the screen. Roles are those of AT-SPI,
    names regular expressions for their beginning.
    """

    def __init__(self, program: str) -> None:
        """Describe it; nothing runs before start(). program: a command line for the shell."""
        sandbox.require()
        self.directory = Path(tempfile.mkdtemp(prefix="desktop-", dir="/run"))
        self._script = _SCRIPT.format(program=program)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start all of it. RuntimeError carries what it said."""
        (self.directory / "gtk-3.0").mkdir()
        (self.directory / "gtk-3.0/settings.ini").write_text(_GTK)
        bus = {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={self.directory}/bus"}
        own = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"), str(self.directory))
        more = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "GSETTINGS_BACKEND": "memory"}
        apart = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                sandbox.dying_with_us([*apart, "sh", "-c", self._script]),
                env={**bus, **own, **more},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
            )
        self._wait((self.directory / "bus").exists, "D-Bus")
        os.environ.update(bus)  # for AT-SPI, here too, which prefers a display
        os.environ.pop("DISPLAY", None)
        sys.path.append(_DEBIANS)
        importlib.import_module("gi").require_version("Atspi", "2.0")
        self._atspi = importlib.import_module("gi.repository.Atspi")
        self._gone = importlib.import_module("gi.repository.GLib").Error

    def close(self) -> None:
        """End all of it, and remove its files. Closing twice is fine."""
        if self._process:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
            for shell in children.read_text().split():
                os.kill(int(shell), signal.SIGKILL)  # and with it its PID namespace
            self._process.wait()
            self._process = None
        shutil.rmtree(self.directory, ignore_errors=True)

    def find(self, role: str, name: str, *, below: str = "") -> Any:
        """What is shown so, waiting for it. below: the name of what contains it."""
        return self._wait(lambda: next(self._shown(role, name, below), None), f"{role} {name!r}")

    def wait_gone(self, role: str, name: str) -> None:
        """Wait until nothing of the kind is shown."""
        self._wait(lambda: not any(self._shown(role, name)), f"{role} {name!r} to go")

    def press(self, role: str, name: str) -> None:
        """What a click on it does, once it can be clicked on."""
        node = self.find(role, name)
        self._wait(lambda: self._has(node, "SENSITIVE"), f"{role} {name!r} to be ready")
        node.do_action(0)

    def click(self, role: str, name: str, *, below: str) -> None:
        """Click on it with the mouse: GTK's action for a check box in a table does nothing."""
        at = self.find(role, name, below=below).get_extents(self._atspi.CoordType.SCREEN)
        x, y = at.x + at.width // 2, at.y + at.height // 2
        self._atspi.generate_mouse_event(x, y, "b1c")

    def screenshot(self, window: str, file: Path) -> None:
        """Write a window and what is before it as a PNG of few colours, which names no host."""
        time.sleep(0.5)  # what is shown may still have to be drawn
        at = self.find("frame", window).get_extents(self._atspi.CoordType.SCREEN)
        crop = ("-crop", f"{at.width}x{at.height}+{at.x}+{at.y}", "+repage")
        source, target = f"xwd:{self.directory}/Xvfb_screen0", f"PNG8:{file}"
        sandbox.command("convert", source, *crop, "-strip", "-colors", "64", target)

    def _wait(self, predicate: Callable[[], T], what: str) -> T:
        try:
            return wait_for(predicate, _PATIENCE_S, what)
        except TimeoutError as error:
            raise RuntimeError(f"{error}\n{self._log()}") from error

    def _shown(self, role: str, name: str, below: str = "") -> Iterator[Any]:
        """Every such node on the screen, the newest window's first."""
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"the desktop ended:\n{self._log()}")
        desktop = self._atspi.get_desktop(0)
        desktop.clear_cache()
        windows = [w for program in self._children(desktop) for w in self._children(program)]
        nodes = (node for window in reversed(windows) for node in self._tree(window))
        if below:
            tops = [node for node in nodes if node.get_name() == below]
            nodes = (node for top in tops for node in self._tree(top))
        for node in nodes:
            with contextlib.suppress(self._gone):
                if node.get_role_name() == role and re.match(name, node.get_name()):
                    yield node

    def _tree(self, node: Any) -> Iterator[Any]:
        with contextlib.suppress(self._gone):
            if self._has(node, "SHOWING"):
                yield node
                for child in self._children(node):
                    yield from self._tree(child)

    def _children(self, node: Any) -> list[Any]:
        children = (node.get_child_at_index(index) for index in range(node.get_child_count()))
        return [child for child in children if child]

    def _has(self, node: Any, state: str) -> bool:
        return bool(node.get_state_set().contains(getattr(self._atspi.StateType, state)))

    def _log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")[-2000:]


_GTK = "[Settings]\ngtk-enable-animations=0\n"
# X before D-Bus, whose children are to find it: they make the mouse's clicks.
_SCRIPT = """
mount -t tmpfs tmpfs /tmp
export DISPLAY=:0
Xvfb $DISPLAY -screen 0 1024x768x24 -nolisten tcp -nocursor -fbdir $XDG_RUNTIME_DIR &
until [ -S /tmp/.X11-unix/X0 ]; do sleep 0.1; done
dbus-daemon --session --nofork --nopidfile --address=$DBUS_SESSION_BUS_ADDRESS &
until [ -S $XDG_RUNTIME_DIR/bus ]; do sleep 0.1; done
openbox &
{program}
"""


if __name__ == "__main__":
    sys.exit(main())
