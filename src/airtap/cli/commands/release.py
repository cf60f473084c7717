"""airtap release: remove a guest device now."""

import argparse

from ...ipc import client, protocol


def run(arguments: argparse.Namespace, connection: client.Connection) -> None:
    connection.send(protocol.encode({"op": "release", "device": arguments.device}))
    answer, _ = connection.receive()
    protocol.check(protocol.decode(answer))
