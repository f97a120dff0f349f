"""Forms of transcripts: every word once and in order, subtitles that fit and never overlap, whatever is said when."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.transcribing import transcript
from asr.transcribing.transcript import FORMS, LINE_CHARS, Ctm, Json, JsonLines, Srt, Text, Vtt
from asr.words import Word

FRAME_S = 0.04
_LETTERS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Mn"], exclude_characters="<>&"), min_size=1)


@st.composite
def spoken(draw: st.DrawFn) -> list[list[Word]]:
    """Words as a stream makes them final, some at a time: neighbours may lie in the same frame."""
    frame, segment = draw(st.integers(0, 200_000)), 0
    updates: list[list[Word]] = []
    for _ in range(draw(st.integers(0, 8))):
        update = []
        for _ in range(draw(st.integers(0, 12))):
            new_segment = draw(st.integers(0, 9)) == 0
            segment += new_segment
            frame += draw(st.integers(0, 100)) if new_segment else draw(st.sampled_from([0, 0, 1, 3, 20, 60]))
            end = frame + 1 + draw(st.sampled_from([0, 2, 10, 300]))
            text = draw(st.one_of(_LETTERS, st.sampled_from(["hello", "a", "x" * 50, "-->", "you"])))
            update.append(Word(text, frame * FRAME_S, end * FRAME_S, draw(st.floats(0, 1)), segment))
            frame = end - 1
        updates.append(update)
    return updates


def written(form: transcript.Form, updates: list[list[Word]]) -> str:
    return "".join(form.more(update) for update in updates) + form.end()


def ms(clock: str) -> int:
    hours, minutes, seconds, millis = map(int, re.split(r"[:.,]", clock))
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + millis


def srt_cues(text: str) -> list[tuple[int, int, list[str]]]:
    cues = []
    for number, block in enumerate(text.split("\n\n")[:-1], 1):
        head, times, *lines = block.split("\n")
        assert head == str(number)
        start, end = times.split(" --> ")
        cues.append((ms(start), ms(end), lines))
    return cues


@settings(deadline=None, max_examples=25)
@given(updates=spoken())
def test_subtitles_have_every_word_once_fit_and_never_overlap(updates: list[list[Word]]) -> None:
    words = [word for update in updates for word in update]
    cues = srt_cues(written(Srt(), updates))
    assert " ".join(line for *_, lines in cues for line in lines) == " ".join(w.text for w in words).replace("-->", "→")
    until, queue = 0, list(words)
    for start, end, lines in cues:
        assert until <= start < end
        until = end
        assert 1 <= len(lines) <= 2
        assert all(len(line) <= LINE_CHARS or " " not in line for line in lines)
        inside = [queue.pop(0) for _ in " ".join(lines).split(" ")]
        assert len({word.segment for word in inside}) == 1
        # where words begin before the ones before them have ended, which is less than a frame
        assert start - 1 <= max(until - (end - start), round(inside[0].start_s * 1000)) and end <= until


@settings(deadline=None, max_examples=25)
@given(updates=spoken())
def test_vtt_says_the_same_as_srt(updates: list[list[Word]]) -> None:
    srt, vtt = written(Srt(), updates), written(Vtt(), updates)
    assert vtt.startswith("WEBVTT\n\n")
    bare = re.sub(r"(?m)^\d+\n(?=\d\d:)", "", srt)
    assert re.sub(r"(\d\d),(\d{3})", r"\1.\2", bare).replace("→", "--&gt;") == vtt.removeprefix("WEBVTT\n\n")


@settings(deadline=None, max_examples=25)
@given(updates=spoken())
def test_text_has_a_line_a_segment(updates: list[list[Word]]) -> None:
    words = [word for update in updates for word in update]
    lines = written(Text(), updates).splitlines()
    segments = sorted({word.segment for word in words})
    assert lines == [" ".join(word.text for word in words if word.segment == segment) for segment in segments]


@settings(deadline=None, max_examples=25)
@given(updates=spoken())
def test_ctm_has_a_line_a_word_in_order_of_time(updates: list[list[Word]]) -> None:
    words = [word for update in updates for word in update]
    rows = [line.split(" ") for line in written(Ctm("a b"), updates).splitlines()]
    assert [row[4] for row in rows] == [word.text for word in words]
    assert all(row[:2] == ["a_b", "1"] and len(row) == 6 for row in rows)
    starts = [float(row[2]) for row in rows]
    assert starts == sorted(starts) and all(float(row[3]) > 0 and 0 <= float(row[5]) <= 1 for row in rows)


@settings(deadline=None, max_examples=25)
@given(updates=spoken())
def test_json_of_a_file_and_lines_of_a_live_stream_have_the_same_words(updates: list[list[Word]]) -> None:
    (line,) = written(Json("a.wav"), updates).splitlines()
    lines = [json.loads(text) for text in written(JsonLines(), updates).splitlines()]
    assert [word for row in lines for word in row["words"]] == json.loads(line)["words"]
    assert len(lines) == sum(bool(update) for update in updates)


def test_a_subtitle_ends_with_its_segment_at_pauses_and_in_time() -> None:
    words = [
        Word("one", 1, 1.4, 1, 0),
        Word("two", 1.5, 2, 1, 0),
        Word("late", 4, 4.5, 1, 0),
        Word("new", 4.6, 5, 1, 1),
    ]
    form = Srt()
    assert form.more(words[:2]) == ""
    assert form.more(words[2:]) == (
        "1\n00:00:01,000 --> 00:00:02,000\none two\n\n2\n00:00:04,000 --> 00:00:04,500\nlate\n\n"
    )
    assert form.more([], ended=True) == "3\n00:00:04,600 --> 00:00:05,000\nnew\n\n"


def test_lines_of_a_subtitle_are_about_as_long_as_each_other() -> None:
    text = "it was the best of times it was the worst of times"
    words = [Word(word, i / 4, i / 4 + 0.2, 1, 0) for i, word in enumerate(text.split())]
    assert srt_cues(written(Srt(), [words]))[0][2] == ["it was the best of times", "it was the worst of times"]


def test_text_ends_its_line_as_soon_as_the_segment_ends() -> None:
    form = Text()
    assert form.more([Word("hello", 0, 1, 1, 0)]) == "hello"
    assert form.more([Word("there", 1, 2, 1, 0)], ended=True) == " there\n"
    assert form.more([], ended=True) == "" == form.end()


@pytest.mark.parametrize("name", FORMS)
def test_what_a_terminal_or_a_format_would_obey_is_not_said(name: str) -> None:
    out = written(FORMS[name]("f"), [[Word("a\x1b[2J\n\nb", 0, 1, 1, 0)]])
    assert "\x1b" not in out and "\n\nb" not in out


def test_no_words_are_no_error() -> None:
    assert [written(FORMS[name]("f"), []) for name in ("text", "srt", "vtt", "ctm")] == ["", "", "WEBVTT\n\n", ""]
    assert json.loads(Json("f").end("it broke")) == {"file": "f", "error": "it broke", "text": "", "words": []}
