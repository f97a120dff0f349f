"""Damaged shards, stores that hang and ranks that are gone: a training names them and waits for none."""

import os
import shutil
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from runs import ONCE, arguments, make_inputs, records, start_ranks, stop_after, train_with, trained
from toys import TEXTS, Toy, flac, write_toys

from asr import data, train
from asr.corpus import Corpus
from asr.data import Feed
from asr.frontend import logmel
from asr.missing import Missing
from asr.tokenizer import Tokenizer
from asr.training import heartbeat, step
from asr.training.health import Lines
from manifests import parquet
from shards.cache import Cache
from shards.index import open_shards
from shards.plan import Budget, Lengths, plan_epoch
from shards.spec import FrontendSpec
from tests.pipelines.httpd import Fault, serve


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, vocab: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    make_inputs(folder, vocab)
    return folder


@pytest.fixture
def spoken(tmp_path: Path, hum: np.ndarray) -> Path:
    """Audio alone: three shards of two utterances."""
    toys = []
    for i in range(6):
        samples = (np.round(hum[: 8000 + 3217 * i] * 32767) / 32768).astype(np.float32)
        toys.append(Toy(f"u{i}", TEXTS[i % len(TEXTS)], logmel(samples, FrontendSpec()), flac(samples)))
    write_toys(tmp_path / "spoken", toys, FrontendSpec(), "audio", per_shard=2)
    return tmp_path / "spoken"


def feed_of(corpus: Corpus, allowed: int = 0) -> Feed:
    """An utterance in each batch."""
    shards = corpus.shards
    tokens = np.ones(len(shards), np.int32)
    plan = plan_epoch(Lengths(shards.frames, tokens, shards.shard), Budget(1000, 1), seed=1, epoch=0)
    return Feed(corpus, np.arange(len(shards)), plan, 0, None, (1, 0), Missing(shards.files, allowed))


@pytest.mark.parametrize("part", ["audio", "text"])
def test_a_damaged_utterance_names_its_shard_which_may_be_left_out(spoken: Path, vocab: Tokenizer, part: str) -> None:
    shards = open_shards(str(spoken))
    row = 3  # the second of the second shard
    offset = int((shards.audio_offset if part == "audio" else shards.text_offset)[row])
    with (spoken / "train-00001.tar").open("r+b") as tar:
        tar.seek(offset)
        tar.write(b"\xff\xff")
    corpus = Corpus(shards, vocab)
    with pytest.raises((OSError, ValueError), match=rf"{spoken}/train-00001\.tar[:#]"):
        list(data.batches(feed_of(corpus), 0))
    feed = feed_of(corpus, allowed=1)
    batches = list(data.batches(feed, 0))
    rows = {row for batch in batches for example in batch.rows for row in example.tolist()}
    assert {0, 1, 4, 5} <= rows <= {0, 1, 2, 4, 5}
    assert len(rows) + sum(batch.missing for batch in batches) == 6
    assert feed.missing.lost.tolist() == [False, True, False]


def test_who_stops_waits_for_no_transfer_that_hangs(shard_folder: Path, vocab: Tokenizer, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shard_folder, tmp_path / "set"))
    first = feed_of(Corpus(open_shards(str(folder)), vocab)).plan.batch(0)[0][0] // 8  # its shard stays here
    before = set(threading.enumerate())
    with serve() as site:
        site.files = {f"/{path.name}": path.read_bytes() for path in folder.glob("*.tar")}
        site.faults = [Fault(hold_at=100) for _ in range(10)]
        names = [f"train-{shard:05d}.tar" for shard in np.arange(24) // 8]
        urls = [name if name == f"train-{first:05d}.tar" else f"{site.url}/{name}" for name in names]
        index = parquet.read(str(folder / "index.parquet"))
        place = index.schema.get_field_index("shard")
        parquet.write(str(folder / "index.parquet"), index.set_column(place, index.schema.field(place), pa.array(urls)))
        cache = Cache(str(tmp_path / "cache"))
        batches = data.batches(feed_of(Corpus(open_shards(str(folder / "index.parquet")), vocab, cache)), 0)
        next(batches)
        assert site.held.wait(20)
        batches.close()
        loaders = [thread for thread in threading.enumerate() if thread.name.startswith("loader")]
        assert loaders and not site.release.is_set()
        site.release.set()
        for thread in loaders:
            thread.join(20)
        cache.close()
    assert not any(thread.name.startswith("loader") for thread in set(threading.enumerate()) - before)


def test_dev_shards_that_are_gone_are_told_before_the_first_step(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(toy / "s", tmp_path / "dev")
    (tmp_path / "dev" / "train-00004.tar").unlink()
    more = ["--dev-shards", f"{tmp_path}/dev", "--max-missing-shards", "1"]
    assert train.main(arguments(toy, tmp_path / "run", *more)) == 1
    assert f"{tmp_path}/dev/train-00004.tar: no such file" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_fewer_utterances_left_than_ranks_are_trained_on_too(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    command = [*arguments(toy, run), "save_steps=1", "epochs=2"]
    with monkeypatch.context() as patch:
        stop_after(patch, 28)
        assert train_with(1, command) == [1]
    assert train_with(3, command) == [0, 0, 0]  # two are left
    assert trained(run, 1) == trained(run, 2) == ONCE
    rates = [r["lr"] for r in records(run) if "lr" in r][4:]
    assert len(rates) == 28 + 1 + 10 - 4 and rates == sorted(rates, reverse=True)


def test_machines_that_share_no_folder_do_not_go_on_from_different_steps(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert train_with(1, arguments(toy, tmp_path / "run0")) == [1]
    capfd.readouterr()
    assert train_with(2, arguments(toy, tmp_path / "run{rank}")) == [1, 1]
    errors = capfd.readouterr().err  # of both, which may share a line
    assert errors.count("is not the same folder for all processes (process 0 at step 3, process 1 at step 0)") == 2
    assert not (tmp_path / "run1").exists()


def die_in_the_log(patch: pytest.MonkeyPatch, rank: int, step: int) -> None:
    """Let a rank be killed after its step, before it has noted what it was on."""
    add = Lines.add

    def die(self: Lines, record: dict[str, Any]) -> None:
        if os.environ["RANK"] == str(rank) and "ids" in record and record["step"] == step:
            os.kill(os.getpid(), signal.SIGKILL)
        add(self, record)

    patch.setattr(Lines, "add", die)


def test_no_checkpoint_is_ahead_of_the_log_of_any_rank(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Step 3 has a checkpoint: with it, what the killed rank was on would be in no log."""
    with monkeypatch.context() as patch:
        die_in_the_log(patch, rank=1, step=3)
        assert train_with(2, arguments(toy, tmp_path / "run")) == [1, -signal.SIGKILL]
    error = capfd.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "the other processes of this training cannot be reached" in error[0]
    assert train_with(2, arguments(toy, tmp_path / "run")) == [0, 0]
    assert trained(tmp_path / "run") == ONCE


def test_a_mix_may_leave_an_epoch_with_fewer_utterances_than_ranks(toy: Path, tmp_path: Path) -> None:
    """Also with none. A run could not be resumed with other weights."""
    command = [*arguments(toy, tmp_path / "run"), "--mix", "large=0.05,small=0.05", "epochs=20"]
    assert train_with(2, command) == [0, 0]
    epochs = [trained(tmp_path / "run", epoch) for epoch in range(1, 21)]
    assert {0, 1} <= {sum(seen.values()) for seen in epochs}
    assert sum(epochs, Counter()) == ONCE


@pytest.fixture
def fast_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.1)  # 1.5 s of silence in place of 45


def before_step(patch: pytest.MonkeyPatch, rank: int, number: int, happens: Callable[[], object]) -> None:
    """Let something happen to one rank before it takes its step of this number."""
    take, taken = step.take, []

    def interrupted(*args: Any) -> dict[str, float]:
        taken.append(1)
        if os.environ["RANK"] == str(rank) and len(taken) == number:
            happens()
        return take(*args)

    patch.setattr(step, "take", interrupted)


@pytest.mark.usefixtures("fast_heart")
@pytest.mark.parametrize("rank", [0, 1])  # that of 0 keeps the store by which they hear of each other
def test_a_machine_that_is_gone_without_a_word_ends_the_others(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], rank: int
) -> None:
    """A stopped process closes no connection either."""
    with monkeypatch.context() as patch:
        before_step(patch, rank, 5, lambda: os.kill(os.getpid(), signal.SIGSTOP))
        processes = start_ranks(2, arguments(toy, tmp_path / "run"))
    other = processes[1 - rank]
    other.join(60)
    processes[rank].kill()
    for process in processes:
        process.join()
    assert other.exitcode == 1
    error = capfd.readouterr().err.strip().splitlines()
    assert len(error) == 1 and f"train-asr: error: process {rank} on {socket.gethostname()} has given no" in error[0]
    assert error[0].endswith("the same command with --resume goes on from the last checkpoint")
    assert train_with(2, arguments(toy, tmp_path / "run")) == [0, 0]
    assert trained(tmp_path / "run") == ONCE


@pytest.mark.usefixtures("fast_heart")
def test_ranks_that_are_slow_or_suspended_together_are_not_gone(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank may compile or recognise for long, and a batch system may stop all of them for a while."""
    silence_s = 1.2 * heartbeat.BEAT_S * heartbeat.SILENT_BEATS
    with monkeypatch.context() as patch:
        before_step(patch, 1, 5, lambda: threading.Event().wait(2 * silence_s))
        processes = start_ranks(2, arguments(toy, tmp_path / "run"))
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert not processes[0].join(0.05) and processes[0].is_alive()
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for process in processes:
            assert process.pid is not None
            os.kill(process.pid, number)
        threading.Event().wait(silence_s if number == signal.SIGSTOP else 0)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert trained(tmp_path / "run") == ONCE
