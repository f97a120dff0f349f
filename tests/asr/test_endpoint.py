"""Pauses end segments, lose no word, and leave no trace in what comes after them."""

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import recognise, rounded

from asr import stream
from asr.checkpoint import Bundle
from asr.endpoint import EndpointRules
from asr.engines.torch_engine import listener_of
from asr.stream import Listener, Update
from asr.transducer import Transducer
from asr.words import Word

MakeModel = Callable[..., Transducer]
RULES = EndpointRules()


def zeros(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * 16000), np.float32)


def updates(listener: Listener, chunks: list[np.ndarray]) -> list[Update]:
    state = stream.start(listener)
    found = []
    for chunk in chunks:
        update, state = stream.step(listener, chunk, state)
        found.append(update)
    return [*found, stream.finish(listener, state)]


def spoken_at(words: list[Word], from_s: float) -> list[Word]:
    """Those behind a time, as if it were 0, in segments counted from there."""
    first = min(w.segment for w in words if w.start_s >= from_s)
    return [
        replace(w, start_s=round(w.start_s - from_s, 3), end_s=round(w.end_s - from_s, 3), segment=w.segment - first)
        for w in rounded(words)
        if w.start_s >= from_s
    ]


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 170_000), max_size=12))
def test_segments_do_not_depend_on_the_chunks(bundle: Bundle, hum: np.ndarray, cuts: list[int]) -> None:
    samples = np.concatenate([hum, zeros(2.3), hum[5000:], zeros(4.1), hum[:9000]])
    chunks = np.split(samples, sorted(cut for cut in cuts if cut < len(samples)))
    assert rounded(recognise(bundle, chunks, RULES)) == rounded(recognise(bundle, [samples], RULES))


def test_five_minutes_of_silence_leave_no_trace(bundle: Bundle, hum: np.ndarray) -> None:
    """Words, times and confidences behind a pause are to the last digit those behind a shorter one."""
    after = {}
    for pause_s in (5.0, 60.0, 300.0):
        samples = np.concatenate([hum, zeros(pause_s), hum[:24000]])
        words = recognise(bundle, list(np.array_split(samples, 50)), RULES)
        after[pause_s] = spoken_at(words, 2.0 + pause_s - RULES.preroll_s)
    assert len(after[5.0]) > 3
    assert after[5.0] == after[60.0] == after[300.0]


def test_digital_silence_costs_and_says_nothing(bundle: Bundle) -> None:
    listener = listener_of(bundle, endpoints=RULES)
    state = stream.start(listener)
    for _ in range(100):
        state = stream.accept(listener, zeros(36.0), state)
        assert not stream.ready(listener, state)
    assert state.audio_s == 3600 and len(state.feats_tf) <= 80
    assert stream.finish(listener, state) == Update()


def test_a_pause_ends_a_segment_and_makes_its_words_final(bundle: Bundle, hum: np.ndarray) -> None:
    listener = listener_of(bundle, endpoints=RULES)
    samples = np.concatenate([hum, zeros(3), hum])
    found = updates(listener, np.array_split(samples, 100))
    ends = [i for i, update in enumerate(found) if update.endpoint]
    assert [found[i].ends for i in ends] == [((0, "pause"),)]
    words = [word for update in found[: ends[0] + 1] for word in update.final]
    silence_s = (ends[0] + 1) * 0.07 - words[-1].end_s
    assert RULES.pause_s <= silence_s < RULES.pause_s + stream.BLOCK_S + 0.14
    assert found[ends[0]].partial == () and {word.segment for word in words} == {0}
    assert {word.segment for update in found[ends[0] + 1 :] for word in update.final} == {1}


@pytest.mark.parametrize("one_word", [False, True])
def test_a_long_segment_ends_and_nothing_is_lost(bundle: Bundle, hum: np.ndarray, one_word: bool) -> None:
    """At the end of a word; or within it, where a language has no spaces and its word never ends."""
    model = copy.deepcopy(bundle.model)
    if one_word:
        starts = [i for i in range(bundle.tokenizer.size) if bundle.tokenizer.starts_word(i)]
        with torch.no_grad():
            model.output.bias[starts] = -1e4
    ours = replace(bundle, model=model)
    rules = EndpointRules(pause_s=50, silence_s=50, longest_s=0.6)
    words = recognise(ours, list(np.array_split(hum, 30)), rules)
    assert max(word.segment for word in words) >= 2
    assert len(words) >= 3
    whole = recognise(ours, [hum])
    assert len(whole) == 1 or not one_word
    assert "".join(word.text for word in words) == "".join(word.text for word in whole)


def test_a_word_in_which_a_segment_got_too_long_is_not_lost_in_the_silence_behind_it(
    bundle: Bundle, hum: np.ndarray
) -> None:
    samples = np.concatenate([hum, zeros(5)])
    whole = [word.text for word in recognise(bundle, [samples])]
    lengths = 0
    for longest_s in np.arange(0.9, 4.0, 0.15):
        listener = listener_of(bundle, endpoints=EndpointRules(longest_s=float(longest_s)))
        found = updates(listener, np.array_split(samples, 30))
        assert [word.text for update in found for word in update.final] == whole
        lengths += any(reason == "length" for update in found for _, reason in update.ends)
    assert lengths > 5


def test_who_starts_anew_hears_the_last_of_it_again(bundle: Bundle, make_model: MakeModel) -> None:
    """So a word that had begun, but had given no token yet, is not cut."""
    silent = replace(bundle, model=make_model(mels=16, size=bundle.tokenizer.size, blank_bias=1e4))
    listener = listener_of(silent, endpoints=RULES)
    noise = np.random.default_rng(1).normal(0, 0.01, 16000 * 8).astype(np.float32)
    state, heard = stream.accept(listener, noise, stream.start(listener)), [0]
    while stream.ready(listener, state):
        before = state
        ((update, state),) = stream.step_batch(listener, [before])
        assert update == Update()
        if not state.search.frames:
            end = before.origin_frames + (before.search.frames + listener.grid) * listener.engine.traits.reduction
            assert state.origin_frames == end - 80
            heard.append(state.origin_frames)
    assert len(heard) == 5 and {b - a for a, b in itertools.pairwise(heard)} == {heard[1]}


@pytest.mark.parametrize("rest", [0, 500])
def test_the_frames_that_close_a_stream_are_no_pause(bundle: Bundle, hum: np.ndarray, rest: int) -> None:
    """Nobody was silent in them, however many a model wants."""
    model = copy.deepcopy(bundle.model)
    model.config = replace(model.config, tail_frames=40)
    ours, samples = replace(bundle, model=model), hum[: len(hum) - rest]
    listener = listener_of(ours, endpoints=RULES)
    _, state = stream.step(listener, samples, stream.start(listener))
    update = stream.finish(listener, state)
    assert update.final and update.endpoint == ""
    assert rounded(recognise(ours, [samples], RULES)) == rounded(recognise(ours, [samples]))


@pytest.mark.parametrize("values", [{"pause_s": 0}, {"silence_s": -1}, {"longest_s": float("nan")}, {"preroll_s": 1.2}])
def test_rules_that_cannot_be_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        EndpointRules(**values)
