"""How a long job goes on: a bar on a terminal, and in a log a line now and then for what takes long."""

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

LINE_S = 30.0  # between two lines where there is no terminal
RATE_S = 600.0  # the rate is that of these last seconds: nodes of a cluster come and go


class Advance(Protocol):
    def __call__(self, amount: float, failures: int = 0) -> None:
        """`amount` more units are done, of them `failures` that were dropped with a reason."""


class _Meter:
    """What is done of a job, and how fast: a text for a bar and a line alike."""

    def __init__(self, total: float, unit: str) -> None:
        self.total, self._unit = total, unit
        self.done = 0.0
        self._failures = 0
        self._seen = deque([(time.monotonic(), 0.0)])  # when how much was done, over RATE_S

    def add(self, amount: float, failures: int) -> None:
        self.done += amount
        self._failures += failures
        now_s = time.monotonic()
        self._seen.append((now_s, self.done))
        while len(self._seen) > 2 and self._seen[1][0] < now_s - RATE_S:
            self._seen.popleft()

    def rate(self) -> float:
        """Units per second of late; 0 before anything was done."""
        since_s, begin = self._seen[0]
        return (self.done - begin) / max(time.monotonic() - since_s, 1e-9)

    def text(self) -> str:
        short = self._unit.partition(" ")[0]
        parts = [f"{_figure(self.done)} of {_figure(self.total)} {self._unit}"]
        if rate := self.rate():
            parts += [f"{_figure(rate)} {short}/s", f"{_duration(max(0.0, self.total - self.done) / rate)} left"]
        if self._failures:
            parts.append(f"{self._failures:,} dropped")
        return ", ".join(parts)


@contextlib.contextmanager
def progress(what: str, total: float, unit: str) -> Iterator[Advance]:
    """Yields a function that is told how many more units are done; shows share, rate, time left and what was dropped.

    The rate is in the first word of the unit: "h of audio" goes on in h/s.
    """
    meter = _Meter(total, unit)
    with _job_bar(what, meter) if sys.stderr.isatty() else _job_lines(what, meter) as show:

        def advance(amount: float, failures: int = 0) -> None:
            meter.add(amount, failures)
            show()

        yield advance


@contextlib.contextmanager
def _job_bar(what: str, meter: _Meter) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[text]}"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(what, total=max(meter.total, 1e-9), text=meter.text())
        yield lambda: bar.update(task, completed=meter.done, text=meter.text())


@contextlib.contextmanager
def _job_lines(what: str, meter: _Meter) -> Iterator[Callable[[], None]]:
    def line() -> None:
        print(f"{what}: {meter.text()}", file=sys.stderr, flush=True)

    with _every(LINE_S, line):
        yield lambda: None


@contextlib.contextmanager
def watched(what: str, total_bytes: int | None, done_bytes: Callable[[], int], look_s: float) -> Iterator[None]:
    """Shows how a job of bytes goes on that does not report: a thread asks `done_bytes` every `look_s` seconds.

    Size, rate and time left, the latter where `total_bytes` is known: a bar on a terminal, else a line now and then.
    """
    with contextlib.ExitStack() as stack:
        if sys.stderr.isatty():
            wait_s, show = look_s, stack.enter_context(_bar(what, total_bytes, done_bytes()))
        else:
            wait_s, show = LINE_S, _lines(what, total_bytes, done_bytes())

        def look() -> None:
            with contextlib.suppress(OSError):  # a file that was just moved, a store that does not answer now
                show(done_bytes())

        stack.enter_context(_every(wait_s, look))
        yield


@contextlib.contextmanager
def _every(wait_s: float, look: Callable[[], None]) -> Iterator[None]:
    """Calls `look` every `wait_s` seconds, from a thread."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(wait_s):
            look()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def _bar(what: str, total_bytes: int | None, begin_bytes: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TextColumn("left:"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(what, total=total_bytes, completed=begin_bytes)
        yield lambda done: bar.update(task, completed=done)


def _lines(what: str, total_bytes: int | None, begin_bytes: int) -> Callable[[int], None]:
    begin_s = time.monotonic()

    def show(done: int) -> None:
        rate = max(0, done - begin_bytes) / max(time.monotonic() - begin_s, 1e-9)
        of = f" of {size(total_bytes)}" if total_bytes else ""
        left = f", {_duration((total_bytes - done) / rate)} left" if total_bytes and rate else ""
        print(f"{what}: {size(done)}{of}, {size(rate)}/s{left}", file=sys.stderr, flush=True)

    return show


def size(count: float) -> str:
    """Bytes for people: 338 MB, 54.3 GB."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} bytes"


def _figure(value: float) -> str:
    """Three digits or all before the point: 0.00123, 12.3, 12,345."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _duration(seconds: float) -> str:
    for unit, scale in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * scale:
            return f"{_figure(seconds / scale) if scale == 3600 else round(seconds / scale)} {unit}"
    return f"{seconds:.0f} s"
