"""sweep-asr as a user meets it: two trainings compared, a stop in the middle, points that fail or cannot be."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import pytest

from asr.evaluation.scoring import Scored, score
from configs import load
from manifests import storage
from manifests.schema import Utterance
from pipelines import featurize, sweep, sweep_config, sweep_page
from pipelines.sweep_compare import difference
from pipelines.sweep_config import SweepConfig
from pipelines.sweep_outcome import Outcome, measured
from pipelines.sweep_result import as_markdown, findings

Corpus = Callable[..., list[Utterance]]
Printed = pytest.CaptureFixture[str]
Speakers = Sequence[tuple[str, int, int]]

BASE = """
shortest_first: 0
log_steps: 1
save_steps: 9
model:
  encoder: lstm
  encoder_options: {layers: 1, hidden: 8, projection: 8, stack: 4, reduce_after: []}
  embedding: 4
  predictor_hidden: 8
  predictor_projection: 8
  joint: 8
data: {batch_s: 5, batch_examples: 1}
optim: {warmup_steps: 4}
"""
# The third point's batches are shorter than any utterance; the fourth's vocabulary is larger than the texts allow.
SWEEP = """
title: Toys
advice: Wider is better.
base: {base}
budget: 6 epochs
vocab: char
points:
  - {{label: narrow}}
  - {{label: wide, settings: {{model: {{encoder_options: {{hidden: 12}}}}}}}}
  - {{label: no batch, settings: {{data: {{batch_s: 0.1}}}}}}
  - {{label: too many, vocab: bpe-999}}
"""


@dataclass(frozen=True)
class Inputs:
    folder: Path

    def arguments(self, out: Path, *more: str) -> list[str]:
        return [str(self.folder / "sweep.yaml"), "--manifest", str(self.folder / "train"), "--shards",
                str(self.folder / "s"), "--dev-shards", str(self.folder / "d"), "--out", str(out), *more]  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> Inputs:
    folder = tmp_path_factory.mktemp("sweep")
    for split, shards, count in (("train", "s", 24), ("dev", "d", 6)):
        corpus(folder / split, count, split)
        assert featurize.main(["--manifest", str(folder / split), "--out", str(folder / shards), "--workers", "0"]) == 0
    (folder / "base.yaml").write_text(BASE)
    (folder / "sweep.yaml").write_text(SWEEP.format(base=folder / "base.yaml"))
    return Inputs(folder)


@pytest.fixture(scope="module")
def stopped(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that SIGTERM stopped in its second training."""
    out = tmp_path_factory.mktemp("out")
    process = start(inputs.arguments(out))
    wait_for_steps(process, out / "points" / "wide-seed0")
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "the same command continues" in err
    return out


LEAN = ("points=[{label: narrow}, {label: no batch, settings: {data: {batch_s: 0.1}, model: {encoder_options: "
        "{hidden: 12}}}}, {label: too many, vocab: bpe-999}]")  # fmt: skip


@pytest.fixture(scope="module")
def finished(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of one training that can be and two that cannot: each process takes seconds to load torch."""
    out = tmp_path_factory.mktemp("out")
    assert sweep.main(inputs.arguments(out, "--jobs", "2", LEAN)) == 1
    return out


def start(arguments: list[str]) -> subprocess.Popen[str]:
    code = "from pipelines import commands; commands.sweep_asr()"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], **pipes)  # type: ignore[call-overload]


def wait_for_steps(process: subprocess.Popen[str], point: Path) -> None:
    """Until a training has taken some steps."""
    until = time.monotonic() + 100
    while not ((log := point / "run" / "metrics.jsonl").exists() and len(log.read_text().splitlines()) > 5):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.01)


def error(printed: Printed) -> str:
    return printed.readouterr().err.strip().rpartition("\n")[2]


def points_of(out: Path) -> dict[str, dict]:
    return {point["label"]: point for point in json.loads((out / "sweep.json").read_text())["points"]}


def test_a_sweep_ends_in_a_table_a_plot_and_the_reasons_of_points_without_result(
    inputs: Inputs, finished: Path
) -> None:
    point, found = finished / "points" / "narrow-seed0", points_of(finished)
    (result,) = found["narrow"]["results"]
    assert result["steps"] == 144 and len(result["curve"]) == 6 and result["minutes"] > 0
    assert result["hours"] == pytest.approx(6 * hours(inputs.folder / "s"), rel=1e-3)
    score = json.loads((point / "score" / "wer.json").read_text())["wer"]
    assert found["narrow"]["wer"]["mean"] == score["rate"] and found["narrow"]["wer"]["low"] == score["low"]
    assert found["no batch"]["failed"] and "batch" in found["no batch"]["reason"]
    assert not found["too many"]["failed"] and "largest possible" in found["too many"]["reason"]
    table, page = (finished / "sweep.md").read_text(), (finished / "sweep.html").read_text()
    for text in (table, page):
        assert found["no batch"]["reason"].partition(";")[0] in text and "Wider is better." in text
    assert page.count("<polyline") == 1 and "http" not in page.replace("http-equiv", "") and "<script" not in page


@pytest.mark.slow
def test_a_stopped_sweep_goes_on_with_what_is_not_finished(inputs: Inputs, stopped: Path, capsys: Printed) -> None:
    first, second = (stopped / "points" / f"{name}-seed0" for name in ("narrow", "wide"))
    log, before = (first / "train.log").read_text(), json.loads((second / "point.json").read_text())
    assert (first / "score" / "wer.json").exists() and before["result"] is None
    assert sweep.main(inputs.arguments(stopped, "--jobs", "2")) == 1
    assert error(capsys) == ("sweep-asr: error: 1 of 4 points failed: no batch; the same command tries them again, and "
                             f"their logs are in {stopped}/points")  # fmt: skip
    assert (first / "train.log").read_text() == log, "a finished training was begun again"
    assert "going on after step" in (second / "train.log").read_text()
    found = points_of(stopped)
    assert [found[name]["results"][0]["steps"] for name in ("narrow", "wide")] == [144, 144]
    assert found["narrow"]["parameters"]["total"] < found["wide"]["parameters"]["total"]
    assert len(found["wide"]["results"][0]["curve"]) == 6
    assert (stopped / "sweep.html").read_text().count("<polyline") == 2


def hours(shards: Path) -> float:
    return json.loads((shards / "stats.json").read_text())["hours"]


def test_a_changed_config_says_which_trainings_are_stale(inputs: Inputs, finished: Path, capsys: Printed) -> None:
    assert sweep.main(inputs.arguments(finished, LEAN, "settings.model.encoder_options.hidden=9")) == 1
    said = error(capsys)
    assert "1 of 2 trainings" in said and "narrow, seed 0 (model.encoder_options.hidden 8 then, 9 now)" in said
    assert "no batch, seed 0" not in said and "--force" in said
    assert (finished / "points" / "narrow-seed0" / "run" / "metrics.jsonl").exists()
    assert sweep.main(inputs.arguments(finished, "title=Others")) == 1
    assert "holds the sweep “Toys”" in error(capsys)


@pytest.mark.parametrize("there", ["[]", "{}", "no JSON"])
def test_a_result_that_is_of_no_sweep_stays(inputs: Inputs, tmp_path: Path, capsys: Printed, there: str) -> None:
    (tmp_path / "sweep.json").write_text(there)
    assert sweep.main(inputs.arguments(tmp_path)) == 1
    assert error(capsys).startswith(f"sweep-asr: error: {tmp_path}: holds a sweep.json that is of no sweep; choose ")
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]


def test_two_sweeps_share_no_folder(inputs: Inputs, tmp_path: Path, capsys: Printed) -> None:
    (tmp_path / "points").mkdir()
    with storage.open_locked(str(tmp_path / "sweep.lock")):
        assert sweep.main(inputs.arguments(tmp_path, "--force")) == 1
        assert error(capsys).startswith(f"sweep-asr: error: {tmp_path}: another sweep is at work there; ")
    assert not (tmp_path / "vocabs").exists()


@pytest.mark.slow
def test_trainings_end_when_the_sweep_is_killed_and_the_next_sweep_waits_for_them(
    inputs: Inputs, tmp_path: Path
) -> None:
    process = start(inputs.arguments(tmp_path))
    wait_for_steps(process, tmp_path / "points" / "narrow-seed0")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert sweep.main(inputs.arguments(tmp_path)) == 1  # of the point that always fails
    log = (tmp_path / "points" / "narrow-seed0" / "train.log").read_text()
    assert "stopped by SIGTERM" in log and "going on after step" in log
    assert points_of(tmp_path)["narrow"]["results"][0]["steps"] == 144


@pytest.mark.slow
def test_minutes_as_a_budget_stop_each_training_when_they_are_over(inputs: Inputs, tmp_path: Path) -> None:
    two = "points=[{label: a}, {label: b, settings: {joint: 9}}]"
    more = [two.replace("joint", "model.joint"), "budget=0.25 minutes", "settings.epochs=100000"]
    assert sweep.main(inputs.arguments(tmp_path, "--jobs", "2", *more)) == 0
    for point in points_of(tmp_path).values():
        (result,) = point["results"]
        assert 0 < result["epochs"] < 100000 and 0.25 <= result["minutes"] < 1 and result["steps"] > 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["budget=20 parsecs"], "budget is '20 parsecs'; write, for instance, 11 epochs"),
        (["budget=1.5 epochs"], "whole number of epochs"),
        (["buget=3 epochs"], "unknown key buget (did you mean budget?)"),
        (["points=[{label: a}]"], "compares two points or more; this one has one"),
        (["points=[{label: a/b}, {label: a b}]"], "'a/b' and 'a b' would have the same folder"),
        (["points=[{label: a, settings: {seed: 3}}, {label: b}]"], "point a: sets seed; --seeds"),
        (["settings.epochs=3"], "point narrow: sets epochs, which budget: 6 epochs decides"),
        (["vocab=words"], "vocab is 'words'; write char, bpe-SIZE or unigram-SIZE"),
        (["grid.vocab=[char, bpe-9]"], "has points and grid"),
        (["points=[]"], "this one has none"),
        (["points=[]", "grid.vocab=char"], "grid.vocab is 'char'; it takes a list"),
        (["against=size"], "it can be label, parameters, vocab"),
        (["--jobs", "0"], "--jobs 0: must be 1 or more"),
    ],
)
def test_a_config_that_is_no_sweep_is_refused_in_one_line(
    inputs: Inputs, tmp_path: Path, capsys: Printed, change: list[str], said: str
) -> None:
    assert sweep.main(inputs.arguments(tmp_path / "out", *change)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sweep-asr: error: ") and said in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_setting_that_train_asr_does_not_know_stops_the_sweep_before_any_training(
    inputs: Inputs, tmp_path: Path, capsys: Printed
) -> None:
    assert sweep.main(inputs.arguments(tmp_path, "settings.model.jiont=4")) == 1
    said = error(capsys)
    assert "point narrow: " in said and "unknown key jiont (did you mean joint?)" in said
    assert not (tmp_path / "points").exists()


def outcome(label: str, *wers: tuple[float, float, float], speakers: Speakers = (), **more: Any) -> Outcome:
    """A point whose seeds have these rates and intervals."""
    results = tuple(
        {"steps": 9, "hours": 1.0, "minutes": 2.0, "loss": 3.0, "wer": {"rate": rate, "low": low, "high": high},
         "curve": [[0.5, 4, 1.2], [1.0, 9, rate]], "speakers": speakers}
        for rate, low, high in wers
    )  # fmt: skip
    parts = {"total": 100, "encoder": 60, "predictor": 20}
    return Outcome(label, "char", 30, (), parts, 0, results, max(1, len(wers)), **more)


CONFIG = SweepConfig("A < B", "tiny", "3 epochs", advice="B & more is better")


def test_the_text_tells_differences_from_what_lies_within_the_intervals() -> None:
    near = [outcome("a", (0.20, 0.17, 0.23)), outcome("b", (0.18, 0.15, 0.21)), outcome("c", (0.40, 0.36, 0.44))]
    said = findings(CONFIG, near)
    assert said[:3] == [
        "The lowest dev WER is that of b: 18.00 %, 95 % interval 15.00 – 21.00 %.",
        "No difference from it is shown for a.",
        "Higher than it: c.",
    ]
    assert said[3:6] == [
        "a → b: no difference is shown (-2.00 percentage points).",
        "b → c: higher (+22.00 percentage points).",
        "a → c: higher (+20.00 percentage points).",
    ]
    assert "intervals do not overlap" in said[6] and said[7].startswith("One seed")


def test_speakers_of_whom_each_is_easier_for_one_point_show_a_difference_that_their_intervals_hide() -> None:
    hard = [(f"s{i}", 10 + 5 * i, 100) for i in range(12)]  # between 10 and 65 %
    easier = [(name, errors - 2, words) for name, errors, words in hard]
    mixed = [(name, errors + (9 if i % 2 else -9), words) for i, (name, errors, words) in enumerate(hard)]
    rates = [sum(errors for _, errors, _ in speakers) / 1200 for speakers in (hard, easier, mixed)]
    same, lower, other = (
        outcome(label, (rate, rate - 0.1, rate + 0.1), speakers=speakers)
        for label, rate, speakers in zip("abc", rates, (hard, easier, mixed), strict=True)
    )
    found = difference(same, lower)
    assert found.kind == "lower" and found.value == pytest.approx(-0.02)
    assert found.low == pytest.approx(-0.02) and found.high == pytest.approx(-0.02)
    assert difference(lower, same).kind == "higher" and difference(same, other).kind == ""
    said = " ".join(findings(CONFIG, [same, lower, other]))
    assert (
        "a → b: lower (-2.00 percentage points, 95 % interval -2.00 to -2.00)" in said and "speaker by speaker" in said
    )


def test_seeds_that_lie_apart_take_a_difference_back() -> None:
    speakers = [(f"s{i}", 20, 100) for i in range(12)]
    steady, better, worse = ([(name, errors, words) for name, _, words in speakers] for errors in (20, 10, 26))
    left, right = outcome("a", (0.2, 0.1, 0.3), speakers=steady), outcome("b", (0.1, 0.0, 0.2), speakers=better)
    assert difference(left, right).kind == "lower"
    unsteady = replace(right, results=(*right.results, *outcome("b", (0.26, 0.2, 0.3), speakers=worse).results))
    assert difference(left, unsteady).kind == ""


def test_seeds_that_lie_apart_widen_the_interval() -> None:
    point = outcome("a", (0.10, 0.09, 0.11), (0.30, 0.29, 0.31))
    assert point.wer is not None and point.wer.mean == pytest.approx(0.2)
    assert (point.wer.low, point.wer.high) == (0.10, 0.30) and point.wer.spread == pytest.approx(0.1 * math.sqrt(2))
    said = " ".join(findings(CONFIG, [point, outcome("b", (0.28, 0.27, 0.29), (0.28, 0.27, 0.29))]))
    assert "No difference from it is shown for b." in said and "One seed" not in said


def test_without_intervals_or_results_nothing_is_said_of_differences() -> None:
    none = [outcome("a", (0.5, None, None)), outcome("b", (0.1, None, None))]  # type: ignore[arg-type]
    assert findings(CONFIG, none) == ["The dev set is too small for intervals: nothing is said about differences."]
    assert findings(CONFIG, [outcome("a", (0.5, 0.4, 0.6)), outcome("b")])[-1].startswith("Fewer than two points")
    for outcomes in (none, [outcome("a", reason="no <reason>")], [outcome("zero", (0.0, 0.0, 0.0))]):
        assert "<svg" in sweep_page.render(CONFIG, outcomes, {}) or "yet" in sweep_page.render(CONFIG, outcomes, {})


def test_points_of_a_grid_are_told_apart_below_the_plot() -> None:
    """Their labels begin with the same setting, and there is room for some letters only."""
    key = "model.encoder_options.hidden"
    page = sweep_page.render(CONFIG, [outcome(f"{key}={i}", (0.2, 0.1, 0.3)) for i in (64, 128, 256, 512, 640)], {})
    below = re.findall(r'text-anchor="middle">([^<]*)<', page)
    assert below[:5] == ["…64", "…128", "…256", "…512", "…640"]
    page = sweep_page.render(CONFIG, [outcome(f"{name} {key}", (0.2, 0.1, 0.3)) for name in "abcde"], {})
    assert [name[:2] for name in re.findall(r'text-anchor="middle">([^<]*)<', page)[:5]] == [f"{c} " for c in "abcde"]


def test_a_result_is_read_from_what_training_and_evaluation_leave(tmp_path: Path) -> None:
    scored = [Scored(f"u{i}", "toy", "dev", f"s{i % 11}", 1.0, "a b c", "a b d" if i % 11 == 3 else "a b c")
              for i in range(22)]  # fmt: skip
    (tmp_path / "wer.json").write_text(json.dumps(score(scored).to_json()))
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "training.json").write_text(json.dumps({"position": {"total": 23}, "epochs": 2.65}))
    lines = [{"step": 10, "epoch": 1, "loss": 9}, {"step": 10, "epoch": 1, "dev_wer": 0.8}, {"step": 20, "loss": 7}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"st')
    found = measured(str(tmp_path), str(tmp_path / "wer.json"), hours_an_epoch=4.0, spent_s=90.0)
    assert (found["steps"], found["epochs"], found["hours"], found["minutes"]) == (23, 2.65, 2.65 * 4, 1.5)
    assert found["loss"] == 7 and found["curve"] == [[4.0, 10, 0.8]]
    assert sorted(found["speakers"])[3:5] == [("toy/s2", 0, 6), ("toy/s3", 2, 6)] and len(found["speakers"]) == 11
    assert found["wer"]["rate"] == pytest.approx(2 / 66)
    (tmp_path / "last" / "training.json").write_text(json.dumps({"position": {"total": 23}}))
    with pytest.raises(ValueError, match=rf"by an earlier version of this program; delete {tmp_path.parent} and "):
        measured(str(tmp_path), str(tmp_path / "wer.json"), hours_an_epoch=4.0, spent_s=90.0)


@pytest.mark.parametrize("against", ["label", "parameters", "vocab"])
def test_labels_are_text_in_page_and_table(against: Literal["label", "parameters", "vocab"]) -> None:
    config = replace(CONFIG, against=against)
    points = [outcome("<b>|1", (0.2, 0.1, 0.3)), outcome('x=2 "&', (0.9, 0.8, 1.4)), outcome("c", reason="a <i> | b")]
    page = sweep_page.render(config, points, {"Shards": "<s>"})
    assert not {"<b>", "<i>", "<s>"} & set(re.findall("<[a-z]+>", page)) and "&lt;b&gt;|1" in page
    ElementTree.fromstring(page[page.index("<body>") : page.index("</html>")])
    (row,) = [line for line in as_markdown(config, points, {}).splitlines() if line.startswith("| <b>")]
    assert row.startswith("| <b>\\|1 | 100 | 60.0% |")


def test_the_sweeps_that_come_along_are_sweeps() -> None:
    found = {name: [p.label for p in sweep_config.points(sweep_config.read(name, []))] for name in load.names("sweeps")}
    assert found["balance"] == ["0.5 to 1", "1 to 1", "2 to 1", "4 to 1", "8 to 1", "16 to 1"]
    assert found["vocab"][:3] == ["char", "bpe-64", "bpe-128"]


def test_a_grid_is_every_combination() -> None:
    config = replace(CONFIG, grid={"vocab": ["char", "bpe-64"], "model.joint": [8, 16]}, settings={"optim": {"lr": 1}})
    labels = [(point.label, point.vocab, point.settings) for point in sweep_config.points(config)]
    assert labels[1] == ("char, model.joint=16", "char", ("optim.lr=1", "model.joint=16")) and len(labels) == 4
