"""STM lines and the markup that Sphinx left in transcripts."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.text import normalise
from pipelines.listings import sphinx, stm

WORD = st.from_regex(r"[a-z]+('[a-z]+)?", fullmatch=True)
SOUND = st.sampled_from(
    ["{NOISE}", "{BREATH}", "{COUGH}", "{SMACK}", "[NOISE]", "[door slam]", "<sil>", "<SIL>", "<unk>"]
)


@given(st.lists(st.tuples(WORD, st.integers(0, 3), st.lists(SOUND, max_size=2))), st.booleans(), st.booleans())
def test_cleaning_keeps_every_word_and_no_markup(
    parts: list[tuple[str, int, list[str]]], marked: bool, with_id: bool
) -> None:
    words = [word for word, _, _ in parts]
    tokens = [t for word, n, sounds in parts for t in (f"{word}({n})" if n else word, *sounds)]
    text = " ".join(["<s>", *tokens, "</s>"] if marked or with_id else tokens)
    text += " (SomeTalk_2010X-2.24-10.07-F0_F-S1)" if with_id else ""
    assert sphinx.clean(text) == " ".join(words)
    assert sphinx.clean(sphinx.clean(text)) == sphinx.clean(text)


@given(st.text(alphabet="ab<>{}[]() /s'2\t", max_size=40))
def test_cleaning_never_fails_and_only_takes_away(text: str) -> None:
    cleaned = sphinx.clean(text)
    assert re.fullmatch(r"(\S+( \S+)*)?", cleaned)
    letters = iter(text)
    assert all(char in letters for char in cleaned.replace(" ", ""))


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("and i 'm {NOISE} sure they 're here", "and i'm sure they're here"),
        ("<s> we 'll go to(2) <sil> don 't </s> (x-1-2)", "we'll go to don't"),
        ("beauty 's rose", "beauty's rose"),
    ],
)
def test_clitics_stand_off_until_the_normaliser_joins_them(text: str, normal: str) -> None:
    assert normalise(sphinx.clean(text), "en") == normal


@pytest.mark.parametrize(
    ("rest", "label", "words", "gender"),
    [
        ("<o,f0,male> so it is", "o,f0,male", "so it is", "male"),
        ("<F0_F> <s> so it is </s> (A-S1)", "F0_F", "<s> so it is </s> (A-S1)", "female"),
        ("<NA> <unk> because of", "NA", "<unk> because of", ""),
        ("<NA>", "NA", "", ""),
        ("", "", "", ""),
        ("<s> no label </s>", "", "<s> no label </s>", ""),
        ("<sil> no label", "", "<sil> no label", ""),
        ("no  label", "", "no  label", ""),
    ],
)
def test_the_label_may_be_there_or_not(rest: str, label: str, words: str, gender: str) -> None:
    (segment,) = stm.read(f"A_2009 1 A_2009 1.5 3 {rest}\r\n")
    assert (segment.label, segment.words, segment.gender) == (label, words, gender)
    assert (segment.talk, segment.speaker, segment.start_s, segment.end_s, segment.scored) == (
        "A_2009",
        "A_2009",
        1.5,
        3,
        True,
    )


def test_lines_are_numbered_past_comments_and_gaps_are_not_scored() -> None:
    text = (
        ";; LABEL\n\nA 1 inter_segment_gap 0 1 <o,,unknown> x\nA 1 A 1 2 IGNORE_TIME_SEGMENT_IN_SCORING\nA 1 A 2 3 yes"
    )
    assert [(segment.line, segment.scored) for segment in stm.read(text)] == [(3, False), (4, False), (5, True)]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("A 1 A 2.0", "4 fields"),
        ("A 1 A two 3 words", "two and 3 are not both numbers"),
        ("A 1 A 3 3 words", "ends at 3 s, where it starts at 3 s"),
        ("A 1 A 4 3 words", "ends at 3 s, where it starts at 4 s"),
        ("A 1 A -1 3 words", "starts at -1 s"),
        ("A 1 A 1 inf words", "ends at inf s"),
        ("A 1 A nan 2 words", "starts at nan s"),
    ],
)
def test_times_that_make_no_sense_are_named(line: str, fault: str) -> None:
    (segment,) = stm.read(line)
    assert fault in segment.fault


def test_a_time_that_no_talk_has_is_a_fault() -> None:
    (segment,) = stm.read("talk 1 ann 1e305 1e306 <NA> words")
    assert segment.fault
