"""A device behind a TVM RPC tracker: TVM's own server, or ours on a board without Python."""

from pathlib import Path

from qsearch.errors import QsearchError
from qsearch.measure.board import PLUGIN, build_plugin
from qsearch.measure.rpc_wire import RemoteObject, Session, request_board
from qsearch.measure.shells import Answer, DeviceLostError
from qsearch.reach import RpcReach
from qsearch.target import Target

RUN = "qsearch.run"
"""Runs the file `command` of the session's folder: ours has it, TVM's gets a module that brings it."""
_GRACE_S = 5.0


class RpcShell:
    """A `Shell` over RPC; each reset takes whatever board of the key the tracker gives."""

    def __init__(self, target: Target, reach: RpcReach) -> None:
        self._target, self._reach = target, reach
        self._session: Session | None = None
        self._function = 0

    def put(self, source: Path, name: str) -> None:
        """See `Shell.put`."""
        self._upload(name, source.read_bytes())
        made = self.run(f"chmod 755 {name}")
        if made.status != 0:
            raise QsearchError(f"device {self._target.name} did not keep {name}: {' '.join(made.lines()[-1:])}")

    def run(self, command: str, stdin: bytes = b"") -> Answer:
        """See `Shell.run`."""
        self._upload("command", command.encode())
        self._upload("stdin", stdin)
        session = self._connected()
        status = session.call(self._function, int(self._reach.timeout_s * 1000))
        if not isinstance(status, int) or status < 0:
            raise DeviceLostError(
                f"device {self._target.name} did not finish within {self._reach.timeout_s:g} s (reach.timeout_s)"
            )
        return Answer(status, self._download("stdout"), self._download("stderr"))

    def reset(self) -> None:
        """See `Shell.reset`."""
        self.close()

    def close(self) -> None:
        """See `Shell.close`; the server removes the folder."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _upload(self, name: str, content: bytes) -> None:
        self._connected().call("tvm.rpc.server.upload", name, content)

    def _download(self, name: str) -> bytes:
        content = self._connected().call("tvm.rpc.server.download", name)
        if not isinstance(content, bytes):
            raise QsearchError(f"device {self._target.name} sent no {name}")
        return content

    def _connected(self) -> Session:
        if self._session is None:
            board = request_board(self._reach.tracker, self._reach.key, self._reach.timeout_s)
            # The board ends a command after timeout_s, so an answer may take a little longer than that.
            session = Session(board, self._target.name, self._reach.timeout_s + _GRACE_S)
            self._function = session.function(RUN) or self._bring_run(session)
            self._session = session
        return self._session

    def _bring_run(self, session: Session) -> int:
        session.call("tvm.rpc.server.upload", PLUGIN, build_plugin(self._target))
        module = session.call("tvm.rpc.server.load_module", PLUGIN)
        if not isinstance(module, int):
            raise QsearchError(f"device {self._target.name}: its RPC server loads no modules")
        function = session.call("tvm.rpc.server.ModuleGetFunction", RemoteObject(module), "qsearch_run", 0)
        if not isinstance(function, int) or function == 0:
            raise QsearchError(f"device {self._target.name}: its RPC server cannot run commands")
        return function
