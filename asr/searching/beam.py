"""Beam search, batched over streams and hypotheses, state in and state out: of a transducer in beam_transducer.py, of a
CTC model in beam_ctc.py.

A hypothesis is a sequence of tokens; its score is the log-probability of all its alignments that were not pruned, with
what a language model and hotwords add (fusion.py). A beam of one is not greedy search: where a token is likelier
than blank, but token and blank together less likely than blank, the greedy search says it and this one does not.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from asr.engine import Engine, Floats
from asr.searching import beam_ctc, beam_paths, beam_transducer, fusion
from asr.searching.hotwords import Hotwords
from asr.searching.hypotheses import Hypothesis, SearchOptions, SearchState


def start(engine: Engine, options: SearchOptions, hotwords: Hotwords | None = None) -> SearchState:
    """The state of a stream, or segment, before its first frame. Hotwords may be others for each."""
    extra = beam_paths.Extra(fusion.start(options, hotwords))
    if engine.traits.kind == "ctc":
        return SearchState((Hypothesis((), 0.0, np.empty(0, np.float32), (), extra=extra),), 0)
    pred_bj, pred = engine.predictor_start(1)
    return SearchState((Hypothesis((), 0.0, pred_bj[0], pred, extra=extra),), 0)


def step(engine: Engine, options: SearchOptions, enc_bnj: Floats, states: Sequence[SearchState]) -> list[SearchState]:
    """The states after these encoder frames [b, n, j], a row for each stream."""
    search = beam_ctc.step if engine.traits.kind == "ctc" else beam_transducer.step
    return search(engine, options, enc_bnj, states)


def close(state: SearchState) -> SearchState:
    """The state where nothing more is said: without the gains of hotwords that were begun only, the best one first."""
    hypotheses = [_closed(hypothesis) for hypothesis in state.hypotheses]
    scores = [hypothesis.score for hypothesis in hypotheses]
    order = beam_paths.best_first([beam_paths.path_of(h) for h in hypotheses], scores)
    return replace(state, hypotheses=tuple(hypotheses[i] for i in order))


def _closed(hypothesis: Hypothesis) -> Hypothesis:
    fused: fusion.Fusion | None = hypothesis.extra.fusion
    if fused is None or fused.hotwords is None:
        return hypothesis
    return replace(hypothesis, score=hypothesis.score + fused.hotwords.unfinished(fused.node))
