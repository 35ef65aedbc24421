"""PyTorch: the float32 network itself, channels last, which is the faster order on most processors."""

import copy

import numpy as np
import torch
from numpy.typing import NDArray

from qsearch.measure.peers.peer import Peer, Run, Subject
from qsearch.models import to_image, to_input


def _open(subject: Subject, threads: int) -> Run:
    module = copy.deepcopy(subject.model.module).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    white = subject.model.white

    def run(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with torch.inference_mode():
                result = module(to_input(image, white).contiguous(memory_format=torch.channels_last))
                return to_image(result, white)
        finally:
            torch.set_num_threads(before)

    return run


PEERS = (Peer("torch", "PyTorch FP32", "torch", _open),)
