"""Maps and ring buffers of BPF objects, in bytes. Both raise BpfError."""

import ctypes
import errno
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from .libbpf import SAMPLE, check, checked, library

_BPF_ANY, _BPF_NOEXIST, _BPF_EXIST = 0, 1, 2  # include/uapi/linux/bpf.h
_BATCH = 1024
# A map that is not preallocated takes from a reserve, which the kernel fills up again a jiffy later
# where it cannot interrupt itself (kernel/bpf/memalloc.c: bpf_mem_refill).
_REFILLS, _REFILL_S = 20, 0.01

T = TypeVar("T")


class Map:
    """A map; the object that it is of owns the descriptor."""

    def __init__(
        self, name: str, fd: int, key_size: int, value_size: int, max_entries: int
    ) -> None:
        self.name = name
        self.fd = fd
        self.key_size = key_size
        self.value_size = value_size
        self.max_entries = max_entries

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None. Raises BpfError."""
        self._fits(key, self.key_size)
        value = ctypes.create_string_buffer(self.value_size)
        result = library().bpf_map_lookup_elem(self.fd, key, value)
        return value.raw if self._done(result, "look up in", errno.ENOENT) else None

    def update(self, key: bytes, value: bytes) -> None:
        """Set a key's value. Raises BpfError (E2BIG: the map is full)."""
        self._update(key, value, _BPF_ANY)

    def insert(self, key: bytes, value: bytes) -> bool:
        """Set the value of a key that is not there; return false if it is. Raises BpfError."""
        return self._update(key, value, _BPF_NOEXIST, errno.EEXIST)

    def replace(self, key: bytes, value: bytes) -> bool:
        """Set the value of a key that is there; return false if it is not. Raises BpfError."""
        return self._update(key, value, _BPF_EXIST, errno.ENOENT)

    def delete(self, key: bytes) -> bool:
        """Delete a key; return false if it is not there. Raises BpfError."""
        self._fits(key, self.key_size)
        result = library().bpf_map_delete_elem(self.fd, key)
        return self._done(result, "delete in", errno.ENOENT)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every key of a hash map or trie and its value. Raises BpfError.

        In batches: unlike the walk by BPF_MAP_GET_NEXT_KEY that of a hash map does not begin again
        when a key is deleted meanwhile (kernel/bpf/hashtab.c: __htab_map_lookup_and_delete_batch).
        """
        size, start = _BATCH, None
        # Of other maps the last key (kernel/bpf/syscall.c: generic_map_lookup_batch).
        position = ctypes.create_string_buffer(max(4, self.key_size))
        while True:
            keys = ctypes.create_string_buffer(self.key_size * size)
            values = ctypes.create_string_buffer(self.value_size * size)
            count = ctypes.c_uint32(size)
            result: int = library().bpf_map_lookup_batch(
                self.fd, start, position, keys, values, ctypes.byref(count), None
            )
            if result == -errno.ENOSPC:  # one hash bucket holds more than there is room for
                size *= 2
                continue
            if result != -errno.ENOENT:
                check(result, f"read map {self.name}")
            for i in range(count.value):
                key = keys.raw[i * self.key_size : (i + 1) * self.key_size]
                yield key, values.raw[i * self.value_size : (i + 1) * self.value_size]
            if result < 0:
                return
            start = position

    def _update(self, key: bytes, value: bytes, flags: int, refusal: int = 0) -> bool:
        self._fits(key, self.key_size)
        self._fits(value, self.value_size)
        for _ in range(_REFILLS):
            result = library().bpf_map_update_elem(self.fd, key, value, flags)
            if result != -errno.ENOMEM:
                break
            time.sleep(_REFILL_S)
        if result == -errno.E2BIG:
            check(result, f"there is room for {self.max_entries} {self.name}, all taken")
        return self._done(result, "write", refusal)

    def _done(self, result: int, what: str, refusal: int) -> bool:
        """Tell whether a call did it.

        refusal: the errno that only says that it did not, 0 for none.
        """
        if refusal and result == -refusal:
            return False
        check(result, f"{what} map {self.name}")
        return True

    def _fits(self, data: bytes, size: int) -> None:
        if len(data) != size:
            raise ValueError(f"map {self.name}: {len(data)} bytes where {size} are needed")


class Ring(Generic[T]):
    """The reading end of a ring buffer map. Methods raise BpfError.

    unpack makes a record of what the programs have written.
    """

    def __init__(self, table: Map, unpack: Callable[[bytes], T]) -> None:
        self._table = table
        self._unpack = unpack
        self._samples: list[bytes] = []
        self._limit = 0
        self._keep = SAMPLE(self._sample)  # ctypes holds no reference to it
        self._ring: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether consume() reads."""
        return self._ring is not None

    def open(self, on_record: Callable[[T], None]) -> int:
        """Begin to read. Returns a descriptor that is readable when there is what to consume().

        What no one has read, of an earlier daemon's time too, comes first. The descriptor is ours
        and lasts until close().
        """
        self.close()
        self._on_record = on_record
        pointer = library().ring_buffer__new(self._table.fd, self._keep, None, None)
        self._ring = checked(pointer, f"read ring buffer {self._table.name}")
        return int(library().ring_buffer__epoll_fd(pointer))

    def consume(self, limit: int = 1 << 30) -> None:
        """Call on_record for what has come in, at most limit times; not before open().

        Without a limit this does not end while somebody writes faster than it reads. Raises what
        on_record raises, too.
        """
        if self._ring is None:
            return
        self._limit = limit
        result = library().ring_buffer__consume(self._ring)
        samples, self._samples = self._samples, []
        for sample in samples:
            self._on_record(self._unpack(sample))
        if len(samples) < limit:
            check(result, "read ring buffer")

    def close(self) -> None:
        """Stop reading; take the descriptor out of the loop before. Closing twice is fine."""
        pointer, self._ring = self._ring, None
        if pointer is not None:
            library().ring_buffer__free(pointer)

    def _sample(self, _context: int, data: int, size: int) -> int:
        # An exception must not pass through libbpf, so on_record is called later.
        self._samples.append(ctypes.string_at(data, size))
        # This sample counts as read either way (libbpf: ringbuf.c: ringbuf_process_ring).
        return 0 if len(self._samples) < self._limit else -errno.EAGAIN
