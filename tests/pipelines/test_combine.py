"""combine-manifests: one manifest of several, without what is in their tests too."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import soundfile

from asr import tokenizer
from manifests.parquet import read_manifests
from pipelines import combine, prepare
from pipelines.candidates import toy

Out = pytest.CaptureFixture[str]
FILES = {"manifest.parquet", "dropped.parquet", "fingerprints.parquet", "report.html", "step.json"}


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """Two prepared corpora: `first` has a train and a test split, `second` only training speech, partly the same."""
    common = toy("common", 4.0)
    write(tmp_path / "first", [("t", "test", common), ("a", "train", toy("a", 3.0)), ("b", "train", toy("b", 3.0))])
    sound = {"c": toy("c", 3.0), "again": common, "long": toy("long", 9.0)}
    write(tmp_path / "second", [(name, "train", samples) for name, samples in sound.items()])
    return [f"{tmp_path}/first/out", f"{tmp_path}/second/out"]


def write(folder: Path, sounds: list) -> None:
    audio = folder / f"audio-{folder.name}"
    audio.mkdir(parents=True)
    lines = ["path\ttext\tsplit"]
    for name, split, samples in sounds:
        soundfile.write(audio / f"{folder.name}-{name}.flac", samples, 16000)
        lines.append(f"{folder.name}-{name}.flac\tthe words of {name}\t{split}")
    (folder / "list.tsv").write_text("\n".join(lines))
    argv = ["folder", "--list", f"{folder}/list.tsv", "--root", str(audio), "--out", f"{folder}/out"]
    assert prepare.main([*argv, "--workers", "1"]) == 0


def test_training_speech_that_another_corpus_tests_on_is_dropped(two: list[str], tmp_path: Path, capsys: Out) -> None:
    assert combine.main(["--manifest", *two, "--out", f"{tmp_path}/both"]) == 0
    ids = [row.id for row in read_manifests([f"{tmp_path}/both"])]
    assert ids == ["first-t", "first-a", "first-b", "second-c", "second-long"]
    (lost,) = pq.read_table(tmp_path / "both" / "dropped.parquet").to_pylist()
    assert (lost["id"], lost["reason"]) == ("second-again", "audio also in test") and "first-t" in lost["detail"]
    assert "audio also in test" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "both").iterdir()} == FILES
    kept = pq.read_table(tmp_path / "both" / "fingerprints.parquet")["id"].to_pylist()
    assert kept == sorted(ids)


def test_kept_leaks_stay_and_the_result_is_another(two: list[str], tmp_path: Path, capsys: Out) -> None:
    argv = ["--manifest", *two, "--out", f"{tmp_path}/both"]
    assert combine.main([*argv, "--keep-leaks", "audio"]) == 0
    assert len(read_manifests([f"{tmp_path}/both"])) == 6
    assert combine.main(argv) == 1
    assert "from other inputs (keep_leaks)" in capsys.readouterr().err


def test_the_same_command_again_does_nothing_and_other_limits_are_refused(
    two: list[str], tmp_path: Path, capsys: Out
) -> None:
    argv = ["--manifest", *two, "--out", f"{tmp_path}/both", "--max-duration-s", "8"]
    assert combine.main(argv) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "both").iterdir()}
    capsys.readouterr()
    assert combine.main(argv) == 0
    assert "already done" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in (tmp_path / "both").iterdir()} == before
    assert "second-long" not in {row.id for row in read_manifests([f"{tmp_path}/both"])}
    assert combine.main([*argv[:-1], "7"]) == 1
    assert "from other inputs (limits)" in capsys.readouterr().err


def test_pieces_a_second_are_limited_with_a_vocab(two: list[str], tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "v.model").write_bytes(tokenizer.train(["the words of again and a long b c t"], "char", 19, False))
    argv = ["--manifest", *two, "--out", f"{tmp_path}/both", "--max-pieces-per-s", "4.5"]
    assert combine.main(argv) == 1
    assert "--max-pieces-per-s: pieces of which vocab? Say --vocab MODEL" in capsys.readouterr().err
    assert combine.main([*argv, "--vocab", f"{tmp_path}/v.model"]) == 0
    dropped = pq.read_table(tmp_path / "both" / "dropped.parquet").to_pylist()
    reasons = {row["id"]: row["reason"] for row in dropped}
    assert reasons["first-a"] == "too many pieces" and "second-long" not in reasons


def test_the_order_of_the_manifests_does_not_matter(two: list[str], tmp_path: Path) -> None:
    for name, manifests in (("ab", two), ("ba", two[::-1])):
        assert combine.main(["--manifest", *manifests, "--out", f"{tmp_path}/{name}"]) == 0
    for name in ("manifest.parquet", "dropped.parquet", "fingerprints.parquet"):
        assert (tmp_path / "ab" / name).read_bytes() == (tmp_path / "ba" / name).read_bytes()


def test_the_same_corpus_twice_is_refused(two: list[str], tmp_path: Path, capsys: Out) -> None:
    assert combine.main(["--manifest", two[0], two[0], "--out", f"{tmp_path}/both"]) == 1
    error = capsys.readouterr().err
    assert "utterance first-t is in" in error and error.count("\n") == 1 and not (tmp_path / "both").exists()


@pytest.mark.parametrize("other", ["nothing.parquet", "dropped.parquet"])
def test_other_fingerprints_are_told_with_their_file(two: list[str], tmp_path: Path, capsys: Out, other: str) -> None:
    (tmp_path / "first" / "out" / "nothing.parquet").write_text("no parquet")
    data = (tmp_path / "first" / "out" / other).read_bytes()
    (tmp_path / "first" / "out" / "fingerprints.parquet").write_bytes(data)
    capsys.readouterr()
    assert combine.main(["--manifest", *two, "--out", f"{tmp_path}/both"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "first/out/fingerprints.parquet: holds no fingerprints" in line and not (tmp_path / "both").exists()
