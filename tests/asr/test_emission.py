"""Delays: words get the times of the best alignment, and what was seen when is counted from these."""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import TEXTS

from asr.checkpoint import Bundle
from asr.ctc import Ctc
from asr.evaluation.emission import CannotAlign, Delays, SpokenWord, of_spans, right_words, word_times
from asr.evaluation.trace import Trace
from asr.frontend import logmel
from asr.model_config import ModelConfig
from asr.stream import Update
from asr.tokenizer import BLANK
from asr.transducer import Transducer
from asr.words import Word

MakeModel = Callable[..., Transducer]


def words(*texts: str) -> tuple[Word, ...]:
    return tuple(Word(text, 0.0, 0.0, 1.0, 0) for text in texts)


def traced(*updates: tuple[float, Update]) -> Trace:
    trace = Trace()
    for audio_s, update in updates:
        trace.see(audio_s, update)
    return trace


@pytest.fixture(scope="module")
def aligner(bundle: Bundle) -> Bundle:
    """A random CTC model that is not sure of anything for long."""
    torch.manual_seed(5)
    encoder = {"layers": 1, "hidden": 16, "projection": 12, "stack": 2, "reduce_after": []}
    model = Ctc(ModelConfig("lstm", encoder, kind="ctc", tail_frames=2), bundle.spec.mels, bundle.tokenizer.size).eval()
    model.set_normalisation(bundle.model.mean_f, bundle.model.scale_f**-2)
    with torch.no_grad():
        model.output.weight.mul_(8)
    return dataclasses.replace(bundle, model=model)


def best_score(logp_tv: np.ndarray, ids: list[int]) -> float:
    """Of all CTC paths that say the tokens, by trying each state in each frame (Graves et al. 2006, section 4.1)."""
    states = [BLANK] + [s for i in ids for s in (i, BLANK)]
    scores = np.full(len(states), -np.inf)
    scores[:2] = logp_tv[0, states[:2]]
    for frame in logp_tv[1:]:
        before = scores.copy()
        for s, symbol in enumerate(states):
            ways = [before[s]] + [before[s - 1]] * (s > 0)
            if s > 1 and symbol != BLANK and symbol != states[s - 2]:
                ways.append(before[s - 2])
            scores[s] = max(ways) + frame[symbol]
    return float(max(scores[-2:]))


def test_audio_of_no_frame_cannot_be_aligned(aligner: Bundle, hum: np.ndarray) -> None:
    for samples in (0, 100):
        with pytest.raises(CannotAlign, match="fewer encoder frames"):
            word_times(aligner, hum[:samples], "a cat")


@pytest.mark.parametrize("text", [*TEXTS, "a a a cat cat"])
def test_words_lie_where_the_best_path_has_their_tokens(aligner: Bundle, hum: np.ndarray, text: str) -> None:
    model, tokenizer = aligner.model, aligner.tokenizer
    assert isinstance(model, Ctc)
    found = word_times(aligner, hum, text)
    assert [word.text for word in found] == text.split()
    assert all(a.start_s < a.end_s <= b.start_s for a, b in itertools.pairwise(found))
    with torch.inference_mode():
        feats_btf = model.normalise(torch.from_numpy(logmel(hum, aligner.spec)[None]))
        enc_bte, _ = model.encode(feats_btf, torch.tensor([feats_btf.shape[1]]))
        logp_tv = model.logits(enc_bte)[0].log_softmax(-1).numpy()
    frame_s = model.encoder.reduction * aligner.spec.frame_s
    ids = tokenizer.encode(text)
    starts = [i for i, token in enumerate(ids) if tokenizer.starts_word(token)]
    kept, begun = best_score(logp_tv, ids), 0.0
    # the best path through the words, each within the frames that it was given, is as good as the best path of all
    for word, i, j in zip(found, starts, [*starts[1:], len(ids)], strict=True):
        first, end = round(word.start_s / frame_s), round(word.end_s / frame_s)
        kept -= logp_tv[round(begun / frame_s) : first, BLANK].sum() + best_score_tight(logp_tv[first:end], ids[i:j])
        begun = word.end_s
    kept -= logp_tv[round(begun / frame_s) :, BLANK].sum()
    assert kept == pytest.approx(0, abs=1e-3)


def best_score_tight(logp_tv: np.ndarray, ids: list[int]) -> float:
    """Of the paths that begin with the first token and end with the last."""
    sure = logp_tv.copy()
    sure[0, BLANK] = sure[-1, BLANK] = -np.inf
    return best_score(sure, ids)


def test_a_head_beside_a_transducer_aligns_too(bundle: Bundle, hum: np.ndarray) -> None:
    assert isinstance(bundle.model, Transducer) and bundle.model.ctc is not None
    found = word_times(bundle, hum, TEXTS[0])
    assert [word.text for word in found] == TEXTS[0].split() and found[-1].end_s <= len(hum) / 16000


def test_what_cannot_be_aligned_says_why(aligner: Bundle, hum: np.ndarray) -> None:
    with pytest.raises(CannotAlign, match="fewer encoder frames"):
        word_times(aligner, hum[:3000], TEXTS[0])
    with pytest.raises(CannotAlign, match="not those"):
        word_times(aligner, hum, "")


def test_spans_of_tokens_become_words_that_end_with_the_audio() -> None:
    found = of_spans(["the", "cat"], [True, False, True, False], [(1, 2), (4, 5), (7, 8), (9, 12)], 0.04, 0.45)
    assert found == [SpokenWord("the", 0.04, 0.2), SpokenWord("cat", 0.28, 0.45)]


SAID = [SpokenWord("the", 0.1, 0.3), SpokenWord("cat", 0.4, 0.8), SpokenWord("sat", 1.0, 1.25)]


def test_delays_of_a_transcript_made_by_hand() -> None:
    trace = traced(
        (0.32, Update((), words("the"))),
        (0.64, Update((), words("the", "ca"))),
        (0.96, Update(words("the"), words("cat"))),
        (1.28, Update((), words("cat"))),
        (1.60, Update(words("cat"), words("sat"))),
        (2.88, Update(words("sat"), (), ((0, "pause"),))),
    )
    delays = Delays()
    delays.add(SAID, ["the", "cat", "sat"], trace)
    assert delays.shown_s == pytest.approx([0.32 - 0.3, 0.96 - 0.8, 1.60 - 1.25])
    assert delays.final_s == pytest.approx([0.96 - 0.3, 1.60 - 0.8, 2.88 - 1.25])
    assert delays.first_word_s == pytest.approx([0.32 - 0.1])
    assert delays.endpoint_s == pytest.approx([2.88 - 1.25])
    assert (delays.unseen, delays.no_endpoint, delays.cut) == (0, 0, 0)


def test_only_words_that_are_right_count_and_places_shift_with_what_is_wrong() -> None:
    """ "a the dog sat": one word too many, one wrong; "sat" is the third word said and the fourth heard."""
    trace = traced((0.5, Update(words("a", "the"), words("dog"))), (1.5, Update((), words("dog", "sat"))))
    delays = Delays()
    delays.add(SAID, ["a", "the", "dog", "sat"], trace)
    assert [(word.text, place) for word, place in right_words(SAID, ["a", "the", "dog", "sat"])] == [
        ("the", 1),
        ("sat", 3),
    ]
    assert delays.shown_s == pytest.approx([0.5 - 0.3, 1.5 - 1.25])
    assert delays.final_s == pytest.approx([0.5 - 0.3]), "sat was not final as long as nobody said that the file ends"
    assert delays.no_endpoint == 1


def test_a_word_that_only_the_end_of_the_file_brings_out_has_no_delay_but_is_counted() -> None:
    delays = Delays()
    delays.add(SAID, ["the", "cat"], traced((0.5, Update(words("the"), words("ca")))))
    assert len(delays.shown_s) == len(delays.final_s) == 1 and delays.unseen == 1


def test_an_endpoint_between_words_is_no_endpoint_behind_them() -> None:
    trace = traced(
        (0.9, Update(words("the"), (), ((0, "pause"),))), (1.1, Update((), ())), (2.0, Update((), (), ((0, "pause"),)))
    )
    delays = Delays()
    delays.add(SAID, ["the"], trace)
    assert delays.cut == 1 and delays.endpoint_s == pytest.approx([0.75])


TEXT = st.sampled_from(["a", "ab", "c"])
UPDATES = st.lists(st.tuples(st.lists(TEXT, max_size=2), st.lists(TEXT, max_size=3)), max_size=12)


@settings(max_examples=200, deadline=None)
@given(made=UPDATES)
def test_stability_is_that_of_the_texts_as_they_were_shown(made: list[tuple[list[str], list[str]]]) -> None:
    """Against all texts, kept whole: (final, open) after each update."""
    trace = Trace()
    seen: list[tuple[list[str], list[str]]] = [([], [])]
    for number, (final, still_open) in enumerate(made):
        trace.see(number / 10, Update(words(*final), words(*still_open)))
        seen.append((seen[-1][0] + final, still_open))
    last = seen[-1][0]
    assert trace.final == last
    revised = grown = 0
    for (final, still_open), after in itertools.pairwise(seen):
        now = dict(enumerate(after[0] + after[1]))
        revised += sum(now.get(len(final) + i) != word for i, word in enumerate(still_open))
        grown += sum(word == "a" and now.get(len(final) + i) == "ab" for i, word in enumerate(still_open))
    assert (trace.revisions, trace.grown) == (revised, grown)
    partial = {(len(final) + i, word) for final, still_open in seen for i, word in enumerate(still_open)}
    assert trace.changed() == sum(dict(enumerate(last)).get(place) != word for place, word in partial)
    assert len(trace.partial) == len(partial) >= trace.changed()
    for place, word in enumerate(last):
        first = next(n for n, (f, o) in enumerate(seen) if (f + o)[place : place + 1] == [word])
        settled = next(n for n, (f, _) in enumerate(seen) if len(f) > place)
        assert trace.first_s[place, word] == (first - 1) / 10 <= trace.final_s[place] == (settled - 1) / 10


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(TEXT, max_size=8))
def test_a_transcript_that_only_grows_is_never_revised(texts: list[str]) -> None:
    trace = Trace()
    for count in range(len(texts) + 1):
        trace.see(count / 10, Update((), words(*texts[:count])))
    trace.see(2.0, Update(words(*texts)))
    assert trace.revisions == trace.changed() == 0 and trace.first_word_s == (0.1 if texts else None)
