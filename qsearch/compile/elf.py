"""Renames symbols inside an ELF object file, so that two networks with equal kernels can live in one program."""

import struct
from collections.abc import Callable

from qsearch.errors import QsearchError

_SYMBOL_TABLE, _HIDDEN, _GLOBAL_BINDINGS = 2, 2, (1, 2)


def rename_symbols(data: bytes, rename: Callable[[str], str]) -> bytes:
    """The object `data` with every global or weak symbol `s` called `rename(s)`; changed ones become hidden.

    A new string table is appended and the old one left unused; relocations refer to symbols by index and stay valid.
    Handles little-endian ELF of 32 and 64 bits (System V gABI, chapter 4). Raises `QsearchError` for anything else.
    """
    if data[:4] != b"\x7fELF" or data[5] != 1:
        raise QsearchError("a kernel object is not little-endian ELF")
    wide = data[4] == 2
    out = bytearray(data)
    sections_at = struct.unpack_from("<Q" if wide else "<I", data, 0x28 if wide else 0x20)[0]
    entry_size, count = struct.unpack_from("<HH", data, 0x3A if wide else 0x2E)
    section = struct.Struct("<IIQQQQIIQQ" if wide else "<10I")
    headers = [list(section.unpack_from(data, sections_at + i * entry_size)) for i in range(count)]
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
        section.pack_into(out, sections_at + strings_index * entry_size, *strings)
    return bytes(out)
