"""The XML templates of libvirt networks and NICs: found, filled in and checked.

A file in /etc/airtap/xml-templates, the administrator's copy, counts before the one that came with
airtap. What stands between @ signs is a placeholder. Values are put in as text and attributes of
parsed XML, so none of them can become markup.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import Problem, reason
from .xml import parse, serialize, validate

ADMINISTRATORS = Path("/etc/airtap/xml-templates")
# Where they came with airtap: by `make install` (this is below PREFIX/lib/airtap), by a wheel, or
# in the source tree.
_ABOVE = Path(os.path.normpath(__file__)).parents
_SHIPPED = (
    _ABOVE[4] / "share/airtap/xml-templates",
    _ABOVE[1] / "xml-templates",
    _ABOVE[3] / "xml-templates",
)
_PLACEHOLDER = re.compile(r"@([A-Z0-9]+)@")
# The least around a NIC that libvirt's schema knows as a document.
_DOMAIN = (
    "<domain type='qemu'><name>a</name><memory>1</memory><os><type>hvm</type></os>"
    "<devices>{}</devices></domain>"
)


def fill(name: str, values: Mapping[str, str], optional: Mapping[str, str]) -> Any:
    """Return the root element of a template with its placeholders replaced.

    name: "network-nat" for network-nat.xml; the root element has its first word as name.
    values: for placeholders that the template has to have, by their names without the @ signs.
    optional: for those that it may have.
    Raises Problem bad-template, which names the file.
    """
    path = find(name)
    root = _read(path)
    if root.tag != name.partition("-")[0]:
        raise bad(name, f"its root element is no <{name.partition('-')[0]}>")
    known = {**values, **optional}
    texts = [text for part in root.iter("*") for text in (part.text or "", *part.attrib.values())]
    used = set(_PLACEHOLDER.findall("\n".join(texts)))
    if unknown := sorted(used - known.keys()):
        raise bad(name, f"@{unknown[0]}@ is none of {', '.join(f'@{key}@' for key in known)}")
    if missing := sorted(values.keys() - used):
        raise bad(name, f"@{missing[0]}@ is missing")
    for element in root.iter("*"):
        element.text = element.text and _filled(element.text, known)
        for key, text in element.items():
            element.set(key, _filled(text, known))
    return root


def nic_link(name: str, kind: str, element: str, values: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes of what links a NIC to the host, from the template of an <interface>.

    name: of the template.
    kind: libvirt's type of the NIC.
    element: "source", or "target" for a device that libvirt finds.
    values: for placeholders; MAC may be missing in the template.
    Raises Problem bad-template.
    """
    needed = {key: value for key, value in values.items() if key != "MAC"}
    root = fill(name, needed, values)
    if root.get("type") != kind:
        raise bad(name, f'it is no <interface type="{kind}">')
    found = root.findall(element)
    if len(found) != 1 or len(found[0]):
        raise bad(name, f"it has not one <{element}> without children")
    if element == "target" and found[0].get("managed") != "no":
        raise bad(name, 'its <target> is not managed="no"')
    expect_valid(name, root)
    return dict(found[0].attrib)


def expect_valid(name: str, root: Any) -> None:
    """Hold what an administrator's copy makes against libvirt's schema, where that is installed.

    Raises Problem bad-template.
    """
    if find(name).parent != ADMINISTRATORS:
        return
    document, schema = serialize(root), "network"
    if root.tag == "interface":
        document, schema = _DOMAIN.format(document), "domain"
    try:
        validate(document, schema)
    except Problem as problem:
        raise bad(name, problem.message) from problem


def find(name: str) -> Path:
    """Return the file of a template. Raises Problem no-template."""
    for directory in (ADMINISTRATORS, *_SHIPPED):
        path = directory / f"{name}.xml"
        if os.path.isfile(path):  # Path.is_file() would raise where a user may not look
            return path
    raise Problem("no-template", f"{_SHIPPED[0]}/{name}.xml is missing", "install airtap anew")


def bad(name: str, why: str) -> Problem:
    """Return the Problem that a template is unfit."""
    path = find(name)
    hint = f"mend or remove {path}" if path.parent == ADMINISTRATORS else ""
    return Problem("bad-template", f"{path} cannot be used: {why}", hint)


def _read(path: Path) -> Any:
    try:
        return parse(path.read_bytes(), comments=False)
    except OSError as exc:
        raise bad(path.stem, reason(exc)) from exc
    except Problem as problem:
        raise bad(path.stem, problem.message) from problem


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: values[match[1]], text)
