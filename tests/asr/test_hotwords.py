"""Phrases gain what they are to gain wherever they are said as whole words, and nothing else does."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import TEXTS

from asr import tokenizer
from asr.searching import hotwords
from asr.searching.hotwords import ROOT, Hotwords
from asr.tokenizer import BLANK, Tokenizer

WORDS = ["a", "at", "cat", "cath", "the", "he", "them", "mat", "do", "dog", "on", "an"]
phrases_of_words = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join), min_size=1, max_size=8
)


def total(words: Hotwords, tokens: Sequence[int]) -> float:
    """All that the tokens gained when nothing more is said."""
    node, gained = ROOT, 0.0
    for token in tokens:
        gained += float(words.gains(node)[token])
        node = words.follow(node, token)
    return gained + words.unfinished(node)


def tokens_in_phrases(phrases: Sequence[str], tokens: Sequence[int], vocab: Tokenizer) -> int:
    """By the definition: from left to right, the longest phrase that begins at a place and ends with a word."""
    known = [vocab.encode(phrase) for phrase in phrases]
    at = found = 0
    while at < len(tokens):
        lengths = [
            len(ids)
            for ids in known
            if list(tokens[at : at + len(ids)]) == ids
            and (at + len(ids) == len(tokens) or vocab.starts_word(tokens[at + len(ids)]))
        ]
        longest = max(lengths, default=0)
        found += sum(vocab.pieces([token])[0] != "▁" for token in tokens[at : at + longest])
        at += longest or 1
    return found


@settings(max_examples=100, deadline=None)
@given(phrases=phrases_of_words, said=st.lists(st.sampled_from(WORDS), max_size=12))
def test_each_token_of_a_phrase_gains_once(vocab: Tokenizer, phrases: list[str], said: list[str]) -> None:
    tokens = vocab.encode(" ".join(said))
    assert total(Hotwords(phrases, vocab, 1.5), tokens) == pytest.approx(
        1.5 * tokens_in_phrases(phrases, tokens, vocab), abs=1e-4
    )


@settings(max_examples=100, deadline=None)
@given(phrases=phrases_of_words, tokens=st.lists(st.integers(2, 22), max_size=25))
def test_also_in_what_is_no_language(vocab: Tokenizer, phrases: list[str], tokens: list[int]) -> None:
    assert total(Hotwords(phrases, vocab, 2.0), tokens) == pytest.approx(
        2.0 * tokens_in_phrases(phrases, tokens, vocab), abs=1e-4
    )


@pytest.mark.parametrize(
    ("phrases", "text", "tokens"),
    [
        (["cat"], "a cat sat", 2),
        (["cat"], "a cat", 2),
        (["cat"], "a cath", 0),  # not in a longer word
        (["at"], "cat mat", 0),  # nor within one
        (["on the mat"], "on the dog", 0),  # what breaks off is taken back
        (["on the mat", "the dog"], "on the dog", 3),  # and matched again from where another phrase began
        (["the cat", "the cat sat on the mat"], "the cat sat on a dog", 3),
        (["the dog", "dog saw"], "the dog saw", 3),  # a token counts for one phrase
        (["sat on the mat", "on a"], "sat on a", 3),
    ],
)
def test_examples(vocab: Tokenizer, phrases: list[str], text: str, tokens: int) -> None:
    ids = vocab.encode(text)
    assert tokens_in_phrases(phrases, ids, vocab) == tokens
    assert total(Hotwords(phrases, vocab, 1.0), ids) == pytest.approx(tokens, abs=1e-5)


def test_blank_gains_nothing(vocab: Tokenizer) -> None:
    words = Hotwords(["the cat"], vocab, 2.0)
    node = words.follow(ROOT, vocab.encode("the")[0])
    assert words.gains(ROOT)[BLANK] == words.gains(node)[BLANK] == 0.0
    assert words.gains(node).min() == -2.0


def test_a_lone_word_mark_gains_nothing() -> None:
    """It comes before every word, and would only make words begin where none do."""
    size = tokenizer.smallest_size(TEXTS, byte_fallback=False)
    chars = Tokenizer(tokenizer.train(TEXTS, "char", size, byte_fallback=False))
    assert not Hotwords(["cat"], chars, 2.0).gains(ROOT).any()
    assert total(Hotwords(["cat"], chars, 2.0), chars.encode("a cat sat")) == 6.0
    assert total(Hotwords(["cat"], chars, 2.0), chars.encode("a catch")) == 0.0


def test_spaces_of_a_phrase_are_one(vocab: Tokenizer) -> None:
    assert total(Hotwords(["  the \t cat "], vocab, 1.0), vocab.encode("the cat")) == 3.0


@pytest.mark.parametrize(
    ("phrases", "boost", "message"),
    [
        ([""], 1.0, "a hotword is empty"),
        (["the", " \n"], 1.0, "a hotword is empty"),
        (["quiz"], 1.0, "hotword 'quiz': the vocabulary has no 'iquz'; write it as the training texts would"),
        (["The Cat"], 1.0, "hotword 'The Cat': the vocabulary has no 'CT'; say 'the cat'"),
        (["a" * 61], 1.0, "has 61 characters, at most 60 are allowed"),
        (["a"] * 1001, 1.0, "1001 hotwords: at most 1000 for a stream"),
        (["cat"], -0.5, "hotword boost -0.5: must be from 0 to 20"),
        (["cat"], float("nan"), "hotword boost nan: must be from 0 to 20"),
        (["cat"], float("inf"), "hotword boost inf: must be from 0 to 20"),
    ],
)
def test_what_cannot_be_is_refused(vocab: Tokenizer, phrases: list[str], boost: float, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")) as caught:
        Hotwords(phrases, vocab, boost)
    assert "\n" not in str(caught.value)


def test_the_largest_set_that_is_allowed(vocab: Tokenizer) -> None:
    """Its automaton is made once per stream, so it has to be small."""
    draw = np.random.default_rng(0)
    phrases = ["".join(draw.choice(list("acdeghmnostw"), hotwords.MAX_CHARACTERS)) for _ in range(hotwords.MAX_PHRASES)]
    words = Hotwords(phrases, vocab, 1.0)
    assert total(words, vocab.encode(phrases[7])) == tokens_in_phrases(phrases[7:8], vocab.encode(phrases[7]), vocab)
    assert total(words, vocab.encode(phrases[7] + "a")) == 0.0
