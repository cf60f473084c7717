"""XML of libvirt networks: made, read, and held against libvirt's own schema."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airtap.errors import Problem
from airtap.libvirt.network_xml import (
    Network,
    network_name,
    network_xml,
    port_owner,
    read_network,
)
from airtap.libvirt.reader import MACVTAP_MODES
from airtap.libvirt.subnets import free_ipv4, random_ipv6
from airtap.libvirt.xml import SCHEMAS, parse, validate

GOLDEN = Path(__file__).parent / "network_xml"
GATE4, GATE6 = IPv4Network("192.168.140.0/24"), IPv6Network("fd00:1:2::/64")

DEFINED = {
    "macvtap": Network("wifi", "macvtap", "wlan0", "bridge"),
    "macvtap-passthrough": Network("a <b> & 'c'", "macvtap", "enp3s0.100", "passthrough"),
    "session": Network("wifi", "session", "wlan0"),
    "nat": Network("gate", "nat", "wlan0", ipv4=GATE4, ipv6=GATE6),
    "nat-without-ipv6": Network("gate", "nat", "wlan0", ipv4=GATE4),
}

# As libvirt 9.0 writes them, shortened, and what is to be read from them.
READ = [
    (
        "<network><name>default</name><forward mode='nat'><nat><port start='1024' end='65535'/>"
        "</nat></forward><bridge name='virbr0'/><ip address='192.168.122.1' "
        "netmask='255.255.255.0'/></network>",
        Network("default", "nat", "", ours=False, ipv4=IPv4Network("192.168.122.0/24")),
    ),
    (
        "<network connections='1'><name>lan</name><forward dev='eth0' mode='vepa'>"
        "<interface dev='eth0' connections='1'/></forward></network>",
        Network("lan", "macvtap", "eth0", "vepa", ours=False),
    ),
    (
        "<network><name>b</name><forward mode='bridge'/><bridge name='br0'/></network>",
        Network("b", "bridge", "br0", ours=False),
    ),
    ("<network><name>i</name></network>", Network("i", "isolated", "", ours=False)),
    (
        "<network><name>n</name><forward/><ip address='10.1.2.3'/><ip family='ipv6' "
        "address='fd00::1'/><ip address='junk'/></network>",
        Network("n", "nat", "", "", False, IPv4Network("10.1.2.0/24"), IPv6Network("fd00::/64")),
    ),
    (
        "<network><name>p</name><metadata><x:network xmlns:x='urn:other'/></metadata>"
        "<forward mode='hostdev'><pf dev='eth2'/></forward></network>",
        Network("p", "hostdev", "", ours=False),
    ),
]


@pytest.mark.parametrize("case", DEFINED)
def test_golden(case: str, regenerate: bool) -> None:
    golden = GOLDEN / f"{case}.xml"
    made = network_xml(DEFINED[case])
    if regenerate:
        golden.write_text(made)
    assert made == golden.read_text()


@pytest.mark.parametrize("case", DEFINED)
def test_read_back(case: str) -> None:
    assert read_network(network_xml(DEFINED[case])) == DEFINED[case]


@pytest.mark.parametrize(("xml", "network"), READ, ids=[network.name for _, network in READ])
def test_read_others(xml: str, network: Network) -> None:
    assert read_network(xml) == network


@pytest.mark.skipif(not Path(SCHEMAS).is_dir(), reason="libvirt's schemas are not installed")
@pytest.mark.parametrize("case", DEFINED)
def test_libvirts_schema(case: str) -> None:
    assert validate(network_xml(DEFINED[case]), "network")
    broken = network_xml(DEFINED[case]).replace("<forward ", "<forward nonsense='1' ")
    with pytest.raises(Problem, match="forbids"):
        validate(broken, "network")


def test_without_schemas(tmp_path: Path) -> None:
    assert not validate("<network/>", "network", str(tmp_path))
    (tmp_path / "network.rng").write_text("<nonsense/>")
    with pytest.raises(Problem, match="cannot be used"):
        validate("<network/>", "network", str(tmp_path))


NAMES = st.text(max_size=70).filter(lambda text: not text.isspace())


@settings(deadline=None)
@given(NAMES, st.sampled_from(MACVTAP_MODES))
@example("wifi", "bridge")
@example("]]>&<!--", "bridge")
@example("$(reboot)", "vepa")
@example("\ufffe", "bridge")
def test_names(text: str, mode: str) -> None:
    """A name is refused, or comes back as it was: never as other markup."""
    try:
        name = network_name(text)
    except Problem as problem:
        assert problem.code == "bad-name"
        assert str(problem).isprintable()
        return
    assert name == text
    network = Network(name, "macvtap", "eth0", mode)
    assert read_network(network_xml(network)) == network
    assert [child.tag for child in parse(network_xml(network).encode())] == [
        *("name", "metadata", "forward")
    ]


@pytest.mark.parametrize(
    "text", ["", "a/b", "/", "a\nb", "\0", "a\x7f", " a", "a ", "\ud800", "x" * 201, "ü" * 101]
)
def test_bad_names(text: str) -> None:
    with pytest.raises(Problem) as caught:
        network_name(text)
    assert caught.value.code == "bad-name"
    str(caught.value).encode()


@pytest.mark.parametrize("text", ["wifi", "Wi-Fi at home", "ü" * 100, "日本", "x.y", "-", "'\"<&"])
def test_good_names(text: str) -> None:
    assert network_name(text) == text


@pytest.mark.parametrize("parent", ["brücke0", "a b", "", 'eth0"', "eth0\n", "\x01"])
def test_parents_that_libvirt_cannot_write(parent: str) -> None:
    with pytest.raises(Problem) as caught:
        network_xml(Network("wifi", "macvtap", parent, "bridge"))
    assert caught.value.code == "bad-name"


@pytest.mark.parametrize("xml", ["", "<", "<network>", "<network>&x;</network>", "junk"])
def test_broken_xml(xml: str) -> None:
    with pytest.raises(Problem) as caught:
        read_network(xml)
    assert caught.value.code == "bad-xml"


def test_entities_stay_unread() -> None:
    bomb = (
        "<!DOCTYPE network [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>"
        "<network><name>a&e;</name></network>"
    )
    assert "root" not in read_network(bomb).name


def test_owner_of_a_port() -> None:
    xml = "<networkport><owner><name>vm</name><uuid>x</uuid></owner></networkport>"
    assert port_owner(xml) == "vm"
    assert port_owner("<networkport/>") == ""


SUBNETS = st.lists(
    st.builds(
        lambda address, length: IPv4Network((address, length), strict=False),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    )
)


@settings(deadline=None)
@given(SUBNETS)
@example([IPv4Network("0.0.0.0/1"), IPv4Network("128.0.0.0/1"), IPv4Network("192.168.0.0/16")])
def test_free_subnet(taken: list[IPv4Network]) -> None:
    try:
        chosen = free_ipv4(taken)
    except Problem as problem:
        assert problem.code == "no-subnet"
        return
    assert chosen.is_private
    assert chosen.prefixlen == 24
    assert not any(chosen.overlaps(route) for route in taken if route.prefixlen >= 8)


def test_no_subnet_is_free() -> None:
    with pytest.raises(Problem) as caught:
        free_ipv4(IPv4Network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
    assert caught.value.code == "no-subnet"


def test_random_ipv6() -> None:
    made = {random_ipv6() for _ in range(20)}
    assert len(made) == 20
    assert all(net.subnet_of(IPv6Network("fd00::/8")) and net.prefixlen == 64 for net in made)
