"""airtap trace: what MAC NAT and host access do to a guest's frames, as it happens."""

import argparse
import base64
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any, BinaryIO

from ...bpf.trace_record import Record, record
from ...errors import Problem, reason
from ...ipc import client, protocol
from ...trace import pcapng
from ...trace.correlate import Correlator, Line, Setting, tagged
from ..columns import printable
from ..common import echo, warn

_BEFORE, _AFTER = 0, 1
_ENDED = {
    "daemon-ends": Problem("daemon-ends", "airtapd ends, and the trace with it", "start it again"),
    "uplink-gone": Problem(
        "uplink-gone", "neither MAC NAT nor host access is on for the guest any more", ""
    ),
}


def run(arguments: argparse.Namespace, connection: client.Connection) -> None:
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        _trace(arguments, connection, stack)


def _opened(path: str | None, stack: ExitStack) -> BinaryIO | None:
    if path is None:
        return None
    try:
        return stack.enter_context(open(path, "wb"))
    except OSError as exc:
        raise Problem("no-file", f"cannot write {path}: {reason(exc)}") from exc


def _trace(arguments: argparse.Namespace, connection: client.Connection, stack: ExitStack) -> None:
    connection.send("trace", guest=arguments.guest)
    messages = _messages(connection)
    described = next(messages)["tracing"]
    setting = _setting(described)
    file = _opened(arguments.pcap, stack)
    story, left, lost = Correlator(setting), arguments.count, 0
    echo(_heading(setting))
    if file:
        _write(file, _header(setting, described["snap"]))
        warn(f"writing the first {described['snap']} bytes of each frame to {arguments.pcap}")
    for message in messages:
        if "ended" in message:
            _end(setting, str(message["ended"]))
            return
        story.lossy = message["lost"] != lost
        if story.lossy:
            echo(f"{message['lost'] - lost} events lost")
            lost = message["lost"]
        macs = {name: message[name] for name in ("mac", "uplink_mac")}
        story.setting = replace(setting, **macs)
        lines = list(_lines(story, message["events"]))[:left]
        for line in lines:
            echo(shown(line))
            if file:
                _write(file, b"".join(packets(line)))
        if left is not None:
            left -= len(lines)
            if not left:
                return


def _messages(connection: client.Connection) -> Iterator[dict[str, Any]]:
    """Yield what airtapd sends. Raises Problem if it refuses, or goes without a word."""
    began = False
    while True:
        try:
            message = protocol.decode(connection.receive()[0])
        except Problem as problem:
            if not began:
                raise
            gone = Problem("no-daemon", "airtapd is gone, and the trace with it", "start it again")
            raise gone from problem
        if message.get("ok") is not None:
            protocol.check(message)
            return
        began = True
        yield message


def _end(setting: Setting, code: str) -> None:
    """Say why a trace ended. Raises Problem unless that is its guest's end."""
    if code in _ENDED:
        raise _ENDED[code]
    warn(f"{setting.device} is gone")


def _lines(story: Correlator, events: Iterable[str]) -> Iterator[Line]:
    for event in events:
        yield from story.feed(_record(event))
    yield from story.flush(time.monotonic_ns())


def _record(event: str) -> Record:
    try:
        return record(base64.b64decode(event, validate=True))
    except ValueError as exc:
        what = f"airtapd sent an event that makes no sense: {exc}"
        raise Problem("bad-message", what, "is it of another version?") from exc


def _setting(described: dict[str, Any]) -> Setting:
    names = ("mac", "uplink_mac", "kind", "macnat", "host_access")
    known = {name: described[name] for name in names}
    known |= {name: printable(described[name]) for name in ("device", "uplink")}
    return Setting(**known, addresses=tuple(described["addresses"]))


def _heading(setting: Setting) -> str:
    on = [f"MAC NAT to {setting.uplink_mac}"] if setting.macnat else []
    on += ["host access"] if setting.host_access else []
    text = f"{setting.device} ({setting.mac or 'its MAC is not known yet'}), {setting.kind} on"
    text += f" {setting.uplink}: {', '.join(on) or 'delivery by address'}"
    if not setting.macnat and setting.kind == "macvtap":
        text += "\nMAC NAT is off: what the LAN sends to the guest is not shown"
    return text


def shown(line: Line) -> str:
    """Return a line for people."""
    seconds, rest = divmod(_unix(line.time), 1_000_000_000)
    clock = time.strftime("%H:%M:%S", time.localtime(seconds))
    done = "; ".join(line.done)
    return f"{clock}.{rest // 1_000_000:03}  {line.direction:16}  {line.what} | {done}"


def _unix(monotonic: int) -> int:
    return time.time_ns() - time.monotonic_ns() + monotonic


def _header(setting: Setting, snap: int) -> bytes:
    before = "as the guest sends, and as the LAN and the host send to it"
    after = "as they leave airtap's programs"
    # A tag that stood beside a frame goes back into it.
    described = [("before", f"{setting.device}: {before}"), ("after", f"{setting.device}: {after}")]
    return pcapng.header(described, snap + 4)


def packets(line: Line) -> Iterator[bytes]:
    """Yield a frame as it was found and, unless it was refused, as it was left, for pcapng."""
    first, last = line.records[0], line.records[-1]
    frames = [(_BEFORE, first, first.before, first.before_length, "; ".join(line.done))]
    if not line.refused:
        frames.append((_AFTER, last, last.after, last.after_length, ""))
    for interface, of, frame, length, comment in frames:
        whole = tagged(frame, of)
        length += len(whole) - len(frame)
        yield pcapng.packet(interface, _unix(of.time), whole, length, comment)


def _write(file: BinaryIO, data: bytes) -> None:
    try:
        file.write(data)
        file.flush()
    except OSError as exc:
        raise Problem("no-file", f"cannot write {file.name}: {reason(exc)}") from exc
