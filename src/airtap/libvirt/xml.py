"""lxml, for the modules of this package: one place that imports, parses and validates."""

import os
from typing import Any

from ..errors import Problem

try:
    from lxml import etree
except ImportError as exc:
    raise Problem("no-lxml", "lxml for Python is missing", "install python3-lxml") from exc

SCHEMAS = "/usr/share/libvirt/schemas"


def parse(document: bytes, *, comments: bool = True) -> Any:
    """Return the root element of a document; white space between elements is dropped.

    comments: whether to keep them, and processing instructions.
    Entities and the network stay untouched: XML comes from whoever may define a network or a
    guest. Raises Problem bad-xml.
    """
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        remove_blank_text=True,
        remove_comments=not comments,
        remove_pis=not comments,
    )
    try:
        return etree.fromstring(document, parser)
    except etree.XMLSyntaxError as exc:
        raise Problem("bad-xml", f"this XML cannot be read: {exc}") from exc


def serialize(root: Any) -> str:
    """Return a document as text, indented by two spaces as libvirt writes it."""
    etree.indent(root)
    text: str = etree.tostring(root, encoding="unicode")
    return f"{text}\n"


def validate(document: str, schema: str, directory: str = SCHEMAS) -> bool:
    """Check a document against libvirt's own RELAX NG schema of that name ("network").

    Returns False where libvirt's schemas are not installed. Raises Problem bad-xml.
    """
    path = os.path.join(directory, f"{schema}.rng")
    if not os.path.exists(path):
        return False
    try:
        rules = etree.RelaxNG(etree.parse(path))
    except (etree.LxmlError, OSError) as exc:
        raise Problem("bad-schema", f"libvirt's schema {path} cannot be used: {exc}") from exc
    if not rules.validate(parse(document.encode())):
        error = rules.error_log.last_error
        why = f": {error.message}" if error else ""
        raise Problem("bad-xml", f"libvirt's schema {path} forbids what would be defined{why}")
    return True
