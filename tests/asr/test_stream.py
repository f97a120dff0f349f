"""A stream's words do not depend on how its samples arrive, are those of the whole file, and cost constant memory."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import recognise

from asr import decode, stream
from asr.checkpoint import Bundle
from asr.decode import MAX_SYMBOLS
from asr.frontend import logmel
from asr.model_config import ModelConfig
from asr.stream import StreamState, Word
from asr.transducer import BLANK, Transducer

MakeModel = Callable[..., Transducer]


def whole_file(bundle: Bundle, samples: np.ndarray) -> list[decode.Token]:
    """The tokens of offline greedy decoding."""
    feats_btf = torch.from_numpy(logmel(samples, bundle.spec)[None])
    (tokens,) = decode.greedy(bundle.model, feats_btf, torch.tensor([feats_btf.shape[1]]))
    return tokens


def text(words: list[Word]) -> list[str]:
    return " ".join(word.text for word in words).split()  # an unknown piece has spaces around it


def kept_bytes(state: Any) -> Iterator[tuple[str, int]]:
    """Every array and tensor in a state, with the bytes of all the memory that it keeps alive."""
    if isinstance(state, torch.Tensor):
        yield f"tensor {tuple(state.shape)}", state.untyped_storage().nbytes()
    elif isinstance(state, np.ndarray):
        yield "array", state.nbytes if state.base is None else state.base.nbytes
    elif dataclasses.is_dataclass(state):
        for field in dataclasses.fields(state):
            yield from kept_bytes(getattr(state, field.name))
    elif isinstance(state, list | tuple):
        for part in state:
            yield from kept_bytes(part)


def test_the_random_model_has_something_to_say(bundle: Bundle, hum: np.ndarray) -> None:
    """Else the other tests here compare nothing."""
    tokens = whole_file(bundle, hum)
    assert len({token.id for token in tokens}) > 4 and len({token.frame for token in tokens}) > 8
    assert len(recognise(bundle, [hum])) > 4


@pytest.mark.parametrize("tail_frames", [0, 4])
def test_one_chunk_equals_the_whole_file(
    bundle: Bundle, make_model: MakeModel, hum: np.ndarray, tail_frames: int
) -> None:
    model = make_model(seed=3, mels=16, size=bundle.tokenizer.size, tail_frames=tail_frames)
    model.load_state_dict(bundle.model.state_dict())
    ours = dataclasses.replace(bundle, model=model)
    for samples in range(20000, len(hum), 1777):
        ids = [token.id for token in whole_file(ours, hum[:samples])]
        assert text(recognise(ours, [hum[:samples]])) == bundle.tokenizer.decode(ids).split()


@pytest.fixture(scope="module", params=[1, 3, 14])
def chunked(request: pytest.FixtureRequest, bundle: Bundle) -> Bundle:
    """A random Conformer whose chunks have so many encoder frames of 80 ms."""
    torch.manual_seed(3)
    options = {"layers": 2, "width": 16, "heads": 2, "channels": 3, "left": 5, "chunk": request.param}
    config = ModelConfig("conformer", options, predictor="stateless", tail_frames=2)
    model = Transducer(config, bundle.spec.mels, bundle.tokenizer.size).eval()
    model.set_normalisation(bundle.model.mean_f, bundle.model.scale_f**-2)
    with torch.no_grad():  # a random model else says the same all the time
        for layer, factor in ((model.enc_joint, 8), (model.pred_joint, 30), (model.output, 8)):
            layer.weight.mul_(factor)
        for layer in model.encoder.layers:
            layer.attention.out.weight.mul_(10)  # so that it matters what a frame sees
        model.output.bias[BLANK] += 9
    return dataclasses.replace(bundle, model=model)


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(0, 5000), max_size=14), samples=st.integers(9000, 32000))
def test_words_of_a_model_that_waits_for_chunks_do_not_depend_on_how_samples_come(
    chunked: Bundle, hum: np.ndarray, sizes: list[int], samples: int
) -> None:
    ids = [token.id for token in whole_file(chunked, hum[:samples])]
    words = recognise(chunked, np.split(hum[:samples], np.cumsum(sizes).clip(max=samples)))
    assert text(words) == chunked.tokenizer.decode(ids).split()
    assert samples < 30000 or len(set(ids)) > 2


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 5000), max_size=14))
def test_words_do_not_depend_on_the_chunks(bundle: Bundle, hum: np.ndarray, sizes: list[int]) -> None:
    assert recognise(bundle, np.split(hum, np.cumsum(sizes).clip(max=len(hum)))) == recognise(bundle, [hum])


def test_samples_one_by_one(bundle: Bundle, hum: np.ndarray) -> None:
    start = hum[:6000]
    assert recognise(bundle, list(start[:, None])) == recognise(bundle, [start]) != []


def test_words_come_as_soon_as_the_next_one_starts(bundle: Bundle, hum: np.ndarray) -> None:
    state = stream.init_state(bundle)
    arrived = []
    for start in range(0, len(hum), 960):
        words, state = stream.step(bundle, hum[start : start + 960], state)
        arrived += [((start + 960) / 16000, word.time_s) for word in words]
    assert arrived[0][0] < 1.5
    assert all(word_s <= now_s for now_s, word_s in arrived)
    assert [word_s for _, word_s in arrived] == sorted(word_s for _, word_s in arrived)


def test_times_are_of_the_last_token(bundle: Bundle, hum: np.ndarray) -> None:
    tokens = whole_file(bundle, hum)
    words = recognise(bundle, [hum])
    frame_s = bundle.model.encoder.reduction * 0.01
    assert words[-1].time_s == pytest.approx((tokens[-1].frame + 1) * frame_s)
    assert {round(w.time_s / frame_s, 6) for w in words} <= {t.frame + 1 for t in tokens}


def test_no_word_is_empty(bundle: Bundle, hum: np.ndarray) -> None:
    """Though the model says two word marks in a row."""
    pieces = bundle.tokenizer.pieces([token.id for token in whole_file(bundle, hum)])
    assert any(a == "▁" and b.startswith("▁") for a, b in itertools.pairwise(pieces))
    assert all(word.text for word in recognise(bundle, [hum]))


@pytest.mark.parametrize("tail_frames", [0, 2])
def test_nothing_is_lost_at_the_end(bundle: Bundle, make_model: MakeModel, hum: np.ndarray, tail_frames: int) -> None:
    """Whatever the length modulo an encoder frame and a hop, the last frames are decoded, and exactly once."""
    endless = make_model(mels=16, size=bundle.tokenizer.size, blank_bias=-1e4, tail_frames=tail_frames)
    talker = dataclasses.replace(bundle, model=endless)
    hop, reduction = bundle.spec.hop_samples, endless.encoder.reduction
    for samples in range(5000, 5000 + 2 * reduction * hop, hop // 2):
        tokens = whole_file(talker, hum[:samples])
        # the model never says blank, so each encoder frame gives as many tokens as it may
        assert len(tokens) == (-(-bundle.spec.num_frames(samples) // reduction) + tail_frames) * MAX_SYMBOLS
        words = recognise(talker, [hum[:3333], hum[3333:samples]])
        assert text(words) == bundle.tokenizer.decode([t.id for t in tokens]).split()


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_less_than_a_frame_says_nothing(bundle: Bundle, hum: np.ndarray, samples: int) -> None:
    assert recognise(bundle, [hum[:samples]]) == []
    assert recognise(bundle, []) == []


def test_a_step_leaves_its_state_as_it_was(bundle: Bundle, hum: np.ndarray) -> None:
    """So a caller may look ahead and come back."""
    _, state = stream.step(bundle, hum[:16000], stream.init_state(bundle))
    first, _ = stream.step(bundle, hum[16000:], state)
    second, _ = stream.step(bundle, hum[16000:], state)
    assert first == second != []


def test_a_state_does_not_grow(bundle: Bundle, hum: np.ndarray) -> None:
    """4,800 samples are five encoder frames, so the state is at the same place after each second."""

    def after(seconds: int, state: StreamState) -> list[tuple[str, int]]:
        for second in range(seconds):
            start = second % 2 * 14400
            for at in range(start, start + 14400, 4800):
                _, state = stream.step(bundle, hum[at : at + 4800], state)
        return list(kept_bytes(state))

    early = after(1, stream.init_state(bundle))
    assert early == after(20, stream.init_state(bundle))
    assert sum(size for _, size in early) < 20_000


def test_a_state_does_not_keep_its_chunk_alive(bundle: Bundle, hum: np.ndarray) -> None:
    _, after_much = stream.step(bundle, hum, stream.init_state(bundle))
    assert max(size for _, size in kept_bytes(after_much)) < hum.nbytes / 20
