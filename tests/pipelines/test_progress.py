"""What a user sees of a long job, in a log and on a terminal."""

import io
import os
import pty
import queue
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from pipelines import progress

Out = pytest.CaptureFixture[str]


class Clock:
    """Stands where the module `time` stood, and goes on when a test says so."""

    now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


class Log(io.TextIOBase):
    """Takes the place of stderr. capfd loses what another thread writes between its reading and its emptying."""

    def __init__(self) -> None:
        self.written: queue.SimpleQueue[str] = queue.SimpleQueue()

    def write(self, text: str) -> int:
        self.written.put(text)
        return len(text)


@pytest.fixture
def last_line(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """A function that waits for the next line of a log that gets one all the time."""
    log = Log()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=log))
    monkeypatch.setattr(progress, "LINE_S", 0.001)

    def last() -> str:
        while not log.written.empty():
            log.written.get()
        lines = ""
        while lines.count("\n") < 3:  # the first may have been on its way
            lines += log.written.get()
        return lines.split("\n")[-2]

    return last


def test_a_log_says_how_much_how_fast_how_long_and_what_failed(clock: Clock, last_line: Callable[[], str]) -> None:
    with progress.progress("features", 960, "h of audio") as advance:
        assert last_line() == "features: 0 of 960 h of audio"
        clock.now_s += 100
        advance(25.5)
        assert last_line() == "features: 25.5 of 960 h of audio, 0.255 h/s, 61 minutes left"
        advance(0, failures=1200)
        assert last_line() == "features: 25.5 of 960 h of audio, 0.255 h/s, 61 minutes left, 1,200 dropped"
        clock.now_s += 100
        advance(934.5)
        assert last_line() == "features: 960 of 960 h of audio, 4.8 h/s, 0 s left, 1,200 dropped"


def test_the_rate_is_that_of_the_last_minutes(clock: Clock, last_line: Callable[[], str]) -> None:
    """A cluster that has grown is not measured by its first hours."""
    with progress.progress("headers", 1_000_000, "utterances") as advance:
        for _ in range(600):
            clock.now_s += 60
            advance(60)
        for _ in range(20):
            clock.now_s += 60
            advance(6000)
        done = "headers: 156,000 of 1,000,000 utterances"
        assert last_line() == f"{done}, 100 utterances/s, 2.34 hours left"


def test_a_job_slower_than_those_minutes_has_a_rate(clock: Clock, last_line: Callable[[], str]) -> None:
    with progress.progress("features", 10, "h of audio") as advance:
        for _ in range(2):
            clock.now_s += 5000
            advance(1)
        assert last_line() == "features: 2 of 10 h of audio, 0.0002 h/s, 11.1 hours left"


def test_what_is_quick_leaves_no_line(capfd: Out) -> None:
    with progress.progress("features", 10, "s of audio") as advance:
        advance(10)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_has_a_bar_with_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "120")
        with progress.progress("features", 4, "h of audio") as advance:
            advance(1, failures=2)
            print("a worker died", file=sys.stderr)
        drawn = b""
        while b"left, 2 dropped" not in drawn:
            drawn += os.read(leader, 1 << 16)
    os.close(leader)
    for part in ("features", "25%", "1 of 4 h of audio, ", " h/s, ", "a worker died"):
        assert part in drawn.decode()
