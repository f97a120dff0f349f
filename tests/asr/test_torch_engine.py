"""A model in PyTorch, called from several threads."""

import threading

import numpy as np
import torch

from asr.checkpoint import Bundle
from asr.engines.torch_engine import TorchEngine


def test_threads_that_overlap_leave_the_processors_switches_as_they_were(bundle: Bundle) -> None:
    """oneDNN is off in a step, for all threads at once: a training in the same process would give other losses."""
    assert torch._C._get_mkldnn_enabled()
    engine = TorchEngine(bundle.model)
    start, seen = threading.Barrier(4), []

    def listen() -> None:
        state = engine.encoder_start(1)
        feats_btf = np.zeros((1, 6, 16), np.float32)
        start.wait()
        for _ in range(300):
            _, state = engine.encode(feats_btf, state)
            seen.append(True)

    threads = [threading.Thread(target=listen) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 1200
    assert torch._C._get_mkldnn_enabled()
