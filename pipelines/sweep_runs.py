"""The trainings of a sweep as processes: so many at a time, each in a folder of its own from which it goes on.

A run's folder holds point.json (what makes it, how far it is, its result), run/ (the folder of train-asr), its logs and
score/ (of evaluate-asr). What decides whether a run is finished is what made it, not that it is there.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from configs import load
from manifests import storage
from pipelines.executors import THREADS
from pipelines.sweep_outcome import measured

RECORD = "point.json"
LOOK_S = 0.1  # between two looks at the processes
LEAVE_S = 60.0  # for a training to save and end when it is told to; also for one that an earlier sweep left behind
STOPPED = 143  # exit code of a training that was told to end, and has saved
ERROR_BYTES = 4000  # end of a log in which its last line is looked for

# A command whose standard input ends, as it does when the sweep is killed, ends as if it was told to: it would go on
# in a folder that a repeated sweep wants to go on in.
_COMMAND = """
import os, signal, sys, threading
def watch():
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=watch, daemon=True).start()
from configs.start import start
start("{module}")
"""

Work = Generator[subprocess.Popen | None, None, None]


class Failed(Exception):
    """A run that is not to be had. The text is one line."""


@dataclass(slots=True)
class Run:
    """A point with a seed. `made_of` is all that decides its result."""

    label: str
    seed: int
    folder: str
    made_of: dict[str, Any]
    train: list[str]  # arguments of train-asr but for --out
    dev: str
    minutes: float | None  # of training, where these are the budget
    hours_an_epoch: float
    spent_s: float = 0.0  # of training, up to the last checkpoint
    trained: bool = False
    result: dict[str, Any] | None = None
    error: str = ""

    @property
    def name(self) -> str:
        return f"{self.label}, seed {self.seed}"

    @property
    def log(self) -> str:
        """What train-asr says."""
        return storage.join(self.folder, "train.log")

    def save(self) -> None:
        kept = {"made_of": self.made_of, "spent_s": round(self.spent_s, 1), "trained": self.trained}
        storage.write_text(
            storage.join(self.folder, RECORD), json.dumps(kept | {"result": self.result}, indent=1) + "\n"
        )

    def look(self) -> list[str]:
        """Take over what an earlier sweep left of this run, or say in what that one was made otherwise."""
        path = storage.join(self.folder, RECORD)
        if not storage.exists(path):
            return []
        record = json.loads(storage.read_bytes(path))
        differing = load.differences(record["made_of"], self.made_of)
        if not differing:
            self.spent_s, self.trained, self.result = record["spent_s"], record["trained"], record["result"]
        return differing


def execute(runs: Sequence[Run], jobs: int, told: Callable[[Run, bool], None]) -> None:
    """All of them, `jobs` at a time; `told` hears of each that begins, and with True of each that has ended.

    Whatever ends this, also Ctrl-C, ends the processes: each has LEAVE_S to save what it has.
    """
    waiting = deque(runs)
    active: list[_Active] = []
    try:
        while waiting or active:
            while waiting and len(active) < jobs:
                run = waiting.popleft()
                told(run, False)
                active.append(_Active(run, _work(run)))
            for one in list(active):
                if not one.goes_on():
                    active.remove(one)
                    told(one.run, True)
            time.sleep(LOOK_S)
    finally:
        for one in active:
            if one.process is not None and one.process.poll() is None:
                one.process.terminate()
        for one in active:
            one.work.close()


@dataclass(slots=True)
class _Active:
    run: Run
    work: Work
    process: subprocess.Popen | None = None

    def goes_on(self) -> bool:
        try:
            self.process = next(self.work)
        except StopIteration:
            return False
        except (Failed, OSError, ValueError) as err:
            self.run.error = " ".join(str(err).split())
            return False
        return True


def _work(run: Run) -> Work:
    """One run from wherever it is to its result; gives the process that it waits for."""
    os.makedirs(run.folder, exist_ok=True)
    run.save()
    folder, score = storage.join(run.folder, "run"), storage.join(run.folder, "score")
    if not run.trained:
        yield from _train(run, folder)
    log = storage.join(run.folder, "evaluate.log")
    with contextlib.ExitStack() as stack:
        # not the best bundle: that was chosen by these very utterances. An evaluation there may be of another version.
        arguments = ["--bundle", storage.join(folder, "last"), "--shards", run.dev, "--out", score, "--force"]
        process = yield from _start("asr.evaluate", arguments, log, stack)
        while process.poll() is None:
            yield process
    if process.returncode:
        raise Failed(_why(log, process.returncode))
    run.result = measured(folder, storage.join(score, "wer.json"), run.hours_an_epoch, run.spent_s)
    run.save()


def _train(run: Run, folder: str) -> Work:
    last = storage.join(folder, "last", "training.json")
    before_s, seen, stopped = run.spent_s, _written(last), False
    limit_s = math.inf if run.minutes is None else 60 * run.minutes
    with contextlib.ExitStack() as stack:
        if seen and before_s >= limit_s:  # killed after the end, before it was noted
            process = None
        else:
            process = yield from _start("asr.train", [*run.train, "--out", folder, "--resume"], run.log, stack)
        start = time.monotonic()
        while process is not None:
            ended = process.poll() is not None
            spent_s = before_s + time.monotonic() - start
            if (written := _written(last)) != seen:  # what is in no checkpoint is lost with the process
                seen, run.spent_s = written, spent_s
                run.save()
            if ended:
                break
            if spent_s >= limit_s and not stopped:
                process.terminate()
                stopped = True
            yield process
    code = process.returncode if process is not None else 0
    if code and not (stopped and code == STOPPED):
        raise Failed(_why(run.log, code))
    run.trained = True
    run.save()


def _written(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0


def _start(
    module: str, arguments: Sequence[str], log: str, stack: contextlib.ExitStack
) -> Generator[None, None, subprocess.Popen]:
    """A command whose output goes to `log`; when `stack` is left, it has ended.

    The log is locked, and the lock is the command's as well as ours: a command that a killed sweep left behind keeps
    it until it has saved and ended.
    """
    patient = time.monotonic() + LEAVE_S
    while True:
        try:
            file = stack.enter_context(storage.open_locked(log, wait=False))
            break
        except BlockingIOError:
            if time.monotonic() > patient:
                raise Failed(f"{log}: another process is at work on this run; repeat the command later") from None
        yield None
    file.seek(0, os.SEEK_END)
    process = subprocess.Popen(
        [sys.executable, "-c", _COMMAND.format(module=module), *arguments], stdin=subprocess.PIPE, stdout=file,
        stderr=subprocess.STDOUT, env=THREADS | os.environ, start_new_session=True,
    )  # fmt: skip
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert process.stdin is not None
    process.stdin.close()


def _why(log: str, code: int) -> str:
    """The last line of a log, which is what a command said when it failed."""
    if code < 0:
        killed = signal.Signals(-code).name
        return f"was killed by {killed}{', perhaps for its memory' if killed == 'SIGKILL' else ''}; {log}"
    size = storage.size_bytes(log)
    end = storage.read_range(log, max(0, size - ERROR_BYTES), min(size, ERROR_BYTES)).decode(errors="replace")
    lines = [line.strip() for line in end.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {code}; {log} is empty"
