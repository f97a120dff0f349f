"""A training loses no utterance and takes none twice, whatever dies and with however many ranks it goes on.

Each test trains a tiny model on a few utterances made here; the logs of --log-utterances say on which.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import ONCE, UTTERANCES, arguments, make_inputs, records, steps_of, stop_after, train_with, trained
from toys import TEXTS

from asr import token_lengths, train
from asr.mixing import mix
from asr.tokenizer import Tokenizer
from asr.training.resume import Position
from shards.index import open_shards

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, vocab: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("elastic")
    make_inputs(folder, vocab)
    return folder


def torchrun(count: int, command: list[str]) -> subprocess.Popen[str]:
    launch = ["torch.distributed.run", "--standalone", "--monitor-interval", "0.1", "--nproc-per-node", str(count)]
    return subprocess.Popen([sys.executable, "-m", *launch, "-m", "asr.train", *command],
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT)  # fmt: skip


@pytest.fixture(scope="module")
def killed(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks, one of which was killed in the middle of the epoch, between two checkpoints."""
    run = tmp_path_factory.mktemp("killed") / "run"
    process = torchrun(2, arguments(toy, run))
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step      8"):
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    second = next(pid for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
    os.kill(int(second), signal.SIGKILL)
    process.stdout.close()
    process.wait()
    assert process.returncode != 0
    assert 6 <= max(step["step"] for step in steps_of(run)) < UTTERANCES / 2
    return run


@pytest.mark.parametrize("world", [1, 2, 3])
def test_after_a_kill_any_number_of_ranks_completes_the_epoch(
    toy: Path, killed: Path, tmp_path: Path, world: int
) -> None:
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    assert train_with(world, arguments(toy, run)) == [0] * world
    assert trained(run) == ONCE
    worlds = Counter(step["world"] for step in steps_of(run))
    before = 2 * json.loads((killed / "last" / "training.json").read_text())["position"]["step"]
    assert worlds[2] >= before >= 12 and sum(worlds.values()) == UTTERANCES
    assert set(worlds) == {2, world}
    steps = [r["step"] for r in records(run) if "loss" in r]
    assert steps == list(range(1, max(steps) + 1))


def test_the_number_of_ranks_may_change_more_than_once(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    command = [*arguments(toy, run), "epochs=2", "save_steps=2"]
    for world, steps in ((2, 5), (3, 3)):
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            assert train_with(world, command) == [1] * world
    assert train_with(1, command) == [0]
    assert trained(run, 1) == trained(run, 2) == ONCE
    worlds = Counter(step["world"] for step in steps_of(run) if step["epoch"] == 1)
    assert (worlds[2], worlds[3]) == (8, 6) and set(worlds) == {1, 2, 3}
    rates = [r["lr"] for r in records(run) if "lr" in r][4:]  # after the warm-up
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("world", [1, 2])
def test_as_many_ranks_go_on_to_the_same_weights(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: int
) -> None:
    """With splicing and augmentation, and another number of loader threads."""
    more = ["epochs=2", "data.batch_examples=2", "data.splice=2", "data.splice_s=2", "augment.speed=0.1",
            "augment.noise_db=20", "augment.gap_s=0.1"]  # fmt: skip
    assert train_with(world, [*arguments(toy, tmp_path / "whole"), *more]) == [0] * world
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert train_with(world, [*arguments(toy, tmp_path / "cut"), *more]) == [1] * world
    assert train_with(world, [*arguments(toy, tmp_path / "cut"), *more, "data.threads=3"]) == [0] * world
    whole, cut = ((tmp_path / name / "last" / "weights.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut
    assert steps_of(tmp_path / "whole") == steps_of(tmp_path / "cut")


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 50), st.integers(0, 50)), min_size=1, max_size=6))
def test_progress_never_goes_back(plans: list[tuple[int, int, int]]) -> None:
    """Each is a number of ranks, the steps in its plan, and how many of them are taken before the next."""
    position = Position(epoch=3, world=plans[0][0])
    before = 0.0
    for world, plan_steps, taken in plans:
        if world != position.world or not position.plan_steps:  # else it stays in its plan
            position.go_on_with(world)
            position.plan_steps = plan_steps
        for _ in range(taken):
            position.step = min(position.step + 1, position.plan_steps)
            assert before - 1e-12 <= position.share <= 1 + 1e-12
            before = position.share


def test_a_missing_shard_leaves_no_rank_waiting(toy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With one utterance in a batch, ranks lose whole batches while others do not."""
    shutil.copytree(toy / "s", tmp_path / "s")
    (tmp_path / "s" / "train-00002.tar").unlink()
    command = [*arguments(toy, tmp_path / "run"), "--shards", f"{tmp_path}/s", "epochs=2"]
    assert all(train_with(2, command))
    assert f"{tmp_path}/s/train-00002.tar" in capfd.readouterr().err
    assert train_with(2, [*command, "--max-missing-shards", "1"]) == [0, 0]
    printed = capfd.readouterr()
    assert printed.err.count("train-00002.tar: cannot be read, its utterances are left out") == 1
    assert "10 times an utterance was left out, 1 shard cannot be read" in printed.out
    for epoch in (1, 2):
        assert trained(tmp_path / "run", epoch) == ONCE - Counter(f"u{i}" for i in range(10, 15))
    (tmp_path / "s" / "train-00003.tar").unlink()  # each rank finds one of them, which is not too many for it
    fresh = [*command, "--max-missing-shards", "1", "--out", str(tmp_path / "other")]
    assert train_with(2, fresh) == [1, 1]
    assert "is one of 2 shards that cannot be read; --max-missing-shards allows 1" in capfd.readouterr().err
    said = [r for r in records(tmp_path / "run") if "missing_shards" in r]
    assert [(r["epoch"], r["missing_utterances"], r["missing_shards"]) for r in said] == [(1, 5, 1), (2, 5, 1)]


def test_a_mix_gives_each_corpus_its_share(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*arguments(toy, tmp_path / "run"), "--mix", "large=1,small=0.5", "epochs=2"]) == 0
    out = capsys.readouterr().out
    assert "not each utterance once" in out and "weight 0.5: each utterance 0.5 times" in out
    both = trained(tmp_path / "run", 1) + trained(tmp_path / "run", 2)
    assert both == Counter({f"u{i}": 2 if i < 20 else 1 for i in range(UTTERANCES)})
    assert train.main([*arguments(toy, tmp_path / "run"), "--mix", "large=1,small=0.4", "epochs=2"]) == 1
    assert "data.mix.small 0.5 then, 0.4 now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--mix", "large=1"], "--mix: gives no weight to small, which the shards hold; add small=1"),
        (["data.mix={large: 1}"], "--mix: gives no weight to small"),
        (["--mix", "large=1,small=1,tiny=1"], "the shards hold no tiny; they hold large, small"),
        (["--mix", "large=0,small=0"], "with these weights an epoch has not one utterance"),
        (["--mix", "large"], "'large' is not NAME=WEIGHT"),
        (["--mix", "large=1,small=1,large=2"], "gives large two weights"),
        (["--mix", "large=1,small=-1"], "the weight of small is -1"),
        (["--mix", "large = 1e9, small = 1"], "the weight of large is 1000000000.0; it must be from 0 to 1000"),
        (["data.mix_temperature=0"], "data.mix_temperature is 0; it must be above 0"),
        (["data.threads=0"], "data.threads is 0"),
        (["data.token_weight=-1"], "data.token_weight is -1"),
        (["data.batch_s=0.001"], "the longest utterance has 89 frames and a batch may have 1; raise data.batch_s"),
        (["seed=4294967296"], "seed is 4294967296; it must be 4294967295 or less"),
        (["--max-missing-shards", "-1"], "--max-missing-shards -1"),
    ],
)
def test_what_does_not_fit_is_one_line(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], expected: str
) -> None:
    assert train.main([*arguments(toy, tmp_path / "run"), *more]) == 1
    error = capsys.readouterr().err.strip()
    assert expected in error and "\n" not in error
    assert not (tmp_path / "run").exists()


def test_a_temperature_lets_small_corpora_come_more_often(toy: Path) -> None:
    """With T = 2 the shares go with the square roots of the hours, and the epoch keeps its hours."""
    shards = open_shards(f"{toy}/s")
    rows = np.arange(UTTERANCES)
    found = mix(shards, rows, {}, 2.0)
    assert found is not None and found.names == ("large", "small")
    hours = np.array(found.hours) * found.factors
    assert hours.sum() == pytest.approx(shards.hours)
    assert (hours[0] / hours[1]) ** 2 == pytest.approx(found.hours[0] / found.hours[1])
    assert mix(shards, rows, {}, 1.0) is mix(shards, rows, {"large": 1, "small": 1}, 1.0) is None


def test_texts_are_tokenised_once_for_their_lengths(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        train.main(arguments(toy, run))
    assert "counting the tokens of 30 texts" in capsys.readouterr().out
    kept = np.load(run / token_lengths.LENGTHS)
    tokenizer = Tokenizer.load(f"{toy}/vocab.model")
    assert kept.tolist() == [len(tokenizer.encode(TEXTS[i % len(TEXTS)])) for i in range(UTTERANCES)]
    assert train.main(arguments(toy, run)) == 0
    assert "counting" not in capsys.readouterr().out
    (run / token_lengths.KEY).unlink()
    assert train.main(arguments(toy, run)) == 0
    assert "counting" in capsys.readouterr().out
    part = [*arguments(toy, run, "--shards", f"{toy}/s/train-00000.tar"), "--force"]
    part.remove("--resume")
    assert train.main(part) == 0
    assert len(np.load(run / token_lengths.LENGTHS)) == 5


def test_a_checkpoint_of_an_older_version_is_refused(
    toy: Path, killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(killed, tmp_path / "run")
    facts_file = tmp_path / "run" / "last" / "training.json"
    facts = json.loads(facts_file.read_text())
    del facts["version"]
    facts_file.write_text(json.dumps(facts))
    assert train.main(arguments(toy, tmp_path / "run")) == 1
    error = capsys.readouterr().err.strip()
    assert "was left by another version" in error and "--force" in error and "\n" not in error
