"""New text put into an XML document, at the places that reader.py found: all else stays as it was.

Attributes and names stand in the text as their author wrote them, so they are looked for there.
"""

import re
from collections.abc import Iterable, Mapping

from .reader import Element, scan_domain

_ATTRIBUTE = re.compile(rb"""\s+([^\s=]+)\s*=\s*("[^"]*"|'[^']*')""")
_NAME = re.compile(rb"<([^\s/>]+)")

_IN_TEXT = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})
_IN_ATTRIBUTE = _IN_TEXT | str.maketrans(
    {'"': "&quot;", "'": "&apos;", "\n": "&#10;", "\t": "&#9;"}
)

# document[start:end] becomes text.
Edit = tuple[int, int, bytes]


def appended(xml: bytes, path: tuple[str, ...], child: bytes) -> bytes:
    """Put child at the end of the element at path, indented as what is there."""
    domain = scan_domain(xml).element
    parent = domain.first(*path)
    outdent = indent = lead(xml, parent)
    if parent.children:
        indent = lead(xml, parent.children[0])
    elif b"\n" in outdent:
        indent += lead(xml, domain.children[0]).rpartition(b"\n")[2]
    if xml[parent.end - 2 : parent.end] == b"/>":
        end = f"</{name_of(xml, parent)}>".encode()
        return spliced(xml, [(parent.end - 2, parent.end, b">" + indent + child + outdent + end)])
    text = xml[: xml.rindex(b"</", 0, parent.end)].rstrip()
    return spliced(xml, [(len(text), len(text), indent + child)])


def spliced(xml: bytes, edits: Iterable[Edit]) -> bytes:
    """Return the document after edits, which do not overlap."""
    parts, at = [], 0
    for start, end, text in sorted(edits):
        parts += [xml[at:start], text]
        at = end
    return b"".join([*parts, xml[at:]])


def without(xml: bytes, element: Element) -> Edit:
    """Remove an element, and the line that it would leave empty."""
    return element.start - len(lead(xml, element)), element.end, b""


def lead(xml: bytes, element: Element) -> bytes:
    """Return the white space before an element."""
    start = element.start
    while xml[start - 1 : start] in (b" ", b"\n", b"\t", b"\r"):
        start -= 1
    return xml[start : element.start]


def inner(xml: bytes, element: Element) -> bytes:
    """Return what is between an element's tags."""
    opened = xml.index(b">", _attributes(xml, element)[1]) + 1
    return b"" if opened == element.end else xml[opened : xml.rindex(b"</", 0, element.end)]


def name_of(xml: bytes, element: Element) -> str:
    """Return an element's name as it stands there, with its prefix."""
    found = _NAME.match(xml, element.start)
    assert found
    return found[1].decode()


def value_at(xml: bytes, element: Element, attribute: str) -> tuple[int, int]:
    """Return where the value of an attribute stands that the element has, without its quotes."""
    start, end = _attributes(xml, element)[0][attribute]
    return start + 1, end - 1


def _attributes(xml: bytes, element: Element) -> tuple[dict[str, tuple[int, int]], int]:
    """Return where the values in an element's first tag stand, and where the last one ends."""
    at = element.start + 1 + len(name_of(xml, element).encode())
    found = {}
    while attribute := _ATTRIBUTE.match(xml, at):
        found[attribute[1].decode()] = attribute.span(2)
        at = attribute.end()
    return found, at


def tag(name: str, attributes: Mapping[str, str], quote: str, end: str) -> bytes:
    """Return a tag with attributes. quote: around their values. end: of the tag, ">" or "/>"."""
    pairs = [f" {key}={quote}{in_attribute(value)}{quote}" for key, value in attributes.items()]
    return f"<{name}{''.join(pairs)}{end}".encode()


def in_text(text: str) -> str:
    """Text as it stands in an element."""
    return text.translate(_IN_TEXT)


def in_attribute(text: str) -> str:
    """Text as it stands in an attribute, in quotes of either kind."""
    return text.translate(_IN_ATTRIBUTE)
