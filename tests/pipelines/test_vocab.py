"""build-vocab as a user runs it: what it writes, that it repeats safely, and what it says to wrong input."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from asr.tokenizer import Tokenizer
from manifests.schema import UTTERANCE_SCHEMA, Utterance, to_table
from pipelines import vocab

ROW = Utterance("a", "toy", "train", "en", "s", "a.wav", 0.0, 2.0, 16000, 1, "", "", "CC0", "")
TRAIN = ["the cat sat on the mat", "the dog saw the cat", "a cat and a dog", "the mat"]


def rows(split: str, texts: list[str], duration_s: float = 2.0) -> list[Utterance]:
    return [
        replace(ROW, id=f"{split}-{i}", split=split, text=text, text_raw=text, duration_s=duration_s)
        for i, text in enumerate(texts)
    ]


def write_manifest(path: Path, utterances: list[Utterance]) -> str:
    pq.write_table(to_table(utterances, UTTERANCE_SCHEMA), path)
    return str(path)


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    return write_manifest(tmp_path / "m.parquet", [*rows("train", TRAIN), *rows("dev", ["the cat", "quiz"])])


def build(manifest: str, out: Path, *options: str) -> int:
    return vocab.main(["--manifest", manifest, "--out", str(out), *options])


def error(capfd: pytest.CaptureFixture[str], code: int) -> str:
    """The one line that a failed command printed; sentencepiece, which would write past Python, printed nothing."""
    assert code == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("build-vocab: error: ")
    return lines[0].removeprefix("build-vocab: error: ")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("options", [["--size", "30"], ["--type", "unigram", "--size", "20"], ["--type", "char"]])
def test_three_files_the_same_bytes_each_time_and_from_each_place(
    manifest: str, tmp_path: Path, options: list[str]
) -> None:
    assert build(manifest, tmp_path / "one", *options) == 0
    assert build(manifest, tmp_path / "two" / "deeper", *options) == 0
    files = contents(tmp_path / "one")
    assert files == contents(tmp_path / "two" / "deeper")
    stem = next(name for name in files if name.endswith(".model")).removesuffix(".model")
    assert sorted(files) == [f"{stem}.json", f"{stem}.model", f"{stem}.vocab.txt"]
    made = Tokenizer.load(str(tmp_path / "one" / f"{stem}.model"))
    assert made.size == int(stem.split("-")[1])
    assert files[f"{stem}.vocab.txt"].decode().split("\n")[:-1] == made.pieces(list(range(made.size)))
    assert [made.decode(made.encode(text)) for text in TRAIN] == TRAIN


def test_the_report_counts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # 0.3 s are 28 frames of 10 ms: 7, 4 and 3 encoder frames; a char vocab needs letters and one mark per word
    utterances = [*rows("train", ["ab", "abcd", "abc abc"], duration_s=0.3), *rows("test", ["ax"], duration_s=0.3)]
    manifest = write_manifest(tmp_path / "m.parquet", utterances)
    assert build(manifest, tmp_path / "v", "--type", "char", "--json") == 0
    printed = json.loads(capfd.readouterr().out)
    record = json.loads((tmp_path / "v" / "char-7.json").read_text())
    assert printed == {"model": str(tmp_path / "v" / "char-7.model"), **record}
    everything, test, train = record["report"]
    assert everything == {**train, "split": "trained on"}
    assert (train["trained_on"], test["trained_on"]) == (True, False)
    assert train["pieces_per_word"] == 16 / 4  # 3 + 5 + 8 pieces, 4 words
    assert train["pieces_per_s"] == pytest.approx(16 / 0.9)
    assert train["hours"] == pytest.approx(0.9 / 3600, abs=1e-4)
    assert train["more_pieces_than_frames_share"] == pytest.approx({"4x": 1 / 3, "6x": 2 / 3, "8x": 2 / 3}, abs=1e-6)
    assert (train["unknown_share"], test["unknown_share"]) == (0.0, pytest.approx(1 / 3, abs=1e-6))
    assert record["coverage"] == "all 5 characters of the training text (the space among them); others are unknown"


def test_held_out_splits_are_not_trained_on_unless_asked(
    manifest: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert build(manifest, tmp_path / "default", "--size", "30") == 0
    out = capfd.readouterr().out
    assert "Trained on: train\n" in out and "on 4 texts of train\n" in out
    assert "z" not in (tmp_path / "default" / "bpe-30.vocab.txt").read_text()
    assert build(manifest, tmp_path / "both", "--size", "30", "--splits", "train", "dev") == 0
    assert "Trained on: dev, train\n" in capfd.readouterr().out
    assert "z" in (tmp_path / "both" / "bpe-30.vocab.txt").read_text()


def test_byte_fallback_leaves_nothing_unknown(manifest: str, tmp_path: Path) -> None:
    assert build(manifest, tmp_path, "--size", "280", "--byte-fallback") == 0
    record = json.loads((tmp_path / "bpe-280.json").read_text())
    assert all(fit["unknown_share"] == 0 for fit in record["report"])
    assert record["coverage"].endswith("others are spelled in UTF-8 bytes")


def test_a_second_run_leaves_the_vocab_and_a_killed_one_is_finished(
    manifest: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "v"
    build(manifest, out, "--size", "30")
    files, written_ns = contents(out), (out / "bpe-30.model").stat().st_mtime_ns
    first = capfd.readouterr().out
    assert build(manifest, out, "--size", "30") == 0
    again = capfd.readouterr().out
    assert "already there" in again and again.splitlines()[1:] == first.splitlines()[1:]
    assert (out / "bpe-30.model").stat().st_mtime_ns == written_ns
    for lost in ("bpe-30.json", "bpe-30.model"):
        (out / lost).unlink()
        assert build(manifest, out, "--size", "30") == 0
        assert contents(out) == files


def test_other_inputs_are_refused_without_force(
    manifest: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "v"
    build(manifest, out, "--size", "30")
    build(manifest, out, "--size", "31")  # another size lives beside it
    files = contents(out)
    capfd.readouterr()
    other = write_manifest(tmp_path / "o.parquet", rows("train", [*TRAIN, "a cow sat"]))
    message = error(capfd, build(other, out, "--size", "30"))
    assert "bpe-30.model: made from other inputs (utterances)" in message and "--force" in message
    assert contents(out) == files
    (out / "bpe-30.json").unlink()
    assert "is not this vocab" in error(capfd, build(other, out, "--size", "30"))
    assert build(other, out, "--size", "30", "--force") == 0
    assert "w" in (out / "bpe-30.vocab.txt").read_text().split("\n")
    assert contents(out)["bpe-31.model"] == files["bpe-31.model"]


def test_sizes_that_the_text_does_not_allow(manifest: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for asked, word in (("3", "smallest"), ("9000", "largest")):
        message = error(capfd, build(manifest, tmp_path / "v", "--size", asked))
        assert message.startswith(f"--size {asked}: ") and f"the {word} possible is --size " in message
        assert build(manifest, tmp_path / "v", "--size", message.split()[-1]) == 0
        capfd.readouterr()
    assert "--size 2048" in error(capfd, build(manifest, tmp_path / "v"))


@pytest.mark.parametrize(
    ("utterances", "options", "message"),
    [
        ([], [], "holds no utterance"),
        (rows("train", [""]), [], "every text is empty"),
        (rows("train", TRAIN), ["--splits", "trian"], "--splits trian: no utterance has that split; there are: train"),
        (rows("dev-clean", TRAIN), [], "for instance --splits dev-clean"),
        (rows("train", ["oh <unk> yes"]), [], "utterance train-0: its text holds '<unk>'"),
    ],
)
def test_input_that_cannot_be_trained_on(
    utterances: list[Utterance],
    options: list[str],
    message: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    manifest = write_manifest(tmp_path / "m.parquet", utterances)
    assert message in error(capfd, build(manifest, tmp_path / "v", "--size", "30", *options))
    assert not (tmp_path / "v").exists()


def test_real_transcripts(speech_data: Path, tmp_path: Path) -> None:
    librispeech = [
        line.split(" ", 1)[1].lower()
        for path in sorted((speech_data / "LibriSpeech").rglob("*.trans.txt"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    with (speech_data / "digits" / "fsdd.tsv").open(encoding="utf-8", newline="") as file:
        digits = [row["text"] for row in csv.DictReader(file, delimiter="\t")]
    manifest = write_manifest(tmp_path / "m.parquet", [*rows("train", librispeech, 7.0), *rows("digits", digits, 0.5)])
    assert build(manifest, tmp_path, "--size", "256") == 0
    report: list[dict[str, Any]] = json.loads((tmp_path / "bpe-256.json").read_text())["report"]
    fits = {fit["split"]: fit for fit in report}
    assert 1.5 < fits["train"]["pieces_per_word"] < 3.5
    assert fits["train"]["more_pieces_than_frames_share"]["8x"] < 0.5
