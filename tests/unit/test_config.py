"""airtap.toml: every key, its default and everything that is no value for it."""

import os
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airtap import config
from airtap.config import Config, Limits, Parent
from airtap.errors import Problem

MIB = 1 << 20


def load(directory: Path, text: str | bytes) -> Config:
    path = directory / "airtap.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return config.load(str(path))


def refusal(directory: Path, text: str | bytes) -> str:
    """The message of the Problem, which names the file."""
    with pytest.raises(Problem) as caught:
        load(directory, text)
    assert caught.value.code == "config-invalid"
    assert str(caught.value).startswith(f"{directory}/airtap.toml")
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_defaults(tmp_path: Path) -> None:
    for text in ("", "# nothing\n", "[parents]\n[aliases]\n[limits]\n"):
        found = load(tmp_path, text)
        assert found == Config()
        assert found.acl == "/etc/airtap/bridge.conf"
        assert found.parent("eth0") == Parent("auto", "bridge", "auto", True)
        assert found.limits == Limits(devices_per_user=32, devices=512)
        assert found.candidates("br0") == ("br0",)
        assert found.qmp_sockets == ("/run/user/*/qemu/*.qmp",)


def test_every_key(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        """
        acl = "/srv/acl"
        [parents.eth0]
        kind = "macvtap"
        mode = "passthru"
        macnat = "off"
        host_access = false
        [parents."eth0.100"]
        kind = "ipvtap"
        mode = "vepa"
        macnat = "on"
        host_access = true
        [parents.wlan0]
        gateway = "52:54:00:AB:cd:ef"
        routes = { "10.8.0.0/16" = "52:54:00:00:00:0A", "::/0" = "52:54:00:00:00:0b" }
        [aliases]
        br0 = "eth0"
        "lan" = "eth0.100"
        dock = ["eth0", "default-route", "wlan0"]
        uplink = "default-route"
        one = ["wlan0"]
        [limits]
        devices_per_user = 3
        devices = 7
        """,
    )
    assert found == Config(
        "/srv/acl",
        {
            "eth0": Parent("macvtap", "passthru", "off", False),
            "eth0.100": Parent("ipvtap", "vepa", "on", True),
            "wlan0": Parent(
                gateway="52:54:00:ab:cd:ef",
                routes={
                    ip_network("10.8.0.0/16"): "52:54:00:00:00:0a",
                    ip_network("::/0"): "52:54:00:00:00:0b",
                },
            ),
        },
        {
            "br0": ("eth0",),
            "lan": ("eth0.100",),
            "dock": ("eth0", "default-route", "wlan0"),
            "uplink": ("default-route",),
            "one": ("wlan0",),
        },
        Limits(3, 7),
    )
    assert (found.candidates("br0"), found.candidates("lan")) == (("eth0",), ("eth0.100",))
    assert found.candidates("dock") == ("eth0", "default-route", "wlan0")
    assert found.candidates("eth0") == ("eth0",)
    names = ("br0", "lan", "dock", "uplink", "one", "eth0", "default-route")
    assert {name for name in names if found.is_choice(name)} == {*names[2:4], names[-1]}
    assert found.parent("eth1") == Parent()


@pytest.mark.parametrize(
    ("kind", "modes"),
    [
        ("auto", {"bridge", "vepa", "private", "passthru"}),
        ("macvtap", {"bridge", "vepa", "private", "passthru"}),
        ("ipvtap", {"bridge", "vepa", "private"}),
    ],
)
def test_modes_of_each_kind(tmp_path: Path, kind: str, modes: set[str]) -> None:
    for mode in ("bridge", "vepa", "private", "passthru", "source", "l2", ""):
        text = f'[parents.eth0]\nkind = "{kind}"\nmode = "{mode}"\n'
        if mode in modes:
            assert load(tmp_path, text).parent("eth0").mode == mode
        else:
            assert "parents.eth0.mode" in refusal(tmp_path, text)


@pytest.mark.parametrize("macnat", ["auto", "on", "off"])
def test_macnat(tmp_path: Path, macnat: str) -> None:
    found = load(tmp_path, f'[parents.eth0]\nmacnat = "{macnat}"\n')
    assert found.parent("eth0").macnat == macnat


@pytest.mark.parametrize("count", [0, 1, 65535])
@pytest.mark.parametrize("key", ["devices", "devices_per_user"])
def test_limits(tmp_path: Path, key: str, count: int) -> None:
    limits = load(tmp_path, f"[limits]\n{key} = {count}\n").limits
    assert getattr(limits, key) == count


@pytest.mark.parametrize(
    ("text", "named"),
    [
        # Unknown keys, at each level.
        ("alc = '/x'", "unknown key alc"),
        ("[parent.eth0]", "unknown key parent"),
        ("[limit]\ndevices = 1", "unknown key limit"),
        ("[parents.eth0]\nknid = 'auto'", "unknown key parents.eth0.knid"),
        ("[parents.eth0.mode]\nx = 1", "parents.eth0.mode"),
        ("[limits]\nper_user = 1", "unknown key limits.per_user"),
        ("'' = 1", "unknown key"),
        ('"a\\nb\\u001b[0m" = 1', "unknown key"),
        # Types.
        ("acl = 1", "acl = 1"),
        ("acl = ['/x']", "acl"),
        ("acl = ''", "acl = ''"),
        ("acl = 'bridge.conf'", "absolute"),
        ("acl = './x'", "absolute"),
        ('acl = "/x\\u0000"', "absolute"),
        ("parents = 'eth0'", "parents = 'eth0'"),
        ("parents = ['eth0']", "parents"),
        ("[[parents]]", "parents"),
        ("[[parents.eth0]]", "parents.eth0"),
        ("[parents]\neth0 = 'macvtap'", "parents.eth0"),
        ("[parents]\neth0 = true", "parents.eth0"),
        ("[parents.eth0.100]\nkind = 'auto'", "parents.eth0.100"),
        ("[parents.eth0]\nkind = 'macvlan'", "parents.eth0.kind"),
        ("[parents.eth0]\nkind = ''", "parents.eth0.kind"),
        ("[parents.eth0]\nkind = 'Auto'", "parents.eth0.kind"),
        ("[parents.eth0]\nkind = 1", "parents.eth0.kind"),
        ("[parents.eth0]\nkind = ['auto']", "parents.eth0.kind"),
        ("[parents.eth0]\nmode = 1979-05-27", "parents.eth0.mode"),
        ("[parents.eth0]\nmacnat = true", "parents.eth0.macnat"),
        ("[parents.eth0]\nmacnat = 'yes'", "parents.eth0.macnat"),
        ("[parents.eth0]\nhost_access = 'true'", "parents.eth0.host_access"),
        ("[parents.eth0]\nhost_access = 1", "parents.eth0.host_access"),
        ("[parents.eth0]\nroutes = '10.8.0.0/16'", "parents.eth0.routes"),
        ("[parents.eth0]\nroutes = ['10.8.0.0/16']", "parents.eth0.routes"),
        ("[parents.eth0.routes]\n'10.8.0.1/16' = '52:54:00:00:00:01'", "10.8.0.1/16"),
        ("[parents.eth0.routes]\n'lan' = '52:54:00:00:00:01'", "parents.eth0.routes.lan"),
        ("[parents.eth0.routes]\n'224.0.0.0/4' = '52:54:00:00:00:01'", "224.0.0.0/4"),
        ("[parents.eth0.routes]\n'fe80::/64' = '52:54:00:00:00:01'", "fe80::/64"),
        ("[parents.eth0.routes]\n'127.0.0.0/8' = '52:54:00:00:00:01'", "127.0.0.0/8"),
        ("[parents.eth0.routes]\n'10.8.0.0/16' = 1", "parents.eth0.routes.10.8.0.0/16"),
        ("[parents.eth0.routes]\n'10.8.0.0/16' = ''", "parents.eth0.routes.10.8.0.0/16"),
        ("[parents.eth0.routes]\n'10.8.0.0/16' = '10.8.0.1'", "parents.eth0.routes"),
        (
            "[parents.eth0.routes]\n'10.8.0.0/16' = '52:54:00:00:00:01'\n"
            "'10.8.0.0/255.255.0.0' = '52:54:00:00:00:02'",
            "twice",
        ),
        ("[parents.eth0]\ngateway = true", "parents.eth0.gateway"),
        ("[parents.eth0]\ngateway = '192.0.2.1'", "parents.eth0.gateway"),
        ("[parents.eth0]\ngateway = '01:00:5e:00:00:01'", "multicast"),
        ("[parents.eth0]\ngateway = '52:54:00:00:00:01'\nmode = 'vepa'", "parents.eth0.gateway"),
        ("[parents.eth0]\ngateway = '52:54:00:00:00:01'\nhost_access = false", "gateway"),
        (
            "[parents.eth0]\ngateway = '52:54:00:00:00:01'\nkind = 'ipvtap'\nmacnat = 'off'",
            "parents.eth0.gateway",
        ),
        ("aliases = 'eth0'", "aliases"),
        ("[aliases]\nbr0 = 1", "aliases.br0"),
        ("[aliases]\nbr0 = []", "aliases.br0 is a list of 0 devices"),
        (f"[aliases]\nbr0 = {[f'eth{n}' for n in range(17)]}", "aliases.br0 is a list of 17"),
        ("[aliases]\nbr0 = [['eth0']]", "aliases.br0"),
        ("[aliases]\nbr0 = ['eth0', 1]", "aliases.br0"),
        ("[aliases]\nbr0 = ['eth0', {}]", "aliases.br0"),
        ("[aliases]\nbr0 = ['eth0', 'wlan0', 'eth0']", "aliases.br0 names 'eth0' twice"),
        ("[aliases]\nbr0 = ['default-route', 'default-route']", "twice"),
        ("[aliases.br0]\nto = 'eth0'", "aliases.br0"),
        ("limits = 3", "limits = 3"),
        ("[limits]\ndevices = '3'", "limits.devices"),
        ("[limits]\ndevices = 3.0", "limits.devices"),
        ("[qmp]\nsocket = []", "unknown key qmp.socket"),
        ("[qmp]\nsockets = '/run/x'", "qmp.sockets is no list"),
        ("[qmp]\nsockets = ['qemu/*.qmp']", "qmp.sockets: 'qemu/*.qmp' is not an absolute path"),
        ("[qmp]\nsockets = [3]", "qmp.sockets: 3 is not"),
        (f"[qmp]\nsockets = {['/x'] * 17}", "qmp.sockets is no list"),
        ("[limits]\ndevices = true", "limits.devices"),
        ("[limits]\ndevices = -1", "limits.devices"),
        ("[limits]\ndevices = 65536", "limits.devices"),
        ("[limits]\ndevices_per_user = nan", "limits.devices_per_user"),
        ("[limits]\ndevices_per_user = inf", "limits.devices_per_user"),
        # Names that are no device's.
        ("[parents.'eth0 ']", "parents.eth0 "),
        ("[parents.'']", "parents."),
        ("[parents.'..']", "parents..."),
        ("[parents.'a/b']", "a/b"),
        ("[parents.abcdefghijklmnop]", "too long"),
        ('[parents."eth\\n0"]', "parents.eth\\n0"),
        ("[aliases]\n'br 0' = 'eth0'", "aliases.br 0"),
        ("[aliases]\nbr0 = ''", "aliases.br0"),
        ("[aliases]\nbr0 = 'eth0:1'", "aliases.br0"),
        ("[aliases]\nbr0 = 'abcdefghijklmnop'", "aliases.br0"),
        ("[aliases]\nbr0 = ['eth0', '']", "aliases.br0"),
        ("[aliases]\nbr0 = ['eth0', 'a/b']", "aliases.br0"),
        # Aliases of aliases.
        ("[aliases]\nbr0 = 'br1'\nbr1 = 'eth0'", "aliases.br0"),
        ("[aliases]\nbr1 = 'eth0'\nbr0 = 'br1'", "aliases.br0"),
        ("[aliases]\nbr0 = 'br0'", "aliases.br0"),
        ("[aliases]\nbr0 = 'br1'\nbr1 = 'br0'", "another alias"),
        ("[aliases]\nbr0 = ['eth0', 'br1']\nbr1 = 'eth1'", "aliases.br0: 'br1' is another alias"),
        ("[aliases]\nbr1 = ['eth1', 'default-route']\nbr0 = ['eth0', 'br1']", "default-route"),
        ("[aliases]\nbr0 = ['br0', 'eth0']", "aliases.br0"),
        # What is no TOML.
        ("acl", "not TOML"),
        ("acl = /x", "not TOML"),
        ("acl = '/x'\nacl = '/x'", "not TOML"),
        ("[limits]\ndevices = 1\ndevices = 1", "not TOML"),
        ("[limits]\n[limits]", "not TOML"),
        ("[parents.eth0]\n[parents.eth0]", "not TOML"),
        ("[parents.eth0]\nmode = 'bridge'\n[parents]\neth0.mode = 'vepa'", "not TOML"),
        ("acl = '/x", "not TOML"),
        ("[limits", "not TOML"),
        ("\0", "not TOML"),
        ("acl = '/\x07'", "not TOML"),
        ("x = 1979-13-45", "not TOML"),
        ("x = 1979-02-30T00:00:00Z", "not TOML"),
        ("x = " + "[" * 5000, "not TOML"),
        ("x = " + "{a = " * 5000, "not TOML"),
    ],
)
def test_errors(tmp_path: Path, text: str, named: str) -> None:
    assert named in refusal(tmp_path, text)


@pytest.mark.parametrize(
    "content",
    [
        *(b"\xff", b"acl = '/\xff'", b"# \xe4\n", "# ä\n".encode("latin-1"), b"\xed\xa0\x80"),
        "acl = '/x'\n".encode("utf-16"),
        b"\xef\xbb\xbfacl = '/x'\n",
    ],
)
def test_not_utf8(tmp_path: Path, content: bytes) -> None:
    refusal(tmp_path, content)


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 5000, "0b" + "1" * 20_000])
@pytest.mark.parametrize(
    "text", ["x = {}", "acl = {}", "parents = {}", "[limits]\ndevices = {}", "aliases.br0 = {}"]
)
def test_numbers_too_long_for_python(tmp_path: Path, text: str, number: str) -> None:
    """int() and str() refuse to convert beyond sys.get_int_max_str_digits()."""
    refusal(tmp_path, text.format(number))


def test_ten_thousand_keys(tmp_path: Path) -> None:
    text = "[aliases]\n" + "".join(f"a{n} = 'b{n}'\n" for n in range(10_000))
    assert load(tmp_path, text).candidates("a9999") == ("b9999",)


def test_sixteen_devices(tmp_path: Path) -> None:
    names = [f"eth{n}" for n in range(16)]
    assert load(tmp_path, f"[aliases]\nbr0 = {names}").candidates("br0") == tuple(names)


def test_256_prefixes(tmp_path: Path) -> None:
    lines = [f"'10.{n}.0.0/16' = '52:54:00:00:00:01'\n" for n in range(256)]
    text = "[parents.eth0.routes]\n" + "".join(lines)
    assert len(load(tmp_path, text).parent("eth0").routes) == 256
    assert "257" in refusal(tmp_path, text + "'::/0' = '52:54:00:00:00:01'")


def test_too_large(tmp_path: Path) -> None:
    assert load(tmp_path, b"#".ljust(MIB, b"x")) == Config()
    assert "larger" in refusal(tmp_path, b"#".ljust(MIB + 1, b"x"))


def test_default_path_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "DEFAULT_PATH", str(tmp_path / "none"))
    assert config.load(None) == Config()


def test_default_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "airtap.toml").write_text("acl = '/x'")
    monkeypatch.setattr(config, "DEFAULT_PATH", str(tmp_path / "airtap.toml"))
    assert config.load(None).acl == "/x"


@pytest.mark.parametrize("name", ["none", "none/airtap.toml", "directory", "loop"])
def test_named_file_must_be_readable(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(Problem) as caught:
        config.load(str(tmp_path / name))
    assert caught.value.code == "config-unreadable"
    assert str(tmp_path / name) in str(caught.value)


def test_default_path_must_be_readable_if_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "DEFAULT_PATH", str(tmp_path))
    with pytest.raises(Problem) as caught:
        config.load(None)
    assert caught.value.code == "config-unreadable"


_WORDS = st.sampled_from(
    [
        *("acl", "parents", "aliases", "limits", "eth0", "br0", "kind", "mode", "macnat", "on"),
        *("host_access", "devices", "devices_per_user", "auto", "ipvtap", "passthru", "/x", ""),
        "a b",
    ]
)
_SCALARS = st.one_of(
    st.booleans(), st.integers(), st.floats(), _WORDS, st.text(), st.dates(), st.times()
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS | st.text(), inner),
    max_leaves=12,
)
_PARENT = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.sampled_from(["auto", "macvtap", "ipvtap"]),
        "mode": st.sampled_from(["bridge", "vepa", "private", "passthru"]),
        "macnat": st.sampled_from(["auto", "on", "off"]),
        "host_access": st.booleans(),
        "routes": st.dictionaries(st.sampled_from(["10.8.0.0/16", "::/0"]) | st.text(), _VALUES),
        "gateway": st.sampled_from(["52:54:00:00:00:01", "ff:ff:ff:ff:ff:ff", "", 1]),
        "mistake": st.none(),
    },
)
_NEARLY_GOOD = st.fixed_dictionaries(
    {},
    optional={
        "acl": _WORDS | _VALUES,
        "parents": st.dictionaries(_WORDS, _PARENT | _VALUES) | _VALUES,
        "aliases": st.dictionaries(_WORDS, _WORDS | st.lists(_WORDS) | _SCALARS) | _VALUES,
        "limits": st.dictionaries(_WORDS, st.integers(-1, 65536) | _SCALARS) | _VALUES,
    },
)


@example({"acl": 16**5000})
@example({"limits": {"devices": -(16**5000)}})
@example({"parents": {"eth0": {"mode": [16**5000]}}})
@given(_NEARLY_GOOD | st.dictionaries(_WORDS | st.text(), _VALUES))
def test_parse_raises_nothing_but_a_problem(document: dict[str, Any]) -> None:
    try:
        found = config.parse(document)
    except Problem as problem:
        assert problem.code == "config-invalid"
        assert str(problem).isprintable()
        return
    assert os.path.isabs(found.acl)
    targets = [target for alias in found.aliases.values() for target in alias]
    assert not found.aliases.keys() & set(targets)
    for name in (*found.parents, *found.aliases, *targets):
        assert 0 < len(name.encode()) < 16
    assert found.limits.devices in range(65536)
    for alias in found.aliases.values():
        assert 0 < len(alias) == len(set(alias)) <= 16
    for parent in found.parents.values():
        assert (parent.kind, parent.mode) != ("ipvtap", "passthru")


@given(st.binary() | st.text().map(str.encode))
def test_load_raises_nothing_but_a_problem(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content)
    try:
        config.load(str(path))
    except Problem as problem:
        assert problem.code == "config-invalid"
