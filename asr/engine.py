"""What runs a model: one set of calls for PyTorch, ONNX Runtime and OpenVINO, arrays in and arrays out.

Search, streams and the server are written against these calls, so they load no torch.

Shape letters: b streams (or hypotheses), t frames, f mels, n encoder frames, j joint size, v vocab.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
State = tuple[Any, ...]  # arrays of the runtime, the batch axis first in each


@dataclass(frozen=True, slots=True)
class Traits:
    """What the code around a model has to know of it."""

    kind: Literal["transducer", "ctc"]
    vocab: int
    reduction: int  # feature frames in one encoder frame
    chunk: int  # encoder frames that come out together, as the first may have seen the last
    tail_frames: int  # encoder frames of mean input that end an utterance
    step_frames: int = 0  # feature frames of one step, to multiples of which streams keep; 0: of reduction * chunk
    start_token: int = 0  # that a predictor is given before the first; 0: blank

    def __post_init__(self) -> None:
        """Raises ValueError for what no model has: these numbers may come from a file, and memory is taken by them."""
        for name, least, most in (
            ("vocab", 1, 1 << 24), ("reduction", 1, 1000), ("chunk", 1, 1000), ("tail_frames", 0, 1000),
            ("step_frames", 0, 100_000), ("start_token", 0, self.vocab - 1),
        ):  # fmt: skip
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from {least} to {most:,}")
        if self.step_frames % (self.reduction * self.chunk):
            raise ValueError(
                f"step_frames is {self.step_frames}; it must be a multiple of {self.reduction * self.chunk}"
            )


class Engine(Protocol):
    """A model in some runtime. A CTC model has no predictor: its `encode` gives what `join` takes."""

    traits: Traits
    mean_f: Floats  # log-mel of the mean frame, with which an utterance is filled up and closed

    def encoder_start(self, batch: int) -> State: ...

    def encode(self, feats_btf: Floats, state: State) -> tuple[Floats, State]:
        """Log-mel as it comes from the frontend to encoder frames [b, n, j], already projected for the joiner.

        Any multiple of `reduction` frames; but behind one that is not of whole steps the state serves no more.
        """

    def stack(self, states: Sequence[State]) -> State:
        """Encoder states of several streams as one, along the batch axis."""

    def unstack(self, state: State) -> list[State]:
        """An encoder state as one state for each stream."""

    def predictor_start(self, batch: int) -> tuple[Floats, State]:
        """The predictor before the first token: its output [b, j], projected for the joiner, and its state."""

    def predict(self, tokens_b: Ids, state: State) -> tuple[Floats, State]:
        """One token more in each row. The arrays of a predictor's state are numpy's, so rows are taken by index."""

    def join(self, enc_bj: Floats, pred_bj: Floats | None) -> Floats:
        """Log-probabilities [b, v]; `pred_bj` is None for a CTC model."""


def rows(state: State, which: Sequence[int] | Ids) -> State:
    """These rows of a predictor's state, copied."""
    return tuple(array[np.asarray(which, np.int64)] for array in state)


def closing_frames(traits: Traits, frames: int) -> int:
    """Mean frames that end an utterance of which `frames` feature frames have not been encoded yet."""
    return (-(-frames // traits.reduction) + traits.tail_frames) * traits.reduction - frames
