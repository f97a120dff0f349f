"""A progress bar on a terminal. In a log file there is nothing, but for what takes hours: a line now and then."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

Advance = Callable[[float], None]

LINE_S = 30.0  # between two lines where there is no terminal


@contextlib.contextmanager
def progress(what: str, total: float, unit: str) -> Iterator[Advance]:
    """Yields a function that is told how many more units are done; shows share, rate and time left."""
    if not sys.stderr.isatty():
        yield lambda amount: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} " + unit),
        TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=max(total, 1e-9))
        bar.update(task, advance=0)
        yield lambda amount: bar.update(task, advance=amount)


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
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(wait_s):
                with contextlib.suppress(OSError):  # a file that was just moved, a store that does not answer now
                    show(done_bytes())

        thread = threading.Thread(target=look, daemon=True)
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
        left = f", {(total_bytes - done) / rate / 60:.0f} minutes left" if total_bytes and rate else ""
        print(f"{what}: {size(done)}{of}, {size(rate)}/s{left}", file=sys.stderr, flush=True)

    return show


def size(count: float) -> str:
    """Bytes for people: 338 MB, 54.3 GB."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} bytes"
