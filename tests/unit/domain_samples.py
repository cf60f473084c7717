"""Domains to try rewriting on: interfaces grown from libvirt's own RELAX NG schema, and a few
written in the manner of its documentation.

Whatever the grammar of <interface> allows may come out, in several hands: libvirt's own, double
quotes, tabs, one line, comments in awkward places. The same schema and seed give the same samples.
"""

import importlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lxml import etree

from airtap.libvirt.xml import SCHEMAS

DOMAIN = Path(SCHEMAS) / "domain.rng"
_RNG = "{http://relaxng.org/ns/structure/1.0}"

# How likely an optional part is, by the name of the element or attribute that it is for.
_ODDS = {"mac": 0.96, "vlan": 0.06, "floor": 0.1, "mode": 0.7, "dev": 0.8}
_ANY_ODDS = 0.3
# Types that an interface has more often than others.
_COMMON = {"network", "bridge", "direct", "ethernet", "user"}
_RANGES = {
    "int": (-(2**31), 2**31 - 1),
    "integer": (-(2**40), 2**40),
    "long": (-(2**63), 2**63 - 1),
    "positiveInteger": (1, 2**40),
    "unsignedInt": (0, 2**32 - 1),
    "unsignedLong": (0, 2**64 - 1),
}
_CHARACTERS = "abcXYZ019 _-./:<>&'\"{}$%äß日]"


def valid(xml: bytes, schema: Any) -> str:
    """Why a document is not valid, "" if it is."""
    return "" if schema.validate(etree.fromstring(xml)) else str(schema.error_log.last_error)


def load_schema() -> Any:
    """libvirt's schema of domains. Takes about a second."""
    return etree.RelaxNG(etree.parse(DOMAIN))


# From the grammar to elements.


@dataclass
class Node:
    """An element to be: its children are Nodes, or text."""

    name: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list["Node | str"] = field(default_factory=list)


class Grammar:
    """The defines of a schema and of those that it includes."""

    def __init__(self, path: Path = DOMAIN) -> None:
        self._defines: dict[str, list[Any]] = {}
        self._read(path)

    def _read(self, path: Path) -> None:
        root = etree.parse(path).getroot()
        for include in root.iter(f"{_RNG}include"):
            self._read(path.parent / include.get("href"))
        for define in root.iter(f"{_RNG}define"):
            known = self._defines.setdefault(define.get("name"), [])
            if not define.get("combine"):
                known.clear()
            known.append(define)

    def children(self, name: str, element: str) -> set[str]:
        """The names of elements that a define allows directly within its element."""
        (top,) = self._defines[name][0].findall(f"{_RNG}element[@name='{element}']")
        return {found.get("name") for part in top for found in self._elements(part)}

    def _elements(self, part: Any) -> Iterator[Any]:
        if part.tag == f"{_RNG}element":
            yield part
        elif part.tag == f"{_RNG}ref":
            for define in self._defines[part.get("name")]:
                yield from self._elements(define)
        elif isinstance(part.tag, str):
            for child in part:
                yield from self._elements(child)

    def grow(self, name: str, chance: random.Random) -> Node:
        """An element that a define allows."""
        top = Node("")
        self._grow(self._defines[name][0], top, chance)
        (element,) = top.children
        assert isinstance(element, Node)
        return element

    def _grow(self, part: Any, into: Node, chance: random.Random) -> None:
        kind = part.tag.removeprefix(_RNG) if isinstance(part.tag, str) else "comment"
        inner = [child for child in part if isinstance(child.tag, str)]
        if kind == "element":
            node = Node(part.get("name"))
            into.children.append(node)
            self._grow_all(inner, node, chance)
        elif kind == "attribute":
            holder = Node("")
            self._grow_all(inner, holder, chance)
            text = "".join(str(child) for child in holder.children)
            into.attributes[part.get("name")] = text if inner else _text(chance)
        elif kind in ("ref", "define", "group", "interleave"):
            if kind == "ref":
                inner = self._defines[part.get("name")]
                inner = [chance.choice(inner)]
            elif kind == "interleave":
                chance.shuffle(inner)
            self._grow_all(inner, into, chance)
        elif kind == "choice":
            (chosen,) = chance.choices(inner, [_weight(option) for option in inner])
            self._grow(chosen, into, chance)
        elif kind in ("optional", "zeroOrMore", "oneOrMore"):
            for _ in range(_times(kind, part, chance)):
                self._grow_all(inner, into, chance)
        elif kind in ("value", "data", "text"):
            into.children.append(_leaf(kind, part, chance))
        else:
            assert kind in ("empty", "comment"), kind

    def _grow_all(self, parts: list[Any], into: Node, chance: random.Random) -> None:
        for part in parts:
            self._grow(part, into, chance)


def _weight(option: Any) -> int:
    return 8 if option.findtext(f"{_RNG}attribute[@name='type']/{_RNG}value") in _COMMON else 1


def _times(kind: str, part: Any, chance: random.Random) -> int:
    if kind == "oneOrMore":
        return chance.randint(1, 2)
    if chance.random() > _ODDS.get(part[0].get("name"), _ANY_ODDS):
        return 0
    return 1 if kind == "optional" else chance.randint(1, 2)


def _leaf(kind: str, part: Any, chance: random.Random) -> str:
    if kind == "value":
        return str(part.text)
    if kind == "text":
        return _text(chance)
    limits = {child.get("name"): child.text for child in part.findall(f"{_RNG}param")}
    if part.get("type") in _RANGES:
        least, most = _RANGES[part.get("type")]
        least = int(limits.get("minInclusive", least))
        most = int(limits.get("maxInclusive", most))
        if limits.get("pattern") == "[0-7]+":
            return oct(chance.randint(0, 0o777))[2:]
        return str(chance.choice([least, most, chance.randint(least, most)]))
    if part.get("type") == "NCName":
        return "".join(chance.choices("abcXYZ_ß日", k=5))
    if "pattern" in limits:
        return "".join(_matching(_parsed(limits["pattern"]), chance))
    return _text(chance)[: int(limits.get("maxLength", 99))]


def _text(chance: random.Random) -> str:
    return "".join(chance.choices(_CHARACTERS, k=chance.randint(1, 12)))


def _parsed(pattern: str) -> Any:
    return importlib.import_module("re._parser").parse(pattern)


def _matching(parsed: Any, chance: random.Random) -> Iterator[str]:
    """Text that a regular expression matches, in pieces."""
    for operator, argument in parsed:
        name = str(operator)
        if name == "LITERAL":
            yield chr(argument)
        elif name == "NOT_LITERAL":
            yield chance.choice([c for c in _CHARACTERS if c != chr(argument)])
        elif name == "ANY":
            yield chance.choice(_CHARACTERS)
        elif name == "IN":
            yield chance.choice(_class(argument))
        elif name == "BRANCH":
            yield from _matching(chance.choice(argument[1]), chance)
        elif name == "SUBPATTERN":
            yield from _matching(argument[-1], chance)
        else:
            assert name == "MAX_REPEAT", name
            least, most, what = argument
            for _ in range(chance.randint(least, min(int(most), least + 8))):
                yield from _matching(what, chance)


def _class(items: Any) -> list[str]:
    negated = str(items[0][0]) == "NEGATE"
    members = set()
    for operator, argument in items[negated:]:
        if str(operator) == "CATEGORY":
            assert str(argument) == "CATEGORY_SPACE", argument
            members.add(" ")
            continue
        first, last = argument if str(operator) == "RANGE" else (argument, argument)
        members |= {chr(code) for code in range(first, last + 1)}
    return sorted(set(_CHARACTERS) - members if negated else members)


# From elements to text.


@dataclass(frozen=True)
class Hand:
    """How somebody writes XML. unit: of indentation, None for all on one line."""

    name: str
    quote: str = "'"
    unit: str | None = "  "
    line: str = "\n"
    comments: float = 0
    spaced: float = 0


HANDS = [
    Hand("libvirt"),
    Hand("editor", quote='"', unit="    ", comments=0.1),
    Hand("tabs", unit="\t", line="\r\n"),
    Hand("machine", quote='"', unit=None),
    Hand("awkward", comments=0.3, spaced=0.4),
]
_COMMENTS = [
    "<!-- <interface type='bridge'><source bridge='br0'/></interface> -->",
    "<!--/>-->",
    "<?app <source dev='x'/> ?>",
]


def written(node: Node, hand: Hand, depth: int, chance: random.Random) -> str:
    """An element as text, without white space around it."""
    attributes = list(node.attributes.items())
    text = f"<{node.name}"
    for name, value in attributes:
        wide = chance.random() < hand.spaced
        text += f"{chr(10) if wide else ''} {name}{' = ' if wide else '='}"
        text += hand.quote + _escaped(value, hand.quote, chance) + hand.quote
    if not node.children:
        wide = chance.random() < hand.spaced
        return text + chance.choice(
            [" />", f"></{node.name}>", f"></{node.name}\n>"] * wide or ["/>"]
        )
    text += ">"
    elements = [child for child in node.children if isinstance(child, Node)]
    for child in node.children:
        if isinstance(child, str):
            text += _escaped(child, "", chance)
            continue
        if chance.random() < hand.comments:
            text += _indent(hand, depth + 1) + chance.choice(_COMMENTS)
        text += _indent(hand, depth + 1) + written(child, hand, depth + 1, chance)
    return text + (_indent(hand, depth) if elements else "") + f"</{node.name}>"


def _indent(hand: Hand, depth: int) -> str:
    return "" if hand.unit is None else hand.line + hand.unit * depth


def _escaped(text: str, quote: str, chance: random.Random) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    if quote:
        text = text.replace(
            quote, chance.choice(["&apos;", "&#39;"] if quote == "'" else ["&quot;"])
        )
    return text


# Whole domains.

_HEAD = """\
<name>guest&amp;co</name>
<uuid>c7a5fdbd-cdaf-9455-926a-d65c16db1809</uuid>
<title>a &lt;b&gt;</title>
<description><![CDATA[no <interface type='bridge'/> ]]> here</description>
"""
_METADATA = """\
<metadata>
  <libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0">
    <libosinfo:os id="http://debian.org/debian/12"/>
  </libosinfo:libosinfo>
  <x:domain xmlns:x="urn:other:libvirt:1"><x:nic mac="52:54:00:00:00:01">a</x:nic>
    <devices xmlns=""><interface type="bridge"><source bridge="br0"/></interface></devices>
  </x:domain>
</metadata>
"""
_BODY = """\
<memory unit='KiB'>2097152</memory>
<vcpu placement='static'>2</vcpu>
<os>
  <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
  <boot dev="hd"/>
</os>
<features>
  <acpi/>
  <apic></apic>
</features>
<cpu mode='host-passthrough' check='none' migratable='on'/>
<on_poweroff>destroy</on_poweroff>
"""
_DEVICES = """\
<emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'>
  <driver name='qemu' type='qcow2' discard="unmap"/>
  <source file='/var/lib/libvirt/images/a &quot;b&apos;.qcow2'/>
  <target dev='vda' bus='virtio'/>
</disk>
<controller type='pci' index='0' model='pcie-root'/>
"""
_MORE_DEVICES = """\
<!-- <interface type='network'><mac address='52:54:00:00:00:01'/></interface> -->
<graphics type='vnc' port='-1' autoport='yes'><listen type='address'/></graphics>
<memballoon model='virtio'/>
"""
_COMMAND_LINE = """\
<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <qemu:arg value='-netdev'/>
  <qemu:arg value='&lt;interface type="bridge"/>'/>
</qemu:commandline>
"""


# In the manner of https://libvirt.org/formatdomain.html#network-interfaces.
DOCUMENTED = """
<interface type='network'>
  <mac address='52:54:00:6b:29:01'/>
  <source network='default' portid='5d5e0f1a-0c56-4d0d-8f5b-7d1d7a4be001' bridge='virbr0'/>
  <target dev='vnet7'/>
  <model type='virtio'/>
  <alias name='net0'/>
  <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
</interface>

<interface type='network' trustGuestRxFilters='yes'>
  <source network='lan' portgroup='engineering'/>
  <mac address='00:16:3e:5d:c7:9e'/>
  <virtualport>
    <parameters instanceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f'/>
  </virtualport>
  <bandwidth>
    <inbound average='1000' peak='5000' floor='200' burst='1024'/>
    <outbound average='128' peak='256' burst='256'/>
  </bandwidth>
</interface>

<interface type='bridge'>
  <mac address='52:54:00:6b:29:02'/>
  <source bridge='br0'/>
  <virtualport type='openvswitch'>
    <parameters profileid='menial' interfaceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f'/>
  </virtualport>
  <target dev='web0'/>
  <model type='e1000e'/>
  <boot order='1'/>
  <rom bar='off'/>
</interface>

<interface type='bridge'>
  <mac address='52:54:00:6b:29:03'/>
  <source bridge='br0'/>
  <vlan trunk='yes'>
    <tag id='42'/>
    <tag id='123' nativeMode='untagged'/>
  </vlan>
  <model type='virtio'/>
</interface>

<interface type='direct'>
  <mac address='52:54:00:6b:29:04'/>
  <source dev='eth0.2' mode='vepa'/>
  <virtualport type='802.1Qbg'>
    <parameters managerid='11' typeid='1193047' typeidversion='2'/>
  </virtualport>
  <target dev='macvtap0'/>
  <model type='virtio'/>
  <driver name='vhost' txmode='iothread' ioeventfd='on' event_idx='off' queues='5'>
    <host csum='off' gso='off' tso4='off' tso6='off' ecn='off' ufo='off' mrg_rxbuf='off'/>
    <guest csum='off' tso4='off' tso6='off' ecn='off' ufo='off'/>
  </driver>
  <link state='down'/>
  <acpi index='3'/>
</interface>

<interface type='user'>
  <backend type='passt' logFile='/var/log/passt.log'/>
  <mac address='52:54:00:6b:29:05'/>
  <source dev='eth0'/>
  <ip family='ipv4' address='172.17.2.4' prefix='24'/>
  <portForward proto='tcp'>
    <range start='2022' to='22'/>
  </portForward>
  <model type='virtio'/>
</interface>

<interface type='ethernet'>
  <mac address='52:54:00:6b:29:06'/>
  <source>
    <ip address='192.168.123.1' prefix='24'/>
    <route family='ipv4' address='192.168.42.0' prefix='24' gateway='192.168.123.4'/>
  </source>
  <script path='/etc/qemu-ifup-mynet'/>
  <downscript path='/etc/qemu-ifdown-mynet'/>
  <target dev='mytap1' managed='no'/>
  <model type='virtio'/>
  <mtu size='9000'/>
  <coalesce>
    <rx>
      <frames max='7'/>
    </rx>
  </coalesce>
  <filterref filter='clean-traffic'>
    <parameter name='IP' value='10.0.0.1'/>
  </filterref>
  <tune>
    <sndbuf>1600</sndbuf>
  </tune>
</interface>

<interface type='hostdev' managed='yes'>
  <mac address='52:54:00:6b:29:07'/>
  <source>
    <address type='pci' domain='0x0000' bus='0x00' slot='0x07' function='0x0'/>
  </source>
  <teaming type='transient' persistent='ua-backup0'/>
</interface>

<interface type='vhostuser'>
  <mac address='52:54:00:6b:29:08'/>
  <source type='unix' path='/tmp/vhost1.sock' mode='server'/>
  <model type='virtio'/>
</interface>
""".strip().split("\n\n")


def domain(cards: list[str], hand: Hand, chance: random.Random) -> bytes:
    """A domain with these network cards, in one hand, and with or without metadata of others."""
    metadata = chance.choice([_METADATA, "", "<metadata/>\n", "<metadata>\n</metadata>\n"])
    head, tail = (metadata, "") if chance.random() < 0.8 else ("", metadata)
    lines = [
        *_lines(_HEAD + head + _BODY, hand, 1),
        _indent(hand, 1) + "<devices>",
        *_lines(_DEVICES, hand, 2),
        *(_indent(hand, 2) + card for card in cards),
        *_lines(_MORE_DEVICES, hand, 2),
        _indent(hand, 1) + "</devices>",
        *_lines(tail + _COMMAND_LINE, hand, 1),
    ]
    first = chance.choice(["", "<?xml version='1.0' encoding='UTF-8'?>\n", "\ufeff"])
    return f"{first}<domain type='kvm'>{''.join(lines)}{_indent(hand, 0)}</domain>\n".encode()


def _lines(text: str, hand: Hand, depth: int) -> list[str]:
    start = _indent(hand, depth)
    return [start + line if hand.unit is not None else line.strip() for line in text.splitlines()]


def samples(count: int, seed: int = 1) -> Iterator[bytes]:
    """Domains with one to four network cards each, and last those of libvirt's documentation."""
    grammar = Grammar()
    chance = random.Random(seed)
    for number in range(count):
        cards = [grammar.grow("interface", chance) for _ in range(chance.randint(1, 4))]
        hand = HANDS[number % len(HANDS)]
        yield domain([written(card, hand, 2, chance) for card in cards], hand, chance)
    for text in DOCUMENTED:
        lines = text.strip().splitlines()
        yield domain(["\n    ".join(lines)], HANDS[0], chance)
