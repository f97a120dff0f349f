"""A model as four graphs with states as inputs and outputs, behind the calls of asr.engine; no torch.

Shape letters as in asr.engine.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from asr.engine import Floats, Ids, State
from asr.engines.exported import read_traits

Feed = Mapping[str, np.ndarray]
Graph = Callable[[Feed], list[np.ndarray]]  # named inputs to outputs in the order of the graph


class GraphEngine:
    """See asr.engine.Engine.

    The encoder's graph takes exactly `traits.step_frames` frames. `encode` takes any multiple of `reduction` and fills
    the last step up with mean frames, as the end of an utterance is filled up. The state behind such a step has heard
    them: only an utterance's end may be that short.
    """

    def __init__(self, folder: str, facts: dict[str, Any], graphs: Mapping[str, Graph]) -> None:
        self.traits = read_traits(folder, facts)
        self.mean_f: Floats = np.array(facts["mean_f"], np.float32)
        self._graphs = graphs
        self._encoder_state: list[tuple[str, list[int], str]] = facts["encoder_state"]
        self._predictor_state: list[tuple[str, list[int], str]] = facts["predictor_state"]

    def encoder_start(self, batch: int) -> State:
        return tuple(np.zeros((batch, *shape), dtype) for _, shape, dtype in self._encoder_state)

    def encode(self, feats_btf: Floats, state: State) -> tuple[Floats, State]:
        batch, frames, mels = feats_btf.shape
        step = self.traits.step_frames
        assert frames % self.traits.reduction == 0, f"{frames} frames are not a multiple of {self.traits.reduction}"
        if missing := -frames % step:
            filling_btf = np.broadcast_to(self.mean_f, (batch, missing, mels))
            feats_btf = np.concatenate([feats_btf, filling_btf], 1)
        out = []
        for at in range(0, frames, step):
            part_btf = np.ascontiguousarray(feats_btf[:, at : at + step])
            enc_bnj, *after = self._graphs["encoder"]({"feats": part_btf, **_named(self._encoder_state, state)})
            out.append(enc_bnj)
            state = tuple(after)
        enc_bnj = out[0] if len(out) == 1 else np.concatenate(out, 1)
        return enc_bnj[:, : frames // self.traits.reduction], state

    def stack(self, states: Sequence[State]) -> State:
        return tuple(np.concatenate(arrays) for arrays in zip(*states, strict=True))

    def unstack(self, state: State) -> list[State]:
        # copies: a view of one stream would keep the arrays of all others alive
        batch = len(state[0])
        return [state] if batch == 1 else [tuple(array[i : i + 1].copy() for array in state) for i in range(batch)]

    def predictor_start(self, batch: int) -> tuple[Floats, State]:
        state = tuple(np.zeros((batch, *shape), dtype) for _, shape, dtype in self._predictor_state)
        return self.predict(np.full(batch, self.traits.start_token, np.int64), state)

    def predict(self, tokens_b: Ids, state: State) -> tuple[Floats, State]:
        pred_bj, *after = self._graphs["predictor"]({"tokens": tokens_b, **_named(self._predictor_state, state)})
        return pred_bj, tuple(after)

    def join(self, enc_bj: Floats, pred_bj: Floats | None) -> Floats:
        if pred_bj is None:
            return enc_bj
        return self._graphs["joiner"]({"enc": enc_bj, "pred": pred_bj})[0]


def graphs_of(kind: str) -> list[str]:
    """The graphs that recognition uses; the frontend's is for programs that have none."""
    return ["encoder"] if kind == "ctc" else ["encoder", "predictor", "joiner"]


def _named(layout: Sequence[Sequence[Any]], state: State) -> dict[str, np.ndarray]:
    return {entry[0]: array for entry, array in zip(layout, state, strict=True)}
