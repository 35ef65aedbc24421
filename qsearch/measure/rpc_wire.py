"""A client of TVM's RPC protocol 0.8.0 over plain sockets, so that every wait has an end and no TVM is needed.

A packet is its length u64, a code i32 and values; a value is its type i32 and its content, all little-endian.
"""

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from qsearch.errors import QsearchError
from qsearch.measure.shells import DeviceLostError

_MAGIC, _MISMATCH, _TRACKER_MAGIC = 0xFF271, 0xFF273, 0x2F271
_REQUEST, _SUMMARY = 4, 6
_SHUTDOWN, _INIT_SERVER, _CALL_FUNC, _RETURN, _EXCEPTION, _GET_GLOBAL_FUNC = 1, 2, 3, 4, 5, 9
_NONE, _NUMBERS, _POINTER, _RAW_STRING, _BYTE_ARRAY, _REMOTE_OBJECT = 0, (1, 2, 3), 4, 8, 9, 115
_PROTOCOL = b"0.8.0"
_MOST_BYTES = 1 << 30

Value = int | bytes | str | None


@dataclass(frozen=True)
class RemoteObject:
    """An object that lives on the server, such as a loaded module."""

    handle: int


@dataclass(frozen=True)
class Board:
    """Where a tracker says a free board is, and the word that opens it once."""

    host: str
    port: int
    match_key: str


def registered_keys(tracker: str, timeout_s: float) -> list[str]:
    """The keys of the boards that a tracker knows, free or not; `DeviceLostError` where it does not answer."""
    with _tracker(tracker, timeout_s) as link:
        return _keys(link)


def request_board(tracker: str, key: str, timeout_s: float) -> Board:
    """A board of `key` for this client alone; waits for a free one up to `timeout_s`.

    Raises `DeviceLostError` where the tracker does not answer, knows no such board, or none becomes free in time.
    """
    with _tracker(tracker, timeout_s) as link:
        keys = _keys(link)
        if key not in keys:
            raise DeviceLostError(f"RPC tracker {tracker} knows no board {key}; it knows {', '.join(keys) or 'none'}")
        try:
            host, port, match_key = _ask(link, [_REQUEST, key, "", 1])[1]
        except TimeoutError as error:
            raise DeviceLostError(f"no board {key} became free at {tracker} within {timeout_s:g} s") from error
    return Board(host, port, match_key)


@contextmanager
def _tracker(address: str, timeout_s: float) -> Iterator[socket.socket]:
    host, _, port = address.rpartition(":")
    with _lost(f"RPC tracker {address}", timeout_s), socket.create_connection((host, int(port)), timeout_s) as link:
        link.sendall(struct.pack("<i", _TRACKER_MAGIC))
        if struct.unpack("<i", _receive(link, 4))[0] != _TRACKER_MAGIC:
            raise QsearchError(f"what listens at {address} is not a TVM RPC tracker")
        yield link


def _keys(link: socket.socket) -> list[str]:
    servers = _ask(link, [_SUMMARY])[1]["server_info"]
    return sorted({info["key"].removeprefix("server:") for info in servers})


class Session:
    """A connection to the RPC server of one board. Not for concurrent calls."""

    def __init__(self, board: Board, name: str, timeout_s: float) -> None:
        self._name, self._timeout_s = name, timeout_s
        self._functions: dict[str, int] = {}
        with self._answering():
            self._link = socket.create_connection((board.host, board.port), timeout_s)
            self._link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            greeting = f"client:{board.match_key}".encode()
            self._link.sendall(struct.pack("<ii", _MAGIC, len(greeting)) + greeting)
            (code,) = struct.unpack("<i", _receive(self._link, 4))
            if code == _MISMATCH:
                raise DeviceLostError(f"device {name}: the board at {board.host}:{board.port} serves another client")
            if code != _MAGIC:
                raise QsearchError(f"what listens at {board.host}:{board.port} is not a TVM RPC server")
            _receive(self._link, struct.unpack("<i", _receive(self._link, 4))[0])
        self._exchange(_INIT_SERVER, struct.pack("<Q", len(_PROTOCOL)) + _PROTOCOL + _encode())

    def function(self, name: str) -> int:
        """Handle of a global function of the server, 0 where it has none of that name."""
        if name not in self._functions:
            (found,) = self._exchange(_GET_GLOBAL_FUNC, _encode(name))
            self._functions[name] = int(found or 0)
        return self._functions[name]

    def call(self, function: int | str, *arguments: Value | RemoteObject) -> Value:
        """Call a function by name or handle; a function or object in return is its handle.

        Raises `QsearchError` with the server's message where the call fails there.
        """
        handle = self.function(function) if isinstance(function, str) else function
        if handle == 0:
            raise QsearchError(f"device {self._name}: its RPC server has no function {function}")
        result = self._exchange(_CALL_FUNC, struct.pack("<Q", handle) + _encode(*arguments))
        return result[1] if len(result) > 1 else None

    def close(self) -> None:
        """End the session."""
        with suppress(OSError):  # a server that is gone has ended it as well
            self._link.sendall(struct.pack("<Qi", 4, _SHUTDOWN))
        self._link.close()

    def _exchange(self, code: int, body: bytes) -> list[Value]:
        with self._answering():
            self._link.sendall(struct.pack("<Qi", 4 + len(body), code) + body)
            (size,) = struct.unpack("<Q", _receive(self._link, 8))
            if not 4 <= size <= _MOST_BYTES:
                raise QsearchError(f"device {self._name} sent a packet of {size} bytes")
            packet = _receive(self._link, size)
        (answer,) = struct.unpack_from("<i", packet)
        values = _decode(packet[4:])
        if answer == _EXCEPTION:
            raise QsearchError(f"device {self._name}: {str(values[0]).strip().splitlines()[-1]}")
        if answer != _RETURN:
            raise QsearchError(f"device {self._name} answered with RPC code {answer}")
        return values

    @contextmanager
    def _answering(self) -> Iterator[None]:
        with _lost(f"device {self._name}", self._timeout_s):
            yield


@contextmanager
def _lost(what: str, timeout_s: float) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise DeviceLostError(f"{what} did not answer within {timeout_s:g} s (reach.timeout_s)") from error
    except OSError as error:
        raise DeviceLostError(f"{what} is lost: {error.strerror or error}") from error


def _receive(link: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = link.recv(min(size - len(parts), 1 << 20))
        if not part:
            raise ConnectionResetError("it closed the connection")
        parts += part
    return bytes(parts)


def _ask(link: socket.socket, question: list[Any]) -> Any:
    text = json.dumps(question).encode()
    link.sendall(struct.pack("<i", len(text)) + text)
    (size,) = struct.unpack("<i", _receive(link, 4))
    return json.loads(_receive(link, size))


def _encode(*values: Value | RemoteObject) -> bytes:
    out = bytearray(struct.pack("<i", len(values)))
    for value in values:
        if value is None:
            out += struct.pack("<i", _NONE)
        elif isinstance(value, int):
            out += struct.pack("<iq", _NUMBERS[0], value)
        elif isinstance(value, RemoteObject):
            out += struct.pack("<iIQ", _REMOTE_OBJECT, _REMOTE_OBJECT, value.handle)
        else:
            content = value.encode() if isinstance(value, str) else value
            out += struct.pack("<iQ", _RAW_STRING if isinstance(value, str) else _BYTE_ARRAY, len(content)) + content
    return bytes(out)


def _decode(data: bytes) -> list[Value]:
    (count,) = struct.unpack_from("<i", data)
    at, values = 4, list[Value]()
    for _ in range(count):
        (kind,) = struct.unpack_from("<i", data, at)
        at += 4
        if kind == _NONE:
            values.append(None)
        elif kind in _NUMBERS or kind == _POINTER:
            values.append(struct.unpack_from("<q" if kind in _NUMBERS else "<Q", data, at)[0])
            at += 8
        elif kind in (_RAW_STRING, _BYTE_ARRAY):
            (size,) = struct.unpack_from("<Q", data, at)
            content = data[at + 8 : at + 8 + size]
            values.append(content.decode(errors="replace") if kind == _RAW_STRING else content)
            at += 8 + size
        else:
            raise QsearchError(f"the RPC server sent a value of type {kind}, which is not understood")
    return values
