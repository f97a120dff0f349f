"""Greedy search, batched over streams.

A transducer says tokens in a frame until it says blank. A CTC model says one symbol in each frame; a token counts where
it differs from the symbol of the frame before (best path decoding, Graves et al. 2006, section 3.2).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from asr.engine import Engine, Floats, rows
from asr.searching.hypotheses import Hypothesis, SearchState, Token
from asr.tokenizer import BLANK

MAX_SYMBOLS = 8  # tokens in one encoder frame; only a model that has not learnt to stop meets this limit
AHEAD = 6  # encoder frames joined at once with what was said so far: about as many lie between two tokens


def start(engine: Engine) -> SearchState:
    if engine.traits.kind == "ctc":
        return SearchState((Hypothesis((), 0.0, np.empty(0, np.float32), ()),), 0)
    pred_bj, pred = engine.predictor_start(1)
    return SearchState((Hypothesis((), 0.0, pred_bj[0], pred),), 0)


def step(engine: Engine, enc_bnj: Floats, states: Sequence[SearchState]) -> list[SearchState]:
    search = _ctc if engine.traits.kind == "ctc" else _transducer
    return search(engine, enc_bnj, states)


def _transducer(engine: Engine, enc_bnj: Floats, states: Sequence[SearchState]) -> list[SearchState]:
    """Of each stream some frames at once are joined with what was said so far; the first that says a token counts."""
    batch, frames, _ = enc_bnj.shape
    said = [list(s.hypotheses[0].tokens) for s in states]
    scores = [s.hypotheses[0].score for s in states]
    pred_bj = np.stack([s.hypotheses[0].pred_j for s in states])
    pred = tuple(np.concatenate(parts) for parts in zip(*(s.hypotheses[0].pred for s in states), strict=True))
    at, in_frame = [0] * batch, [0] * batch
    while busy := [b for b in range(batch) if at[b] < frames]:
        spans = [range(at[b], min(at[b] + AHEAD, frames)) for b in busy]
        which = [b for b, span in zip(busy, spans, strict=True) for _ in span]
        logp_nv = engine.join(enc_bnj[which, [t for span in spans for t in span]], pred_bj[which])
        best_n = logp_nv.argmax(1)
        first, speaking = 0, []
        for b, span in zip(busy, spans, strict=True):
            row = next((first + i for i in range(len(span)) if best_n[first + i] != BLANK), None)
            blanks = slice(first, first + len(span) if row is None else row)
            scores[b] += float(logp_nv[blanks, BLANK].sum())
            if row is None:
                at[b], in_frame[b] = span.stop, 0
            else:
                in_frame[b] = in_frame[b] * (row == first) + 1
                at[b] = span.start + row - first
                said[b].append(Token(int(best_n[row]), states[b].frames + at[b], float(logp_nv[row, best_n[row]])))
                scores[b] += said[b][-1].logp
                speaking.append(b)
                if in_frame[b] == MAX_SYMBOLS:
                    at[b], in_frame[b] = at[b] + 1, 0
            first += len(span)
        if speaking:
            tokens_b = np.array([said[b][-1].id for b in speaking], np.int64)
            pred_bj[speaking], after = engine.predict(tokens_b, rows(pred, speaking))
            for part, new in zip(pred, after, strict=True):
                part[speaking] = new
    return [
        SearchState(
            (Hypothesis(tuple(said[b]), scores[b], pred_bj[b].copy(), rows(pred, [b])),), states[b].frames + frames
        )
        for b in range(batch)
    ]


def _ctc(engine: Engine, enc_bnv: Floats, states: Sequence[SearchState]) -> list[SearchState]:
    best_bn = enc_bnv.argmax(2)
    after = []
    for logp_nv, best_n, state in zip(enc_bnv, best_bn, states, strict=True):
        hypothesis = state.hypotheses[0]
        before_n = np.concatenate([[hypothesis.last], best_n[:-1]])
        new = ((best_n != BLANK) & (best_n != before_n)).nonzero()[0].tolist()
        logp_n = logp_nv[np.arange(len(best_n)), best_n]
        tokens = [Token(int(best_n[t]), state.frames + t, float(logp_n[t])) for t in new]
        score = hypothesis.score + float(logp_n.sum())
        said = replace(hypothesis, tokens=(*hypothesis.tokens, *tokens), score=score, last=int(best_n[-1]))
        after.append(SearchState((said,), state.frames + len(best_n)))
    return after
