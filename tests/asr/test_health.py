"""What a training leaves for people and programs to read: metrics.jsonl, TensorBoard's files, a picture."""

import io
import json
import math
import multiprocessing
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import UTTERANCES, arguments, make_inputs, records
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html
from tensorboard.util.tensor_util import make_ndarray
from toys import TEXTS

from asr import train
from asr.tokenizer import Tokenizer
from asr.training import step
from asr.training.health import SAMPLES, TAGS, Health, word_under_word
from asr.training.resume import Position
from asr.training.session import Session, prepare

STEPS_IN_EPOCH = UTTERANCES // 2


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, vocab: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    make_inputs(folder, vocab)
    return folder


def command(toy: Path, out: Path, *more: str) -> list[str]:
    return arguments(toy, out, "--dev-shards", f"{toy}/s", "epochs=2", "data.batch_examples=2", *more)


@pytest.fixture(scope="module")
def run(toy: Path) -> Path:
    """A finished training of two epochs."""
    assert train.main(command(toy, toy / "run")) == 0
    return toy / "run"


def board(run: Path) -> EventAccumulator:
    """What TensorBoard shows, of all steps and not of a sample."""
    kinds = ("scalars", "images", "text")
    return EventAccumulator(f"{run}/tensorboard", tensor_size_guidance=dict.fromkeys(kinds, 0)).Reload()


def shown(events: EventAccumulator) -> dict[str, list[int]]:
    """Steps of each tag."""
    return {tag: [event.step for event in events.Tensors(tag)] for tag in events.Tags()["tensors"]}


def known_steps(run: Path) -> dict[str, list[int]]:
    """Those of all tags but the time left, which is not known at the first line of a process."""
    return {tag: steps for tag, steps in shown(board(run)).items() if tag != TAGS["eta_s"]}


def values(events: EventAccumulator, tag: str) -> list[Any]:
    return [make_ndarray(event.tensor_proto) for event in events.Tensors(tag)]


def texts(events: EventAccumulator, tag: str) -> list[str]:
    return [value.item().decode() for value in values(events, tag)]


def test_tensorboard_shows_the_values_of_metrics_jsonl(run: Path) -> None:
    events, lines = board(run), records(run)
    expected = {"loss", "ctc", "grad_norm", "grad_norm_max", "lr", "audio_s_per_s", "data_wait", "memory_mb", "eta_s",
                "clipped", "dev_wer", "padding"}  # fmt: skip
    assert expected <= {name for line in lines for name in line}
    steps = shown(events)
    for name in expected:
        ours = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        assert steps[TAGS[name]] == [at for at, _ in ours] != []
        np.testing.assert_allclose(values(events, TAGS[name]), [value for _, value in ours], rtol=1e-6)


def test_tensorboard_shows_samples_and_the_alignment_of_each_measurement(run: Path) -> None:
    events, ends = board(run), [line["step"] for line in records(run) if "dev_wer" in line]
    assert len(ends) == 2
    steps = shown(events)
    samples = [tag for tag in steps if tag.startswith("dev/sample")]
    assert 4 <= len(samples) <= SAMPLES
    for tag in samples:
        assert steps[tag] == ends
        first, second = texts(events, tag)
        assert " ".join(words(first, "reference")) in TEXTS
        assert words(first, "reference") == words(second, "reference"), "they can be compared"
    assert steps["dev/alignment"] == ends
    first, last = (image[2] for image in values(events, "dev/alignment"))  # behind width and height
    assert first != last
    pictures = [np.asarray(Image.open(io.BytesIO(png))) for png in (last, (run / "alignment.png").read_bytes())]
    assert np.array_equal(*pictures)


def test_what_was_said_before_the_first_step_can_be_read_in_tensorboard(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = begun(toy, tmp_path / "run")
    health = Health(session, quiet=False)
    health.say(["tokens: 3.2 a second", "<silence>: none"])
    health.close()
    assert "tokens: 3.2 a second\n<silence>: none\n" in capsys.readouterr().out
    (said,) = texts(board(tmp_path / "run"), "before/text_summary")
    assert "&lt;silence&gt;: none" in markdown_to_safe_html(said)


def _killed(argv: list[str], after: int | None) -> None:
    """A training that is killed after so many steps, or, None, when the first epoch's WER is known but not saved."""
    take, save_last = step.take, train.save_last

    def take_or_die(session: Session, *args: Any) -> dict[str, float]:
        if session.position.total == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(session, *args)

    def save_or_die(session: Session) -> None:
        if session.position.step == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        save_last(session)

    step.take = take_or_die
    if after is None:
        train.save_last = save_or_die
    train.main(argv)


def _in_a_process(target: Callable[..., None], *args: object) -> int | None:
    """Its exit code."""
    process = multiprocessing.get_context("fork").Process(target=target, args=args)
    process.start()
    process.join()
    return process.exitcode


def _made_earlier(run: Path) -> None:
    """TensorBoard goes by the second in the name of a file, and these tests are faster than any real restart."""
    (file,) = (run / "tensorboard").iterdir()
    file.rename(file.with_name(re.sub(r"\d{10}", "1700000000", file.name, count=1)))


@pytest.mark.parametrize("after", [4, STEPS_IN_EPOCH, None])
def test_after_a_kill_and_a_resume_nothing_is_missing_and_nothing_comes_twice(
    toy: Path, run: Path, tmp_path: Path, after: int | None
) -> None:
    again = tmp_path / "again"
    assert _in_a_process(_killed, command(toy, again), after) == -signal.SIGKILL
    _made_earlier(again)
    reached = max(line["step"] for line in records(again))
    assert reached > json.loads((again / "last" / "bundle.json").read_text())["training"]["total"]
    assert train.main(command(toy, again)) == 0
    assert known_steps(again) == known_steps(run)
    for name in ("loss", "grad_norm_max", "dev_wer", "padding"):
        lines, undisturbed = ([(r["step"], r[name]) for r in records(a) if name in r] for a in (again, run))
        assert lines == undisturbed != []


def _limited(argv: list[str]) -> None:
    """A training whose files cannot grow beyond 40 kB, which is in the first picture."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
    sys.exit(train.main(argv))


def test_a_full_disk_stops_the_training_with_the_name_of_what_could_not_be_written(
    toy: Path, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again"
    assert _in_a_process(_limited, command(toy, again)) == 1
    assert f"train-asr: error: {again}/tensorboard: File too large\n" in capfd.readouterr().err
    _made_earlier(again)
    assert train.main(command(toy, again)) == 0
    assert known_steps(again) == known_steps(run)


def begun(toy: Path, out: Path, *more: str) -> Session:
    """A training before its first step."""
    return prepare(train.make_parser().parse_args(command(toy, out, *more)))


STEPS: list[dict[str, float]] = [
    {"loss": 6.0, "ctc": 3.0, "grad_norm": 2.0, "clipped": 0.0, "skipped": 0.0, "lr": 0.1, "weight": 1.0},
    {"loss": 8.0, "ctc": 5.0, "grad_norm": 9.0, "clipped": 1.0, "skipped": 0.0, "lr": 0.2, "weight": 1.0},
    {"loss": math.nan, "ctc": 1.0, "grad_norm": math.inf, "clipped": 1.0, "skipped": 1.0, "lr": 0.3, "weight": 1.0},
    {"loss": 4.0, "ctc": 1.0, "grad_norm": 4.0, "clipped": 1.0, "skipped": 0.0, "lr": 0.4, "weight": 1.0},
    {"loss": 0.0, "ctc": 0.0, "grad_norm": 0.0, "clipped": 0.0, "skipped": 0.0, "lr": 0.5, "weight": 0.0},
]


@pytest.fixture
def session(toy: Path, tmp_path: Path) -> Iterator[Session]:
    yield begun(toy, tmp_path / "run", f"log_steps={len(STEPS)}")


def say(session: Session, steps: list[dict[str, float]]) -> None:
    """As one process."""
    health = Health(session, quiet=False)
    for values in steps:
        session.position.total += 1
        health.step(session.position, 0.1, values)
    health.close()


@pytest.mark.parametrize("cut", range(len(STEPS)))
def test_a_line_is_the_mean_of_the_steps_that_were_taken_also_across_processes(
    session: Session, cut: int, capsys: pytest.CaptureFixture[str]
) -> None:
    say(session, STEPS[:cut])
    session.position = Position.from_json(json.loads(json.dumps(asdict(session.position))))
    say(session, STEPS[cut:])
    (record,) = records(Path(session.out))
    assert record["step"] == len(STEPS) and record["lr"] == 0.5
    assert (record["loss"], record["ctc"], record["grad_norm"], record["grad_norm_max"]) == (6.0, 3.0, 5.0, 9.0)
    assert record["clipped"] == pytest.approx(2 / 3) and record["skipped"] == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert "loss 6.000  ctc 3.000  grad 5.00 (max 9.00)  skipped 1  lr 5.00e-01" in line
    assert session.position.unsaid == {}


def test_without_a_step_taken_there_is_no_line_yet(session: Session) -> None:
    say(session, [STEPS[2], STEPS[4], STEPS[2], STEPS[2], STEPS[2]])
    assert records(Path(session.out)) == []
    say(session, [*STEPS[:3], STEPS[3], STEPS[4]])
    (record,) = records(Path(session.out))
    assert record["skipped"] == 5 and record["loss"] == 6.0


class Cells(HTMLParser):
    """The cells of tables, by rows; a bold word as *word*."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True
        if tag == "strong":
            self.handle_data("*")

    def handle_endtag(self, tag: str) -> None:
        if tag == "strong":
            self.handle_data("*")
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def cells(markdown: str) -> list[list[str]]:
    """As TensorBoard shows it."""
    parser = Cells()
    parser.feed(markdown_to_safe_html(markdown))
    return parser.rows


def words(markdown: str, row: str) -> list[str]:
    """Of all tables, without the gaps."""
    return [word.strip("*") for cell in cells(markdown) if cell[0] == row for word in cell[1:] if word != "–"]


def test_a_sample_stands_word_under_word_with_what_differs_in_bold() -> None:
    said = word_under_word("the cat sat on the mat", "a cat on the big mat")
    assert said.startswith("3 errors, 6 words\n")
    assert cells(said) == [
        ["reference", "*the*", "cat", "*sat*", "on", "the", "–", "mat"],
        ["recognised", "*a*", "cat", "–", "on", "the", "*big*", "mat"],
    ]


def test_nothing_in_a_text_is_taken_for_markup() -> None:
    strange = ["<script>", "a|b", "**c**", "`d`", "_e_", "[f](g)", "&amp;", "1.", "#h", "\\", "--", "été"]
    said = " ".join(strange)
    assert cells(word_under_word(said, said)) == [["reference", *strange], ["recognised", *strange]]


def test_long_and_empty_samples_are_shown() -> None:
    long = [f"w{i}" for i in range(30)]
    said = word_under_word(" ".join(long), " ".join(long[1:]))
    assert len(cells(said)) == 6
    assert words(said, "reference") == long and words(said, "recognised") == long[1:]
    assert word_under_word("a", "b " * 1000).endswith("\n\nand 900 words more")
    assert word_under_word("", "") == "0 errors, 0 words"
    assert cells(word_under_word("a", "")) == [["reference", "*a*"], ["recognised", "–"]]


def test_a_dev_set_without_an_utterance_to_draw_says_so(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    health = Health(session, quiet=False)
    health.dev(session.position, 0.5, False, [], 0.0, None)
    health.close()
    assert "no picture of an alignment: no utterance is above 0 and up to 30 s long" in capsys.readouterr().out
    assert not (Path(session.out) / "alignment.png").exists()
