"""From encoder frames to tokens, batched over streams, state in and state out: greedily, or with a beam."""

from collections.abc import Sequence
from dataclasses import replace

from asr.engine import Engine, Floats
from asr.searching import beam, greedy
from asr.searching.hotwords import Hotwords
from asr.searching.hypotheses import SearchOptions, SearchState


def start(engine: Engine, options: SearchOptions, hotwords: Hotwords | None = None) -> SearchState:
    """The state of a stream, or segment, before its first frame."""
    if options.beam > 1 or options.lm is not None or hotwords is not None:
        return beam.start(engine, options, hotwords)
    return greedy.start(engine)


def step(engine: Engine, options: SearchOptions, enc_bnj: Floats, states: Sequence[SearchState]) -> list[SearchState]:
    """The states after these encoder frames [b, n, j], a row for each stream."""
    assert len(enc_bnj) == len(states), (enc_bnj.shape, len(states))
    after = list(states)
    for with_beam in (False, True):  # streams with hotwords have a beam beside others without
        which = [i for i, state in enumerate(states) if (state.hypotheses[0].extra is not None) == with_beam]
        if which:
            some = [states[i] for i in which]
            enc = enc_bnj if len(which) == len(states) else enc_bnj[which]
            new = beam.step(engine, options, enc, some) if with_beam else greedy.step(engine, enc, some)
            for i, state in zip(which, new, strict=True):
                after[i] = state
    return after


def settle(state: SearchState, count: int) -> SearchState:
    """Without the first `count` tokens, which are the same in all hypotheses and are somebody's words now."""
    if not count:
        return state
    return replace(state, hypotheses=tuple(replace(h, tokens=h.tokens[count:]) for h in state.hypotheses))


def close(state: SearchState) -> SearchState:
    """The state where nothing more is said: a hotword that has only begun loses what it gained."""
    return state if state.hypotheses[0].extra is None else beam.close(state)


def common(state: SearchState) -> int:
    """Tokens at the start that all hypotheses share, said in the same frames: no later frame can change them."""
    best, *others = (h.tokens for h in state.hypotheses)
    shared = len(best)
    for tokens in others:
        shared = min(shared, len(tokens))
        while any((best[i].id, best[i].frame) != (tokens[i].id, tokens[i].frame) for i in range(shared)):
            shared -= 1
    return shared
