"""What tests of decoding and of streams feed in, and how a stream is recognised chunk by chunk."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from asr import stream
from asr.checkpoint import Bundle
from asr.endpoint import EndpointRules
from asr.engines.torch_engine import listener_of
from asr.words import Word

LENS = [61, 7, 90, 1, 42]


def walks() -> Tensor:
    """[b, t, 8] of LENS frames: neighbours are alike, as in speech. Behind the ends there is something else."""
    walk = torch.randn(len(LENS), max(LENS), 8, generator=torch.Generator().manual_seed(4)).cumsum(1) / 3
    for b, frames in enumerate(LENS):
        walk[b, frames:] = 50.0
    return walk


def recognise(bundle: Bundle, chunks: list[np.ndarray], endpoints: EndpointRules | None = None) -> list[Word]:
    """The words of a stream that comes in these chunks; of one segment, without `endpoints`."""
    listener = listener_of(bundle, endpoints=endpoints)
    state = stream.start(listener)
    words: list[Word] = []
    for chunk in chunks:
        update, state = stream.step(listener, chunk, state)
        words += update.final
    return [*words, *stream.finish(listener, state).final]


def rounded(words: list[Word]) -> list[Word]:
    """Sums of floats depend a little on how many are added at once, so confidences are good to some digits."""
    return [replace(word, confidence=round(word.confidence, 3)) for word in words]
