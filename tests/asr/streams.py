"""What tests of decoding and of streams feed in, and how a stream is recognised chunk by chunk."""

import numpy as np
import torch
from torch import Tensor

from asr import stream
from asr.checkpoint import Bundle
from asr.stream import Word

LENS = [61, 7, 90, 1, 42]


def walks() -> Tensor:
    """[b, t, 8] of LENS frames: neighbours are alike, as in speech. Behind the ends there is something else."""
    walk = torch.randn(len(LENS), max(LENS), 8, generator=torch.Generator().manual_seed(4)).cumsum(1) / 3
    for b, frames in enumerate(LENS):
        walk[b, frames:] = 50.0
    return walk


def recognise(bundle: Bundle, chunks: list[np.ndarray]) -> list[Word]:
    state = stream.init_state(bundle)
    words: list[Word] = []
    for chunk in chunks:
        new, state = stream.step(bundle, chunk, state)
        words += new
    return words + stream.finish(bundle, state)
