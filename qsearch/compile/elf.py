"""Symbols of ELF object files: renames them, so that two networks with equal kernels can live in one program."""

import struct
from collections.abc import Callable

from qsearch.errors import QsearchError

_SYMBOL_TABLE, _HIDDEN, _GLOBAL_BINDINGS = 2, 2, (1, 2)


def rename_symbols(data: bytes, rename: Callable[[str], str]) -> bytes:
    """The object `data` with every global or weak symbol `s` called `rename(s)`; changed ones become hidden.

    A new string table is appended and the old one left unused; relocations refer to symbols by index and stay valid.
    Handles little-endian ELF of 32 and 64 bits (System V gABI, chapter 4). Raises `QsearchError` for anything else.
    """
    wide, section, places, headers = _sections(data)
    out = bytearray(data)
    for header in headers:
        if header[1] != _SYMBOL_TABLE:
            continue
        strings_index = header[6]
        strings = headers[strings_index]
        table = bytearray(data[strings[4] : strings[4] + strings[5]])
        for at in range(header[4], header[4] + header[5], header[9]):
            name_at = struct.unpack_from("<I", data, at)[0]
            info_at = at + (4 if wide else 12)
            old = table[name_at : table.index(0, name_at)].decode()
            new = rename(old)
            if data[info_at] >> 4 not in _GLOBAL_BINDINGS or new == old:
                continue
            struct.pack_into("<I", out, at, len(table))
            out[info_at + 1] = out[info_at + 1] & ~3 | _HIDDEN
            table += new.encode() + b"\0"
        if len(table) == strings[5]:
            continue
        strings[4], strings[5] = len(out), len(table)
        out += table
        section.pack_into(out, places[strings_index], *strings)
    return bytes(out)


def symbols(data: bytes) -> tuple[set[str], set[str]]:
    """The global and weak symbols that the object `data` defines, and those that it needs; raises as above."""
    wide, _, _, headers = _sections(data)
    defined: set[str] = set()
    needed: set[str] = set()
    for header in (header for header in headers if header[1] == _SYMBOL_TABLE):
        strings_at = headers[header[6]][4]
        for at in range(header[4], header[4] + header[5], header[9]):
            name_at = strings_at + struct.unpack_from("<I", data, at)[0]
            info_at = at + (4 if wide else 12)
            if data[info_at] >> 4 in _GLOBAL_BINDINGS:
                found = defined if struct.unpack_from("<H", data, info_at + 2)[0] else needed
                found.add(data[name_at : data.index(0, name_at)].decode())
    return defined, needed


def code_bytes(data: bytes) -> int:
    """Bytes of machine code and constants in the object `data`, without those that linking drops; raises as above."""
    wide, _, _, headers = _sections(data)
    names_at = headers[struct.unpack_from("<H", data, 0x3E if wide else 0x32)[0]][4]
    total = 0
    for header in headers:
        name = data[names_at + header[0] : data.index(0, names_at + header[0])]
        if name == b".text" or name.startswith(b".rodata"):
            total += header[5]
    return total


def _sections(data: bytes) -> tuple[bool, struct.Struct, list[int], list[list[int]]]:
    """Whether `data` is of 64 bits, the format of section headers, where each lies, and their fields."""
    if data[:4] != b"\x7fELF" or data[5] != 1:
        raise QsearchError("a kernel object is not little-endian ELF")
    wide = data[4] == 2
    sections_at = struct.unpack_from("<Q" if wide else "<I", data, 0x28 if wide else 0x20)[0]
    entry_size, count = struct.unpack_from("<HH", data, 0x3A if wide else 0x2E)
    section = struct.Struct("<IIQQQQIIQQ" if wide else "<10I")
    places = [sections_at + i * entry_size for i in range(count)]
    return wide, section, places, [list(section.unpack_from(data, place)) for place in places]
