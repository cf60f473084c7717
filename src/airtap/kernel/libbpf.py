"""BPF objects, maps, programs and ring buffers through libbpf.so.1, version 1.0 and later.

Functions here raise BpfError with the kernel's errno and, where an object could not be loaded,
what libbpf and the verifier said. Every descriptor has an owner that closes it: Object those of
its maps and programs, Ring the one that it waits on.
"""

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_BPF_ANY, _BPF_NOEXIST, _BPF_EXIST = 0, 1, 2  # include/uapi/linux/bpf.h
_WARN = 0  # enum libbpf_print_level
_BATCH = 1024
_LOG_LINES = 12
_MAX_MAPS = 64


class BpfError(Exception):
    """A bpf(2) call failed. errno: the error number. text: libbpf's and the verifier's words."""

    def __init__(self, number: int, what: str, text: str = "") -> None:
        super().__init__(number, what, text)
        self.errno = number
        self.what = what
        self.text = text

    def __str__(self) -> str:
        reason = f"{self.what}: {os.strerror(self.errno)}"
        return f"{reason}: {self.text}" if self.text else reason


class NoLibbpf(Exception):
    """libbpf.so.1 is not on this host, or lacks a function."""


class _OpenOptions(ctypes.Structure):
    """struct bpf_object_open_opts up to object_name: sz tells libbpf that the rest is absent."""

    _fields_ = [("sz", ctypes.c_size_t), ("object_name", ctypes.c_char_p)]


class _TestRunOptions(ctypes.Structure):
    """struct bpf_test_run_opts"""

    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_char_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_char_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    ]


class _ProgramInfo(ctypes.Structure):
    """struct bpf_prog_info, its first fields."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_ubyte * 8),
        ("jited_prog_len", ctypes.c_uint32),
        ("xlated_prog_len", ctypes.c_uint32),
        ("jited_prog_insns", ctypes.c_uint64),
        ("xlated_prog_insns", ctypes.c_uint64),
        ("load_time", ctypes.c_uint64),
        ("created_by_uid", ctypes.c_uint32),
        ("nr_map_ids", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
    ]


_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_SAMPLE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)

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
    "ring_buffer__new": (_P, [_I, _SAMPLE, _P, _P]),
    "ring_buffer__epoll_fd": (_I, [_P]),
    "ring_buffer__consume": (_I, [_P]),
    "ring_buffer__free": (None, [_P]),
}

_log: list[str] = []


@cache
def _libbpf() -> Any:
    """The library, its functions typed. Raises NoLibbpf."""
    try:
        library = ctypes.CDLL("libbpf.so.1", use_errno=True)
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as exc:
        raise NoLibbpf(str(exc)) from exc
    library.libbpf_set_print(_keep_c)
    return library


def _keep(level: int, template: bytes, arguments: int) -> int:
    # A va_list is passed as a pointer on every 64-bit ABI of Linux, so vsnprintf() takes it as is.
    if level == _WARN:
        buffer = ctypes.create_string_buffer(1 << 16)
        libc = ctypes.CDLL(None)
        libc.vsnprintf(buffer, ctypes.c_size_t(1 << 16), template, ctypes.c_void_p(arguments))
        _log.extend(buffer.value.decode(errors="replace").splitlines())
        del _log[:-200]
    return 0


_keep_c = _PRINT(_keep)


def _said() -> str:
    """The last lines of what libbpf has said since it was last asked."""
    lines = [line.strip() for line in _log if line.strip()]
    _log.clear()
    return " | ".join(lines[-_LOG_LINES:])


def _check(result: int, what: str) -> int:
    if result < 0:
        raise BpfError(-result, what, _said())
    return result


def _checked(pointer: int | None, what: str) -> int:
    if not pointer:
        raise BpfError(ctypes.get_errno(), what, _said())
    return pointer


class Map:
    """A map of a loaded object; the object owns the descriptor."""

    def __init__(self, name: str, fd: int, key_size: int, value_size: int) -> None:
        self.name = name
        self.fd = fd
        self.key_size = key_size
        self.value_size = value_size

    def lookup(self, key: bytes) -> bytes | None:
        """The value of a key, or None. Raises BpfError."""
        self._fits(key, self.key_size)
        value = ctypes.create_string_buffer(self.value_size)
        if not self._found(_libbpf().bpf_map_lookup_elem(self.fd, key, value), "look up"):
            return None
        return value.raw

    def update(self, key: bytes, value: bytes) -> None:
        """Set a key's value. Raises BpfError (E2BIG: the map is full)."""
        self._update(key, value, _BPF_ANY)

    def insert(self, key: bytes, value: bytes) -> bool:
        """Set the value of a key that is not there; false if it is. Raises BpfError."""
        try:
            self._update(key, value, _BPF_NOEXIST)
        except BpfError as exc:
            if exc.errno != errno.EEXIST:
                raise
            return False
        return True

    def replace(self, key: bytes, value: bytes) -> bool:
        """Set the value of a key that is there; false if it is not. Raises BpfError."""
        try:
            self._update(key, value, _BPF_EXIST)
        except BpfError as exc:
            if exc.errno != errno.ENOENT:
                raise
            return False
        return True

    def delete(self, key: bytes) -> bool:
        """Delete a key; false if it is not there. Raises BpfError."""
        self._fits(key, self.key_size)
        return self._found(_libbpf().bpf_map_delete_elem(self.fd, key), "delete")

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key of a hash map and its value. Raises BpfError.

        In batches: unlike the walk by BPF_MAP_GET_NEXT_KEY this does not begin again when a key
        is deleted meanwhile (kernel/bpf/hashtab.c: __htab_map_lookup_and_delete_batch).
        """
        position = ctypes.c_uint32()
        first, size = True, _BATCH
        while True:
            keys = ctypes.create_string_buffer(self.key_size * size)
            values = ctypes.create_string_buffer(self.value_size * size)
            count = ctypes.c_uint32(size)
            start, place = None if first else ctypes.byref(position), ctypes.byref(position)
            result: int = _libbpf().bpf_map_lookup_batch(
                self.fd, start, place, keys, values, ctypes.byref(count), None
            )
            if result == -errno.ENOSPC:  # one hash bucket holds more than there is room for
                size *= 2
                continue
            if result != -errno.ENOENT:
                _check(result, f"read map {self.name}")
            for i in range(count.value):
                key = keys.raw[i * self.key_size : (i + 1) * self.key_size]
                yield key, values.raw[i * self.value_size : (i + 1) * self.value_size]
            if result < 0:
                return
            first = False

    def _update(self, key: bytes, value: bytes, flags: int) -> None:
        self._fits(key, self.key_size)
        self._fits(value, self.value_size)
        result = _libbpf().bpf_map_update_elem(self.fd, key, value, flags)
        _check(result, f"write map {self.name}")

    def _found(self, result: int, what: str) -> bool:
        if result == -errno.ENOENT:
            return False
        _check(result, f"{what} in map {self.name}")
        return True

    def _fits(self, data: bytes, size: int) -> None:
        if len(data) != size:
            raise ValueError(f"map {self.name}: {len(data)} bytes where {size} are needed")


@dataclass(frozen=True)
class ProgramInfo:
    """What the kernel says of a program. tag: a hash of its instructions, without its maps."""

    id: int
    tag: str
    map_ids: frozenset[int]


@dataclass(frozen=True)
class RunResult:
    """What came out of a program that ran on one frame. duration: ns for each repetition."""

    verdict: int
    frame: bytes
    context: bytes
    duration: int


class Program:
    """A program of a loaded object; the object owns the descriptor."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd

    def info(self) -> ProgramInfo:
        """Raises BpfError."""
        return _program_info(self.fd)

    def test_run(
        self, frame: bytes, context: bytes = b"", repeat: int = 1, flags: int = 0
    ) -> RunResult:
        """Run the program on a frame that goes nowhere (BPF_PROG_TEST_RUN). Raises BpfError.

        context: a struct __sk_buff, or nothing.
        """
        out = ctypes.create_string_buffer(len(frame) + 256)
        context_out = ctypes.create_string_buffer(len(context) or 1)
        options = _TestRunOptions(
            sz=ctypes.sizeof(_TestRunOptions),
            data_in=frame,
            data_size_in=len(frame),
            data_out=ctypes.addressof(out),
            data_size_out=len(out),
            repeat=repeat,
            flags=flags,
        )
        if context:
            options.ctx_in, options.ctx_size_in = context, len(context)
            options.ctx_out, options.ctx_size_out = ctypes.addressof(context_out), len(context)
        result = _libbpf().bpf_prog_test_run_opts(self.fd, ctypes.byref(options))
        _check(result, f"run {self.name}")
        return RunResult(
            ctypes.c_int32(options.retval).value,
            out.raw[: options.data_size_out],
            context_out.raw[: len(context)],
            options.duration,
        )


def program_by_id(number: int) -> ProgramInfo | None:
    """What the kernel says of program id number, or None if there is none.

    None, too, without CAP_SYS_ADMIN, which this takes (kernel/bpf/syscall.c: bpf_prog_get_fd_by_id)
    and airtapd's unit does not have. Raises BpfError.
    """
    fd: int = _libbpf().bpf_prog_get_fd_by_id(number)
    if fd in (-errno.ENOENT, -errno.EPERM):
        return None
    _check(fd, f"open program {number}")
    try:
        return _program_info(fd)
    finally:
        os.close(fd)


def _program_info(fd: int) -> ProgramInfo:
    maps = (ctypes.c_uint32 * _MAX_MAPS)()
    info = _ProgramInfo(nr_map_ids=_MAX_MAPS, map_ids=ctypes.addressof(maps))
    _get_info(fd, info)
    used = frozenset(maps[: min(info.nr_map_ids, _MAX_MAPS)])
    return ProgramInfo(info.id, bytes(info.tag).hex(), used)


def _get_info(fd: int, info: ctypes.Structure) -> None:
    size = ctypes.c_uint32(ctypes.sizeof(info))
    result = _libbpf().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
    _check(result, "ask about a BPF object")


class Object:
    """A compiled object file: open, pin_maps() if wanted, load(), use, close()."""

    def __init__(self, content: bytes, name: str) -> None:
        """Parse an object file. Raises NoLibbpf, BpfError."""
        library = _libbpf()
        _log.clear()
        self._content = content  # libbpf says nothing of having copied it
        options = _OpenOptions(sz=ctypes.sizeof(_OpenOptions), object_name=name.encode())
        pointer = library.bpf_object__open_mem(content, len(content), ctypes.byref(options))
        self._object: int | None = _checked(pointer, f"open BPF object {name}")
        self.name = name

    def __enter__(self) -> "Object":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def pin_maps(self, directory: Path) -> None:
        """Have load() take each map from a pin in directory, or pin it there. Raises BpfError."""
        library = _libbpf()
        at = library.bpf_object__next_map(self._object, None)
        while at:
            # That of globals has a dot, which bpffs refuses (kernel/bpf/inode.c: bpf_lookup).
            path = directory / library.bpf_map__name(at).decode().replace(".", "_")
            _check(library.bpf_map__set_pin_path(at, os.fsencode(path)), f"pin {path}")
            at = library.bpf_object__next_map(self._object, at)

    def leave_out(self, program: str) -> None:
        """Have load() pass over a program. Raises BpfError."""
        library = _libbpf()
        found = library.bpf_object__find_program_by_name(self._object, program.encode())
        at = _checked(found, f"find program {program}")
        _check(library.bpf_program__set_autoload(at, False), f"leave out {program}")

    def load(self) -> None:
        """Make the maps and have the kernel verify the programs. Raises BpfError."""
        _log.clear()
        _check(_libbpf().bpf_object__load(self._object), f"load BPF object {self.name}")

    def map(self, name: str) -> Map:
        """A map of the loaded object. Raises BpfError."""
        library = _libbpf()
        found = library.bpf_object__find_map_by_name(self._object, name.encode())
        at = _checked(found, f"find map {name}")
        fd = _check(library.bpf_map__fd(at), f"find map {name}")
        return Map(name, fd, library.bpf_map__key_size(at), library.bpf_map__value_size(at))

    def program(self, name: str) -> Program:
        """A program of the loaded object. Raises BpfError."""
        library = _libbpf()
        found = library.bpf_object__find_program_by_name(self._object, name.encode())
        at = _checked(found, f"find program {name}")
        return Program(name, _check(library.bpf_program__fd(at), f"find program {name}"))

    def close(self) -> None:
        """Close every descriptor. What is attached or pinned stays. Closing twice is fine."""
        pointer, self._object = self._object, None
        if pointer is not None:
            _libbpf().bpf_object__close(pointer)


class Ring:
    """The reading end of a ring buffer map. fd: readable when there is something to consume()."""

    def __init__(self, ring: Map, on_sample: Callable[[bytes], None]) -> None:
        """on_sample: called by consume() with each sample. Raises BpfError."""
        self._on_sample = on_sample
        self._samples: list[bytes] = []
        self._limit = 0
        self._keep = _SAMPLE(self._sample)  # ctypes holds no reference to it
        library = _libbpf()
        pointer = library.ring_buffer__new(ring.fd, self._keep, None, None)
        self._ring: int | None = _checked(pointer, f"read ring buffer {ring.name}")
        self.fd: int = library.ring_buffer__epoll_fd(pointer)

    def consume(self, limit: int = 1 << 30) -> None:
        """Hand over what has come in, at most limit samples.

        Without a limit this does not end while somebody writes faster than it reads. Raises
        BpfError, and what on_sample raises.
        """
        self._limit = limit
        result = _libbpf().ring_buffer__consume(self._ring)
        samples, self._samples = self._samples, []
        for sample in samples:
            self._on_sample(sample)
        if len(samples) < limit:
            _check(result, "read ring buffer")

    def close(self) -> None:
        """Stop reading. Closing twice is fine."""
        pointer, self._ring = self._ring, None
        if pointer is not None:
            _libbpf().ring_buffer__free(pointer)

    def _sample(self, _context: int, data: int, size: int) -> int:
        # An exception must not pass through libbpf, so on_sample is called later.
        self._samples.append(ctypes.string_at(data, size))
        # This sample counts as read either way (libbpf: ringbuf.c: ringbuf_process_ring).
        return 0 if len(self._samples) < self._limit else -errno.EAGAIN
