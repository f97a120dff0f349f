"""Beam search finds what an exhaustive search finds; it depends neither on the chunks nor on the other streams; its
state stays small; language models and hotwords change what they are to change.

The models here are small random ones in numpy whose rows do not depend on each other in the last bit.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import search
from asr.engine import Floats, Ids, State, Traits
from asr.searching import beam, beam_ctc, beam_paths, beam_transducer, greedy
from asr.searching.hotwords import Hotwords
from asr.searching.hypotheses import SearchOptions, SearchState
from asr.tokenizer import BLANK, Tokenizer

JOINT = 6
Labels = tuple[int, ...]


def times(x_bi: Floats, weight_ij: Floats) -> Floats:
    """A product of matrices that adds in the same order whatever the batch."""
    return (x_bi[:, :, None] * weight_ij).sum(1)


def log_softmax(x_bv: Floats) -> Floats:
    x_bv = x_bv - x_bv.max(1, keepdims=True)
    return x_bv - np.log(np.exp(x_bv).sum(1, keepdims=True))


class Model:
    """Random, as an engine without an encoder and as a language model."""

    def __init__(
        self, kind: str, vocab: int, seed: int, sharp: float = 2.0, blank: float = 0.0, longest: int = 1 << 30
    ) -> None:
        """A transducer says no more than `longest` tokens."""
        draw = np.random.default_rng(seed)
        self.traits = Traits("ctc" if kind == "ctc" else "transducer", vocab, 4, 1, 0)
        self.vocab = vocab
        self._embedding_vj = draw.normal(0, 1.5, (vocab, JOINT)).astype(np.float32)
        self._recurrent_jj = draw.normal(0, 0.7, (JOINT, JOINT)).astype(np.float32)
        self._output_jv = draw.normal(0, sharp, (JOINT, vocab)).astype(np.float32)
        self._bias_v = np.array([blank] + [0] * (vocab - 1), np.float32)
        self._longest = longest
        self.rows: list[int] = []  # of each call of the model

    def frames(self, seed: int, count: int) -> Floats:
        enc_nj = np.random.default_rng(seed).normal(0, 1.5, (count, JOINT)).astype(np.float32)
        if self.traits.kind == "ctc":
            return log_softmax(times(enc_nj, self._output_jv) + self._bias_v)
        return np.pad(enc_nj, ((0, 0), (0, 1)))

    def predictor_start(self, batch: int) -> tuple[Floats, State]:
        assert self.traits.kind == "transducer"
        before = np.zeros((batch, JOINT), np.float32), np.full((batch, 1), -1, np.float32)
        return self.predict(np.zeros(batch, np.int64), before)

    def predict(self, tokens_b: Ids, state: State) -> tuple[Floats, State]:
        self.rows.append(len(tokens_b))
        hidden_bj = np.tanh(self._embedding_vj[tokens_b] + times(state[0], self._recurrent_jj))
        count_b1 = state[1] + 1
        return np.concatenate([hidden_bj * 2, count_b1 >= self._longest], 1), (hidden_bj, count_b1)

    def join(self, enc_bj: Floats, pred_bj: Floats | None) -> Floats:
        self.rows.append(len(enc_bj))
        if pred_bj is None:
            return enc_bj
        both_bj = enc_bj + pred_bj
        logits_bv = times(np.tanh(both_bj[:, :-1]), self._output_jv) + self._bias_v
        logits_bv[:, 1:] -= 1e4 * both_bj[:, -1:]
        return log_softmax(logits_bv)

    # as a language model
    mean_logp = 0.0

    def start(self, batch: int) -> tuple[Floats, State]:
        before = np.zeros((batch, JOINT), np.float32), np.zeros((batch, 1), np.float32)
        return self.advance(np.zeros(batch, np.int64), before)

    def advance(self, tokens_b: Ids, state: State) -> tuple[Floats, State]:
        out_bj, state = self.predict(tokens_b, state)
        logits_bv = times(out_bj[:, :-1], self._output_jv)
        logits_bv[:, BLANK] = -np.inf
        return log_softmax(logits_bv), state


def run(
    model: Any, options: SearchOptions, enc_nj: Floats, hotwords: Hotwords | None = None, cuts: Sequence[int] = ()
) -> SearchState:
    state = beam.start(model, options, hotwords)
    for part in np.split(enc_nj, cuts):
        (state,) = beam.step(model, options, part[None], [state])
    return state


def ids(state: SearchState) -> Labels:
    return tuple(token.id for token in state.hypotheses[0].tokens)


def outcome(state: SearchState) -> object:
    arrays = [(h.pred_j.tolist(), [part.tolist() for part in h.pred]) for h in state.hypotheses]
    return state.frames, [(h.tokens, h.score, h.last, h.extra.blank, h.extra.label) for h in state.hypotheses], arrays


def sequences(vocab: int, longest: int) -> list[Labels]:
    return [y for n in range(longest + 1) for y in itertools.product(range(1, vocab), repeat=n)]


def transducer_likelihood(model: Model, enc_nj: Floats, labels: Labels) -> float:
    """All alignments of the labels, by the forward sum over frames."""
    pred_bj, state = model.predictor_start(1)
    preds = [pred_bj]
    for label in labels:
        pred_bj, state = model.predict(np.array([label]), state)
        preds.append(pred_bj)
    sums = np.full(len(labels) + 1, -np.inf)
    sums[0] = 0.0
    for enc_j in enc_nj:
        logp = [model.join(enc_j[None], pred)[0].astype(np.float64) for pred in preds]
        for u, label in enumerate(labels):
            sums[u + 1] = np.logaddexp(sums[u + 1], sums[u] + logp[u][label])
        sums += [of_one[BLANK] for of_one in logp]
    return float(sums[-1])


def ctc_likelihoods(logp_nv: Floats) -> dict[Labels, float]:
    """Of each sequence of labels, from each alignment one by one."""
    found: dict[Labels, float] = {}
    for symbols in itertools.product(range(logp_nv.shape[1]), repeat=len(logp_nv)):
        labels = tuple(symbol for symbol, _ in itertools.groupby(symbols) if symbol != BLANK)
        score = float(sum(float(logp_nv[t, symbol]) for t, symbol in enumerate(symbols)))
        found[labels] = np.logaddexp(found.get(labels, -np.inf), score)
    return found


def fused(labels: Labels, lm: Model, weight: float) -> float:
    logp_bv, state = lm.start(1)
    total = 0.0
    for label in labels:
        total += weight * (float(logp_bv[0, label]) - lm.mean_logp)
        logp_bv, state = lm.advance(np.array([label]), state)
    return total


@pytest.fixture
def unpruned(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many hypotheses as the tests' models can have, so that a beam loses nothing."""
    for module in (beam_ctc, beam_transducer):
        monkeypatch.setattr(module, "GAMMA", 1000.0)
    monkeypatch.setattr(beam_transducer, "GAP", 1000.0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("frames", "vocab", "longest"), [(1, 3, 4), (5, 3, 4), (7, 4, 3), (4, 2, 8)])
@pytest.mark.parametrize("weight", [None, 0.7])
def test_a_wide_beam_of_a_transducer_is_an_exhaustive_search(
    unpruned: None, seed: int, frames: int, vocab: int, longest: int, weight: float | None
) -> None:
    model, lm = Model("transducer", vocab, seed, blank=1.0, longest=longest), Model("lm", vocab, seed + 100)
    enc_nj = model.frames(seed, frames)
    exact = {y: transducer_likelihood(model, enc_nj, y) for y in sequences(vocab, longest)}
    if weight is not None:
        lm.mean_logp = -1.5
        exact = {y: score + fused(y, lm, weight) for y, score in exact.items()}
    options = SearchOptions(64) if weight is None else SearchOptions(64, lm, weight)
    found = run(model, options, enc_nj)
    scores = {tuple(t.id for t in h.tokens): h.score for h in found.hypotheses}
    assert scores == pytest.approx(exact, abs=1e-3)
    assert ids(found) == max(exact, key=lambda y: exact[y])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("frames", "vocab"), [(5, 3), (3, 4)])
@pytest.mark.parametrize("weight", [None, 0.7])
def test_a_wide_beam_of_a_ctc_model_is_an_exhaustive_search(
    unpruned: None, seed: int, frames: int, vocab: int, weight: float | None
) -> None:
    model, lm = Model("ctc", vocab, seed, sharp=1.0), Model("lm", vocab, seed + 100)
    logp_nv = model.frames(seed, frames)
    exact = ctc_likelihoods(logp_nv)
    if weight is not None:
        lm.mean_logp = -1.5
        exact = {y: score + fused(y, lm, weight) for y, score in exact.items()}
    options = SearchOptions(64) if weight is None else SearchOptions(64, lm, weight)
    found = run(model, options, logp_nv)
    scores = {tuple(t.id for t in h.tokens): h.score for h in found.hypotheses}
    assert scores == pytest.approx({y: exact[y] for y in scores}, abs=1e-4)
    assert set(scores) == set(sorted(exact, key=lambda y: -exact[y])[: len(scores)])
    assert ids(found) == max(exact, key=lambda y: exact[y])


def test_a_beam_of_usual_width_is_never_worse_than_greedy_search_and_often_better() -> None:
    """With the pruning that is in use, where hypotheses do not all fit."""
    better = 0
    for seed in range(30):
        model = Model("transducer", 4, seed, blank=3.0)
        enc_nj = model.frames(seed, 6)
        found = run(model, SearchOptions(4), enc_nj)
        exact = transducer_likelihood(model, enc_nj, ids(found))
        assert found.hypotheses[0].score <= exact + 1e-4  # what is pruned is missing, nothing counts twice
        (plain,) = greedy.step(model, enc_nj[None], [greedy.start(model)])
        theirs = transducer_likelihood(model, enc_nj, ids(plain))
        assert exact > theirs - 1e-4
        better += exact > theirs + 0.01
    assert better >= 8


@pytest.mark.parametrize("kind", ["transducer", "ctc"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 30), cuts=st.lists(st.integers(0, 40), max_size=8).map(sorted), width=st.integers(1, 5))
def test_results_do_not_depend_on_how_frames_come(kind: str, seed: int, cuts: list[int], width: int) -> None:
    model, lm = Model(kind, 6, seed, blank=4.0), Model("lm", 6, seed + 100)
    options = SearchOptions(width, lm if seed % 2 else None)
    enc_nj = model.frames(seed, 40)
    assert outcome(run(model, options, enc_nj, cuts=cuts)) == outcome(run(model, options, enc_nj))


@pytest.mark.parametrize("kind", ["transducer", "ctc"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 30), batch=st.integers(2, 4), with_lm=st.booleans())
def test_a_batch_equals_its_streams_one_by_one(
    vocab: Tokenizer, kind: str, seed: int, batch: int, with_lm: bool
) -> None:
    """Each stream with hotwords of its own, or none."""
    model, lm = Model(kind, vocab.size, seed, blank=4.0), Model("lm", vocab.size, seed + 100)
    options = SearchOptions(3, lm if with_lm else None)
    hotwords = [
        [None, Hotwords(["on the mat"], vocab, 3.0), Hotwords(["dog"], vocab, 2.0)][b % 3] for b in range(batch)
    ]
    enc_bnj = np.stack([model.frames(seed + b, 30) for b in range(batch)])
    together = [beam.start(model, options, words) for words in hotwords]
    for part_bnj in np.split(enc_bnj, [7, 8], 1):
        together = beam.step(model, options, part_bnj, together)
    for state, enc_nj, words in zip(together, enc_bnj, hotwords, strict=True):
        assert outcome(state) == outcome(run(model, options, enc_nj, words))


def test_streams_and_hypotheses_go_through_the_model_together() -> None:
    model = Model("transducer", 6, 3, blank=4.0)
    options, enc_bnj = SearchOptions(4), np.stack([model.frames(seed, 20) for seed in range(8)])
    beam.step(model, options, enc_bnj, [beam.start(model, options) for _ in enc_bnj])
    together = len(model.rows)
    for enc_nj in enc_bnj:
        run(model, options, enc_nj)
    assert together < (len(model.rows) - together) / 2


@pytest.mark.parametrize("kind", ["transducer", "ctc"])
def test_a_step_leaves_its_state_as_it_was(kind: str) -> None:
    model, options = Model(kind, 6, 3, blank=4.0), SearchOptions(4)
    enc_nj = model.frames(1, 40)
    state = run(model, options, enc_nj[:20])
    before = outcome(state)
    first, second = (beam.step(model, options, enc_nj[None, 20:], [state])[0] for _ in range(2))
    assert outcome(first) == outcome(second) != before
    assert outcome(state) == before


def test_no_frames_change_nothing() -> None:
    model, options = Model("transducer", 6, 3), SearchOptions(4)
    state = run(model, options, model.frames(1, 20))
    (after,) = beam.step(model, options, model.frames(1, 0)[None], [state])
    assert outcome(after) == outcome(state)


@pytest.mark.parametrize("seed", [37, 56, 67])  # others of these models do not stop by themselves
def test_a_beam_of_one_is_greedy_search_where_the_model_is_sure(seed: int) -> None:
    """Else greedy search says a token that is likelier than blank though token and blank together are not."""
    model, options = Model("transducer", 6, seed, sharp=60.0, blank=150.0), SearchOptions(1)
    enc_nj = model.frames(seed, 60)
    (plain,) = greedy.step(model, enc_nj[None], [greedy.start(model)])
    found = run(model, options, enc_nj)
    assert found.hypotheses[0].tokens == plain.hypotheses[0].tokens
    assert found.hypotheses[0].score == pytest.approx(plain.hypotheses[0].score, abs=1e-3)
    assert len(set(ids(found))) > 2


class Script:
    """A model that says one token in each frame, with the probabilities that a text and what resembles it have."""

    def __init__(self, kind: str, vocab: Tokenizer, places: Sequence[dict[str, float]]) -> None:
        """`places`: the pieces that may be said one after the other."""
        self.traits = Traits("ctc" if kind == "ctc" else "transducer", vocab.size, 4, 1, 0)
        numbers = {piece: i for i, piece in enumerate(vocab.pieces(list(range(vocab.size))))}
        self.frames = np.full((len(places), vocab.size), 1e-6, np.float32)
        for place_v, pieces in zip(self.frames, places, strict=True):
            for piece, p in pieces.items():
                place_v[numbers[piece]] = p
        self.frames = np.log(self.frames)
        if kind == "transducer":
            self.frames = np.concatenate([np.arange(len(places), dtype=np.float32)[:, None], self.frames], 1)

    def predictor_start(self, batch: int) -> tuple[Floats, State]:
        return np.zeros((batch, 1), np.float32), (np.zeros((batch, 1), np.float32),)

    def predict(self, tokens_b: Ids, state: State) -> tuple[Floats, State]:
        return state[0] + 1, (state[0] + 1,)

    def join(self, enc_bj: Floats, pred_bj: Floats | None) -> Floats:
        if pred_bj is None:
            return enc_bj
        silent_v = np.log(np.array([1.0] + [1e-6] * (self.traits.vocab - 1), np.float32))
        return np.where(pred_bj == enc_bj[:, :1], enc_bj[:, 1:], silent_v)


# "the cat sat", of which "cat" sounds like "mat" and "sat" like "dat"
SCRIPT: list[dict[str, float]] = [
    {"▁the": 0.9}, {"▁c": 0.6, "▁m": 0.35}, {"at": 0.9}, {"▁": 0.9}, {"s": 0.55, "d": 0.4}, {"at": 0.9},
]  # fmt: skip


def heard(
    kind: str, vocab: Tokenizer, phrases: Sequence[str], boost: float, places: int = 6
) -> tuple[str, SearchState]:
    model = Script(kind, vocab, SCRIPT[:places])
    hotwords = Hotwords(phrases, vocab, boost) if phrases else None
    state = beam.close(run(model, SearchOptions(4), model.frames, hotwords))
    return vocab.decode(list(ids(state))), state


@pytest.mark.parametrize("kind", ["transducer", "ctc"])
class TestHotwords:
    def test_one_that_would_be_confused_comes_out_and_the_other_words_stay(self, vocab: Tokenizer, kind: str) -> None:
        plain, before = heard(kind, vocab, [], 0.0)
        found, state = heard(kind, vocab, ["mat"], 1.0)
        assert (plain, found) == ("the cat sat", "the mat sat")
        gained = 2 * 1.0 + np.log(0.35 / 0.6)  # two tokens, kept to the end, for what the model thinks less likely
        assert state.hypotheses[0].score == pytest.approx(before.hypotheses[0].score + gained, abs=1e-3)

    def test_a_phrase_of_words(self, vocab: Tokenizer, kind: str) -> None:
        assert heard(kind, vocab, ["mat dat"], 1.0)[0] == "the mat dat"
        assert heard(kind, vocab, ["cat dat"], 1.0)[0] == "the cat dat"

    @pytest.mark.parametrize("phrase", ["mad", "mats", "the dog", "at", "e mat", "dog"])
    def test_one_that_is_not_said_leaves_words_and_scores_as_they_are(
        self, vocab: Tokenizer, kind: str, phrase: str
    ) -> None:
        plain, before = heard(kind, vocab, [], 0.0)
        found, state = heard(kind, vocab, [phrase], 1.0)
        assert found == plain
        assert state.hypotheses[0].score == pytest.approx(before.hypotheses[0].score, abs=1e-3)

    def test_one_that_ends_with_the_stream_counts_and_one_that_has_only_begun_does_not(
        self, vocab: Tokenizer, kind: str
    ) -> None:
        assert heard(kind, vocab, ["mat"], 1.0, places=3)[0] == "the mat"
        assert heard(kind, vocab, ["mad"], 3.0, places=2)[0] == "the c"
        assert heard(kind, vocab, ["m"], 3.0, places=2)[0] == "the m"

    def test_each_stream_has_its_own(self, vocab: Tokenizer, kind: str) -> None:
        model, options = Script(kind, vocab, SCRIPT), SearchOptions(4)
        streams = [Hotwords(["mat"], vocab, 1.0), None, Hotwords(["dat"], vocab, 1.0)]
        states = [beam.start(model, options, words) for words in streams]
        states = beam.step(model, options, np.stack([model.frames] * 3), states)
        texts = [vocab.decode(list(ids(beam.close(state)))) for state in states]
        assert texts == ["the mat sat", "the cat sat", "the cat dat"]

    def test_a_language_model_goes_with_them(self, vocab: Tokenizer, kind: str) -> None:
        """One that knows no more than that after the mark of a word comes a d."""
        model = Script(kind, vocab, SCRIPT)
        lm = Letters(vocab, "▁", "d")
        for phrases, weight, text in [([], 0.0, "cat sat"), ([], 0.5, "cat dat"), (["mat"], 0.5, "mat dat")]:
            hotwords = Hotwords(phrases, vocab, 1.0) if phrases else None
            state = beam.close(run(model, SearchOptions(4, lm, weight), model.frames, hotwords))
            assert vocab.decode(list(ids(state))) == f"the {text}"


class Letters:
    """A language model: after one piece comes another, mostly; else all are as likely."""

    mean_logp = -3.0

    def __init__(self, vocab: Tokenizer, before: str, after: str) -> None:
        pieces = vocab.pieces(list(range(vocab.size)))
        self._before = pieces.index(before)
        self._even_v = np.log(np.array([0.0] + [1 / (vocab.size - 1)] * (vocab.size - 1), np.float32) + 1e-30)
        self._even_v[BLANK] = -np.inf
        self._knows_v = self._even_v.copy()
        self._knows_v[pieces.index(after)] = -0.1

    def start(self, batch: int) -> tuple[Floats, State]:
        return np.repeat(self._even_v[None], batch, 0), (np.zeros((batch, 1), np.float32),)

    def advance(self, tokens_b: Ids, state: State) -> tuple[Floats, State]:
        return np.where((tokens_b == self._before)[:, None], self._knows_v, self._even_v), state


@pytest.mark.parametrize("kind", ["transducer", "ctc"])
def test_two_readings_that_stay_equally_good_do_not_fill_the_memory(vocab: Tokenizer, kind: str) -> None:
    """One that differs long ago is given up, so that the words behind it can be settled."""
    places: list[dict[str, float]] = [{"▁c": 0.5, "▁m": 0.49}, {"at": 0.99}]
    places += [{"▁the": 0.99}, {"do": 0.99}] * beam_paths.HORIZON
    model, options = Script(kind, vocab, places), SearchOptions(4)
    state, most, said = beam.start(model, options), 0, 0
    for part_nj in np.split(model.frames, range(8, len(places), 8)):
        (state,) = beam.step(model, options, part_nj[None], [state])
        most = max(most, *(len(h.tokens) for h in state.hypotheses))
        count = search.common(state)
        state, said = search.settle(state, count), said + count
    assert beam_paths.HORIZON // 2 < most <= beam_paths.HORIZON + beam_paths.LOOK + 8
    assert said >= len(places) - 4


@pytest.mark.parametrize("kind", ["transducer", "ctc"])
def test_a_state_does_not_grow_nor_keep_what_it_came_from_alive(kind: str) -> None:
    model, lm = Model(kind, 6, 6, blank=3.0), Model("lm", 6, 100)
    options = SearchOptions(4, lm)
    state, said = beam.start(model, options), 0
    for seed in range(40):
        enc_bnj = np.stack([model.frames(seed, 25), model.frames(seed + 1, 25)])
        state, _ = beam.step(model, options, enc_bnj, [state, state])
        count = search.common(state)
        state, said = search.settle(state, count), said + count
    assert said > 20 and len(state.hypotheses) > 1
    assert max(len(h.tokens) for h in state.hypotheses) < beam_paths.HORIZON
    for hypothesis in state.hypotheses:
        extra = hypothesis.extra.fusion
        for array in (hypothesis.pred_j, *hypothesis.pred, extra.gain_v, *extra.lm):
            assert array.base is None and array.nbytes < 200


@pytest.mark.parametrize("kind", ["transducer", "ctc"])
def test_settled_tokens_change_nothing_that_comes_after(kind: str) -> None:
    model, options = Model(kind, 6, 6, blank=3.0), SearchOptions(4)
    enc_nj = model.frames(3, 60)
    whole, state, said = run(model, options, enc_nj), beam.start(model, options), []
    for part_nj in np.split(enc_nj, range(5, 60, 5)):
        (state,) = beam.step(model, options, part_nj[None], [state])
        count = search.common(state)
        said += [token.id for token in state.hypotheses[0].tokens[:count]]
        state = search.settle(state, count)
    assert tuple(said) + ids(state) == ids(whole) and said
    assert [h.score for h in state.hypotheses] == [h.score for h in whole.hypotheses]


def test_a_word_said_again_needs_a_blank_between_in_ctc(vocab: Tokenizer) -> None:
    """Also when the first one is settled already."""
    numbers = {piece: i for i, piece in enumerate(vocab.pieces(list(range(vocab.size))))}
    places = [{"▁the": 0.99}, {"▁the": 0.99}, {"<blank>": 0.99}, {"▁the": 0.99}]
    model, options = Script("ctc", vocab, places), SearchOptions(4)
    (state,) = beam.step(model, options, model.frames[None, :1], [beam.start(model, options)])
    alone = search.settle(SearchState(state.hypotheses[:1], state.frames), 1)
    found = [ids(run_on) for n in (2, 3, 4) for run_on in beam.step(model, options, model.frames[None, 1:n], [alone])]
    assert found == [(), (), (numbers["▁the"],)]
