"""Greedy decoding: a batch equals its streams, chunks equal the whole, and nothing goes on for ever."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import LENS, walks
from torch import Tensor

from asr import decode
from asr.decode import Said
from asr.searching.greedy import MAX_SYMBOLS
from asr.transducer import BLANK, Transducer

MakeModel = Callable[..., Transducer]


@pytest.fixture(scope="module")
def model(make_model: MakeModel) -> Transducer:
    return make_model()


@pytest.fixture(scope="module")
def feats_btf() -> Tensor:
    return walks()


def plain_greedy(model: Transducer, enc_te: Tensor) -> list[Said]:
    """One stream by the definition, the predictor run over all tokens again each time."""
    tokens: list[Said] = []
    for t, enc_e in enumerate(enc_te):
        for _ in range(MAX_SYMBOLS):
            out_bup, _ = model.predictor(torch.tensor([[BLANK, *(token for token, _ in tokens)]]), None)
            joint = torch.tanh(model.enc_joint(enc_e) + model.pred_joint(out_bup[0, -1]))
            best = int(model.output(joint).argmax())
            if best == BLANK:
                break
            tokens.append((best, t))
    return tokens


def test_tokens_are_those_of_the_definition(model: Transducer, feats_btf: Tensor) -> None:
    found = decode.greedy(model, feats_btf, torch.tensor(LENS))
    with torch.inference_mode():
        for b, frames in enumerate(LENS):
            enc_bte, _ = model.encode(model.normalise(feats_btf[b : b + 1, :frames]), torch.tensor([frames]))
            assert found[b] == plain_greedy(model, enc_bte[0])
    emitted = [token for stream in found for token in stream]
    assert len({token for token, _ in emitted}) > 3  # else the other tests here compare nothing
    assert 10 < len(emitted) < MAX_SYMBOLS * sum(LENS) / model.encoder.reduction


def test_a_batch_equals_its_streams_one_by_one(model: Transducer, feats_btf: Tensor) -> None:
    together = decode.greedy(model, feats_btf, torch.tensor(LENS))
    alone = [decode.greedy(model, feats_btf[b : b + 1, :n], torch.tensor([n]))[0] for b, n in enumerate(LENS)]
    assert together == alone


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 6), max_size=10))
def test_chunks_equal_the_whole(model: Transducer, feats_btf: Tensor, sizes: list[int]) -> None:
    lens_b = torch.tensor([61, 90])
    with torch.inference_mode():
        enc_bte, enc_lens_b = model.encode(model.normalise(feats_btf[[0, 2]]), lens_b)
    whole, after = decode.greedy_step(model, enc_bte, enc_lens_b, decode.init_state(model, 2))
    tokens: list[list[Said]] = [[], []]
    state, at = decode.init_state(model, 2), 0
    for size in [*sizes, enc_bte.shape[1]]:
        chunk_bte = enc_bte[:, at : at + size]
        new, state = decode.greedy_step(model, chunk_bte, (enc_lens_b - at).clamp(0), state)
        tokens = [old + more for old, more in zip(tokens, new, strict=True)]
        at += size
    assert tokens == whole
    assert state.frames == after.frames == enc_bte.shape[1]
    torch.testing.assert_close(state.predictor.joint_bj, after.predictor.joint_bj, rtol=1e-4, atol=1e-4)


def test_the_limit_ends_a_model_that_never_says_blank(make_model: MakeModel) -> None:
    model = make_model(blank_bias=-1e4)
    (tokens,) = decode.greedy(model, torch.randn(1, 20, 8), torch.tensor([20]))
    frames = -(-20 // model.encoder.reduction)
    assert [frame for _, frame in tokens] == [t for t in range(frames) for _ in range(MAX_SYMBOLS)]


def test_a_model_that_only_says_blank_says_nothing(make_model: MakeModel) -> None:
    model = make_model(blank_bias=1e4)
    assert decode.greedy(model, torch.randn(2, 20, 8), torch.tensor([20, 9])) == [[], []]


def test_streams_that_have_ended_keep_their_predictor(model: Transducer, feats_btf: Tensor) -> None:
    """The shorter stream's state after the batch is its state after its own frames."""
    with torch.inference_mode():
        enc_bte, _ = model.encode(model.normalise(feats_btf[[0, 2]]), torch.tensor([61, 90]))
    _, together = decode.greedy_step(model, enc_bte, torch.tensor([4, 15]), decode.init_state(model, 2))
    alone_tokens, alone = decode.greedy_step(model, enc_bte[:1, :4], torch.tensor([4]), decode.init_state(model, 1))
    assert alone_tokens[0]
    torch.testing.assert_close(together.predictor.h[:, :1], alone.predictor.h, rtol=0, atol=1e-5)
    torch.testing.assert_close(together.predictor.joint_bj[:1], alone.predictor.joint_bj, rtol=1e-4, atol=1e-4)
