"""Compiled BPF objects and their programs. Both raise BpfError.

Every descriptor has an owner that closes it: an Object closes those of its maps and programs, and a
Ring the one that it waits on.
"""

import ctypes
import errno
import os
from dataclasses import dataclass
from pathlib import Path

from .libbpf import check, checked, forget_said, library
from .map import Map

_MAX_MAPS = 64


class _OpenOptions(ctypes.Structure):
    """struct bpf_object_open_opts up to object_name: sz tells libbpf that the rest is absent."""

    _fields_ = [("sz", ctypes.c_size_t), ("object_name", ctypes.c_char_p)]


class _TestRunOptions(ctypes.Structure):
    """struct bpf_test_run_opts up to flags; sz tells libbpf so, too."""

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


@dataclass(frozen=True)
class ProgramInfo:
    """What the kernel says of a program.

    tag: a hash of its instructions, without its maps.
    """

    id: int
    tag: str
    map_ids: frozenset[int]


@dataclass(frozen=True)
class RunResult:
    """What came out of a program that ran on one frame.

    duration: how many ns each repetition took.
    """

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
        """Ask the kernel about the program. Raises BpfError."""
        return _program_info(self.fd)

    def test_run(
        self, frame: bytes, context: bytes = b"", repeat: int = 1, flags: int = 0
    ) -> RunResult:
        """Run the program on a frame that goes nowhere (BPF_PROG_TEST_RUN). Raises BpfError.

        context: a struct __sk_buff, or nothing.
        repeat: how often it is to run.
        flags: those of the system call.
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
        result = library().bpf_prog_test_run_opts(self.fd, ctypes.byref(options))
        check(result, f"run {self.name}")
        return RunResult(
            ctypes.c_int32(options.retval).value,
            out.raw[: options.data_size_out],
            context_out.raw[: len(context)],
            options.duration,
        )


def program_by_id(number: int) -> ProgramInfo | None:
    """Return what the kernel says of program id number, or None if there is none.

    The answer is None, too, without CAP_SYS_ADMIN, which this takes (kernel/bpf/syscall.c:
    bpf_prog_get_fd_by_id) and airtapd's unit does not have. Raises BpfError.
    """
    fd: int = library().bpf_prog_get_fd_by_id(number)
    if fd in (-errno.ENOENT, -errno.EPERM):
        return None
    check(fd, f"open program {number}")
    try:
        return _program_info(fd)
    finally:
        os.close(fd)


def _program_info(fd: int) -> ProgramInfo:
    maps = (ctypes.c_uint32 * _MAX_MAPS)()
    info = _ProgramInfo(nr_map_ids=_MAX_MAPS, map_ids=ctypes.addressof(maps))
    size = ctypes.c_uint32(ctypes.sizeof(info))
    result = library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
    check(result, "ask about a BPF object")
    used = frozenset(maps[: min(info.nr_map_ids, _MAX_MAPS)])
    return ProgramInfo(info.id, bytes(info.tag).hex(), used)


class Object:
    """A compiled object file: open, pin_maps() if wanted, load(), use, close()."""

    def __init__(self, content: bytes, name: str) -> None:
        """Parse an object file. Raises NoLibbpf, BpfError."""
        bpf = library()
        forget_said()
        self._content = content  # libbpf says nothing of having copied it
        options = _OpenOptions(sz=ctypes.sizeof(_OpenOptions), object_name=name.encode())
        pointer = bpf.bpf_object__open_mem(content, len(content), ctypes.byref(options))
        self._object: int | None = checked(pointer, f"open BPF object {name}")
        self.name = name
        self._instead: dict[str, str] = {}

    def __enter__(self) -> "Object":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def pin_maps(self, directory: Path) -> None:
        """Have load() take each map from a pin in directory, or pin it there. Raises BpfError."""
        bpf = library()
        at = bpf.bpf_object__next_map(self._object, None)
        while at:
            # That of globals has a dot, which bpffs refuses (kernel/bpf/inode.c: bpf_lookup).
            path = directory / bpf.bpf_map__name(at).decode().replace(".", "_")
            check(bpf.bpf_map__set_pin_path(at, os.fsencode(path)), f"pin {path}")
            at = bpf.bpf_object__next_map(self._object, at)

    def prefer(self, name: str, other: str) -> None:
        """Have load() take another program in place of one, whose name it has then.

        Nothing is done where the object has no such program. Raises BpfError.
        """
        bpf = library()
        found = [
            bpf.bpf_object__find_program_by_name(self._object, n.encode()) for n in (name, other)
        ]
        if all(found):
            for program, is_wanted in zip(found, (False, True), strict=True):
                check(bpf.bpf_program__set_autoload(program, is_wanted), f"choose {other}")
            self._instead[name] = other

    def load(self) -> None:
        """Make the maps and have the kernel verify the programs. Raises BpfError."""
        forget_said()
        check(library().bpf_object__load(self._object), f"load BPF object {self.name}")

    def map(self, name: str) -> Map:
        """Find a map of the loaded object. Raises BpfError."""
        bpf = library()
        found = bpf.bpf_object__find_map_by_name(self._object, name.encode())
        at = checked(found, f"find map {name}")
        fd = check(bpf.bpf_map__fd(at), f"find map {name}")
        return Map(name, fd, bpf.bpf_map__key_size(at), bpf.bpf_map__value_size(at))

    def program(self, name: str) -> Program:
        """Find a program of the loaded object. Raises BpfError."""
        bpf = library()
        actual = self._instead.get(name, name)
        found = bpf.bpf_object__find_program_by_name(self._object, actual.encode())
        at = checked(found, f"find program {name}")
        return Program(name, check(bpf.bpf_program__fd(at), f"find program {name}"))

    def close(self) -> None:
        """Close every descriptor. What is attached or pinned stays. Closing twice is fine."""
        pointer, self._object = self._object, None
        if pointer is not None:
            library().bpf_object__close(pointer)
