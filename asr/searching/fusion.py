"""What a language model and hotwords add to the log-probability of a hypothesis's next token (shallow fusion).

Both depend on the tokens so far alone, so readings of the same tokens share it and may be added up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr.engine import Floats, State
from asr.searching.hotwords import ROOT, Hotwords
from asr.searching.hypotheses import SearchOptions
from asr.tokenizer import BLANK


@dataclass(frozen=True, slots=True)
class Fusion:
    """Of one hypothesis."""

    gain_v: Floats  # of each next token; 0 for blank
    lm: State  # one row; empty without a language model
    hotwords: Hotwords | None
    node: int  # of the hotwords


def start(options: SearchOptions, hotwords: Hotwords | None) -> Fusion | None:
    """Before the first token; None when there is nothing to add."""
    if options.lm is None and hotwords is None:
        return None
    if options.lm is None:
        return _combined(options, None, (), hotwords, ROOT)
    logp_bv, state = options.lm.start(1)
    return _combined(options, logp_bv[0], state, hotwords, ROOT)


def advance(options: SearchOptions, befores: Sequence[Fusion | None], tokens: Sequence[int]) -> list[Fusion | None]:
    """After one token more in each; the language model runs once, over all of them."""
    if options.lm is not None:
        parts = zip(*(before.lm for before in befores if before is not None), strict=True)
        logp_bv, states = options.lm.advance(np.array(tokens, np.int64), tuple(np.concatenate(part) for part in parts))
    after: list[Fusion | None] = []
    for i, (before, token) in enumerate(zip(befores, tokens, strict=True)):
        if before is None:
            after.append(None)
            continue
        node = before.hotwords.follow(before.node, token) if before.hotwords is not None else ROOT
        if options.lm is None:
            after.append(_combined(options, None, (), before.hotwords, node))
        else:
            # copies: a view would keep the rows of all the others alive
            state = tuple(part[i : i + 1].copy() for part in states)
            after.append(_combined(options, logp_bv[i], state, before.hotwords, node))
    return after


def _combined(options: SearchOptions, logp_v: Floats | None, lm: State, hotwords: Hotwords | None, node: int) -> Fusion:
    if logp_v is None:
        assert hotwords is not None
        return Fusion(hotwords.gains(node), lm, hotwords, node)
    # Without the mean taken off each token costs, and a weak recogniser says less and less: half of speechocean762's
    # words were gone at a weight of 0.5, and 0.3 was worse than no language model (tests/bench/beam.md).
    gain_v = logp_v - options.lm.mean_logp
    gain_v[BLANK] = 0.0
    gain_v *= options.lm_weight
    if hotwords is not None:
        gain_v += hotwords.gains(node)
    return Fusion(gain_v, lm, hotwords, node)
