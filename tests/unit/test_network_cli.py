"""`airtap network`, without root, and with libvirt's own test driver instead of a daemon."""

import builtins
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from airtap import cli
from airtap.cli.commands.network import table
from airtap.errors import Problem
from airtap.libvirt import networks
from airtap.libvirt.connection import connected
from airtap.libvirt.network_xml import Network
from airtap.libvirt.networks import ListedNetwork

WIFI = Network("wifi", "macvtap", "wlan0", "bridge")


@pytest.fixture
def connection() -> Iterator[Any]:
    """A connection of its own to a pretended host with one network, "default"."""
    with connected("test:///default") as connection:
        yield connection


def run(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    monkeypatch.setattr(sys, "argv", ["airtap", "network", *argv])
    return cli.main()


def codes(entries: list[ListedNetwork]) -> dict[str, tuple[bool, bool, bool]]:
    return {e.network.name: (e.network.ours, e.active, e.autostart) for e in entries}


def test_define_and_undefine(connection: Any) -> None:
    foreign = codes(networks.entries(connection))
    assert networks.define(connection, WIFI)
    assert codes(networks.entries(connection)) == {**foreign, "wifi": (True, True, True)}
    assert not networks.define(connection, WIFI)
    connection.networkLookupByName("wifi").destroy()
    assert not networks.define(connection, WIFI)
    assert codes(networks.entries(connection))["wifi"] == (True, True, True)
    assert networks.users(connection, "wifi") == []
    networks.undefine(connection, "wifi")
    assert codes(networks.entries(connection)) == foreign


@pytest.mark.parametrize(
    "other",
    [
        Network("wifi", "macvtap", "eth0", "bridge"),
        Network("wifi", "macvtap", "wlan0", "vepa"),
        Network("wifi", "session", "wlan0"),
    ],
)
def test_a_different_definition(connection: Any, other: Network) -> None:
    networks.define(connection, WIFI)
    with pytest.raises(Problem, match="kind macvtap on wlan0 in mode bridge") as caught:
        networks.define(connection, other)
    assert caught.value.hint == "to replace it: airtap network undefine wifi"
    networks.undefine(connection, "wifi")


def test_foreign_networks(connection: Any) -> None:
    before = connection.networkLookupByName("default").XMLDesc()
    with pytest.raises(Problem) as caught:
        networks.define(connection, Network("default", "macvtap", "wlan0", "bridge"))
    assert caught.value.code == "network-exists"
    with pytest.raises(Problem) as caught:
        networks.undefine(connection, "default")
    assert caught.value.code == "not-ours"
    with pytest.raises(Problem) as caught:
        networks.undefine(connection, "nothere")
    assert caught.value.code == "no-network"
    assert connection.networkLookupByName("default").XMLDesc() == before


def test_nothing_is_left_of_a_network_that_cannot_start(
    connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_handle: Any) -> None:
        raise Problem("libvirt-error", "no")

    monkeypatch.setattr(networks, "_start", refuse)
    with pytest.raises(Problem, match="no"):
        networks.define(connection, WIFI)
    assert "wifi" not in codes(networks.entries(connection))


def test_libvirts_errors_are_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(Problem) as caught,
        connected("qemu+unix:///system?socket=/nonexistent/socket"),
    ):
        pass
    assert caught.value.code == "no-connection"
    assert "No such file" in caught.value.message
    assert capfd.readouterr() == ("", "")


def test_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "list", "--connect", "test:///default") == 0
    assert capsys.readouterr().out == "no networks\n"
    assert run(monkeypatch, "list", "--all", "--json", "--connect", "test:///default") == 0
    (network,) = json.loads(capsys.readouterr().out)["networks"]
    assert (network["name"], network["kind"], network["ours"]) == ("default", "nat", False)


def test_table() -> None:
    entries = [
        ListedNetwork(WIFI, "", True, True),
        ListedNetwork(Network("isolated", "isolated", "", ours=False), "", False, False),
    ]
    assert table(entries).splitlines() == [
        "NAME      KIND      PARENT  STATE     AUTOSTART",
        "wifi      macvtap   wlan0   active    yes",
        "isolated  isolated  -       inactive  no",
    ]


@pytest.mark.parametrize("kind", ["macvtap", "nat", "session"])
def test_print_needs_no_libvirt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    without(monkeypatch, "libvirt")
    assert run(monkeypatch, "define", "x", "--parent", "nothere", "--kind", kind, "--print") == 0
    out, err = capsys.readouterr()
    assert out.startswith("<network>") and out.endswith("</network>\n")
    assert err == "airtap: note: there is no network device nothere; see: ip link\n"


@pytest.mark.parametrize(
    ("argv", "status", "why"),
    [
        (("--kind", "ipvtap"), 1, "airtap domain connect"),
        (("--connect", "qemu+ssh://host/system"), 1, "run airtap there"),
        (("--connect", "qemu:///session"), 1, "kind session belongs to qemu:///session"),
        (("--kind", "session", "--connect", "qemu:///system"), 1, "does not work at"),
        (("--parent", "a/b"), 1, "cannot be the name of a network device"),
        (("--parent", "nothere"), 1, "there is no network device nothere"),
        (("--kind", "nat", "--mode", "vepa"), 2, "--mode is of macvtaps"),
        (("--write-config",), 2, "goes with --kind session only"),
        (("--print", "--write-config"), 2, "not allowed with"),
    ],
)
def test_refusals(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: tuple[str, ...],
    status: int,
    why: str,
) -> None:
    try:
        ended = run(monkeypatch, "define", "x", "--parent", "lo", *argv)
    except SystemExit as exc:
        assert isinstance(exc.code, int)
        ended = exc.code
    assert ended == status
    out, err = capsys.readouterr()
    assert out == ""
    assert why in err


@pytest.mark.parametrize("module", ["libvirt", "lxml"])
def test_missing_modules(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    without(monkeypatch, module)
    assert run(monkeypatch, "list", "--connect", "test:///default") == 1
    assert capsys.readouterr().err.endswith(f"install python3-{module}\n")


def without(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Pretend that a module is not installed, for what is imported from now on."""
    real = builtins.__import__

    def refuse(name: str, *arguments: Any) -> Any:
        level = arguments[3] if len(arguments) > 3 else 0
        if level == 0 and name.partition(".")[0] == module:
            raise ImportError(name)
        return real(name, *arguments)

    for name in list(sys.modules):
        ours = ("airtap.libvirt", "airtap.cli.commands")
        if name.partition(".")[0] == module or name.startswith(ours):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.parametrize("program", ["airtap.helper", "airtap.daemon.main", "airtap.cli"])
def test_programs_start_without_libvirt_and_lxml(program: str) -> None:
    code = (
        f"import sys, {program}; print([name for name in sys.modules"
        " if name.startswith(('libvirt', 'lxml', 'airtap.libvirt'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout == "[]\n"
