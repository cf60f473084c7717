"""airtapd, its socket and its configuration."""

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import client, config, wire
from ...config import Config
from ...errors import Problem, reason

Json = dict[str, Any]

# More packets than there can be guests, uplinks and losses.
_MOST_PACKETS = 8192


@dataclass(frozen=True)
class Daemon:
    """silence: why it does not answer, "" if it does; refused: whether that is for the mode of the
    socket. mode: of the socket, None without one. version: "" if it does not tell.

    systemd: whether that runs here. config: what airtap.toml says, or its defaults where it is
    invalid (config_problem).
    """

    path: str
    silence: str = ""
    refused: bool = False
    mode: int | None = None
    version: str = ""
    status: Json = field(default_factory=lambda: {"uplinks": [], "lost": []})
    systemd: bool = False
    config_path: str = config.DEFAULT_PATH
    config: Config = field(default_factory=Config)
    config_problem: Problem | None = None


def read() -> Daemon:
    """Ask airtapd, without starting one."""
    path = client.socket_path()
    settings, invalid = _config()
    found: Json = {
        "path": path,
        "mode": _mode(path),
        "systemd": Path("/run/systemd/system").is_dir(),
        "config_path": os.environ.get("AIRTAP_CONFIG") or config.DEFAULT_PATH,
        "config": settings,
        "config_problem": invalid,
    }
    try:
        return Daemon(**found, **_ask(path))
    except BlockingIOError:
        return Daemon(**found, silence=f"no answer in {wire.TIMEOUT_S} s")
    except OSError as exc:
        return Daemon(**found, silence=reason(exc), refused=exc.errno == errno.EACCES)
    except Problem as problem:
        return Daemon(**found, silence=problem.message)


def _ask(path: str) -> Json:
    connection = wire.connect(path)
    try:
        connection.send(wire.encode({"op": "status"}))
        uplinks: list[Json] = []
        lost: list[Json] = []
        for _ in range(_MOST_PACKETS):
            message: Json = wire.decode(connection.recv(wire.MAX_ANSWER))
            if "uplink" in message:
                uplinks.append({**message["uplink"], "guests": []})
            elif "guest" in message and uplinks:
                uplinks[-1]["guests"].append(message["guest"])
            elif "lost" in message:
                lost.append(message["lost"])
            else:
                version = str(wire.check(message).get("version", ""))
                return {"status": {"uplinks": uplinks, "lost": lost}, "version": version}
        raise Problem("bad-message", "its answer has no end")
    finally:
        connection.close()


def _mode(path: str) -> int | None:
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return None


def _config() -> tuple[Config, Problem | None]:
    try:
        return config.load(None), None
    except Problem as problem:
        return Config(), problem
