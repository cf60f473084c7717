"""libbpf.so.1, version 1.0 and later: its functions, what it says, and its errors.

object.py and map.py are what one works with. They raise BpfError with the kernel's errno and, where
an object could not be loaded, with what libbpf and the verifier said.
"""

import ctypes
import os
from functools import cache
from typing import Any

from ..kernel.libc import libc

_WARN = 0  # enum libbpf_print_level
_LOG_LINES = 12


class BpfError(OSError):
    """A bpf(2) call failed. Its strerror says which, why, and what libbpf and the verifier said.

    text: what libbpf and the verifier said, alone.
    """

    def __init__(self, number: int, what: str, text: str = "") -> None:
        said = f": {text}" if text else ""
        super().__init__(number, f"{what}: {os.strerror(number)}{said}")
        self.text = text

    def __str__(self) -> str:
        return self.strerror or ""


class NoLibbpf(OSError):
    """libbpf.so.1 is not on this host, or lacks a function."""


_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
SAMPLE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)

_P, _I, _U, _S = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_char_p
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "libbpf_set_print": (_P, [_PRINT]),
    "bpf_object__open_mem": (_P, [_S, ctypes.c_size_t, _P]),
    "bpf_object__load": (_I, [_P]),
    "bpf_object__close": (None, [_P]),
    "bpf_object__find_map_by_name": (_P, [_P, _S]),
    "bpf_object__find_program_by_name": (_P, [_P, _S]),
    "bpf_object__next_map": (_P, [_P, _P]),
    "bpf_map__name": (_S, [_P]),
    "bpf_map__set_pin_path": (_I, [_P, _S]),
    "bpf_map__fd": (_I, [_P]),
    "bpf_map__key_size": (_U, [_P]),
    "bpf_map__value_size": (_U, [_P]),
    "bpf_program__fd": (_I, [_P]),
    "bpf_program__set_autoload": (_I, [_P, ctypes.c_bool]),
    "bpf_map_lookup_elem": (_I, [_I, _S, _P]),
    "bpf_map_update_elem": (_I, [_I, _S, _S, ctypes.c_uint64]),
    "bpf_map_delete_elem": (_I, [_I, _S]),
    "bpf_map_lookup_batch": (_I, [_I, _P, _P, _P, _P, _P, _P]),
    "bpf_obj_get_info_by_fd": (_I, [_I, _P, _P]),
    "bpf_prog_get_fd_by_id": (_I, [_U]),
    "bpf_prog_test_run_opts": (_I, [_I, _P]),
    "ring_buffer__new": (_P, [_I, SAMPLE, _P, _P]),
    "ring_buffer__epoll_fd": (_I, [_P]),
    "ring_buffer__consume": (_I, [_P]),
    "ring_buffer__free": (None, [_P]),
}

_log: list[str] = []


@cache
def library() -> Any:
    """Load the library and type its functions. Raises NoLibbpf."""
    try:
        loaded = ctypes.CDLL("libbpf.so.1", use_errno=True)
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as exc:
        raise NoLibbpf(str(exc)) from exc
    loaded.libbpf_set_print(_keep_c)
    return loaded


def _keep(level: int, template: bytes, arguments: int) -> int:
    # A va_list is passed as a pointer on every 64-bit ABI of Linux, so vsnprintf() takes it as is.
    if level == _WARN:
        buffer = ctypes.create_string_buffer(1 << 16)
        libc.vsnprintf(buffer, ctypes.c_size_t(1 << 16), template, ctypes.c_void_p(arguments))
        _log.extend(buffer.value.decode(errors="replace").splitlines())
        del _log[:-200]
    return 0


_keep_c = _PRINT(_keep)


def _said() -> str:
    """Return the last lines of what libbpf has said since it was last asked."""
    lines = [line.strip() for line in _log if line.strip()]
    forget_said()
    return " | ".join(lines[-_LOG_LINES:])


def forget_said() -> None:
    """Forget what libbpf has said so far."""
    _log.clear()


def check(result: int, what: str) -> int:
    """Return the result of a call, or raise BpfError that says what failed."""
    if result < 0:
        raise BpfError(-result, what, _said())
    return result


def checked(pointer: int | None, what: str) -> int:
    """Do as check(), for a call that returns a pointer."""
    if not pointer:
        raise BpfError(ctypes.get_errno(), what, _said())
    return pointer
