"""What airtapd is asked for, each time on a connection of its own: it drops those that idle."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

from .. import client, wire
from ..errors import Problem
from ..report import gather

Json = dict[str, Any]


def resolve(name: str) -> str:
    """The device that a name stands for: another if it is an alias. Raises Problem."""
    answer = _ask({"op": "here", "names": [name]})
    if name not in answer["aliases"]:  # of what is not here at all, another device is told
        return name
    return str(answer["parents"].get(name, name))


def attach(device: str, mac: str, kind: str | None) -> tuple[str, int]:
    """Have a guest's device made on device: its name, and its tap, which the caller owns.

    Raises Problem.
    """
    request = {"op": "attach", "br": device, "mac": mac, "vnet_hdr": False, "kind": kind}
    with _connection() as connection:
        connection.send(wire.encode(request))
        packet, descriptor = connection.receive()
        try:
            answer = wire.check(wire.decode(packet))
            if descriptor is None:
                raise Problem("bad-message", "airtapd sent no file descriptor")
            return str(answer["device"]), descriptor
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            raise


def release(device: str) -> None:
    """Have a device removed; where that fails it goes once its tap is closed."""
    with suppress(Problem):
        _ask({"op": "release", "device": device})


def status(device: str, guest: str) -> tuple[Json, Json]:
    """What airtapd says of an uplink, and of a guest's device there; {} for one it does not know.

    Raises Problem.
    """
    with _connection() as connection:
        connection.send(wire.encode({"op": "status"}))
        report = gather(wire.decode(connection.receive()[0]) for _ in count())
    return report.find(device, guest)


def _ask(request: Json) -> Json:
    with _connection() as connection:
        connection.send(wire.encode(request))
        return wire.check(wire.decode(connection.receive()[0]))


@contextmanager
def _connection() -> Iterator[client.Connection]:
    connection = client.Connection(client.socket_path())
    try:
        yield connection
    finally:
        connection.close()
