"""Greedy search in arrays says what greedy decoding in PyTorch says, for any batch and any cut."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import walks

from asr import decode, search
from asr.ctc import Ctc
from asr.engine import Floats, closing_frames
from asr.engines.torch_engine import TorchEngine
from asr.model_config import ModelConfig
from asr.models import Model
from asr.searching.greedy import MAX_SYMBOLS
from asr.searching.hypotheses import Hypothesis, SearchOptions, SearchState, Token
from asr.transducer import Transducer

MakeModel = Callable[..., Transducer]
FRAMES = 60
GREEDY = SearchOptions()


@pytest.fixture(scope="module", params=["transducer", "stateless", "ctc"])
def model(request: pytest.FixtureRequest, make_model: MakeModel) -> Model:
    if request.param == "transducer":
        return make_model()
    if request.param == "stateless":
        return make_model(predictor="stateless")
    torch.manual_seed(5)
    options = {"layers": 1, "hidden": 12, "projection": 8, "stack": 1, "reduce_after": ()}
    ctc = Ctc(ModelConfig("lstm", options, kind="ctc", tail_frames=1), 8, 12).eval()
    with torch.no_grad():
        ctc.output.weight.mul_(30)
    return ctc


def encoded(engine: TorchEngine) -> Floats:
    enc_bnj, _ = engine.encode(walks()[:3, :FRAMES].numpy(), engine.encoder_start(3))
    return enc_bnj


def tokens_of(states: list[SearchState]) -> list[list[tuple[int, int]]]:
    return [[(token.id, token.frame) for token in state.hypotheses[0].tokens] for state in states]


def test_the_tokens_are_those_of_decoding_in_torch(model: Model) -> None:
    engine = TorchEngine(model)
    feats_btf = walks()[:3, :FRAMES]
    closing = closing_frames(engine.traits, FRAMES)
    assert closing == model.closing_frames(FRAMES)
    closed_btf = np.concatenate([feats_btf.numpy(), np.tile(engine.mean_f, (3, closing, 1))], 1)
    enc_bnj, _ = engine.encode(closed_btf, engine.encoder_start(3))
    found = search.step(engine, GREEDY, enc_bnj, [search.start(engine, GREEDY) for _ in range(3)])
    expected = decode.greedy(model, feats_btf, torch.full((3,), FRAMES))
    assert tokens_of(found) == expected
    assert sum(map(len, expected)) > 10 and len({token for stream in expected for token, _ in stream}) > 3


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 10), max_size=6), alone=st.integers(0, 2))
def test_neither_cuts_nor_company_matter(model: Model, cuts: list[int], alone: int) -> None:
    engine = TorchEngine(model)
    enc_bnj = encoded(engine)
    whole = search.step(engine, GREEDY, enc_bnj, [search.start(engine, GREEDY) for _ in range(3)])
    states = [search.start(engine, GREEDY)]
    for piece in np.split(enc_bnj[alone : alone + 1], sorted(cut for cut in cuts if cut <= enc_bnj.shape[1]), axis=1):
        if piece.shape[1]:
            states = search.step(engine, GREEDY, piece, states)
    assert tokens_of(states) == tokens_of(whole[alone : alone + 1])
    assert states[0].frames == enc_bnj.shape[1]
    assert states[0].hypotheses[0].score == pytest.approx(whole[alone].hypotheses[0].score, rel=1e-4, abs=1e-3)
    for ours, theirs in zip(states[0].hypotheses[0].tokens, whole[alone].hypotheses[0].tokens, strict=True):
        assert ours.logp == pytest.approx(theirs.logp, abs=1e-3)


def test_the_limit_ends_a_model_that_never_says_blank(make_model: MakeModel) -> None:
    engine = TorchEngine(make_model(blank_bias=-1e4))
    enc_bnj = encoded(engine)
    found = search.step(engine, GREEDY, enc_bnj, [search.start(engine, GREEDY) for _ in range(3)])
    expected = [t for t in range(enc_bnj.shape[1]) for _ in range(MAX_SYMBOLS)]
    assert [[frame for _, frame in stream] for stream in tokens_of(found)] == [expected] * 3


def hypothesis_of(*ids: int) -> Hypothesis:
    return Hypothesis(tuple(Token(i, 0, 0.0) for i in ids), 0.0, np.zeros(0, np.float32), ())


@pytest.mark.parametrize(
    ("said", "shared"),
    [([(1, 2, 3)], 3), ([(1, 2, 3), (1, 2)], 2), ([(1, 2, 3), (1, 4, 3)], 1), ([(1,), (2,)], 0), ([(), (1,)], 0)],
)
def test_only_what_all_hypotheses_share_is_certain(said: list[tuple[int, ...]], shared: int) -> None:
    state = SearchState(tuple(hypothesis_of(*ids) for ids in said), 5)
    assert search.common(state) == shared
    left = search.settle(state, shared)
    assert [[t.id for t in h.tokens] for h in left.hypotheses] == [list(ids[shared:]) for ids in said]
