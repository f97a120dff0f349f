"""prepare-corpus folder with Kaldi folders and Sphinx transcriptions for lists, and with tars in its root."""

import argparse
import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from manifests import archive, storage
from manifests.schema import Dropped
from pipelines.candidates import Candidate, write_toy
from pipelines.corpora import folder


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("folder")
    folder.add_arguments(parser)
    return parser


def listed(*argv: str | Path) -> list[Candidate | Dropped]:
    return list(folder.candidates(parser().parse_args(list(map(str, argv)))))


def good(found: list[Candidate | Dropped]) -> list[Candidate]:
    return [item for item in found if isinstance(item, Candidate)]


def lost(found: list[Candidate | Dropped]) -> list[tuple[str, str, str]]:
    return [(item.id, item.reason, item.detail) for item in found if isinstance(item, Dropped)]


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A root with audio, and in it a Kaldi folder `train`."""
    for name in ("a/one.wav", "a/two.flac", "talk.sph"):
        write_toy(str(tmp_path / "data" / name), 3.0)
    train = tmp_path / "data" / "train"
    write(train / "wav.scp", "s1-one a/one.wav", f"s2-two {tmp_path}/data/a/two.flac")
    write(train / "text", "s1-one ONE  AND ONE", "s2-two TWO")
    write(train / "utt2spk", "s1-one s1", "s2-two s2")
    write(train / "spk2gender", "s1 f", "s2 m")
    return tmp_path / "data"


def test_a_kaldi_folder_gives_its_ids_speakers_and_split(data: Path) -> None:
    found = listed("--kaldi", data / "train", "--root", data, "--licence", "CC0")
    assert lost(found) == []
    one, two = good(found)
    assert (one.id, one.split, one.speaker, one.text_raw) == ("s1-one", "train", "s1", "ONE  AND ONE")
    assert (two.id, two.audio, two.duration_s) == ("s2-two", str(data / "a" / "two.flac"), None)
    assert [json.loads(c.extra) for c in (one, two)] == [{"gender": "female"}, {"gender": "male"}]
    assert {(c.corpus, c.licence, c.source) for c in (one, two)} == {("data", "CC0", "train/wav.scp")}
    assert {c.split for c in good(listed("--kaldi", data / "train", "--root", data, "--split", "dev"))} == {"dev"}


def test_segments_cut_recordings(data: Path) -> None:
    dev = data / "dev"
    write(dev / "wav.scp", "talk talk.sph", "idle a/one.wav")
    write(
        dev / "segments",
        "u1 talk 0.0 1.25",
        "u2 talk 1.25 -1",
        "u3 talk 2 1",
        "u4 none 0 1",
        "u5 talk 0 1 1",
        "u6 talk 0 1",
    )
    write(dev / "text", "u1 first", "u2 second", "u3 x", "u4 x", "u5 x", "u7 x")
    found = listed("--kaldi", dev, "--root", data)
    assert [(c.id, c.audio, c.offset_s, c.duration_s) for c in good(found)] == [
        ("u1", str(data / "talk.sph"), 0.0, 1.25),
        ("u2", str(data / "talk.sph"), 1.25, None),
    ]
    assert lost(found) == [
        ("u3", "bad row", "dev/segments, line 3: ends at 1 s, where it starts at 2 s"),
        ("u4", "missing file", "dev/segments, line 4: wav.scp has no none"),
        ("u5", "bad row", "dev/segments, line 5: 5 fields, where utterance, recording, start and end are read"),
        ("u6", "no transcript", "dev/segments, line 6: text has no u6"),
        ("u7", "missing file", "dev/text, line 6: segments has no u7"),
        ("idle", "no transcript", "dev/wav.scp, line 2: no line of segments cuts idle"),
    ]


def test_what_a_kaldi_folder_cannot_mean_here_is_refused_line_by_line(data: Path) -> None:
    train = data / "train"
    lines = (
        "pipe sph2pipe -f wav -p talk.sph |",
        "ark wavs.ark:1234",
        "stdin -",
        "empty",
        "url pipe:cat talk.sph",
        "gone gone.wav",
        "silent a/one.wav",
        "good talk.sph",
        "good a/one.wav",
    )
    write(train / "wav.scp", *lines)
    write(
        train / "text", *(f"{line.split()[0]} words" for line in lines[:-3]), "good one text", "good another", "more x"
    )
    found = listed("--kaldi", train, "--root", data)
    assert [(c.id, c.text_raw) for c in good(found)] == [("good", "one text")]
    assert {(name, reason) for name, reason, _ in lost(found)} == {
        *((name, "bad row") for name in ("pipe", "ark", "stdin", "empty", "url")),
        ("gone", "missing file"),
        ("silent", "no transcript"),
        ("more", "missing file"),
        ("good", "duplicate id"),
    }
    details = {name: detail for name, _, detail in lost(found)}
    assert "'sph2pipe -f wav -p talk.sph |' is a shell command and is not run; write the path" in details["pipe"]
    assert details["pipe"].startswith("train/wav.scp, line 1: ")
    assert "a place in a Kaldi archive; write the path of an audio file" in details["ark"]
    assert details["gone"] == f"train/wav.scp, line 6: no such file below {data}"
    assert len(found) == 11


def test_a_folder_that_is_none_of_kaldis_says_what_it_lacks(data: Path) -> None:
    (data / "train" / "text").unlink()
    with pytest.raises(ValueError, match=r"--kaldi .*/train: has no text; a Kaldi data folder holds wav.scp and text"):
        listed("--kaldi", data / "train", "--root", data)


def test_one_form_of_list_at_a_time(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["--list", "l.tsv", "--kaldi", "train"], []):
        with pytest.raises(SystemExit) as exit_:
            parser().parse_args([*argv, "--root", str(data)])
        assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert "argument --kaldi: not allowed with argument --list" in error
    assert "one of the arguments --list --kaldi --transcription is required" in error


def test_sphinx_names_files_by_their_stem(data: Path) -> None:
    for name in ("ann/u1.sph", "ann/u2.sph", "ben/u1.sph", "ben/u3.sph"):
        write_toy(str(data / "wav" / "clstk" / name), 1.0)
    etc = data / "etc"
    ids = ("ann/u1", "ann/u2", "ben/u1", "ben/u3", "ben/u4")
    write(etc / "toy_test.fileids", *(f"clstk/{name}" for name in ids))
    lines = (
        "<s> YES </s> (u1)",
        "NO <sil> TO(2) (u2)",
        "<s> BEN'S </s> (u1)",
        "<s> FOUR </s> (u4)",
        "NOWHERE (u9)",
        "odd",
    )
    path = write(etc / "toy_test.transcription", *lines)
    found = listed("--transcription", path, "--root", data)
    assert [(c.id, c.speaker, c.split, c.text_raw) for c in good(found)] == [
        ("clstk_ann_u1", "ann", "test", "YES"),
        ("clstk_ann_u2", "ann", "test", "NO TO"),
        ("clstk_ben_u1", "ben", "test", "BEN'S"),
    ]
    assert [c.audio for c in good(found)][2] == str(data / "wav" / "clstk" / "ben" / "u1.sph")
    assert [(name, reason, detail.partition(": ")[0]) for name, reason, detail in lost(found)] == [
        ("clstk_ben_u4", "missing file", "toy_test.transcription, line 4"),
        ("u9", "missing file", "toy_test.transcription, line 5"),
        ("line-6", "bad row", "toy_test.transcription, line 6"),
        ("clstk_ben_u3", "no transcript", "toy_test.fileids, line 4"),
    ]


@pytest.mark.parametrize(
    ("name", "message"), [("a.txt", "must end in .transcription"), ("a.transcription", "a.fileids")]
)
def test_a_transcription_needs_its_file_ids(data: Path, name: str, message: str) -> None:
    write(data / name, "YES (u1)")
    with pytest.raises(ValueError, match=message):
        listed("--transcription", data / name, "--root", data)


def test_files_may_lie_in_a_tar_in_the_root(data: Path, tmp_path: Path) -> None:
    packed = tmp_path / "a.tar.gz"
    with tarfile.open(packed, "w:gz") as file:
        file.add(data / "a", "./a")
    root = tmp_path / "root"
    write_toy(str(root / "three.wav"), 1.0)
    data = packed.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    archive.receive(iter([data]), str(root / "a.tar"), name="a", size_bytes=None, sha256=sha256, md5=None)
    table = write(
        tmp_path / "l.tsv", "path\ttext", "a/one.wav\tone", "./a/two.flac\ttwo", "three.wav\tthree", "a/x.wav\tx"
    )
    found = listed("--list", table, "--root", root)
    assert [(c.id, len(storage.read_bytes(c.audio)) == c.size_bytes) for c in good(found)] == [
        ("a_one", True),
        ("a_two", True),
        ("three", True),
    ]
    assert good(found)[0].audio.startswith(f"{root}/a.tar#")
    assert [(name, reason) for name, reason, _ in lost(found)] == [("a_x", "missing file")]


def test_ids_never_meet_by_chance(data: Path) -> None:
    """Rows that make no sense are called line-<n>; files may be called so too."""
    for name in ("line-4.wav", "line-4.flac"):
        write_toy(str(data / name), 1.0)
    table = write(data / "l.tsv", "path\ttext", "line-4.wav\tone", "line-4.flac\ttwo", "\tno path")
    found = listed("--list", table, "--root", data)
    assert [item.id for item in found] == ["line-4-line2", "line-4-line3", "line-4"]


def test_real_kaldi_folders(speech_data: Path) -> None:
    root = speech_data / "speechocean762"
    found = listed("--kaldi", root / "train", root / "test", "--root", root)
    assert lost(found) == [] and len(found) == 2860
    assert {c.split: c.speaker for c in good(found)}.keys() == {"train", "test"}
    assert len({c.speaker for c in good(found)}) == 143 and all(c.extra for c in good(found))


def test_real_sphinx_transcriptions(speech_data: Path) -> None:
    root = speech_data / "an4"
    names = [root / "etc" / f"an4_{split}.transcription" for split in ("train", "test")]
    found = listed("--transcription", *names, "--root", root)
    assert lost(found) == [] and len(found) == 60
    texts = {c.id: (c.split, c.speaker, c.text_raw) for c in good(found)}
    assert texts["an4_clstk_fclc_an146-fclc-b"] == ("train", "fclc", "N L N S ONE SEVENTY FIVE")
    assert texts["an4test_clstk_mjwl_an392-mjwl-b"] == ("test", "mjwl", "REPEAT")
