"""Where parts of a job run: in this process, or as Ray tasks here or on a cluster. The only module that imports Ray.

Both forms are one call, `run(fn, items)`, that yields (position, result) as parts finish; `at_most` bounds how many are
under way at once. Audio never travels through it: a task reads its inputs and writes its outputs by URL and returns a
few numbers.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# One BLAS thread in each worker: numpy's own threads made two workers 2.3-2.6 times slower than one thread each.
THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
RETRIES = 3  # how often a task is repeated whose worker or node died


class Run(Protocol):
    def __call__(
        self, fn: Callable[[Item], Result], items: Sequence[Item], at_most: int | None = None
    ) -> Iterator[tuple[int, Result]]: ...


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def executor(workers: int, address: str | None = None) -> Iterator[Run]:
    """Yields `run`. `workers` 0 means in this process; `address` is a Ray cluster's, and then its own size counts."""
    if workers == 0 and address is None:
        yield _run_inline
        return
    with _ray(workers, address) as in_flight:
        yield lambda fn, items, at_most=None: _run_ray(fn, items, min(in_flight, at_most or in_flight))


def _run_inline(
    fn: Callable[[Item], Result], items: Sequence[Item], at_most: int | None = None
) -> Iterator[tuple[int, Result]]:
    for position, item in enumerate(items):
        yield position, fn(item)


@contextlib.contextmanager
def _ray(workers: int, address: str | None) -> Iterator[int]:
    """A Ray session; yields how many tasks may be under way at once."""
    os.environ.update(THREADS)  # inherited by the workers of a local Ray
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    quiet: dict[str, Any] = {"include_dashboard": False, "logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        ray.init(address="local", num_cpus=workers, **quiet)
    else:
        try:
            ray.init(address=address, runtime_env={"env_vars": THREADS}, logging_level=logging.ERROR)
        except (ConnectionError, ValueError) as err:  # no answer; no address at all
            raise ValueError(f"--ray-address {address}: no Ray cluster answers there ({err})") from None
    try:
        # Two tasks for each processor: one runs while the next one's arguments are on their way.
        yield 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    finally:
        ray.shutdown()


def _run_ray(fn: Callable[[Item], Result], items: Sequence[Item], in_flight: int) -> Iterator[tuple[int, Result]]:
    import ray

    def call(item: Item) -> Result:  # ray.remote takes functions only, and `fn` may be a functools.partial
        return fn(item)

    task = ray.remote(num_cpus=1, max_retries=RETRIES)(call)
    waiting = iter(enumerate(items))
    running: dict[Any, int] = {}
    while True:
        for position, item in waiting:
            running[task.remote(item)] = position
            if len(running) >= in_flight:
                break
        if not running:
            return
        finished, _ = ray.wait(list(running), num_returns=1)
        for reference in finished:
            try:
                result = ray.get(reference)
            except ray.exceptions.RayTaskError as err:
                raise err.cause from None  # the task's own error, as if it had run here
            except ray.exceptions.RayError as err:
                why = str(err).partition("\n")[0]
                raise ValueError(
                    f"a worker died {RETRIES + 1} times over the same task; the last time: {why}"
                ) from None
            yield running.pop(reference), result
