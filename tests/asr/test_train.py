"""train-asr, evaluate-asr and transcribe on a toy of the demo corpus, the commands as a user types them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runs import stop_after

from asr import evaluate, train, transcribe
from pipelines import featurize, prepare, vocab

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}  # as the tests themselves: sums depend on the number of threads
MICRO = [
    "epochs=3", "log_steps=1", "save_steps=2", "data.batch_s=8", "optim.warmup_steps=4",
    "model.encoder_options.hidden=16", "model.encoder_options.layers=1", "model.encoder_options.projection=16",
    "model.embedding=8", "model.predictor_hidden=16", "model.predictor_projection=16", "model.joint=16",
]  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest, vocabulary and shards of a few spoken sentences."""
    folder = tmp_path_factory.mktemp("toy")
    assert prepare.main(["demo", "--hours", "0.01", "--out", f"{folder}/m", "--workers", "1"]) == 0
    assert vocab.main(["--manifest", f"{folder}/m", "--size", "40", "--out", f"{folder}/vocab"]) == 0
    assert featurize.main(["--manifest", f"{folder}/m", "--out", f"{folder}/s", "--workers", "0"]) == 0
    return folder


def arguments(toy: Path, out: Path, *more: str) -> list[str]:
    return ["--config", "tiny", "--shards", f"{toy}/s/urls-train.txt", "--dev-shards", f"{toy}/s/urls-dev.txt",
            "--vocab", f"{toy}/vocab/bpe-40.model", "--out", str(out), *more, *MICRO]  # fmt: skip


def losses(run: Path) -> list[tuple[int, float, float]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(r["step"], r["loss"], r["grad_norm"]) for r in records if "loss" in r]


@pytest.fixture(scope="module")
def undisturbed(toy: Path) -> Path:
    """A finished run."""
    assert train.main(arguments(toy, toy / "run")) == 0
    return toy / "run"


def test_a_run_leaves_bundles_and_metrics(undisturbed: Path) -> None:
    steps = [step for step, _, _ in losses(undisturbed)]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 6
    for name in ("best", "last"):
        files = {p.name for p in (undisturbed / name).iterdir()}
        assert files >= {"weights.safetensors", "vocab.model", "bundle.json"}
    assert list((undisturbed / "tensorboard").iterdir())
    assert any("dev_wer" in line for line in (undisturbed / "metrics.jsonl").read_text().splitlines())


def test_the_same_command_gives_the_same_losses(toy: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert train.main(arguments(toy, tmp_path / "again")) == 0
    assert losses(tmp_path / "again") == losses(undisturbed)


@pytest.mark.parametrize("kill_after", [1, 3])  # before the first checkpoint, and between two
def test_a_killed_run_goes_on_to_the_same_losses_and_weights(
    toy: Path, undisturbed: Path, tmp_path: Path, kill_after: int
) -> None:
    run = tmp_path / "killed"
    command = [sys.executable, "-m", "asr.train", *arguments(toy, run, "--resume")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ONE_THREAD)
    assert process.stdout is not None
    seen = 0
    for line in process.stdout:
        seen += line.startswith("step")
        if seen == kill_after:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(losses(run)) < len(losses(undisturbed))
    assert train.main(arguments(toy, run, "--resume")) == 0
    assert losses(run) == losses(undisturbed)
    for name in ("best", "last"):
        ours, theirs = (r / name / "weights.safetensors" for r in (run, undisturbed))
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_finished_run_is_left_as_it_is(toy: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (undisturbed / "last" / "weights.safetensors").stat().st_mtime_ns
    assert train.main(arguments(toy, undisturbed, "--resume")) == 0
    assert (undisturbed / "last" / "weights.safetensors").stat().st_mtime_ns == before
    assert "3 epochs" in capsys.readouterr().out


def test_two_processes_share_the_epoch(toy: Path, tmp_path: Path) -> None:
    """torchrun with two gloo ranks: half the steps of one process, and a bundle in the end."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = [*launcher, "asr.train", *arguments(toy, tmp_path / "run"), "epochs=1"]
    done = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 processes" in done.stdout
    assert (tmp_path / "run" / "last" / "bundle.json").exists()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["optim.warmup_stepz=3"], "did you mean warmup_steps?"),
        (["model.encoder=lstn"], "model.encoder is 'lstn'; there are "),
        (["frontend=e4d1"], "window_samples 320 against 400"),
        (["data.batch_s=0.5"], "data.batch_s"),
        (["data.max_s=0.5"], "no utterance to train on"),
        (["epochs=0"], "epochs is 0; it must be 1 or more"),
        (["log_steps=0"], "log_steps is 0"),
        (["seed=-1"], "seed is -1"),
        (["optim.warmup_steps=0"], "optim.warmup_steps is 0"),
        (["optim.lr=.nan"], "optim.lr is nan"),
        (["data.splice=2"], "data.splice_s"),
        (["augment.speed=1"], "augment.speed is 1; it must be below 1"),
        (["augment.gap_s=-1"], "augment.gap_s is -1.0"),
        (["model.joint=0"], "model.joint is 0"),
        (["model.encoder_options.hidden=0"], "hidden 0"),
    ],
)
def test_a_bad_config_is_one_line(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], expected: str
) -> None:
    assert train.main([*arguments(toy, tmp_path / "run"), *more]) == 1
    error = capsys.readouterr().err.strip()
    assert expected in error and "\n" not in error
    assert not (tmp_path / "run").exists(), "nothing may be left of a run that never started"


@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_a_folder_without_a_run_is_refused_and_keeps_its_files(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    (tmp_path / "thesis").write_text("years of work")
    assert train.main(arguments(toy, tmp_path, *more)) == 1
    assert "is not empty and holds no run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


def test_force_deletes_the_old_run_alone(toy: Path, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    (run / "notes").write_text("years of work")
    scores = run / "evaluation" / "last-toy-test"
    scores.mkdir(parents=True)
    for name in ("wer.json", "wer.html", "notes"):
        (scores / name).write_text("of the old run, but for the notes")
    assert train.main([*arguments(toy, run, "--force"), "epochs=1"]) == 0
    assert (run / "notes").read_text() == "years of work"
    assert [path.name for path in scores.iterdir()] == ["notes"]
    assert max(step for step, _, _ in losses(run)) < max(step for step, _, _ in losses(undisturbed))


def test_a_run_by_url_is_refused(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(arguments(toy, tmp_path, "--out", "s3://bucket/run")) == 1
    assert "folder of this machine" in capsys.readouterr().err


def test_a_resumed_run_says_the_means_of_the_undisturbed_one(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint lies between two health lines."""
    assert train.main([*arguments(toy, tmp_path / "whole"), "log_steps=3"]) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert train.main([*arguments(toy, tmp_path / "cut"), "log_steps=3"]) == 1
    assert train.main([*arguments(toy, tmp_path / "cut", "--resume"), "log_steps=3"]) == 0
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole") != []
    bundles = [tmp_path / run / "last" / "bundle.json" for run in ("cut", "whole")]
    assert bundles[0].read_bytes() == bundles[1].read_bytes()


def test_a_run_is_not_overwritten(toy: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(arguments(toy, undisturbed)) == 1
    assert "--resume" in capsys.readouterr().err


def test_a_resume_from_another_model_names_what_differs(
    toy: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*arguments(toy, undisturbed, "--resume"), "model.joint=24"]) == 1
    error = capsys.readouterr().err
    assert "model.joint 16 then, 24 now" in error and "\n" not in error.strip()


def test_evaluation_counts_the_whole_set(
    toy: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = f"{toy}/s/urls-test.txt"
    command = ["--bundle", f"{undisturbed}/best", "--shards", shards, "--out", str(tmp_path), "--json"]
    assert evaluate.main(command) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "wer.json").read_text()) == printed
    assert printed["utterances"] == 6
    assert "<html" in (tmp_path / "wer.html").read_text()


def test_evaluation_refuses_shards_of_other_features(
    toy: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ["--manifest", f"{toy}/m", "--splits", "test", "--frontend", "e6d2", "--out", str(tmp_path / "s")]
    assert featurize.main([*other, "--workers", "0"]) == 0
    capsys.readouterr()
    assert evaluate.main(["--bundle", f"{undisturbed}/best", "--shards", str(tmp_path / "s")]) == 1
    assert "hop_samples 160 against 200" in capsys.readouterr().err


def test_audio_in_an_object_store_trains_and_scores_a_model(
    toy: Path, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shards come through the cache, which is asked again by the evaluation, and features are made when needed."""
    write = ["--manifest", f"{toy}/m", "--content", "audio", "--out", f"{bucket}/s", "--workers", "0"]
    assert featurize.main(write) == 0
    cache = ["--cache", str(tmp_path / "cache")]
    command = ["--config", "tiny", "--shards", f"{bucket}/s/urls-train.txt", "--vocab", f"{toy}/vocab/bpe-40.model",
               "--out", str(tmp_path / "run"), *cache, *MICRO, "epochs=2"]  # fmt: skip
    assert train.main(command) == 0
    assert len(list((tmp_path / "cache").rglob("*.tar"))) == 1
    with_features = ["--config", "tiny", "--shards", f"{toy}/s/urls-train.txt", "--vocab",
                     f"{toy}/vocab/bpe-40.model", "--out", str(tmp_path / "features"), *MICRO, "epochs=2"]  # fmt: skip
    assert train.main(with_features) == 0
    for ours, theirs in zip(losses(tmp_path / "run"), losses(tmp_path / "features"), strict=True):
        assert ours[1] == pytest.approx(theirs[1], rel=0.01)
    capsys.readouterr()
    bundle = ["--bundle", f"{tmp_path}/run/last", "--out", str(tmp_path)]
    assert evaluate.main([*bundle, "--shards", f"{bucket}/s/urls-test.txt", *cache, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["utterances"] == 6


def test_transcription_does_not_depend_on_the_chunk(
    toy: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(str(p) for p in (toy / "m" / "corpus").rglob("*.flac"))[:2]
    outputs = []
    for chunk_ms in ("0", "25", "330"):
        assert transcribe.main([*files, "--bundle", f"{undisturbed}/best", "--chunk-ms", chunk_ms]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == outputs[2]
    assert outputs[0].count("\n") == len(files)


def test_a_file_that_cannot_be_read_leaves_the_others_alone(
    toy: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = str(next((toy / "m" / "corpus").rglob("*.flac")))
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"not audio at all")
    assert transcribe.main([str(bad), good, "--bundle", f"{undisturbed}/best", "--format", "json"]) == 1
    output = capsys.readouterr()
    first, second = map(json.loads, output.out.splitlines())
    assert "error" in first and second["file"] == good
    assert "1 of 2 files" in output.err and "Traceback" not in output.err
    assert transcribe.main(["pipe:ls", good, "--bundle", f"{undisturbed}/best", "--format", "json"]) == 1
    assert capsys.readouterr().err.startswith("transcribe: error: pipe:ls: shell commands are not read")


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert transcribe.main(["a.wav", "--bundle", str(tmp_path)]) == 1
    assert "is not a bundle" in capsys.readouterr().err


def test_a_full_disk_leaves_the_last_good_checkpoint(toy: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Writing stops at a file size limit, as it does on a full disk; the run started before goes on afterwards."""
    run = tmp_path / "run"
    limited = (
        "import resource, sys; from asr import train; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); sys.exit(train.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, *arguments(toy, run, "--resume")], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (run / "last").exists()
    assert train.main(arguments(toy, run, "--resume")) == 0
    assert losses(run) == losses(undisturbed)
