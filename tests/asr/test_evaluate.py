"""Where evaluate-asr writes: a place for each bundle and speech, and nobody's figures are lost."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toys import TEXTS, Toy, flac, write_toys

from asr import checkpoint, evaluate
from asr.checkpoint import Bundle
from asr.frontend import logmel

Evaluate = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, bundle: Bundle, hum: np.ndarray) -> Path:
    """A run with two bundles, beside shards with audio in `talks` and `talks-2`."""
    checkpoint.save(str(tmp_path / "run" / "best"), bundle)
    checkpoint.save(str(tmp_path / "run" / "last"), replace(bundle, facts={"step": 9}))
    sounds = [hum[:20000], hum[4000:16000], hum[2000:12000]]
    toys = [Toy(f"u{i}", TEXTS[i], logmel(samples, bundle.spec), flac(samples)) for i, samples in enumerate(sounds)]
    write_toys(tmp_path / "talks", toys[:2], bundle.spec, "logmel+audio", per_shard=2)
    write_toys(tmp_path / "talks-2", toys[2:], bundle.spec, "logmel+audio", per_shard=2)
    return tmp_path / "run"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Evaluate:
    def run(bundle: Path, shards: Path, *options: object) -> tuple[int, str, str]:
        code = evaluate.main(["--bundle", str(bundle), "--shards", str(shards), *map(str, options)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def found(run: Path) -> dict[str, str]:
    """The bundle whose figures are in each folder."""
    files = sorted((run / "evaluation").glob("*/wer.json"))
    assert all((file.parent / "wer.html").is_file() for file in files)
    return {file.parent.name: Path(json.loads(file.read_text())["bundle"]).name for file in files}


def test_each_bundle_and_speech_has_its_place(run: Path, command: Evaluate) -> None:
    shards = run.parent / "talks"
    shutil.copy(shards / "urls.txt", shards / "urls-test.txt")
    for bundle, speech, options in (
        ("best", "talks", []), ("last", "talks", []), ("best", "talks-2", []), ("best", "talks/urls-test.txt", []),
        ("best", "talks", ["--streaming"]), ("best", "talks", ["--utterances", 1]),
        ("best", "talks", ["--utterances", 1, "--streaming"]),
    ):  # fmt: skip
        code, out, _ = command(run / bundle, run.parent / speech, *options)
        assert code == 0 and Path(out.splitlines()[-1]).is_file()
        assert out.startswith("1 utterance," if 1 in options or speech == "talks-2" else "2 utterances,")
        page = Path(out.splitlines()[-1]).read_text()
        assert ("<dd>1 of 2 utterances, drawn by chance</dd>" in page) == (1 in options)
    assert found(run) == {
        "best-talks": "best", "best-talks-2": "best", "best-talks-streamed": "best", "best-talks-test": "best",
        "last-talks": "last", "best-talks-1": "best", "best-talks-streamed-1": "best",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("which", "speech", "options", "differing"),
    [
        ("last", "talks", [], "bundle"),
        ("best", "talks-2", [], "speech"),
        ("best", "talks", ["--streaming", "--beam", "2"], "beam"),
        ("best", "talks", ["--streaming", "--hotword", "the"], "hotwords"),
        ("best", "talks", ["--streaming", "--utterances", "2"], "utterances"),
    ],
)
def test_another_evaluation_is_replaced_by_force_alone(
    run: Path, tmp_path: Path, command: Evaluate, which: str, speech: str, options: list[str], differing: str
) -> None:
    out = tmp_path / "out"
    first = (run / "best", tmp_path / "talks", "--out", out, *options[:1])
    other = (run / which, tmp_path / speech, "--out", out, *options)
    assert command(*first)[0] == 0
    before = (out / "wer.json").read_bytes(), (out / "wer.html").read_bytes()
    code, printed, err = command(*other)
    assert code == 1 and printed == ""
    assert err == (f"evaluate-asr: error: {out}: holds an evaluation of other inputs ({differing}); choose another "
                   "--out, or say --force to replace it\n")  # fmt: skip
    assert before == ((out / "wer.json").read_bytes(), (out / "wer.html").read_bytes())
    assert command(*first)[0] == 0, "the same again is no harm"
    assert command(*other, "--force")[0] == 0
    assert json.loads((out / "wer.json").read_text())["bundle"] == str(run / which)


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON", '{"wer": 0.1}', '{"inputs": 7}'])
def test_figures_that_do_not_say_whose_they_are_stay(run: Path, tmp_path: Path, command: Evaluate, text: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "wer.json").write_text(text)
    code, _, err = command(run / "best", tmp_path / "talks", "--out", tmp_path / "out")
    assert code == 1 and "of other inputs (it does not say which)" in err
    assert (tmp_path / "out" / "wer.json").read_text() == text


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_an_evaluation_that_fails_leaves_nothing(
    run: Path, tmp_path: Path, command: Evaluate, streaming: list[str]
) -> None:
    """The tar is gone, which shows when its first utterance is wanted."""
    (tmp_path / "talks" / "train-00000.tar").unlink()
    code, _, err = command(run / "best", tmp_path / "talks", *streaming)
    assert code == 1 and "train-00000.tar" in err
    assert sorted(path.name for path in run.iterdir()) == ["best", "last"]
