"""What airtapd is asked for, each time on a connection of its own: it drops those that idle.

Its answers are waited for in the loop, which sees signals meanwhile: airtapd may be silent.
"""

import asyncio
import os
from contextlib import closing, suppress
from typing import Any

from ..errors import Problem
from . import client, protocol
from .status import read_reply

Json = dict[str, Any]


async def resolve(name: str) -> str:
    """The device that a name stands for, which is another if it is an alias. Raises Problem."""
    answer = await _call("map-devices", names=[name])
    if name not in answer["aliases"]:  # of what is not here at all, another device is told
        return name
    return str(answer["parents"].get(name, name))


async def attach(device: str, mac: str, kind: str | None) -> tuple[str, int]:
    """Have a guest's device made on device. Raises Problem.

    Returns its name and the descriptor of its tap, which the caller owns.
    """
    with _connection() as connection:
        await _send(connection, "attach", br=device, mac=mac, vnet_hdr=False, kind=kind)
        answer, tap = connection.receive_tap()
        try:
            return str(protocol.read_answer(answer)["device"]), tap
        except BaseException:
            os.close(tap)
            raise


async def release(device: str) -> None:
    """Have a device removed; where that fails it goes once its tap is closed."""
    with suppress(Problem):
        await _call("release", device=device)


async def status(device: str, guest: str) -> tuple[Json, Json]:
    """What airtapd says of an uplink, and of a guest's device there; {} for one it does not know.

    Raises Problem.
    """
    with _connection() as connection:
        await _send(connection, "status")
        report = read_reply(lambda: connection.receive()[0])
    return report.find(device, guest)


async def _call(op: str, **fields: "protocol.Flat") -> Json:
    with _connection() as connection:
        await _send(connection, op, **fields)
        return protocol.read_answer(connection.receive()[0])


def _connection() -> closing[client.Connection]:
    return closing(client.Connection(client.socket_path()))


async def _send(connection: client.Connection, op: str, **fields: "protocol.Flat") -> None:
    """Send a request, and wait until its answer is there, or time is up."""
    loop = asyncio.get_running_loop()
    answered = asyncio.Event()
    connection.send(op, **fields)
    loop.add_reader(connection.fileno(), answered.set)
    try:
        await asyncio.wait_for(answered.wait(), protocol.TIMEOUT_S)
    except TimeoutError as exc:
        what = f"airtapd at {connection.path} did not answer within {protocol.TIMEOUT_S} s"
        raise Problem("no-daemon", what, "see airtapd's log, then try again") from exc
    finally:
        loop.remove_reader(connection.fileno())
