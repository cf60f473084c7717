"""What the hooks need to know of libvirt's XML, and where in its bytes each interface stands.

The hooks import this at every start of a guest, so it uses expat and nothing else. XML comes
from whoever may define a guest: what has a document type, and so perhaps entities, is refused,
as is what is very long or nests deeply. https://libvirt.org/formatdomain.html,
https://libvirt.org/formatnetwork.html and https://libvirt.org/hooks.html are the formats.
"""

from pyexpat import ExpatError, ParserCreate

from ..errors import Problem

MAX_XML = 4 << 20
MAX_DEPTH = 256  # libxml2's own limit
# Networks and guests with an element of this namespace in their metadata are ours, and no others.
NAMESPACE = "urn:airtap:libvirt:1"

# Forward modes in which libvirt puts guests onto a macvtap of a device of the network.
MACVTAP_MODES = ("bridge", "private", "vepa", "passthrough")


class Element:
    """An element: document[start:end] is its text, tags included.

    name: "NAMESPACE}local", or "local" where it has no namespace; likewise in attributes.
    """

    __slots__ = ("_text", "attributes", "children", "end", "name", "start")

    def __init__(self, name: str, attributes: dict[str, str], start: int) -> None:
        self.name = name
        self.attributes = attributes
        self.start = start
        self.end = start
        self.children: list[Element] = []
        self._text: list[str] = []

    @property
    def text(self) -> str:
        """The text in it that is in no child of it."""
        return "".join(self._text)

    def add_text(self, text: str) -> None:
        self._text.append(text)

    def all(self, *path: str) -> "list[Element]":
        """Return the descendants at a path of names, in document order."""
        found = [self]
        for name in path:
            found = [child for element in found for child in element.children if child.name == name]
        return found

    def first(self, *path: str) -> "Element":
        """Return the first of all(), or an element without anything."""
        return next(iter(self.all(*path)), Element("", {}, 0))

    def get(self, attribute: str) -> str:
        """Return an attribute's value, "" where there is none."""
        return self.attributes.get(attribute, "")


class Interface:
    """An <interface> element: a NIC as a guest's XML has it.

    Texts are "" where there is none.

    start, end: document[start:end] is its text.
    type: bridge, direct and others of libvirt's.
    mac: it is lower case.
    source: the attributes of its <source>.
    target: the host's device.
    managed: it is False where libvirt finds that device and does not make it.
    """

    __slots__ = ("element", "end", "mac", "managed", "source", "start", "target", "type")

    def __init__(self, element: Element) -> None:
        target = element.first("target")
        self.element = element
        self.start = element.start
        self.end = element.end
        self.type = element.get("type")
        self.mac = element.first("mac").get("address").lower()
        self.source = element.first("source").attributes
        self.target = target.get("dev")
        self.managed = target.get("managed") != "no"


class NicMetadata:
    """What airtap noted in <metadata> of a NIC that it connected, by its mac; "" where it did not.

    device, parent, kind: of the device that airtapd makes for it. original: its text of before.
    """

    __slots__ = ("device", "element", "kind", "mac", "original", "parent")

    def __init__(self, element: Element) -> None:
        self.element = element
        self.mac = element.get("mac").lower()
        self.device = element.get("device")
        self.parent = element.get("parent")
        self.kind = element.get("kind")
        self.original = element.text


class Domain:
    """A guest. interfaces and nic_metadata are in document order."""

    __slots__ = ("element", "interfaces", "name", "nic_metadata", "uuid")

    def __init__(self, element: Element) -> None:
        noted = element.all("metadata", f"{NAMESPACE}}}domain", f"{NAMESPACE}}}nic")
        self.element = element
        self.name = element.first("name").text
        self.uuid = element.first("uuid").text
        self.interfaces = [Interface(nic) for nic in element.all("devices", "interface")]
        self.nic_metadata = [NicMetadata(nic) for nic in noted]

    def metadata_of(self, interface: Interface) -> NicMetadata | None:
        """Return what is noted of the device that airtapd makes for a NIC, if it makes one."""
        if interface.type != "ethernet" or interface.managed:
            return None
        target = interface.target
        found = [noted for noted in self.nic_metadata if noted.device and noted.device == target]
        return found[-1] if found else None


class Network:
    """A network, and the port of it that a guest is about to use if the XML tells of one.

    devices: those that guests' macvtaps stand on; with a port, that of the port only.
    """

    __slots__ = ("devices", "name")

    def __init__(self, network: Element, port: Element | None) -> None:
        self.name = network.first("name").text
        if port:
            found = [plug for plug in port.all("plug") if plug.get("type") == "direct"]
        else:
            forward = network.first("forward")
            found = forward.all("interface") if forward.get("mode") in MACVTAP_MODES else []
        self.devices = {element.get("dev") for element in found} - {""}


def scan_domain(xml: bytes) -> Domain:
    """Read a <domain>. Raises Problem bad-xml."""
    root = read(xml)
    if root.name != "domain":
        raise _bad(f"it is no domain but {root.name[:64]!a}")
    return Domain(root)


def scan_network(xml: bytes) -> Network:
    """Read a <network>, or the <hookData> around one. Raises Problem bad-xml."""
    root = read(xml)
    if root.name == "network":
        return Network(root, None)
    if root.name != "hookData" or not root.all("network"):
        raise _bad(f"it is no network but {root.name[:64]!a}")
    return Network(root.first("network"), next(iter(root.all("networkport")), None))


def read(xml: bytes) -> Element:
    """Read a document in UTF-8, and return its root element. Raises Problem bad-xml."""
    if len(xml) > MAX_XML:
        raise _bad(f"it is longer than {MAX_XML >> 20} MiB")
    if b"\0" in xml:  # as in all of UTF-16, which expat would know by its first bytes
        raise _bad("it is not UTF-8")
    return _Reader(xml).read()


class _Reader:
    """expat's handlers while they make the elements of one document."""

    def __init__(self, xml: bytes) -> None:
        self._xml = xml
        self._open = [Element("", {}, 0)]
        self._parser = parser = ParserCreate("utf-8", "}")
        parser.buffer_text = True
        parser.XmlDeclHandler = self._declaration
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.CharacterDataHandler = self._text
        parser.EndElementHandler = self._end

    def read(self) -> Element:
        try:
            self._parser.Parse(self._xml, True)
        except ExpatError as exc:
            raise _bad(str(exc)) from exc
        return self._open[0].children[0]

    def _declaration(self, _version: str, encoding: str | None, _standalone: int) -> None:
        name = (encoding or "utf-8").lower()
        if name != "utf-8" and not (name in ("ascii", "us-ascii") and self._xml.isascii()):
            raise _bad(f"its encoding is {encoding!a}")

    def _doctype(self, *_: object) -> None:
        raise _bad("it has a document type")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) > MAX_DEPTH:
            raise _bad(f"it nests deeper than {MAX_DEPTH} elements")
        element = Element(name, attributes, self._parser.CurrentByteIndex)
        self._open[-1].children.append(element)
        self._open.append(element)

    def _text(self, text: str) -> None:
        self._open[-1].add_text(text)

    def _end(self, _name: str) -> None:
        element = self._open.pop()
        at = self._parser.CurrentByteIndex  # of "</"; of what follows an empty tag, "<a/>"
        empty = not element.children and not element.text and self._xml[at - 2 : at] == b"/>"
        element.end = at if empty else self._xml.index(b">", at) + 1


def _bad(why: str) -> Problem:
    return Problem("bad-xml", f"this XML cannot be read: {why}")
