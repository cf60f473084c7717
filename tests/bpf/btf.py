"""BPF type format, as clang leaves it in an object file: layouts of structures, values of enums.

Read as Documentation/bpf/btf.rst of the kernel has it, and elf(5); of little or big endian hosts.
"""

import struct
from dataclasses import dataclass, field
from pathlib import Path

_INT, _ARRAY, _STRUCT, _UNION, _ENUM, _ENUM64 = 1, 3, 4, 5, 6, 19
# Words behind the three that each type has: for itself, and for each of its members.
_WORDS = {_INT: (1, 0), _ARRAY: (3, 0), _STRUCT: (0, 3), _UNION: (0, 3), _ENUM: (0, 2)}
_WORDS |= {13: (0, 2), 14: (1, 0), 15: (0, 3), 17: (1, 0), _ENUM64: (0, 3)}
_PASSED_THROUGH = (8, 9, 10, 11, 18)  # typedef, volatile, const, restrict, type tag


@dataclass
class Type:
    """A type. size: bytes, or the number of the type that this one is about."""

    name: str
    kind: int
    size: int
    words: list[int] = field(default_factory=list)
    members: dict[str, list[int]] = field(default_factory=dict)


class Btf:
    def __init__(self, path: Path) -> None:
        data = _section(path.read_bytes(), b".BTF")
        _magic, _version, _flags, header, at, length, names, _ = struct.unpack_from("=HBB5I", data)
        self._names = data[header + names :]
        self._types = [Type("void", 0, 0)]
        words = [word for (word,) in struct.iter_unpack("=I", data[header + at :][:length])]
        while words:
            words = self._read(words)

    def _read(self, words: list[int]) -> list[int]:
        name, info, size, *rest = words
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        own, each = _WORDS.get(kind, (0, 0))
        found = Type(self._name(name), kind, size, rest[:own])
        for number in range(count if each else 0):
            member = rest[own + number * each :][:each]
            found.members[self._name(member[0])] = member[1:]
        self._types.append(found)
        return rest[own + count * each :]

    def _name(self, at: int) -> str:
        return self._names[at : self._names.index(b"\0", at)].decode()

    def enum(self, name: str) -> dict[str, int]:
        """The values of an enum, by name, as 32 bits without a sign."""
        [found] = [t for t in self._types if t.name == name and t.kind in (_ENUM, _ENUM64)]
        return {member: words[0] for member, words in found.members.items()}

    def members(self, name: str) -> tuple[str, ...]:
        """The names of a structure's members."""
        return tuple(self._struct(name).members)

    def size(self, name: str) -> int:
        """The size of a structure."""
        return self._struct(name).size

    def place(self, name: str, path: str) -> tuple[int, int]:
        """(offset, size) of a member of a structure, or, by a path with dots, of a member's."""
        found, at = self._struct(name), 0
        for step in path.split("."):
            number, bits = found.members[step]
            found, at = self._types[self._resolved(number)], at + bits // 8
        return at, self._size(found)

    def _struct(self, name: str) -> Type:
        [found] = [t for t in self._types if t.name == name and t.kind == _STRUCT]
        return found

    def _resolved(self, number: int) -> int:
        while self._types[number].kind in _PASSED_THROUGH:
            number = self._types[number].size
        return number

    def _size(self, found: Type) -> int:
        if found.kind == _ARRAY:
            return self._size(self._types[self._resolved(found.words[0])]) * found.words[2]
        return found.size


def _section(elf: bytes, name: bytes) -> bytes:
    [table] = struct.unpack_from("=Q", elf, 0x28)
    size, count, names = struct.unpack_from("=HHH", elf, 0x3A)
    headers = [struct.unpack_from("=IIQQQQ", elf, table + n * size) for n in range(count)]
    texts = elf[headers[names][4] :]
    for head in headers:
        if texts[head[0] : texts.index(b"\0", head[0])] == name:
            return elf[head[4] : head[4] + head[5]]
    raise ValueError(f"no section {name.decode()}")
