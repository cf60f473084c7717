"""libvirt's hooks: the launchers as libvirt runs them, against a daemon played here."""

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from airtap import hook
from airtap.errors import Problem
from airtap.ipc import protocol
from airtap.libvirt import reader

Message = dict[str, object]

TREE = Path(__file__).resolve().parents[2]
# As in the launchers' first line, with room for options of Python's.
PYTHON = ("/usr/bin/python3", "-I", "-S")

# Runs a launcher as if it were root, or not, with another sysfs, and without a daemon to start.
STAGE = """
import os, sys
launcher, uid, net, missing, *arguments = sys.argv[1:]
os.geteuid = lambda: int(uid)
sys.argv = [launcher, *arguments]
sys.path.insert(0, os.path.join(os.path.dirname(launcher), "../src"))
import airtap.hook
from airtap.errors import Problem
airtap.hook._NET = net
def start_daemon(path, error):
    raise Problem("no-daemon", "airtapd does not answer", "start it")
sys.modules["airtap.ipc.activation"] = autostart = type(sys)("airtap.ipc.activation")
autostart.start_daemon = start_daemon
if missing:
    sys.modules[missing] = None
with open(launcher) as file:
    exec(compile(file.read(), launcher, "exec"), {"__name__": "__main__", "__file__": launcher})
"""

# What a run may import beyond a bare start of Python, if the guest is none of ours. Each of them
# costs every start of a guest on the host, four times.
NOT_OURS = {
    "os",
    "stat",
    "_stat",
    "posixpath",
    "genericpath",
    "abc",
    "_abc",
    "_collections_abc",
    "airtap",
    "airtap.hook",
    "airtap.errors",
}
OURS = {
    *NOT_OURS,
    "airtap.libvirt",
    "airtap.libvirt.reader",
    "pyexpat",
    "pyexpat.errors",
    "pyexpat.model",
    "airtap.ipc",
    "airtap.ipc.client",
    "airtap.ipc.protocol",
    "_socket",
    "_json",
}
# What more of airtap a guest costs that is restored, or comes from another host; re and json too.
REWRITTEN = OURS | {f"airtap.libvirt.{name}" for name in ("incoming", "interface_edit", "xml_edit")}

UUID = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"
MAC = "52:54:00:00:00:0"


# XML as libvirt writes it, as far as it matters here.


def guest(*interfaces: str, marks: str = "") -> bytes:
    metadata = (
        f'<metadata><airtap:domain xmlns:airtap="urn:airtap:libvirt:1">{marks}</airtap:domain>'
        "</metadata>"
    )
    return (
        f"<domain type='kvm'>\n  <name>guest</name>\n  <uuid>{UUID}</uuid>\n"
        f"  {metadata if marks else ''}\n"
        f"  <devices>\n{''.join(interfaces)}  </devices>\n</domain>\n"
    ).encode()


def nic(kind: str, number: int, source: str = "", target: str = "") -> str:
    return (
        f"    <interface type='{kind}'>\n      <mac address='{MAC}{number}'/>\n"
        f"      {source and f'<source {source}/>'}{target and f'<target {target}/>'}\n"
        "      <model type='virtio'/>\n    </interface>\n"
    )


def direct(number: int, parent: str, target: str = "") -> str:
    target = target and f"dev='{target}'"
    return nic("direct", number, f"dev='{parent}' mode='bridge'", target)


def prepared(number: int) -> str:
    return nic("ethernet", number, target=f"dev='airtap-{number}' managed='no'")


def mark(number: int) -> str:
    return (
        f'<airtap:nic mac="{MAC}{number}" device="airtap-{number}" parent="wlan0" kind="ipvtap">'
        "&lt;interface type='bridge'/&gt;</airtap:nic>"
    )


PREPARED = guest(prepared(1), prepared(2), prepared(3), marks=mark(1) + mark(2) + mark(3))
DIRECT = guest(direct(1, "wlan0"))
NOBODYS = guest(nic("network", 1, "network='default'"), nic("bridge", 2, "bridge='br0'"))

NETWORK = b"<network><name>lan</name><forward mode='bridge'><interface dev='wlan0'/>%s</forward>\
</network>"
STARTED = b"<hookData>" + NETWORK % b"<interface dev='eth0'/>" + b"</hookData>"
PORT = f"""<hookData>{(NETWORK % b"<interface dev='eth0'/>").decode()}<networkport>
<owner><name>guest</name><uuid>{UUID}</uuid></owner><mac address='{MAC}1'/>
<plug type='direct' dev='wlan0' mode='bridge'/></networkport></hookData>""".encode()
NAT = b"""<hookData><network><name>default</name><forward mode='nat'/><bridge name='virbr0'/>
</network><networkport><plug type='network' bridge='virbr0'/></networkport></hookData>"""


# A daemon, and a run.

HANG_UP = "hang up"
DIE = "die"
HANG = "hang"


class Daemon(threading.Thread):
    """Plays airtapd: records requests, and does what reply() says of each."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.requests: list[Message] = []
        self.connections = 0
        self.reply: Callable[[Message], Message | str] = lambda request: {"ok": True}
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # shut down
                return
            self.connections += 1
            with connection:
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        while packet := connection.recv(protocol.MAX_REQUEST + 1):
            request = protocol.decode(packet)
            self.requests.append(request)
            reply = self.reply(request)
            if reply == DIE:
                self.listener.close()
            if reply in (DIE, HANG_UP):
                return
            if isinstance(reply, dict):
                connection.send(protocol.encode(reply))

    @property
    def seen(self) -> list[str]:
        """The requests in short: what is asked about which device."""
        return [f"{r['op']} {r.get('device') or r.get('parent')}" for r in self.requests]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    played = Daemon(tmp_path / "airtapd.sock")
    played.start()
    yield played
    with suppress(OSError):  # it died
        played.listener.shutdown(socket.SHUT_RDWR)
    played.join(20)
    played.listener.close()
    assert not played.is_alive()


@dataclass
class Run:
    status: int
    stdout: bytes
    stderr: str


def run(
    name: str,
    *arguments: str | bytes,
    xml: bytes = b"",
    daemon: Daemon | None = None,
    uid: int = 0,
    net: Path = Path("/nowhere"),
    python: tuple[str, ...] = PYTHON,
    missing: str = "",
) -> Run:
    """Run a hook. Without a daemon there is nothing at all where its socket should be."""
    launcher = str(TREE / "hooks" / name)
    done = subprocess.run(
        [*python, "-c", STAGE, launcher, str(uid), str(net), missing, *arguments],
        env={"LC_ALL": "C", "AIRTAP_SOCKET": str(daemon.path) if daemon else "/dev/null/none"},
        input=xml,
        capture_output=True,
        timeout=60,
    )
    return Run(done.returncode, done.stdout, done.stderr.decode())


def qemu(operation: str, xml: bytes, daemon: Daemon | None = None, net: Path | None = None) -> Run:
    return run(
        "qemu",
        "guest",
        operation,
        "begin",
        "-",
        xml=xml,
        daemon=daemon,
        net=net or Path("/nowhere"),
    )


def silent(done: Run) -> None:
    assert done == Run(0, b"", "")


def said(done: Run, status: int) -> str:
    """The one line of a run that had something to say."""
    assert (done.status, done.stdout) == (status, b"")
    assert done.stderr.startswith("airtap: ") and done.stderr.endswith("\n")
    assert done.stderr[:-1].isprintable()
    return done.stderr.removeprefix("airtap: ")[:-1]


def refusing(what: str) -> Callable[[Message], Message]:
    """Refuse the request that Daemon.seen calls so."""

    def reply(request: Message) -> Message:
        if what == f"{request['op']} {request.get('device') or request.get('parent')}":
            return protocol.failure(Problem("no-macnat", "it cannot be", "ask nicely"))
        return {"ok": True}

    return reply


def wifi(directory: Path, *devices: str) -> Path:
    """A /sys/class/net where only these are Wi-Fi."""
    for device in devices:
        (directory / "net" / device / "phy80211").mkdir(parents=True)
    (directory / "net/eth0").mkdir(parents=True)
    return directory / "net"


# What costs every guest.


def imported(python_stderr: str) -> set[str]:
    """The modules in the output of python -X importtime."""
    lines = [line for line in python_stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines[1:]}


@pytest.mark.parametrize(
    ("operation", "xml", "budget"),
    [
        ("prepare", NOBODYS, NOT_OURS),
        ("start", PREPARED, NOT_OURS),
        ("release", DIRECT, NOT_OURS),
        ("restore", guest(nic("user", 1)), NOT_OURS),
        ("prepare", PREPARED, OURS),
        ("started", guest(direct(1, "wlan0", "macvtap0")), OURS),
        ("release", PREPARED, OURS),
    ],
)
def test_import_budget(daemon: Daemon, operation: str, xml: bytes, budget: set[str]) -> None:
    timed = (*PYTHON, "-X", "importtime")
    bare = subprocess.run([*timed, "-c", "pass"], text=True, capture_output=True)
    done = run("qemu", "guest", operation, "begin", "-", xml=xml, daemon=daemon, python=timed)
    assert (done.status, done.stdout) == (0, b"")
    loaded = imported(done.stderr) - imported(bare.stderr)
    assert loaded - budget == set(), "a new import: every guest start pays for it"
    assert {name for name in budget if name.startswith("airtap")} <= loaded


@pytest.mark.parametrize("operation", ["restore", "migrate"])
def test_import_budget_of_a_guest_that_is_rewritten(daemon: Daemon, operation: str) -> None:
    timed = (*PYTHON, "-X", "importtime")
    bare = subprocess.run([*timed, "-c", "pass"], text=True, capture_output=True)
    daemon.reply = lambda request: {"ok": True, "parents": {"br0": "wlan0"}}
    done = run("qemu", "guest", operation, "begin", "-", xml=BRIDGED, daemon=daemon, python=timed)
    assert b"wlan0" in done.stdout
    loaded = imported(done.stderr) - imported(bare.stderr)
    assert {name for name in loaded if name.startswith("airtap")} == {
        name for name in REWRITTEN if name.startswith("airtap")
    }
    assert not {name.partition(".")[0] for name in loaded} & {"libvirt", "lxml", "pyroute2"}


def test_network_import_budget(daemon: Daemon) -> None:
    timed = (*PYTHON, "-X", "importtime")
    bare = subprocess.run([*timed, "-c", "pass"], text=True, capture_output=True)
    for xml, budget in ((NAT, NOT_OURS), (PORT, OURS)):
        done = run(
            "network",
            "lan",
            "port-created",
            "begin",
            "-",
            xml=xml,
            daemon=daemon,
            python=timed,
        )
        assert imported(done.stderr) - imported(bare.stderr) - budget == set()


def test_what_is_kept_of_stdin_is_enough_for_the_parser_to_refuse_more() -> None:
    assert hook.MAX_XML == reader.MAX_XML


# What libvirt, or anybody, may run.

OPERATIONS = {
    "qemu": [
        "prepare",
        "start",
        "started",
        "stopped",
        "release",
        "migrate",
        "restore",
        "reconnect",
        "attach",
        "nonsense",
        "--help",
        "port-created",
        "\udcff",
        "",
    ],
    "network": [
        "start",
        "started",
        "stopped",
        "updated",
        "port-created",
        "port-deleted",
        "plugged",
        "nonsense",
        "prepare",
        "",
    ],
}
CALLS = [(name, operation) for name, known in OPERATIONS.items() for operation in known]


@pytest.mark.parametrize(("name", "operation"), CALLS)
@pytest.mark.parametrize("xml", [b"", b"\0\xff garbage", b"<", guest()], ids=range(4))
def test_nothing_of_ours(daemon: Daemon, name: str, operation: str, xml: bytes) -> None:
    silent(run(name, "guest", operation, "begin", "-", xml=xml, daemon=daemon))
    assert daemon.connections == 0


@pytest.mark.parametrize(("name", "operation"), CALLS)
def test_broken_xml(daemon: Daemon, name: str, operation: str) -> None:
    """libvirt's to complain about; and never a status that would abort, or kill, anything."""
    for xml in (PREPARED[:-3], PORT[:-3], b"direct\xff", b"<!DOCTYPE d><d>direct</d>"):
        done = run(name, "guest", operation, "begin", "-", xml=xml, daemon=daemon)
        assert done.stderr == "" or said(done, 0)
        assert (done.status, done.stdout) == (0, b"")
    assert daemon.connections == 0


@pytest.mark.parametrize(("name", "operation"), CALLS)
def test_ordinary_user(daemon: Daemon, name: str, operation: str) -> None:
    """A session daemon runs the same hooks."""
    for xml in (PREPARED, PORT):
        silent(run(name, "guest", operation, "begin", "-", xml=xml, daemon=daemon, uid=1000))
    assert daemon.connections == 0


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("arguments", [[], ["guest"], [b"\xff", b"\xff"], ["", "", "", "", "x"]])
def test_strange_arguments(name: str, arguments: list[str | bytes]) -> None:
    silent(run(name, *arguments, xml=PREPARED))


@pytest.mark.parametrize(
    ("operation", "xml"),
    [
        ("start", PREPARED),
        ("stopped", PREPARED),
        ("reconnect", PREPARED),
        ("attach", PREPARED),
        ("nonsense", PREPARED),
        ("release", DIRECT),
        # Not prepared: no mark, a mark without a device, a device of another's.
        ("prepare", guest(prepared(1))),
        ("prepare", guest(prepared(1), marks=f'<airtap:nic mac="{MAC}1">x</airtap:nic>')),
        ("prepare", guest(prepared(1), marks=mark(2))),
        ("prepare", guest(nic("ethernet", 1, target="dev='airtap-1'"), marks=mark(1))),
        ("prepare", guest(nic("bridge", 1, "bridge='b'", "dev='airtap-1'"), marks=mark(1))),
        # Nothing to tell of: no target yet, or a bridge's tap.
        ("started", DIRECT),
        ("started", guest(nic("network", 1, "network='n' bridge='b'", "dev='vnet0'"))),
        ("started", guest(prepared(1))),
    ],
)
def test_no_concern_of_ours(daemon: Daemon, operation: str, xml: bytes) -> None:
    silent(qemu(operation, xml, daemon))
    assert daemon.connections == 0


@pytest.mark.parametrize("size", [hook.MAX_XML + 1, 50_000_000])
@pytest.mark.parametrize("start", [b"", PREPARED, b"<domain>direct"])
def test_huge_input_in_bounded_memory(daemon: Daemon, start: bytes, size: int) -> None:
    bounded = ("/bin/sh", "-c", 'ulimit -v 80000; exec "$@"', "sh", *PYTHON)
    done = run(
        "qemu",
        "guest",
        "prepare",
        "begin",
        "-",
        xml=start.ljust(size),
        daemon=daemon,
        python=bounded,
    )
    assert daemon.connections == 0
    if start:
        assert "longer than 4 MiB" in said(done, 0)
    else:
        silent(done)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("operation", ["prepare", "restore", "reconnect"])
def test_closed_streams(closed: str, operation: str) -> None:
    without = ("/bin/sh", "-c", f'exec "$@" {closed}', "sh", *PYTHON)
    done = run("qemu", "guest", operation, "begin", "-", xml=PREPARED, python=without)
    refused = operation == "prepare" and "<" not in closed
    assert (done.status, done.stdout) == (int(refused), b"")


@pytest.mark.parametrize("name", OPERATIONS)
def test_launcher_does_not_read_the_environment_or_site(tmp_path: Path, name: str) -> None:
    (tmp_path / "airtap.py").write_text("raise SystemExit(42)\n")
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit(43)\n")
    done = subprocess.run(
        [TREE / "hooks" / name, "guest", "reconnect", "begin", "-"],  # by its first line
        env={"PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "airtap.py")},
        input=PREPARED,
        capture_output=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("operation", ["prepare", "reconnect", "port-created"])
def test_hook_that_outlived_its_package(tmp_path: Path, name: str, operation: str) -> None:
    """What is in /etc may stay when airtap goes, or airtap be replaced this moment."""
    launcher = tmp_path / "50-airtap"
    launcher.write_bytes((TREE / "hooks" / name).read_bytes())
    done = subprocess.run(
        [*PYTHON, launcher, "guest", operation, "begin", "-"], input=PREPARED, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("operation", ["prepare", "started", "release", "restore"])
def test_fault_of_our_own(operation: str) -> None:
    """Neither keeps a guest from starting nor ends one."""
    done = run("qemu", "guest", operation, "begin", "-", xml=PREPARED, missing="pyexpat")
    assert f"the {operation} hook failed" in said(done, 0)


# The qemu hook.


def whose(number: int, device: str = "") -> Message:
    device = device or f"airtap-{number}"
    return {"device": device, "mac": f"{MAC}{number}", "uuid": UUID, "domain": "guest"}


def prepare(number: int) -> Message:
    return {"op": "create-device", "parent": "wlan0", "kind": "ipvtap"} | whose(number)


@pytest.mark.parametrize(
    ("operation", "xml", "requests"),
    [
        ("prepare", PREPARED, [prepare(1), prepare(2), prepare(3)]),
        ("prepare", DIRECT, [{"op": "prepare-uplink", "parent": "wlan0"}]),
        (
            "prepare",
            guest(
                direct(4, "eth0"), prepared(1), direct(5, "wlan0"), direct(6, "eth0"), marks=mark(1)
            ),
            [
                {"op": "prepare-uplink", "parent": "eth0"},
                {"op": "prepare-uplink", "parent": "wlan0"},
                prepare(1),
            ],
        ),
        ("started", PREPARED, [{"op": "set-owner"} | whose(n) for n in (1, 2, 3)]),
        (
            "started",
            guest(
                prepared(1),
                direct(2, "wlan0", "macvtap0"),
                nic("direct", 3, "network='lan' dev='wlan0' mode='bridge'", "dev='macvtap1'"),
                nic("network", 4, "network='lan' dev='wlan0' mode='bridge'", "dev='macvtap2'"),
                nic("network", 5, "network='default' bridge='virbr0'", "dev='vnet0'"),
                marks=mark(1),
            ),
            [
                {"op": "set-owner"} | whose(2, "macvtap0"),
                {"op": "set-owner"} | whose(3, "macvtap1"),
                {"op": "set-owner"} | whose(4, "macvtap2"),
                {"op": "set-owner"} | whose(1),
            ],
        ),
        (
            "release",
            guest(
                prepared(1), direct(2, "wlan0", "macvtap0"), prepared(3), marks=mark(1) + mark(3)
            ),
            [{"op": "release", "device": f"airtap-{n}", "uuid": UUID} for n in (1, 3)],
        ),
        (  # a card that was unplugged
            "release",
            guest(direct(2, "wlan0", "macvtap0"), marks=mark(1)),
            [{"op": "release", "device": "airtap-1", "uuid": UUID}],
        ),
    ],
)
def test_requests(daemon: Daemon, operation: str, xml: bytes, requests: list[Message]) -> None:
    silent(qemu(operation, xml, daemon))
    assert daemon.requests == requests
    assert daemon.connections == 1


def test_names_are_passed_on_as_they_are(daemon: Daemon) -> None:
    name = 'g\u00e4st "1" \\ \U0001f427'
    silent(qemu("prepare", PREPARED.replace(b"<name>guest", f"<name>{name}".encode()), daemon))
    assert daemon.requests[0] == prepare(1) | {"domain": name}


def test_more_than_ok_is_ok_too(daemon: Daemon) -> None:
    daemon.reply = lambda request: {"ok": True, "device": request.get("device", "")}
    silent(qemu("prepare", PREPARED, daemon))
    assert daemon.seen == [f"create-device airtap-{n}" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("refused", "released"),
    [(f"create-device airtap-{n}", list(range(1, n))) for n in (1, 2, 3)],
)
def test_refusal_undoes_what_was_prepared(
    daemon: Daemon, refused: str, released: list[int]
) -> None:
    daemon.reply = refusing(refused)
    assert said(qemu("prepare", PREPARED, daemon), 1) == "it cannot be; ask nicely"
    assert daemon.seen[len(released) :] == [refused, *(f"release airtap-{n}" for n in released)]


def test_refusal_that_cannot_be_undone(daemon: Daemon) -> None:
    def reply(request: Message) -> Message:
        if request == prepare(1):
            return {"ok": True}
        return protocol.failure(Problem("x", f"no {request['op']}"))

    daemon.reply = reply
    assert said(qemu("prepare", PREPARED, daemon), 1) == "no create-device"
    assert daemon.seen[-1] == "release airtap-1"


def test_parent_that_is_refused_prepares_nothing(daemon: Daemon) -> None:
    daemon.reply = refusing("prepare-uplink wlan0")
    xml = guest(prepared(1), direct(2, "wlan0"), marks=mark(1))
    assert said(qemu("prepare", xml, daemon), 1) == "it cannot be; ask nicely"
    assert daemon.seen == ["prepare-uplink wlan0"]


@pytest.mark.parametrize(("operation", "op"), [("started", "set-owner"), ("release", "release")])
def test_failure_that_is_not_fatal(daemon: Daemon, operation: str, op: str) -> None:
    daemon.reply = refusing(f"{op} airtap-1")
    assert said(qemu(operation, PREPARED, daemon), 0) == "it cannot be; ask nicely"
    assert daemon.seen == [f"{op} airtap-{n}" for n in (1, 2, 3)]


@pytest.mark.parametrize("code", ["no-such-device", "not-ours"])
def test_nothing_to_release(daemon: Daemon, code: str) -> None:
    daemon.reply = lambda request: protocol.failure(Problem(code, "no"))
    silent(qemu("release", PREPARED, daemon))


@pytest.mark.parametrize("answer", [{}, {"ok": False}, {"ok": 1}, {"problem": 7, "message": []}])
def test_senseless_answers(daemon: Daemon, answer: Message) -> None:
    daemon.reply = lambda request: answer
    said(qemu("prepare", PREPARED, daemon), 1)
    said(qemu("started", PREPARED, daemon), 0)
    said(qemu("release", PREPARED, daemon), 0)


# Without a daemon.


@pytest.mark.parametrize(
    ("name", "operation", "xml", "status"),
    [
        ("qemu", "prepare", PREPARED, 1),
        ("qemu", "prepare", DIRECT, 1),
        ("qemu", "prepare", guest(direct(1, "eth0"), direct(2, "wlan0")), 1),
        ("qemu", "prepare", guest(direct(1, "eth0")), 0),
        ("qemu", "prepare", guest(direct(1, "nowhere")), 0),
        ("qemu", "prepare", guest(direct(1, "../net/eth0")), 0),
        ("network", "port-created", PORT, 1),
        ("network", "port-created", PORT.replace(b"wlan0", b"eth0"), 0),
    ],
)
def test_no_daemon(tmp_path: Path, name: str, operation: str, xml: bytes, status: int) -> None:
    """Only a guest that would be deaf and mute is kept from starting."""
    net = wifi(tmp_path, "wlan0")
    done = run(name, "guest", operation, "begin", "-", xml=xml, net=net)
    if status == 0:
        silent(done)
        return
    text = said(done, 1)
    assert "cannot reach airtapd at /dev/null/none" in text
    assert ("wlan0 is Wi-Fi" in text) == (xml != PREPARED)


@pytest.mark.parametrize(
    ("name", "operation", "xml"),
    [
        ("qemu", "started", PREPARED),
        ("qemu", "release", PREPARED),
        ("network", "started", STARTED),
        ("network", "updated", STARTED),
    ],
)
def test_no_daemon_is_only_noted(tmp_path: Path, name: str, operation: str, xml: bytes) -> None:
    net = wifi(tmp_path, "wlan0")
    said(run(name, "guest", operation, "begin", "-", xml=xml, net=net), 0)


@pytest.mark.parametrize("end", [HANG_UP, DIE])
@pytest.mark.parametrize("last", [1, 2, 3])
def test_daemon_ends_while_a_guest_is_prepared(daemon: Daemon, end: str, last: int) -> None:
    """What was prepared, and what it may have been about to, is released by its successor."""
    daemon.reply = lambda request: end if request == prepare(last) else {"ok": True}
    assert "ended the connection" in said(qemu("prepare", PREPARED, daemon), 1)
    asked = [f"create-device airtap-{n}" for n in range(1, last + 1)]
    released = [f"release airtap-{n}" for n in range(1, last + 1)] if end == HANG_UP else []
    assert daemon.seen == asked + released


@pytest.mark.parametrize("operation", ["started", "release"])
def test_daemon_ends_while_it_is_told(daemon: Daemon, operation: str) -> None:
    daemon.reply = lambda request: DIE
    said(qemu(operation, PREPARED, daemon), 0)
    assert len(daemon.seen) == 1


@pytest.mark.parametrize("end", [HANG_UP, DIE])
def test_daemon_ends_before_parents_are_ready(tmp_path: Path, daemon: Daemon, end: str) -> None:
    """As without a daemon: Ethernet works, Wi-Fi does not."""
    daemon.reply = lambda request: end
    xml = guest(direct(1, "eth0"), direct(2, "wlan0"))
    silent(qemu("prepare", xml, daemon, wifi(tmp_path)))
    if end == HANG_UP:
        assert daemon.seen == ["prepare-uplink eth0", "prepare-uplink wlan0"]
        text = said(qemu("prepare", xml, daemon, wifi(tmp_path / "x", "wlan0")), 1)
        assert "wlan0 is Wi-Fi" in text and "ended the connection" in text


@pytest.mark.parametrize("code", ["internal", "busy", "bad-message"])
def test_daemon_that_does_not_understand(tmp_path: Path, daemon: Daemon, code: str) -> None:
    """An older one, or a fault of its own, keeps no guest from Ethernet."""
    daemon.reply = lambda request: protocol.failure(Problem(code, "oh"))
    silent(qemu("prepare", DIRECT, daemon, wifi(tmp_path)))
    assert "oh" in said(qemu("prepare", DIRECT, daemon, wifi(tmp_path / "x", "wlan0")), 1)


def test_daemon_that_hangs_is_waited_for_once(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRTAP_SOCKET", str(daemon.path))
    monkeypatch.setattr(protocol, "TIMEOUT_S", 1)
    daemon.reply = lambda request: HANG
    airtapd = hook.Airtapd()
    begin = time.monotonic()
    for _ in range(3):
        with pytest.raises(Problem) as caught:
            airtapd.call("prepare-uplink", parent="wlan0")
        assert caught.value.code == "no-daemon" and "did not answer" in str(caught.value)
    assert 0.9 < time.monotonic() - begin < 2.5
    assert len(daemon.seen) == 1


# The network hook.


@pytest.mark.parametrize(
    ("operation", "xml", "devices"),
    [
        ("started", STARTED, ["eth0", "wlan0"]),
        ("updated", STARTED, ["eth0", "wlan0"]),
        ("port-created", PORT, ["wlan0"]),
        *((operation, STARTED, []) for operation in ("start", "stopped", "plugged")),
        *((operation, PORT, []) for operation in ("port-deleted", "", "prepare")),
    ],
)
def test_network(daemon: Daemon, operation: str, xml: bytes, devices: list[str]) -> None:
    silent(run("network", "lan", operation, "begin", "-", xml=xml, daemon=daemon))
    assert daemon.requests == [{"op": "prepare-uplink", "parent": device} for device in devices]


@pytest.mark.parametrize(
    ("operation", "xml", "status"),
    [("started", STARTED, 0), ("updated", STARTED, 0), ("port-created", PORT, 1)],
)
def test_network_refused(daemon: Daemon, operation: str, xml: bytes, status: int) -> None:
    """A guest is kept from starting, a network is not."""
    daemon.reply = refusing("prepare-uplink wlan0")
    done = run("network", "lan", operation, "begin", "-", xml=xml, daemon=daemon)
    assert said(done, status) == "it cannot be; ask nicely"


# Stored and moved guests.

BRIDGED = guest(nic("bridge", 1, "bridge='br0'"), nic("network", 2, "network='default'"))


@pytest.mark.parametrize("operation", ["restore", "migrate"])
def test_guest_is_adapted_to_this_host(daemon: Daemon, operation: str) -> None:
    daemon.reply = lambda request: {"ok": True, "parents": {"br0": "wlan0"}}
    tail = b"<!-- %s -->" % bytes(1 << 20).replace(b"\0", b"x")  # more than a pipe holds
    done = qemu(operation, BRIDGED + tail, daemon)
    assert daemon.requests == [{"op": "map-devices", "names": ["br0"]}]
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.endswith(tail)
    nics = reader.scan_domain(done.stdout).interfaces
    assert [n.type for n in nics] == ["direct", "network"]
    assert nics[0].source["dev"] == "wlan0"


def test_a_card_on_an_alias_stays_there(daemon: Daemon) -> None:
    """airtapd makes its device, on what the alias stands for when the guest starts."""
    stored = guest(prepared(1), marks=mark(1))
    answer: Message = {"ok": True, "parents": {"wlan0": "eth0"}}
    daemon.reply = lambda request: answer | {"aliases": ["wlan0"]}
    silent(qemu("restore", stored, daemon))
    assert daemon.requests == [{"op": "map-devices", "names": ["wlan0"]}]
    daemon.reply = lambda request: answer
    [moved] = reader.scan_domain(qemu("restore", stored, daemon).stdout).interfaces
    assert (moved.type, moved.source["dev"]) == ("direct", "eth0")


@pytest.mark.parametrize("parents", [{}, {"br7": "wlan0"}])
def test_nothing_to_adapt(daemon: Daemon, parents: dict[str, str]) -> None:
    daemon.reply = lambda request: {"ok": True, "parents": parents}
    silent(qemu("restore", BRIDGED, daemon))
    assert len(daemon.requests) == 1


def test_no_names_no_question(daemon: Daemon) -> None:
    silent(qemu("restore", guest(nic("ethernet", 1)) + b"<!-- bridge -->", daemon))
    assert daemon.connections == 0


@pytest.mark.parametrize(
    "answer",
    [
        HANG_UP,
        DIE,
        protocol.failure(Problem("x", "no")),
        {"ok": True},
        {"ok": True, "parents": []},
        {"ok": True, "parents": "wlan0"},
        {"ok": True, "parents": {"br0": 7}},
        {"ok": True, "parents": {"br0": "wlan0"}, "aliases": "br0"},
    ],
    ids=str,
)
def test_guest_that_cannot_be_adapted(daemon: Daemon, answer: Message | str) -> None:
    """libvirt then takes the XML as it is."""
    daemon.reply = lambda request: answer
    said(qemu("restore", BRIDGED, daemon), 0)


def test_more_names_than_a_request_holds(daemon: Daemon) -> None:
    many = guest(*(nic("bridge", n, f"bridge='bridge{n}'") for n in range(1000)))
    assert "too many" in said(qemu("restore", many, daemon), 0)
    assert daemon.requests == []


def test_no_daemon_to_adapt() -> None:
    assert "cannot reach airtapd" in said(qemu("restore", BRIDGED), 0)


@pytest.mark.parametrize("hook", ["network", "qemu"])
def test_an_installation_in_pieces_stops_no_guest(tmp_path: Path, hook: str) -> None:
    """As while it is replaced, or after a disk was full."""
    package = tmp_path / "src/airtap"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    launcher = tmp_path / "hooks" / hook
    launcher.parent.mkdir()
    launcher.write_text((TREE / "hooks" / hook).read_text())
    for source in (None, "def cut(", "raise OSError", "\0"):
        if source is not None:
            (package / "hook.py").write_text(source)
        argv = [*PYTHON, str(launcher), "guest", "reconnect", "begin", "-"]
        done = subprocess.run(argv, input=b"<domain/>", capture_output=True)
        assert (done.returncode, done.stdout) == (0, b"")
