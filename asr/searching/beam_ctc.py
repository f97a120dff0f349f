"""Beam search of a CTC model: prefix search (Hannun et al. 2014, "First-pass large vocabulary continuous speech
recognition using bi-directional recurrent DNNs", algorithm 1), a frame at a time.

All alignments of a prefix are added up, in two sums: those that end in a blank, after which a token may be said twice,
and those that end in the prefix's last token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asr.engine import Engine, Floats
from asr.searching import beam_paths, fusion
from asr.searching.beam_paths import Path
from asr.searching.hypotheses import SearchOptions, SearchState, Token
from asr.tokenizer import BLANK

GAMMA = 10.0  # log-probability below the best at which a token is not tried and a hypothesis given up

Sums = npt.NDArray[np.float64]


@dataclass(slots=True)
class _Beam:
    """Of one stream, between two frames. While no path is new, only sums and the frame's number change."""

    paths: list[Path]
    blank_p: Sums
    label_p: Sums
    frame: int  # the next one's number in the segment
    last_p: npt.NDArray[np.int64]
    gain_pv: Floats | None
    pairs: list[tuple[int, int]]  # see beam_paths.parents

    @classmethod
    def of(cls, paths: list[Path], blank_p: Sums, label_p: Sums, frame: int) -> "_Beam":
        last_p = np.array([path.last for path in paths])
        gain_pv = beam_paths.gains(paths)
        return cls(paths, blank_p, label_p, frame, last_p, gain_pv, beam_paths.parents(paths))

    @property
    def score_p(self) -> Sums:
        return np.logaddexp(self.blank_p, self.label_p)


def step(engine: Engine, options: SearchOptions, enc_bnj: Floats, states: Sequence[SearchState]) -> list[SearchState]:
    batch, frames, size = enc_bnj.shape
    logp_rv = engine.join(enc_bnj.reshape(batch * frames, size), None).astype(np.float64)
    logp_bnv = logp_rv.reshape(batch, frames, engine.traits.vocab)
    beams = [_beam(state) for state in states]
    for t in range(frames):
        tried = [_frame(beam, logp_nv[t], options.beam) for beam, logp_nv in zip(beams, logp_bnv, strict=True)]
        _speak(options, [path for paths in tried for path in paths])
        beams = [_next(beam, options.beam, bool(paths)) for beam, paths in zip(beams, tried, strict=True)]
    return [_state(beam) for beam in beams]


def _beam(state: SearchState) -> _Beam:
    sums = np.array([(h.extra.blank, h.extra.label) for h in state.hypotheses])
    return _Beam.of([beam_paths.path_of(h) for h in state.hypotheses], sums[:, 0], sums[:, 1], state.frames)


def _state(beam: _Beam) -> SearchState:
    scores = beam.score_p.tolist()
    return SearchState(
        tuple(
            beam_paths.hypothesis_of(beam.paths[i], scores[i], float(beam.blank_p[i]), float(beam.label_p[i]))
            for i in beam_paths.best_first(beam.paths, scores)
        ),
        beam.frame,
    )


def _frame(beam: _Beam, logp_v: Sums, most: int) -> list[Path]:
    """One frame further, with the new paths, which are returned too, behind the old ones."""
    paths, score_p = beam.paths, beam.score_p
    new_pv = score_p[:, None] + logp_v
    every = np.arange(len(paths))
    # a token that is the last one again is new only after a blank; else it goes on
    new_pv[every, beam.last_p] = beam.blank_p + logp_v[beam.last_p]
    if beam.gain_pv is not None:
        new_pv += beam.gain_pv
    new_pv[:, BLANK] = -np.inf
    beam.label_p = beam.label_p + logp_v[beam.last_p]  # before the first token there is none: -inf
    beam.blank_p = score_p + logp_v[BLANK]
    for i, j in beam.pairs:
        _share(beam, i, j, new_pv, logp_v)
    scores = beam.score_p.tolist()
    floor = beam_paths.floor_of(scores, float(new_pv.max()), most, GAMMA)
    found = beam_paths.largest(new_pv, floor, most, paths)
    if not found:
        return []
    new = [paths[p].said(Token(v, beam.frame, float(logp_v[v]))) for p, v in found]
    beam.paths = paths + new
    beam.blank_p = np.concatenate([beam.blank_p, np.full(len(new), -np.inf)])
    beam.label_p = np.concatenate([beam.label_p, [new_pv[p, v] for p, v in found]])
    return new


def _share(beam: _Beam, i: int, j: int, new_pv: Sums, logp_v: Sums) -> None:
    """Path j is path i and one token more, and gets what it would have as a new path."""
    longer, token = beam.paths[j], beam.paths[j].last
    if new_pv[i, token] > np.logaddexp(beam.blank_p[j], beam.label_p[j]):  # the likelier alignment dates the token
        longer.tokens = (*beam.paths[i].tokens, Token(token, beam.frame, float(logp_v[token])))
    beam.label_p[j] = np.logaddexp(beam.label_p[j], new_pv[i, token])
    new_pv[i, token] = -np.inf


def _speak(options: SearchOptions, paths: list[Path]) -> None:
    """Fusion takes the new tokens in, of all streams at once."""
    if paths and any(path.fusion is not None for path in paths):
        fused = fusion.advance(options, [path.fusion for path in paths], [path.last for path in paths])
        for path, after in zip(paths, fused, strict=True):
            path.fusion = after


def _next(beam: _Beam, most: int, changed: bool) -> _Beam:
    """What goes on to the next frame: the best paths."""
    scores = beam.score_p.tolist()
    kept = beam_paths.best_first(beam.paths, scores)[:most] if changed else list(range(len(scores)))
    going_on = beam_paths.living([beam.paths[i] for i in kept], [scores[i] for i in kept], beam.frame, GAMMA)
    if not changed and len(going_on) == len(kept):
        beam.frame += 1
        return beam
    kept = [kept[i] for i in going_on]
    return _Beam.of([beam.paths[i] for i in kept], beam.blank_p[kept], beam.label_p[kept], beam.frame + 1)
