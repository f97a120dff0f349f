"""Word errors and time of greedy search and of beams, over the same encoder frames of a manifest's test utterances.

    OMP_NUM_THREADS=1 PYTHONPATH=. taskset -c 0 python tests/bench/beam.py BUNDLE MANIFEST [UTTERANCES] [LM] [LM_WEIGHT]

The frames come to the search in pieces of 320 ms, as in a live stream; first one stream at a time, then eight streams
in each call. The searches take turns at each utterance, or eight of them. CPU milliseconds of the search for a second
of audio. "Unsettled" are the tokens on which hypotheses differ after a piece, on average. The last column counts words
said in other tokens than the tokenizer gives the word.
"""

import sys
import time
from collections import Counter

import numpy as np
import pyarrow.parquet as pq

from asr import audio, lm, runtimes, search
from asr.engine import Floats, closing_frames
from asr.evaluation.scoring import count_edits
from asr.frontend import logmel
from asr.searching.hypotheses import SearchOptions, Token
from asr.stream import Listener
from asr.words import split

PIECE_S = 0.32
TOGETHER = 8


def encoded(listener: Listener, uri: str) -> tuple[Floats, float]:
    """The encoder frames of an utterance, and its length in seconds."""
    samples = audio.read(uri, listener.spec.sample_rate)
    feats_tf = logmel(samples, listener.spec)
    closing = closing_frames(listener.engine.traits, len(feats_tf))
    feats_tf = np.concatenate([feats_tf, np.tile(listener.engine.mean_f, (closing, 1))])
    enc_bnj, _ = listener.engine.encode(feats_tf[None], listener.engine.encoder_start(1))
    return enc_bnj[0], len(samples) / listener.spec.sample_rate


def found(listener: Listener, options: SearchOptions, streams: list[Floats], unsettled: list[int]) -> list[list[Token]]:
    """Tokens of streams that are searched together; `unsettled` gets how many are open after each piece."""
    piece = max(1, round(PIECE_S / listener.encoder_frame_s))
    states = [search.start(listener.engine, options) for _ in streams]
    said: list[list[Token]] = [[] for _ in streams]
    for at in range(0, max(len(enc_nj) for enc_nj in streams), piece):
        sizes = [len(enc_nj[at : at + piece]) for enc_nj in streams]
        for size in {*sizes} - {0}:  # a call takes pieces of the same length
            which = [b for b in range(len(streams)) if sizes[b] == size]
            enc_bnj = np.stack([streams[b][at : at + piece] for b in which])
            after = search.step(listener.engine, options, enc_bnj, [states[b] for b in which])
            for b, state in zip(which, after, strict=True):
                count = search.common(state)
                best = state.hypotheses[0].tokens
                said[b] += best[:count]
                unsettled.append(len(best) - count)
                states[b] = search.settle(state, count)
    return [[*tokens, *state.hypotheses[0].tokens] for tokens, state in zip(said, states, strict=True)]


def main(bundle: str, manifest: str, limit: int = 10**9, model: str = "", weight: float = 0.3) -> None:
    listener = runtimes.open_listener(bundle)
    table = pq.read_table(f"{manifest}/manifest.parquet", columns=["audio", "text", "split"]).to_pylist()
    rows = [row for row in table if row["split"] == "test"][:limit]
    began = time.process_time()
    encodings = [encoded(listener, row["audio"]) for row in rows]
    audio_s = sum(seconds for _, seconds in encodings)
    print(f"{len(rows)} utterances, {audio_s:.0f} s; features and encoder "
          f"{1000 * (time.process_time() - began) / audio_s:.2f} ms for a second of audio")  # fmt: skip
    kinds = {f"beam {n}" if n > 1 else "greedy": SearchOptions(n) for n in (1, 2, 4, 8)}
    if model:
        kinds |= {f"{k} + LM": SearchOptions(o.beam, lm.load(model), weight) for k, o in kinds.items()}
    spent: Counter[tuple[str, int]] = Counter()
    errors: Counter[str] = Counter()
    odd: Counter[str] = Counter()
    unsettled: dict[str, list[int]] = {kind: [] for kind in kinds}
    for together in (1, TOGETHER):
        for at in range(0, len(rows), together):
            streams = [enc_nj for enc_nj, _ in encodings[at : at + together]]
            for kind, options in kinds.items():
                began = time.thread_time_ns()
                said = found(listener, options, streams, unsettled[kind])
                spent[kind, together] += time.thread_time_ns() - began
                if together == 1:
                    text = listener.tokenizer.decode([token.id for token in said[0]])
                    errors[kind] += count_edits(rows[at]["text"], text).errors
                    for group in split(said[0], listener.tokenizer):
                        ids = [token.id for token in group]
                        odd[kind] += listener.tokenizer.encode(listener.tokenizer.decode(ids)) != ids
    words = sum(len(row["text"].split()) for row in rows)
    print(f"| search | WER % | ms, 1 stream | ms, {TOGETHER} streams | unsettled | words in other tokens |")
    print("|---|---|---|---|---|---|")
    for kind in kinds:
        one, more = (spent[kind, together] / 1e6 / audio_s for together in (1, TOGETHER))
        print(f"| {kind} | {100 * errors[kind] / words:.2f} | {one:.2f} | {more:.2f} | "
              f"{np.mean(unsettled[kind]):.2f} | {odd[kind]} of {words} |")  # fmt: skip


if __name__ == "__main__":
    limit, model, weight = (*sys.argv[3:], *("1000000000", "", "0.3")[len(sys.argv) - 3 :])
    main(sys.argv[1], sys.argv[2], int(limit), model, float(weight))
