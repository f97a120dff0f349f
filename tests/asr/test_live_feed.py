"""What hands live audio over: nothing is lost, doubled or moved, a queue has an end, a stop is heard at once."""

import itertools
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import audio
from asr.live.feed import Feed, Gap, Note, Stopped
from asr.live.loop import Heard, _Speed, stopped_by_signals
from asr.live.screen import Terminal, fitting, width
from asr.live.sound import recorder
from asr.words import Word

RATE = 1000


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.one_of(st.integers(0, 700), st.sampled_from(["gap", "note"])), max_size=20),
    count=st.integers(1, 900),
)
def test_all_comes_in_order_in_chunks_that_are_full_but_before_an_event(pieces: list[int | str], count: int) -> None:
    feed = Feed(RATE, limit_s=1)
    sent: list[object] = []

    def source() -> None:
        with feed.source():
            position = 0
            for piece in pieces:
                if isinstance(piece, int):
                    feed.put(np.arange(position, position + piece, dtype=np.float32))
                    position += piece
                elif piece == "gap":
                    feed.gap(1.0, "why")
                else:
                    feed.note("text")

    thread = threading.Thread(target=source)
    thread.start()
    position, taken = 0, []
    while (item := feed.take(count)) is not None:
        taken.append(item)
        if isinstance(item, np.ndarray):
            assert 0 < len(item) <= count
            np.testing.assert_array_equal(item, np.arange(position, position + len(item), dtype=np.float32))
            position += len(item)
    thread.join()
    sent = [piece for piece in pieces if piece != 0]
    assert position == sum(piece for piece in pieces if isinstance(piece, int))
    assert sum(isinstance(item, Gap) for item in taken) == sent.count("gap")
    assert sum(isinstance(item, Note) for item in taken) == sent.count("note")
    for item, after in itertools.pairwise(taken):
        assert not isinstance(item, np.ndarray) or len(item) == count or not isinstance(after, np.ndarray)


def test_what_a_full_queue_does_not_take_is_a_gap() -> None:
    """A sound card cannot wait. One long gap is told, not many short ones."""
    feed = Feed(RATE, limit_s=1)
    block = np.ones(100, np.float32)
    assert [feed.offer(block) for _ in range(13)] == [True] * 10 + [False] * 3
    assert isinstance(feed.take(200), np.ndarray)
    assert not feed.offer(block)
    assert isinstance(feed.take(400), np.ndarray)
    assert feed.offer(block)
    rest = feed.take(10_000)
    assert isinstance(rest, np.ndarray) and len(rest) == 400
    assert feed.take(100) == Gap(0.4, "recognition was 1 s behind, and more is not kept")
    assert len(feed.take(100)) == 100  # type: ignore[arg-type]


def test_what_is_lost_at_the_end_is_told_too() -> None:
    feed = Feed(RATE, limit_s=0.1)
    assert feed.offer(np.ones(100, np.float32)) and not feed.offer(np.ones(50, np.float32))
    feed.end()
    assert len(feed.take(500)) == 100  # type: ignore[arg-type]
    assert isinstance(feed.take(500), Gap) and feed.take(500) is None


def test_an_error_comes_after_what_came_before_it() -> None:
    feed = Feed(RATE)
    with feed.source():
        feed.put(np.ones(10, np.float32))
        raise ValueError("broken")
    assert len(feed.take(100)) == 10  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="broken"):
        feed.take(100)


@pytest.mark.parametrize("drop", [True, False])
def test_a_stop_wakes_both_sides(drop: bool) -> None:
    feed = Feed(RATE, limit_s=0.1)
    feed.put(np.ones(100, np.float32))
    ended: list[type] = []

    def source() -> None:
        try:
            feed.put(np.ones(100, np.float32))
            feed.pause(60)
        except Stopped:
            ended.append(Stopped)

    thread = threading.Thread(target=source)
    thread.start()
    feed.stop(drop)
    thread.join(10)
    assert ended == [Stopped]
    left = feed.take(1000)
    assert left is None if drop else len(left) >= 100  # type: ignore[arg-type]
    assert feed.take(1000) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_feed_and_a_second_one_interrupts(number: int) -> None:
    before = signal.getsignal(number)
    feed, heard = Feed(RATE), Heard()
    feed.put(np.ones(100, np.float32))
    with pytest.raises(KeyboardInterrupt), stopped_by_signals(feed, heard, drop=False):
        os.kill(os.getpid(), number)
        assert heard.stopped == number
        assert len(feed.take(1000)) == 100 and feed.take(1000) is None  # type: ignore[arg-type]
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


# --- the screen


class Glass:
    """A terminal of so many columns, as far as it is written to here."""

    def __init__(self, columns: int) -> None:
        self.columns, self.rows, self.at = columns, [""], 0

    def write(self, text: str) -> None:
        while text:
            if text.startswith("\x1b[K"):
                self.rows[-1], text = self.rows[-1][: self.at], text[3:]
            elif text.startswith(("\x1b[2m", "\x1b[0m")):
                text = text[4:]
            elif text[0] == "\r":
                self.at, text = 0, text[1:]
            elif text[0] == "\n":
                self.rows.append("")
                self.at, text = 0, text[1:]
            else:
                assert text[0].isprintable()
                row = self.rows[-1]
                self.rows[-1] = row[: self.at] + text[0] + row[self.at + 1 :]
                self.at, text = self.at + 1, text[1:]
                assert width(self.rows[-1]) < self.columns or " " not in self.rows[-1], "it wraps: \\r cannot go back"

    def flush(self) -> None: ...


_NAMES = st.sampled_from(["a", "hello", "wonderful", "日本語", "né", "x" * 9])


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.lists(_NAMES, max_size=4), st.lists(_NAMES, max_size=9), st.booleans(), st.booleans()),
        max_size=12,
    ),
    columns=st.integers(24, 60),
)
def test_a_terminal_keeps_final_words_and_nothing_else(
    steps: list[tuple[list[str], list[str], bool, bool]], columns: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        glass = Glass(columns)
        screen = Terminal(glass)  # type: ignore[arg-type]
        segment, said, lines = 0, [], 1
        for final, partial, ended, behind in steps:
            words = [Word(text, 0, 1, 1, segment) for text in final]
            screen.show(words, [Word(text, 0, 1, 1, segment) for text in partial], ended, "2.0 s behind" * behind)
            said += final
            room = columns - 1 - width(" ".join(said))
            assert not partial or room < 20 or partial[0][0] in glass.rows[-1]
            segment += ended
        screen.note("a note")
        screen.close()
    assert " ".join(row for row in glass.rows if row != "a note").split() == said
    assert lines <= len(glass.rows)


@given(text=st.text(st.characters(categories=["L", "Mn", "Zs"])), columns=st.integers(0, 30))
def test_a_text_is_cut_to_columns(text: str, columns: int) -> None:
    cut = fitting(text, columns)
    assert width(cut) <= columns
    assert cut == text or (cut == "" and columns <= 0) or (cut[-1] == "…" and text.startswith(cut[:-1]))


def test_recognition_that_is_too_slow_is_told_when_it_gets_worse() -> None:
    told: list[str] = []

    class Notes:
        def note(self, text: str) -> None:
            told.append(text)

    speed = _Speed(Notes())  # type: ignore[arg-type]
    # a live stream begins with a queue: that is not slow
    assert [speed.status(0.1, 0.3, waiting) for waiting in (18.0, 9.0, 0.5)] == ["18.0 s behind", "9.0 s behind", ""]
    assert told == []
    for step in range(1, 100):
        speed.status(0.6, 0.3, step * 0.3)
    assert [text.rpartition(", ")[2] for text in told] == ["5 s behind", "10 s behind", "20 s behind"]
    assert told[-1].startswith("recognition is slower than real time: 0.50 s of audio in a second")


# --- what is kept


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_recording_is_whole_while_it_grows(tmp_path: Path, suffix: str) -> None:
    """A process that is killed leaves what was written so far."""
    path = tmp_path / f"a.{suffix}"
    samples = np.random.default_rng(0).integers(-32768, 32768, 70_000).astype(np.int16)
    with recorder(str(path), 16000) as sink:
        for start in range(0, 60_000, 7000):
            sink.write((samples[start : start + 7000] / 32768).astype(np.float32))
        killed = path.read_bytes()
        sink.silence(0.5)
        sink.write((samples[63_000:] / 32768).astype(np.float32))
    whole, rate = soundfile.read(path, dtype="int16")
    np.testing.assert_array_equal(whole, np.concatenate([samples[:63_000], np.zeros(8000, np.int16), samples[63_000:]]))
    assert rate == 16000
    early = np.rint(audio.read(f"killed.{suffix}", 16000, data=killed) * 32768)
    assert len(early) == 63_000 if suffix == "wav" else len(early) > 63_000 - 3 * 4096
    np.testing.assert_array_equal(early, samples[: len(early)])


def test_a_recording_never_replaces_another(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with recorder(str(path), 16000) as sink:
        with pytest.raises(ValueError, match=r"is already there|is writing it"), recorder(str(path), 16000):
            pass
        sink.write(np.ones(10, np.float32))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is already there; give another name"), recorder(str(path), 16000):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize(("name", "error"), [("a.mp3", "must end in .wav or .flac"), ("s3://b/a.wav", "local file")])
def test_a_recording_has_a_name_that_can_be(name: str, error: str) -> None:
    with pytest.raises(ValueError, match=error), recorder(name, 16000):
        pass


def test_samples_that_are_too_loud_are_clipped(tmp_path: Path) -> None:
    with recorder(str(tmp_path / "a.wav"), 16000) as sink:
        sink.write(np.array([-2, -1, 1, 3], np.float32))
    assert soundfile.read(tmp_path / "a.wav", dtype="int16")[0].tolist() == [-32768, -32768, 32767, 32767]
