"""The same network in other runtimes: one file per peer, found by its `PEERS`; toolkits are imported when opened."""

from qsearch.errors import QsearchError
from qsearch.measure.peers import litert, ncnn, onnx_runtime, openvino, pytorch
from qsearch.measure.peers.peer import Peer, Run, Subject, missing

PEERS: dict[str, Peer] = {
    peer.name: peer for module in (litert, ncnn, onnx_runtime, openvino, pytorch) for peer in module.PEERS
}


def open_peer(name: str, subject: Subject, threads: int) -> Run:
    """The peer `name` with `subject` on `threads`; `QsearchError` where it is unknown, missing or cannot run it."""
    peer = known_peer(name)
    try:
        return peer.open(subject, threads)
    except ImportError as error:
        raise missing(peer, error) from error


def known_peer(name: str) -> Peer:
    """The peer of this name."""
    if name not in PEERS:
        raise QsearchError(f"there is no peer {name!r}: known are {', '.join(PEERS)}")
    return PEERS[name]


__all__ = ["PEERS", "Peer", "Run", "Subject", "known_peer", "open_peer"]
