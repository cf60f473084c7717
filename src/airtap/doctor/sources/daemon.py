"""airtapd, its socket and its configuration."""

import errno
import os
import stat
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from ... import config
from ...config import Config
from ...errors import Problem, reason
from ...ipc import client, protocol
from ...ipc.status import StatusReply, read_reply


@dataclass(frozen=True)
class DaemonSnapshot:
    """What airtapd, its socket and its configuration are like.

    silence: why airtapd does not answer, "" if it does.
    absent: whether nobody listens at its socket.
    refused: whether it is the socket's mode that keeps us out.
    mode: the socket's, None if there is none.
    systemd: whether that runs here.
    config: what airtap.toml says, or its defaults where it is invalid (config_problem). It is
    airtapd's, or where that does not tell the one that commands here read (config_path).
    """

    path: str
    silence: str = ""
    absent: bool = False
    refused: bool = False
    mode: int | None = None
    status: StatusReply = field(default_factory=StatusReply)
    systemd: bool = False
    config_path: str = config.DEFAULT_PATH
    config: Config = field(default_factory=Config)
    config_problem: Problem | None = None

    @property
    def acl(self) -> str:
        """The path of the ACL that counts; "" if that is not known."""
        return self.status.acl or ("" if self.config_problem else self.config.acl)


def read() -> DaemonSnapshot:
    """Ask airtapd, without starting one."""
    found = _answer(client.socket_path())
    used = config.choose(found.status.config)
    try:
        return replace(found, config_path=used, config=config.load(used))
    except Problem as problem:
        return replace(found, config_path=used, config_problem=problem)


def _answer(path: str) -> DaemonSnapshot:
    systemd = Path("/run/systemd/system").is_dir()
    found = DaemonSnapshot(path, mode=_mode(path), systemd=systemd)
    try:
        return replace(found, status=_ask(path))
    except (FileNotFoundError, ConnectionRefusedError) as exc:
        return replace(found, silence=reason(exc), absent=True)
    except BlockingIOError:
        return replace(found, silence=f"no answer in {protocol.TIMEOUT_S} s")
    except OSError as exc:
        return replace(found, silence=reason(exc), refused=exc.errno == errno.EACCES)
    except Problem as problem:
        return replace(found, silence=problem.message)


def _ask(path: str) -> StatusReply:
    with closing(protocol.connect(path)) as connection:
        connection.send(protocol.encode({"op": "status"}))
        return read_reply(lambda: connection.recv(protocol.MAX_ANSWER))


def _mode(path: str) -> int | None:
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return None
