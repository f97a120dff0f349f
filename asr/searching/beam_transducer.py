"""Beam search of a transducer, a frame at a time, all hypotheses of all streams in each call of the model.

After the modified adaptive expansion search (Kim et al. 2020, "Accelerating RNN transducer inference via adaptive
expansion search", section 3): tokens that would fall too far below the best hypothesis are not tried, and a hypothesis
that is another one and a token more gets the other's share of it. Unlike there, a frame does not end after a fixed
number of tokens but when no token could lead among the best any more, and the share costs no call of the model: the
joint that it takes is computed for the other one anyway.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from asr.engine import Engine, Floats, Ids
from asr.searching import beam_paths, fusion
from asr.searching.beam_paths import Path
from asr.searching.greedy import MAX_SYMBOLS
from asr.searching.hypotheses import SearchOptions, SearchState, Token
from asr.tokenizer import BLANK

GAMMA = 4.0  # log-probability below the best at which a token is not tried,
GAP = 8.0  # and a hypothesis given up; see tests/bench/beam.md


@dataclass(slots=True)
class _Reading:
    path: Path
    score: float


@dataclass(slots=True)
class _Front:
    """Readings that may say a token now, those of all streams one below the other."""

    readings: list[list[_Reading]]  # of each stream
    streams: Ids  # the stream of each row
    pred_rj: Floats
    gain_rv: Floats | None

    @classmethod
    def of(cls, readings: list[list[_Reading]]) -> "_Front":
        paths = [reading.path for some in readings for reading in some]
        streams = np.repeat(np.arange(len(readings)), [len(some) for some in readings])
        return cls(readings, streams, np.stack([path.pred_j for path in paths]), beam_paths.gains(paths))


@dataclass(slots=True)
class _Beams:
    """Of all streams, between two frames. While no path is new, only scores and frame numbers change."""

    front: _Front
    pairs: list[list[tuple[int, int]]]  # of each stream, see beam_paths.parents
    frames: list[int]  # the number of each stream's next frame in its segment

    @classmethod
    def of(cls, readings: list[list[_Reading]], frames: list[int]) -> "_Beams":
        pairs = [beam_paths.parents([reading.path for reading in some]) for some in readings]
        return cls(_Front.of(readings), pairs, frames)


def step(engine: Engine, options: SearchOptions, enc_bnj: Floats, states: Sequence[SearchState]) -> list[SearchState]:
    readings = [[_Reading(beam_paths.path_of(h), h.score) for h in state.hypotheses] for state in states]
    beams = _Beams.of(readings, [state.frames for state in states])
    for t in range(enc_bnj.shape[1]):
        beams = _frame(engine, options, enc_bnj[:, t], beams)
    return [_state(*of_one) for of_one in zip(beams.front.readings, beams.frames, strict=True)]


def _state(readings: list[_Reading], frames: int) -> SearchState:
    ordered = [readings[i] for i in _best_first(readings)]
    return SearchState(tuple(beam_paths.hypothesis_of(reading.path, reading.score) for reading in ordered), frames)


def _frame(engine: Engine, options: SearchOptions, enc_bj: Floats, beams: _Beams) -> _Beams:
    """All streams one frame further."""
    ended: list[dict[tuple[int, ...], _Reading]] = [{} for _ in beams.frames]
    front = beams.front
    for symbols in range(MAX_SYMBOLS + 1):
        logp_rv = engine.join(enc_bj[front.streams], front.pred_rj)
        said_rv = logp_rv.copy() if front.gain_rv is None else logp_rv + front.gain_rv
        said_rv[:, BLANK] = -np.inf
        if symbols == 0:
            _share(beams, logp_rv, said_rv)
        blanks, first = logp_rv[:, BLANK].tolist(), 0
        new: list[list[_Reading]] = []
        for b, readings in enumerate(front.readings):
            rows = slice(first, first + len(readings))
            first = rows.stop
            for reading, blank in zip(readings, blanks[rows], strict=True):
                _end(ended[b], reading.path, reading.score + blank)
            more = readings and symbols < MAX_SYMBOLS
            new.append(
                _tried(readings, ended[b], logp_rv[rows], said_rv[rows], options.beam, beams.frames[b]) if more else []
            )
        if not any(new):
            break
        front = _speak(engine, options, new)
    return _next(beams, ended, options.beam)


def _share(beams: _Beams, logp_rv: Floats, said_rv: Floats) -> None:
    """Paths that are another path and one token more get that one's share; it is not to say this token anew."""
    first = 0
    for readings, pairs, frame in zip(beams.front.readings, beams.pairs, beams.frames, strict=True):
        for i, j in pairs:
            longer, token = readings[j], readings[j].path.last
            share = readings[i].score + float(said_rv[first + i, token])
            if share > longer.score:  # the likelier alignment dates the token
                said = Token(token, frame, float(logp_rv[first + i, token]))
                longer.path.tokens = (*readings[i].path.tokens, said)
            longer.score = beam_paths.add_logs(longer.score, share)
            said_rv[first + i, token] = -np.inf
        first += len(readings)


def _end(ended: dict[tuple[int, ...], _Reading], path: Path, score: float) -> None:
    """A path has said blank. It may have come here in two ways, as all tokens of both are the same."""
    known = ended.get(path.ids)
    if known is None:
        ended[path.ids] = _Reading(path, score)
        return
    if score > known.score:
        known.path = path
    known.score = beam_paths.add_logs(known.score, score)


def _tried(
    readings: list[_Reading],
    ended: dict[tuple[int, ...], _Reading],
    logp_rv: Floats,
    said_rv: Floats,
    beam: int,
    frame: int,
) -> list[_Reading]:
    """The tokens worth trying in this frame; predictor and fusion of the new paths are still those before the token."""
    score_rv = np.array([reading.score for reading in readings])[:, None] + said_rv
    floor = beam_paths.floor_of([reading.score for reading in ended.values()], float(score_rv.max()), beam, GAMMA)
    paths = [reading.path for reading in readings]
    return [
        _Reading(paths[r].said(Token(v, frame, float(logp_rv[r, v]))), float(score_rv[r, v]))
        for r, v in beam_paths.largest(score_rv, floor, beam, paths)
    ]


def _speak(engine: Engine, options: SearchOptions, new: list[list[_Reading]]) -> _Front:
    """Predictor and fusion take the new tokens in, of all streams at once."""
    paths = [reading.path for readings in new for reading in readings]
    ids = [path.last for path in paths]
    before = tuple(np.concatenate(parts) for parts in zip(*(path.pred for path in paths), strict=True))
    pred_rj, after = engine.predict(np.array(ids, np.int64), before)
    fused = fusion.advance(options, [path.fusion for path in paths], ids)
    for r, path in enumerate(paths):
        path.pred_j, path.pred, path.fusion = pred_rj[r], tuple(part[r : r + 1] for part in after), fused[r]
    return _Front.of(new)


def _next(beams: _Beams, ended: list[dict[tuple[int, ...], _Reading]], beam: int) -> _Beams:
    """What goes on to the next frame: of each stream the best paths."""
    kept, changed = [], False
    for before, readings_of, frame in zip(beams.front.readings, ended, beams.frames, strict=True):
        readings = list(readings_of.values())
        if len(readings) > len(before):
            readings = [readings[i] for i in _best_first(readings)[:beam]]
            changed = True
        going_on = beam_paths.living([r.path for r in readings], [r.score for r in readings], frame, GAP)
        changed |= len(going_on) < len(readings)
        kept.append([readings[i] for i in going_on])
    frames = [frame + 1 for frame in beams.frames]
    return _Beams.of(kept, frames) if changed else _Beams(replace(beams.front, readings=kept), beams.pairs, frames)


def _best_first(readings: Sequence[_Reading]) -> list[int]:
    return beam_paths.best_first([reading.path for reading in readings], [reading.score for reading in readings])
