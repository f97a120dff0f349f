"""What a training can be asked for beside plain steps, and that it keeps its place through all of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import ONCE, UTTERANCES, arguments, make_inputs, records, steps_of, stop_after, train_with, trained
from safetensors.torch import load_file
from torch.amp.grad_scaler import GradScaler

from asr import averaging, checkpoint, train
from asr.tokenizer import Tokenizer
from asr.training import step
from asr.training.session import prepare
from configs import cli


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, vocab: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("loop")
    make_inputs(folder, vocab)
    return folder


def weights(bundle: Path) -> dict[str, torch.Tensor]:
    return load_file(bundle / checkpoint.WEIGHTS)


def gradients(session: Any) -> list[torch.Tensor]:
    return [p.grad.clone() for p in session.bundle.model.parameters()]


def test_accumulated_batches_give_the_mean_of_their_gradients(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = train.make_parser().parse_intermixed_args(
        [*arguments(toy, tmp_path / "run"), "optim.clip=1e9", "augment.time_masks=0", "augment.mel_masks=0"]
    )
    session = prepare(args)
    monkeypatch.setattr(session.optimisers.parts[0], "step", lambda: None)
    session.plan = session.plan or train.epoch_plan(session)
    first, second, *_ = train.batches(session, session.plan, None)
    found = []
    for group in ([first], [second], [first, second]):
        values = step.take(session, group)
        found.append((values, gradients(session)))
    (one, g_one), (two, g_two), (both, g_both) = found
    assert both["loss"] == pytest.approx((one["loss"] + two["loss"]) / 2)
    for a, b, mean in zip(g_one, g_two, g_both, strict=True):
        torch.testing.assert_close(mean, (a + b) / 2, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("world", [1, 2])
def test_a_step_of_several_batches_keeps_its_place(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: int
) -> None:
    more = ["optim.accumulate=4", "epochs=2", "optim.kind=muon", "ema=0.9", "optim.schedule=eden"]
    assert train_with(world, [*arguments(toy, tmp_path / "whole"), *more]) == [0] * world
    assert trained(tmp_path / "whole", 1) == trained(tmp_path / "whole", 2) == ONCE
    steps = max(s["step"] for s in steps_of(tmp_path / "whole"))
    assert steps == 2 * -(-UTTERANCES // (4 * world))
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert train_with(world, [*arguments(toy, tmp_path / "cut"), *more]) == [1] * world
    assert train_with(world, [*arguments(toy, tmp_path / "cut"), *more]) == [0] * world
    for name in (checkpoint.WEIGHTS, checkpoint.TRAINING_TENSORS):
        whole, cut = ((tmp_path / run / "last" / name).read_bytes() for run in ("whole", "cut"))
        assert whole == cut


def test_sigterm_saves_the_step_and_says_how_to_go_on(toy: Path, tmp_path: Path) -> None:
    """A batch system that takes its machine back; no checkpoint was due."""
    assert train_with(1, [*arguments(toy, tmp_path / "whole"), "save_steps=1000"]) == [0]
    run = tmp_path / "run"
    command = [*arguments(toy, run), "save_steps=1000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "asr.train", *command], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step      4"):
            break
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143
    saved = json.loads((run / "last" / "training.json").read_text())["position"]["total"]
    assert saved >= 4
    assert error == (f"train-asr: error: stopped by SIGTERM after step {saved}, which is saved; the same command with "
                     "--resume goes on\n")  # fmt: skip
    assert train_with(1, command) == [0]
    assert trained(run) == ONCE
    assert [s["ids"] for s in steps_of(run)] == [s["ids"] for s in steps_of(tmp_path / "whole")]
    assert (run / "last" / checkpoint.WEIGHTS).read_bytes() == (
        tmp_path / "whole" / "last" / checkpoint.WEIGHTS
    ).read_bytes()


def sigterm_at(patch: pytest.MonkeyPatch, rank: int, total: int) -> None:
    """Let a signal come to one rank alone, in the middle of a step."""
    take = step.take

    def signalled(session: Any, batches: Any) -> dict[str, float]:
        if session.rank == rank and session.position.total == total:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(session, batches)

    patch.setattr(step, "take", signalled)


def note_order(patch: pytest.MonkeyPatch, path: Path) -> None:
    """Let processes note when a checkpoint is saved, and when one ends after SIGTERM."""
    save = checkpoint.save

    def note(what: str) -> None:
        with path.open("a") as file:
            file.write(f"{what}\n")

    class Ends(cli.Terminated):
        def __init__(self, text: str) -> None:
            note("ends")
            super().__init__(text)

    patch.setattr(checkpoint, "save", lambda *args: (save(*args), note("saved")))
    patch.setattr(cli, "Terminated", Ends)


@pytest.mark.parametrize("total", [2, UTTERANCES // 2 - 1])  # in the middle of the epoch, and with its last step
def test_a_sigterm_to_one_rank_ends_all_after_the_same_step(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int
) -> None:
    """And none before that is saved: launchers end all when the first one ends."""
    command = [*arguments(toy, tmp_path / "run"), "epochs=2"]
    with monkeypatch.context() as patch:
        sigterm_at(patch, rank=1, total=total)
        note_order(patch, tmp_path / "order")
        assert train_with(2, command) == [143, 143]
    order = (tmp_path / "order").read_text().split()
    assert order == sorted(order, reverse=True) and set(order) == {"saved", "ends"}
    saved = json.loads((tmp_path / "run" / "last" / "training.json").read_text())["position"]["total"]
    assert saved == total + 1
    assert train_with(2, command) == [0, 0]
    assert trained(tmp_path / "run", 1) == trained(tmp_path / "run", 2) == ONCE


def test_the_mean_of_the_weights_is_what_is_saved_and_the_raw_ones_go_on(toy: Path, tmp_path: Path) -> None:
    plain, mean = tmp_path / "plain", tmp_path / "mean"
    assert train_with(1, arguments(toy, plain)) == train_with(1, [*arguments(toy, mean), "ema=0.99"]) == [0]
    raw = load_file(mean / "last" / checkpoint.TRAINING_TENSORS)
    without, saved = weights(plain / "last"), weights(mean / "last")
    for name, value in without.items():
        if name not in ("mean_f", "scale_f"):
            assert torch.equal(raw[f"raw/{name}"], value), name
            assert not torch.equal(saved[name], value), name
    losses = [[r["loss"] for r in records(run) if "loss" in r] for run in (plain, mean)]
    assert losses[0] == losses[1]


def test_the_moving_mean_is_that_of_its_definition() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    ema = averaging.Ema(model, 0.5)
    expected = model.weight.item()
    for number, value in enumerate((1.0, 5.0, -3.0, 2.0)):
        torch.nn.init.constant_(model.weight, value)
        ema.update(number)
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * value
    with ema.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 2.0


@pytest.mark.parametrize("kind", ["adamw", "muon"])  # muon: two optimisers, of which one may have gradients in range
def test_a_scale_beyond_the_range_of_gradients_skips_steps_until_it_fits(toy: Path, tmp_path: Path, kind: str) -> None:
    """As in float16, here with a scale that is too large for float32: steps are skipped, and the scale halved."""
    args = arguments(toy, tmp_path / "run", "augment.time_masks=0", "augment.mel_masks=0", "optim.clip=1e9",
                     f"optim.kind={kind}")  # fmt: skip
    session = prepare(train.make_parser().parse_intermixed_args(args))
    model, ema = session.bundle.model, averaging.Ema(session.bundle.model, 0.9)
    batch = next(train.batches(session, train.epoch_plan(session), None))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    norm = step.take(session, [batch])["grad_norm"]
    model.load_state_dict(before, strict=False)
    session.scaler, session.ema = GradScaler("cpu", init_scale=2.0**124), ema
    skipped = 0
    while (values := step.take(session, [batch]))["skipped"]:
        skipped += 1
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
        assert all(torch.equal(mean, before[name]) for name, mean in ema.means.items())
    assert skipped and session.scaler.get_scale() == 2.0 ** (124 - skipped)
    assert values["grad_norm"] == pytest.approx(norm, rel=1e-3)
    assert not all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def spoil_a_step(patch: pytest.MonkeyPatch, rank: int, total: int) -> None:
    """Let one rank compute what is no number."""
    take = step.take

    def spoiled(session: Any, batches: Any) -> dict[str, float]:
        if session.rank == rank and session.position.total == total:
            session.bundle.model.output.bias.data.fill_(float("nan"))
        return take(session, batches)

    patch.setattr(step, "take", spoiled)


@pytest.mark.parametrize("world", [1, 2])
def test_a_gradient_that_is_not_finite_stops_all_ranks_before_the_step(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], world: int
) -> None:
    command = arguments(toy, tmp_path / "run")
    with monkeypatch.context() as patch:
        spoil_a_step(patch, rank=world - 1, total=6)
        assert train_with(world, command) == [1] * world
    names = [f"not-finite-rank{rank}.txt" for rank in range(world)]
    ids = [(tmp_path / "run" / name).read_text().split() for name in names]
    assert all(len(found) == 1 for found in ids)
    errors = [line for line in capfd.readouterr().err.splitlines() if "the gradient norm is nan" in line]
    assert len(errors) == world and all("step 6" in line for line in errors)
    assert train_with(world, command) == [0] * world
    assert trained(tmp_path / "run") == ONCE


def test_epochs_are_kept_and_their_mean_is_a_bundle(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train_with(1, [*arguments(toy, run), "epochs=4", "keep_epochs=2"]) == [0]
    assert sorted(p.name for p in run.glob("epoch-*")) == ["epoch-003", "epoch-004"]
    last = weights(run / "last")
    assert all(torch.equal(value, last[name]) for name, value in weights(run / "epoch-004").items())
    kept = [str(run / "epoch-003"), str(run / "epoch-004")]
    assert averaging.main([*kept, "--out", str(tmp_path / "mean")]) == 0
    assert averaging.main([*kept, "--out", str(tmp_path / "mean")]) == 0
    assert "is the mean of these bundles already" in capsys.readouterr().out
    mean = weights(tmp_path / "mean")
    for name, value in mean.items():
        both = (weights(run / "epoch-003")[name].double() + weights(run / "epoch-004")[name].double()) / 2
        torch.testing.assert_close(value.double(), both, rtol=1e-6, atol=1e-9)
    facts = [
        json.loads((tmp_path / place / checkpoint.FACTS).read_text())["training"] for place in ("run/last", "mean")
    ]
    assert facts[1]["config"] == facts[0]["config"] and "epoch" in facts[0]
    assert facts[1].keys() == {"config", "averaged"}  # neither its epoch nor its dev WER is that of one of them
    for more, expected in [
        ([*kept, "--out", str(run / "epoch-004")], "say --force"),
        ([*kept, "--out", str(run / "last"), "--force"], "is what a training goes on from"),
        ([*kept, f"{kept[0]}/", "--out", str(tmp_path / "twice")], "epoch-003: is given 2 times"),
    ]:
        capsys.readouterr()
        assert averaging.main(more) == 1
        assert expected in capsys.readouterr().err
    assert (run / "last" / checkpoint.TRAINING_FACTS).exists() and not (tmp_path / "twice").exists()


def test_what_a_kill_leaves_of_a_kept_epoch_goes_and_folders_of_the_same_name_stay(toy: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train_with(1, [*arguments(toy, run), "keep_epochs=1"]) == [0]
    (run / "epoch-001").rename(run / "epoch-009.previous")  # killed between two renames
    (run / ".writing-epoch-008").mkdir()
    (run / "epoch-7").mkdir()
    (run / "epoch-7" / "notes").write_text("years of work")
    command = [argument for argument in arguments(toy, run, "--force") if argument != "--resume"]
    assert train_with(1, [*command, "keep_epochs=1"]) == [0]
    assert sorted(p.name for p in run.iterdir() if "epoch" in p.name) == ["epoch-001", "epoch-7"]
    assert (run / "epoch-7" / "notes").exists()


@pytest.mark.parametrize("kept", ["best", "epoch-001"])
def test_bundles_that_are_all_somebody_kept_of_a_run_are_not_deleted(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: str
) -> None:
    run = tmp_path / "run"
    assert train_with(1, arguments(toy, run)) == [0]
    (run / "last").rename(run / kept)
    capsys.readouterr()
    assert train.main([argument for argument in arguments(toy, run) if argument != "--resume"]) == 1
    assert f"{run}: holds a run; say --resume" in capsys.readouterr().err
    assert (run / kept / checkpoint.FACTS).exists()


def test_a_precision_may_be_given_by_its_name(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run goes on where `auto` would choose another."""
    assert train_with(1, arguments(toy, tmp_path / "run")) == [0]
    precision = json.loads((tmp_path / "run" / "last" / "training.json").read_text())["identity"]["precision"]
    assert train_with(1, [*arguments(toy, tmp_path / "run"), f"precision={precision}"]) == [0]
    other = "bf16" if precision == "fp32" else "fp32"
    capsys.readouterr()
    assert train_with(1, [*arguments(toy, tmp_path / "run"), f"precision={other}"]) == [1]
    assert f"trained otherwise: precision {precision} then, {other} now; give" in capsys.readouterr().err


def test_a_sigterm_keeps_count_of_what_was_left_out(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(toy / "s", tmp_path / "s")
    (tmp_path / "s" / "train-00002.tar").unlink()
    more = ["--shards", f"{tmp_path}/s", "--max-missing-shards", "1", "log_steps=1000", "save_steps=1000"]
    command = [*arguments(toy, tmp_path / "run"), *more]
    with monkeypatch.context() as patch:
        sigterm_at(patch, rank=0, total=25)
        assert train_with(1, command) == [143]
    assert train_with(1, command) == [0]
    assert [r["missing_utterances"] for r in records(tmp_path / "run") if "missing_shards" in r] == [5]


def test_an_epoch_is_told_in_steps_of_the_optimiser(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_with(1, [*arguments(toy, tmp_path / "run"), "optim.accumulate=100"]) == [0]
    assert "epoch 1: 1 step of 100 batches, " in capsys.readouterr().out
    assert max(r["step"] for r in records(tmp_path / "run")) == 1


def test_a_training_begins_with_the_weights_of_another(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_with(1, arguments(toy, tmp_path / "first")) == [0]
    args = [*arguments(toy, tmp_path / "second"), "--init-from", f"{tmp_path}/first/last", "optim.lr=1e-9"]
    assert train_with(1, args) == [0]
    first, second = weights(tmp_path / "first" / "last"), weights(tmp_path / "second" / "last")
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-6)
    capsys.readouterr()
    other = [*arguments(toy, tmp_path / "third"), "--init-from", f"{tmp_path}/first/last", "model.joint=16"]
    assert train.main(other) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "--init-from" in error[0] and "model.joint 8 and 16" in error[0]
    assert train.main([*other[:-1], "model.encoder_options.hidden=16"]) == 1
    assert "of another kind than this training: model.encoder_options.hidden 8 and 16\n" in capsys.readouterr().err
    assert not (tmp_path / "third").exists()


def test_no_memory_for_the_dev_set_is_one_line(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def out_of_memory(*_: Any) -> list[str]:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(train, "recognise", out_of_memory)
    assert train.main([*arguments(toy, tmp_path / "run"), "--dev-shards", f"{toy}/s"]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "recognising the dev set" in error[0]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["optim.schedule=plateau"], "give --dev-shards"),
        (["optim.kind=adam"], "adamw"),
        (["precision=fp16"], "is for GPUs"),
        (["ema=1"], "must be from 0 to below 1"),
        (["optim.weight_decay=.nan"], "optim.weight_decay is nan; it must be 0 or more, and finite"),
        (["optim.min_lr=.inf"], "optim.min_lr is inf; it must be 0 or more, and finite"),
        (["optim.accumulate=0"], "optim.accumulate is 0; it must be 1 or more"),
        (["model.kind=ctc", "loss.fastemit=0.1"], "loss.fastemit"),
        (["model.predictor_dropout=1"], "model.predictor_dropout is 1; it must be from 0 to below 1"),
        (["loss.eps=.nan"], "loss.eps is nan; it must be 0 or more, and finite"),
        (["data.splice_s=-1"], "data.splice_s is -1; it must be 0 or more"),
        (["optim.lr=abc"], "setting optim.lr=abc: optim.lr is 'abc'; it takes a number"),
        (["--init-from", "nowhere"], "is not a bundle"),
        (["--init-from", "BUNDLE"], "frontend.mels 16 and 8"),
        (["waveform=rooms"], "these shards hold logmel only"),
        (["waveform=rom"], "no config called rom"),
        (["--mix", "tiny=1"], "--mix: gives no weight to large"),
    ],
)
def test_what_cannot_be_is_one_line_before_any_work(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], bundle: checkpoint.Bundle, more: list[str],
    expected: str,
) -> None:  # fmt: skip
    checkpoint.save(str(tmp_path / "bundle"), bundle)
    more = [argument.replace("BUNDLE", f"{tmp_path}/bundle") for argument in more]
    assert train.main([*arguments(toy, tmp_path / "run"), *more]) == 1
    printed = capsys.readouterr()
    error = printed.err.strip().splitlines()
    assert len(error) == 1 and expected in error[0] and "counting" not in printed.out
    assert not (tmp_path / "run").exists()
