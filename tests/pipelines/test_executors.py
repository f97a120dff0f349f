"""The same calls in this process and over Ray, which is started once for this file."""

import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from manifests import storage
from pipelines import executors
from pipelines.executors import Run


@pytest.fixture(params=["inline", "ray"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    if request.param == "ray":
        yield request.getfixturevalue("ray_run")
    else:
        with executors.executor(0) as inline:
            yield inline


def power(exponent: int, base: int) -> int:
    return base**exponent


def test_every_item_gives_its_position_and_result_once(run: Run) -> None:
    assert sorted(run(functools.partial(power, 2), range(10, 40))) == [(i, (10 + i) ** 2) for i in range(30)]
    assert list(run(functools.partial(power, 2), [])) == []


class Counted(list):
    """A list that knows how many of its items were taken."""

    taken = 0

    def __iter__(self) -> Iterator[int]:
        for item in super().__iter__():
            self.taken += 1
            yield item


def test_no_more_than_asked_are_under_way_at_once(run: Run) -> None:
    items = Counted(range(5))
    for done, _ in enumerate(run(functools.partial(power, 2), items, at_most=1)):
        assert items.taken == done + 1
    assert items.taken == 5


def reject(item: int) -> int:
    if item == 3:
        raise ValueError(f"item {item} is bad")
    return item


def fill(path: str) -> None:
    with storage.atomic_write(path) as file:
        file.write(b"x")
        raise OSError(28, "No space left on device", path)


def test_an_error_arrives_as_the_task_raised_it(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^item 3 is bad$"):
        list(run(reject, range(6)))
    with pytest.raises(OSError, match="No space left") as err:
        list(run(fill, [str(tmp_path / "a")]))
    assert (err.value.errno, err.value.filename) == (28, str(tmp_path / "a"))
    assert list(tmp_path.iterdir()) == []


def die_once(marker: str) -> str:
    if not storage.exists(marker):
        storage.write_text(marker, "was here")
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def test_a_task_whose_worker_died_is_repeated(ray_run: Run, tmp_path: Path) -> None:
    markers = [str(tmp_path / name) for name in ("a", "b")]
    assert sorted(ray_run(die_once, markers)) == [(0, "done"), (1, "done")]


def threads(_: int) -> list[str | None]:
    return [os.environ.get(name) for name in executors.THREADS]


def test_ray_workers_are_other_processes_with_one_blas_thread(ray_run: Run) -> None:
    ((_, pid),) = ray_run(lambda _: os.getpid(), [0])
    assert pid != os.getpid()
    assert list(ray_run(threads, [0])) == [(0, ["1", "1", "1"])]


def die_over(item: int, worst: int) -> str:
    if item == worst:
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def carefully(item: int) -> str:
    return "done carefully"


def test_what_kills_each_worker_is_left_to_the_fallback(ray_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "RETRIES", 1)
    done = ray_run(functools.partial(die_over, worst=2), range(4), fallback=carefully)
    assert sorted(done) == [(0, "done"), (1, "done"), (2, "done carefully"), (3, "done")]


def test_what_kills_each_worker_without_a_fallback_is_told_in_a_line(
    ray_run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(executors, "RETRIES", 1)
    fatal = functools.partial(die_over, worst=0)
    for fallback in (None, fatal):
        with pytest.raises(ValueError, match=r"^a worker died 2 times over the same task; the last time: The worker "):
            list(ray_run(fatal, [0], fallback=fallback))
    out, err = capfd.readouterr()
    assert out == "" and {line.partition(" (")[0] for line in err.splitlines()} <= {
        f"Ray on this machine: {who} died; what they did is done again" for who in ("a worker", "3 workers so far")
    }


def import_nothing(_: int) -> None:
    import no_such_package  # noqa: F401


def test_what_a_node_lacks_is_told_by_name(ray_run: Run) -> None:
    with pytest.raises(ValueError, match=r"No module named 'no_such_package'; every node needs the Python packages"):
        list(ray_run(import_nothing, [0]))


def test_cores_are_those_this_process_may_use() -> None:
    assert executors.cores() == len(os.sched_getaffinity(0)) >= 1
