"""Where parts of a job run: in this process, or as Ray tasks here or on a cluster. The only module that imports Ray.

Both forms are one call, `run(fn, items)`, that yields (position, result) as parts finish; `at_most` bounds how many are
under way at once, and `fallback` does an item over which `fn` died with its worker again and again. Audio never travels
through it: a task reads its inputs and writes its outputs by URL and returns a few numbers.
"""

import contextlib
import logging
import os
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from pipelines.cluster import check_address, pack_code

Item = TypeVar("Item")
Result = TypeVar("Result")

# One BLAS thread in each worker: numpy's own threads made two workers 2.3-2.6 times slower than one thread each.
THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
RETRIES = 3  # how often a task is repeated whose worker or node died
LOOK_S = 1.0  # between two looks at the cluster
LOST_S = 30.0  # a cluster that is silent for so long is lost; after 60 Ray ends this process from inside
EMPTY_S = 10.0  # without any processor; then it is said, as long as it stays so
NOTICE_S = 30.0  # between two lines of one kind

# For Ray, which reads them when it is imported.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A pattern of lines not to print: those of its own processes went to standard output, where --json stands, twenty
    # for a node that died. What a user needs of it is a line of ours.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    "RAY_LOGGER_LEVEL": "critical",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # a command started by `uv run` would send the working folder along
}
ASK_ONCE = {"RAY_gcs_server_port_wait_time_s": "1"}  # asking another kind of server takes 40 s, and two minutes if not
QUIET: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}


class Run(Protocol):
    def __call__(
        self,
        fn: Callable[[Item], Result],
        items: Sequence[Item],
        at_most: int | None = None,
        fallback: Callable[[Item], Result] | None = None,
    ) -> Iterator[tuple[int, Result]]: ...


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def executor(workers: int, address: str | None = None) -> Iterator[Run]:
    """Yields `run`. `workers` 0 means in this process; `address` is a Ray cluster's, and then its own size counts.

    Raises ValueError for an address where no cluster answers; `run` does so when the cluster is lost, and when the
    workers of one item die RETRIES + 1 times, and as often over its `fallback` if it has one.
    """
    if address == "local":
        workers, address = workers or cores(), None
    if workers == 0 and address is None:
        yield _run_inline
        return
    with _ray(workers, address) as cluster:
        yield lambda fn, items, at_most=None, fallback=None: _run_ray(cluster, fn, items, at_most, fallback)


def _run_inline(
    fn: Callable[[Item], Result],
    items: Sequence[Item],
    at_most: int | None = None,
    fallback: Callable[[Item], Result] | None = None,
) -> Iterator[tuple[int, Result]]:
    for position, item in enumerate(items):
        yield position, fn(item)


@contextlib.contextmanager
def _ray(workers: int, address: str | None) -> Iterator["_Cluster"]:
    """A Ray session: one of our own on this machine, or a running cluster's."""
    os.environ.update(THREADS)  # inherited by the workers of a local Ray
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if address is not None:
        check_address(address)
    import ray

    cluster = _Cluster("Ray on this machine" if address is None else f"--ray-address {address}")
    try:
        if address is None:
            ray.init(address="local", num_cpus=workers, include_dashboard=False, **QUIET)
        else:
            _connect(address)
        with cluster:
            yield cluster
    finally:
        if cluster.is_lost:  # what is left of it may never answer
            leaving = threading.Thread(target=ray.shutdown, daemon=True)
            leaving.start()
            leaving.join(LOOK_S)
        else:
            ray.shutdown()


def _connect(address: str) -> None:
    """Workers get our code as it is here, and nothing of this process's environment: credentials are the nodes' own."""
    import ray

    ours = [name for name in ASK_ONCE if name not in os.environ]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        code = os.path.join(folder, "speechmill.zip")
        pack_code(code)
        os.environ.update({name: ASK_ONCE[name] for name in ours})
        try:
            ray.init(address=address, runtime_env={"env_vars": THREADS, "working_dir": code}, **QUIET)
        except (ConnectionError, SystemExit) as err:  # the latter for a server that is no cluster
            why = "what answers is no cluster" if isinstance(err, SystemExit) else _one_line(err)
            if "Initialization failure" not in why:  # that is of ray://, and says all
                usual = "10001" if "://" in address else "6379, and ray://HOST:10001 from outside the cluster"
                why += f"; is it the right port? The usual one is {usual}"
                why += ". A cluster with a token also wants RAY_AUTH_MODE=token"
            raise ValueError(f"--ray-address {address}: {why}") from None
        except (ValueError, RuntimeError) as err:  # other versions of Python or Ray
            raise ValueError(f"--ray-address {address}: {_one_line(err)}") from None
        finally:
            for name in ours:  # not for a Ray that this process may start later
                del os.environ[name]


def _one_line(err: BaseException) -> str:
    return " ".join(str(err).split())


class _Notice:
    """Lines to standard error, of one kind: at most one in NOTICE_S."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def say(self, text: str) -> None:
        if time.monotonic() >= self._next_s:
            print(text, file=sys.stderr, flush=True)
            self._next_s = time.monotonic() + NOTICE_S


class _Cluster:
    """How many processors there are, asked by a thread: nodes join and leave, and a dead cluster lets a call hang."""

    def __init__(self, told: str) -> None:
        self._told = told
        self.is_lost = False
        self._processors = self._deaths = 0
        self._answered_s = self._manned_s = self._checked_s = self._silent_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._empty, self._died = _Notice(), _Notice()

    def __enter__(self) -> "_Cluster":
        self._manned_s = time.monotonic()
        self._ask()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(LOOK_S)  # longer only where the cluster is lost

    def _look(self) -> None:
        while not self._ended.wait(LOOK_S):
            with contextlib.suppress(Exception):  # no answer: `_check` counts the seconds
                self._ask()

    def _ask(self) -> None:
        import ray

        self._processors = int(ray.cluster_resources().get("CPU", 0))
        self._answered_s = time.monotonic()
        if self._processors:
            self._manned_s = self._answered_s

    def at_most(self) -> int:
        """Tasks under way: two for each processor, so that one's arguments are on their way while another runs.

        Where there is no processor at all two tasks ask for one, or nothing would make an autoscaler add a node.
        """
        return 2 * max(1, self._processors)

    def start(self, task: Any, item: object) -> Any:
        """The reference of what was begun. Raises ValueError when the cluster is lost."""
        try:
            return task.remote(item)
        except ConnectionError as err:  # these two: of ray://
            raise self._lost(_one_line(err)) from None
        except ImportError as err:
            raise self._lacking(err) from None

    def finished(self, references: list[Any]) -> tuple[Any, Any, str] | None:
        """One that has finished within LOOK_S, its result, and else why its worker died.

        An error of the task is raised as if it had run here. Raises ValueError when the cluster is lost.
        """
        import ray

        reference = None
        try:
            done, _ = ray.wait(references, num_returns=1, timeout=LOOK_S)
            self._check()
            if not done:
                return None
            (reference,) = done
            return reference, ray.get(reference), ""
        except ray.exceptions.RayTaskError as err:
            cause = err.cause
            if isinstance(cause, ImportError) or "failed to import on the worker" in str(cause):
                raise self._lacking(cause) from None
            raise cause from None
        except (ray.exceptions.LocalRayletDiedError, ConnectionError) as err:  # of this machine; of ray://
            raise self._lost(_one_line(err)) from None
        except ray.exceptions.RayError as err:
            self._deaths += 1
            why = str(err).partition("\n")[0].partition(". ")[0]
            died = "a worker" if self._deaths == 1 else f"{self._deaths} workers so far"
            self._died.say(f"{self._told}: {died} died; what they did is done again ({why})")
            return reference, None, why

    def _check(self) -> None:
        now_s = time.monotonic()
        if self._answered_s > self._checked_s:
            self._silent_s = 0.0
        else:  # at most what a wait should take: this process may have been stopped for hours, and its thread with it
            self._silent_s += min(now_s - self._checked_s, 2 * LOOK_S)
        self._checked_s = now_s
        if self._silent_s > LOST_S:
            raise self._lost(f"no answer for {LOST_S:.0f} s")
        if self._answered_s - self._manned_s > EMPTY_S:
            self._empty.say(f"{self._told}: has no processor now; waiting for a node to join")

    def _lacking(self, err: BaseException) -> ValueError:
        why = str(err).strip().splitlines()[-1]
        return ValueError(f"{self._told}: {why}; every node needs the Python packages that this machine has")

    def _lost(self, why: str) -> ValueError:
        self.is_lost = True
        return ValueError(f"{self._told}: the cluster is lost ({why}); repeat the command when it is back")


@dataclass(slots=True)
class _Try(Generic[Item]):
    """An item under way, and how often a worker died over it."""

    position: int
    item: Item
    task: Any  # Ray's
    fallback: Any  # the same, or None
    deaths: int = 0

    def died(self, why: str) -> None:
        """Raises ValueError when it was once too often, also for the fallback."""
        self.deaths += 1
        if self.deaths <= RETRIES:
            return
        if self.fallback is None:
            raise ValueError(f"a worker died {self.deaths} times over the same task; the last time: {why}")
        self.task, self.fallback, self.deaths = self.fallback, None, 0


def _task(fn: Callable[[Item], Result]) -> Any:
    import ray

    def call(item: Item) -> Result:  # ray.remote takes functions only, and `fn` may be a functools.partial
        return fn(item)

    # Ray's own retries are off: it prints them, and counts neither a lost node nor a worker that took all memory.
    return ray.remote(num_cpus=1, max_retries=0)(call)


def _run_ray(
    cluster: _Cluster,
    fn: Callable[[Item], Result],
    items: Sequence[Item],
    at_most: int | None,
    fallback: Callable[[Item], Result] | None,
) -> Iterator[tuple[int, Result]]:
    task, spare = _task(fn), None if fallback is None else _task(fallback)
    waiting = iter(enumerate(items))
    running: dict[Any, _Try[Item]] = {}
    while True:
        limit = min(cluster.at_most(), at_most or sys.maxsize)
        while len(running) < limit and (entry := next(waiting, None)) is not None:
            running[cluster.start(task, entry[1])] = _Try(*entry, task, spare)
        if not running:
            return
        if (finished := cluster.finished(list(running))) is None:
            continue
        reference, result, why = finished
        one = running.pop(reference)
        if why:
            one.died(why)
            running[cluster.start(one.task, one.item)] = one
        else:
            yield one.position, result
