"""prepare-corpus as a user meets it: what it makes of good, bad and half-good input."""

import csv
import json
import resource
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from httpd import serve

from manifests.parquet import read_manifests
from manifests.schema import ID_BYTES
from pipelines import prepare
from pipelines.candidates import Candidate, write_toy
from pipelines.corpora import librispeech
from pipelines.examine import Rules, examine

Out = pytest.CaptureFixture[str]


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """A folder with a file of 1 s and one of 4 s."""
    write_toy(str(tmp_path / "audio" / "a.wav"), 1.0)
    write_toy(str(tmp_path / "audio" / "sub" / "b.flac"), 4.0, 44100)
    return tmp_path / "audio"


def run(*argv: str | Path) -> int:
    return prepare.main([*map(str, argv), "--workers", "1"])


def run_list(tmp_path: Path, name: str, text: str | bytes, *more: str) -> int:
    """prepare-corpus folder with this list, to tmp_path/out."""
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return run("folder", "--list", path, "--root", tmp_path / "audio", "--out", tmp_path / "out", *more)


def dropped(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out / "dropped.parquet").to_pylist()


# Lists


def test_long_paths_with_parts_still_fit_into_a_shard(tmp_path: Path) -> None:
    folders = "a long name of a folder/" * 5
    write_toy(str(tmp_path / "audio" / folders / "a.wav"), 3.0)
    rows = [f"{folders}a.wav\tone\t0\t1", f"{folders}a.wav\ttwo\t0\t2", f"{folders}a.wav\tthree\t1\t1"]
    lines = ["path\ttext\toffset_s\tduration_s", *rows]
    assert run_list(tmp_path, "l.tsv", "\n".join(lines), "--keep-leaks", "audio") == 0
    ids = [row.id for row in read_manifests([str(tmp_path / "out")])]
    assert len(set(ids)) == 3 and max(len(id_) for id_ in ids) <= ID_BYTES


def test_a_finished_result_without_its_manifest_is_made_again(tmp_path: Path, audio: Path) -> None:
    for _ in range(2):
        assert run_list(tmp_path, "l.tsv", "path\ttext\na.wav\tone\n") == 0
        (tmp_path / "out" / "manifest.parquet").unlink()


def test_hours_that_cannot_be_made_leave_the_folder_as_it_was(tmp_path: Path, capsys: Out) -> None:
    assert run("demo", "--hours", "1000", "--out", tmp_path / "out") == 1
    assert "--hours 1000" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.tsv", 'path\ttext\tspeaker\tsplit\na.wav\tsay "hi", ann\tann\tdev\nsub/b.flac\tbye\tbob\ttest\n'),
        ("l.csv", '\ufeffpath,text,speaker,split\r\na.wav,"say ""hi"", ann",ann,dev\r\nsub/b.flac,bye,bob,test\r\n'),
        (
            "l.jsonl",
            '{"path": "a.wav", "text": "say \\"hi\\", ann", "speaker": "ann", "split": "dev", "more": "no matter"}\n\n'
            '{"path": "sub/b.flac", "text": "bye", "speaker": "bob", "split": "test"}\n',
        ),
    ],
)
def test_each_format_of_list_says_the_same(tmp_path: Path, audio: Path, name: str, text: str) -> None:
    assert run_list(tmp_path, name, text) == 0
    rows = read_manifests([str(tmp_path / "out")])
    assert [(r.id, r.split, r.speaker, r.text_raw, r.text) for r in rows] == [
        ("a", "dev", "ann", 'say "hi", ann', "say hi ann"),
        ("sub_b", "test", "bob", "bye", "bye"),
    ]
    assert [(r.audio, r.sample_rate, r.duration_s) for r in rows] == [
        (str(audio / "a.wav"), 16000, 1.0),
        (str(audio / "sub" / "b.flac"), 44100, 4.0),
    ]


def test_parts_of_one_file_have_ids_with_their_start(tmp_path: Path, audio: Path) -> None:
    lines = ["path,text,offset_s,duration_s", "sub/b.flac,first,0,1.5", "sub/b.flac,second,1.5,", "sub/b.flac,all,,"]
    assert run_list(tmp_path, "l.csv", "\n".join(lines), "--keep-leaks", "audio") == 0
    rows = read_manifests([str(tmp_path / "out")])
    assert [(r.id, r.text, r.offset_s, r.duration_s) for r in rows] == [
        ("sub_b", "all", 0.0, 4.0),
        ("sub_b-0000000", "first", 0.0, 1.5),
        ("sub_b-0001500", "second", 1.5, 2.5),
    ]


def test_files_that_would_share_an_id_get_their_line(tmp_path: Path, audio: Path) -> None:
    write_toy(str(audio / "a.flac"), 2.0)
    assert run_list(tmp_path, "l.tsv", "path\ttext\na.wav\tone\na.flac\ttwo\n") == 0
    assert [(r.id, r.text) for r in read_manifests([str(tmp_path / "out")])] == [("a-line2", "one"), ("a-line3", "two")]


def test_every_row_that_cannot_be_used_says_why(tmp_path: Path, audio: Path) -> None:
    (audio / "noise.wav").write_bytes(b"not audio")
    (audio / "empty.wav").write_bytes(b"")
    write_toy(str(audio / "click.wav"), 0.05)
    header = ("path", "text", "offset_s", "duration_s")
    cases = [
        (("a.wav", "good", "", ""), None),
        (("a.wav", "twice", "", ""), ("duplicate id", "a.wav")),
        (("none.wav", "x", "", ""), ("missing file", "line 4")),
        (("sub", "x", "", ""), ("missing file", "line 5")),
        (("noise.wav", "x", "", ""), ("undecodable", "cannot be read")),
        (("empty.wav", "x", "", ""), ("undecodable", "empty")),
        (("click.wav", "x", "", ""), ("too short", "0.050 s")),
        (("sub/b.flac", "x", "0", "3.5"), ("too long", "3.50 s is above 3 s")),
        (("sub/b.flac", "x", "3", "2"), ("beyond the end", "ends at 5 s; the file ends at 4.00 s")),
        (("sub/b.flac", "x", "9", ""), ("beyond the end", "starts at 9 s; the file ends at 4.00 s")),
        (("sub/b.flac", "-", "1", "1"), ("empty text", "no word")),
        (("sub/b.flac", "5 x", "2", "1"), ("unknown characters", "5")),
        (("sub/b.flac", "x", "soon", ""), ("bad row", "line 14: offset_s is 'soon'")),
        (("sub/b.flac", "x", "-1", ""), ("bad row", "line 15: offset_s is -1")),
        (("", "x", "", ""), ("bad row", "line 16: its path is empty")),
        (("a.wav", "x"), ("bad row", "line 17: 2 columns where the header has 4")),
        (("pipe:cat http://x", "x", "", ""), ("bad row", "line 18: pipe:cat http://x: shell commands")),
        (("n" * 300, "x", "", ""), ("missing file", "line 19")),
    ]
    lines = ["\t".join(cells) for cells in [header, *(cells for cells, _ in cases)]]
    assert run_list(tmp_path, "l.tsv", "\n".join(lines), "--max-duration-s", "3") == 0
    assert [r.text for r in read_manifests([str(tmp_path / "out")])] == ["good"]
    found = [(row["reason"], row["detail"]) for row in dropped(tmp_path / "out")]
    expected = [case for _, case in cases if case]
    assert len(found) == len(expected)
    for reason, detail in expected:
        assert any(reason == r and detail in d for r, d in found), (reason, detail)


def test_a_json_line_that_is_none_is_dropped_with_its_number(tmp_path: Path, audio: Path) -> None:
    lines = [
        '{"path": "a.wav", "text": "x"}',
        "nonsense",
        "[1]",
        '{"path": "a.wav"}',
        '{"path": "a", "text": "\\ud800"}',
    ]
    lines.append('{"path": "a", "text": ["x"]}')
    assert run_list(tmp_path, "l.jsonl", "\n".join(lines)) == 0
    details = [row["detail"] for row in dropped(tmp_path / "out")]
    assert [detail.split(": ")[0] for detail in details] == [f"l.jsonl, line {n}" for n in (2, 3, 4, 5, 6)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.csv", "file,text\na.wav,x\n", "l.csv: has no column path; it has file, text"),
        ("l.jsonl", '{"file": "a.wav"}\n', "has no column path and no text; it has file"),
        ("l.tsv", "path\ttext\ttext\n", "has the column text more than once"),
        ("l.tsv", b"path\ttext\na.wav\tgr\xfcn\n", "l.tsv, line 2: not UTF-8"),
        ("l.tsv", "", "is empty; it needs the columns path and text"),
        ("l.jsonl", "\n", "is empty; it needs the columns path and text"),
        ("l.tsv", "path\ttext\n", "the list names no utterance"),
        ("l.csv", 'path,text\n"a.wav,x\nb.wav,x\n', "l.csv, line 3: not CSV (unexpected end of data)"),
        ("l.txt", "path\ttext\n", "must end in .tsv, .csv or .jsonl"),
        (
            "l.tsv",
            "path\ttext\nb.wav\tx\nc.wav\tx\na.wav\tмир\n",
            "none of 3 utterances is usable; 2 of them: missing file",
        ),
    ],
)
def test_a_list_that_is_no_use_is_one_clear_line(
    tmp_path: Path, audio: Path, capsys: Out, name: str, text: str | bytes, message: str
) -> None:
    assert run_list(tmp_path, name, text) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_list_or_root_that_is_not_there(tmp_path: Path, capsys: Out) -> None:
    assert run("folder", "--list", tmp_path / "no.tsv", "--root", tmp_path, "--out", tmp_path / "out") == 1
    assert "no.tsv: no such file" in capsys.readouterr().err
    for corpus in (["folder", "--list", "x.tsv"], ["librispeech"]):
        assert run(*corpus, "--root", tmp_path / "no", "--out", tmp_path / "out") == 1
        assert f"--root {tmp_path}/no: no such folder" in capsys.readouterr().err


# LibriSpeech


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    librispeech.tiny(tmp_path)
    return tmp_path / "LibriSpeech"


@pytest.mark.parametrize(
    ("below", "utterances"),
    [("..", 6), (".", 6), ("train-clean-100", 4), ("train-clean-100/19", 2), ("train-clean-100/19/7", 2)],
)
def test_a_root_of_any_level_will_do(tree: Path, tmp_path: Path, below: str, utterances: int) -> None:
    assert run("librispeech", "--root", tree / below, "--out", tmp_path / "out") == 0
    rows = read_manifests([str(tmp_path / "out")])
    assert len(rows) == utterances
    by_id = {row.id: (row.split, row.speaker) for row in rows}
    assert by_id["19-7-0001"] == ("train-clean-100", "19")


def test_splits_are_chosen_by_name(tree: Path, tmp_path: Path, capsys: Out) -> None:
    assert run("librispeech", "--root", tree, "--splits", "dev-clean", "--out", tmp_path / "out") == 0
    assert {row.split for row in read_manifests([str(tmp_path / "out")])} == {"dev-clean"}
    assert run("librispeech", "--root", tree, "--splits", "dev-clean", "dev", "--out", tmp_path / "out") == 1
    assert f"--splits: no dev in {tree}; there are dev-clean, train-clean-100" in capsys.readouterr().err


def test_a_root_without_librispeech_says_what_it_holds(tree: Path, tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "other" / "sub").mkdir(parents=True)
    assert run("librispeech", "--root", tmp_path / "other", "--out", tmp_path / "out") == 1
    assert "but no file at all" in capsys.readouterr().err
    (tmp_path / "other" / "dev-clean.tar.gz").write_bytes(b"")
    (tmp_path / "other" / "sub" / "x.flac").write_bytes(b"")
    assert run("librispeech", "--root", tmp_path / "other", "--out", tmp_path / "out") == 1
    assert f"say --archive {tmp_path}/other/dev-clean.tar.gz" in capsys.readouterr().err
    (tmp_path / "other" / "dev-clean.tar.gz").rename(tmp_path / "other" / "notes.txt")
    assert run("librispeech", "--root", tmp_path / "other", "--out", tmp_path / "out") == 1
    assert "but notes.txt, sub" in capsys.readouterr().err


def test_audio_and_transcript_lines_without_the_other_are_dropped(tree: Path, tmp_path: Path) -> None:
    (tree / "dev-clean" / "84" / "7" / "84-7-0000.flac").unlink()
    (tree / "train-clean-100" / "19" / "7" / "19-7.trans.txt").unlink()
    transcript = tree / "train-clean-100" / "103" / "7" / "103-7.trans.txt"
    transcript.write_text("103-7-0000 \r\n\n")
    assert run("librispeech", "--root", tree, "--out", tmp_path / "out") == 0
    assert [row.id for row in read_manifests([str(tmp_path / "out")])] == ["84-7-0001"]
    assert [(row["id"], row["reason"]) for row in dropped(tmp_path / "out")] == [
        ("84-7-0000", "missing file"),
        ("103-7-0000", "empty text"),
        ("103-7-0001", "no transcript"),
        ("19-7-0000", "no transcript"),
        ("19-7-0001", "no transcript"),
    ]


def test_a_transcript_in_another_encoding_is_named_with_its_line(tree: Path, tmp_path: Path, capsys: Out) -> None:
    transcript = tree / "dev-clean" / "84" / "7" / "84-7.trans.txt"
    transcript.write_bytes(b"84-7-0000 A\n84-7-0001 CAF\xc9\n")
    assert run("librispeech", "--root", tree, "--out", tmp_path / "out") == 1
    assert f"{transcript}, line 2: not UTF-8" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# The folder of the result


def test_a_changed_corpus_is_refused_until_force(tree: Path, tmp_path: Path, capsys: Out) -> None:
    command = ("librispeech", "--root", tree, "--out", tmp_path / "out")
    assert run(*command) == 0
    write_toy(str(tree / "dev-clean" / "84" / "7" / "84-7-0000.flac"), 2.0)
    assert run(*command) == 1
    assert "from other inputs (files_and_texts); choose another --out, or say --force" in capsys.readouterr().err
    assert read_manifests([str(tmp_path / "out")], ["dev-clean"])[0].duration_s == 0.5
    assert run(*command, "--force") == 0
    assert read_manifests([str(tmp_path / "out")], ["dev-clean"])[0].duration_s == 2.0


def test_force_never_costs_files_that_lay_beside_the_result(tree: Path, tmp_path: Path, capsys: Out) -> None:
    """A root that is its own --out was deleted by the second --force."""
    command = ("librispeech", "--root", tree, "--out", tree)
    assert run(*command) == 1
    assert "is not empty and holds nothing that a step made" in capsys.readouterr().err
    assert run(*command, "--force") == 0
    shutil.rmtree(tree / "dev-clean")
    assert run(*command, "--force") == 0
    assert len(read_manifests([str(tree)])) == 4 and len(list(tree.rglob("*.flac"))) == 4


def test_when_nothing_is_usable_the_old_result_stays_even_with_force(tree: Path, tmp_path: Path, capsys: Out) -> None:
    command = ("librispeech", "--root", tree, "--out", tmp_path / "out")
    assert run(*command) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for path in tree.rglob("*.flac"):
        path.write_bytes(b"x")
    assert run(*command, "--force") == 1
    assert "none of 6 utterances is usable; 6 of them: undecodable" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_write_that_fails_leaves_no_part_of_a_result(tree: Path, tmp_path: Path, capsys: Out) -> None:
    """A limit on the size of files stands for the full disk: the others are below it, the report above."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        assert run("librispeech", "--root", tree, "--out", tmp_path / "out") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "report.html: File too large" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_json_is_all_that_standard_output_gets(tree: Path, tmp_path: Path, capsys: Out) -> None:
    for _ in range(2):
        assert run("librispeech", "--root", tree, "--out", tmp_path / "out", "--json") == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["total"] == {"utterances": 6, "hours": 0.001458, "speakers": 3}
        assert summary["splits"]["dev-clean"]["utterances"] == 2


@pytest.mark.parametrize("option", [("--workers", "0"), ("--max-duration-s", "0"), ("--max-duration-s", "nan")])
def test_a_number_that_makes_no_sense_is_named(
    tree: Path, tmp_path: Path, capsys: Out, option: tuple[str, str]
) -> None:
    assert prepare.main(["librispeech", "--root", str(tree), "--out", str(tmp_path / "out"), *option]) == 1
    assert f"error: {option[0]} {option[1]}: must be" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_write_the_same_bytes(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "ALONE_S", 0.0)
    monkeypatch.setattr(prepare, "CHUNK", 1)
    for workers in ("1", "2"):
        argv = ["librispeech", "--root", str(tree), "--out", str(tmp_path / workers), "--workers", workers]
        assert prepare.main(argv) == 0
    assert (tmp_path / "1" / "manifest.parquet").read_bytes() == (tmp_path / "2" / "manifest.parquet").read_bytes()


# Details


def test_a_span_that_ends_a_little_late_ends_with_the_file(audio: Path) -> None:
    uri = str(audio / "a.wav")
    candidate = Candidate("a", "c", "train", "en", "", uri, 0, 0.25, 0.8, "x", "", "")
    (utterance,) = examine([candidate], Rules()).utterances
    assert utterance.duration_s == 0.75


def test_an_unknown_format_of_list_is_told_before_it_is_read(tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "l.tsv.gz").write_bytes(b"\x1f\x8b")
    assert run("folder", "--list", tmp_path / "l.tsv.gz", "--root", tmp_path, "--out", tmp_path / "out") == 1
    assert "must end in" in capsys.readouterr().err


# Real corpora


def test_real_librispeech(speech_data: Path, tmp_path: Path) -> None:
    assert run("librispeech", "--root", speech_data / "LibriSpeech", "--out", tmp_path) == 0
    rows = read_manifests([str(tmp_path)])
    assert len(rows) == 86 and dropped(tmp_path) == []
    assert sum(row.duration_s for row in rows) / 3600 == pytest.approx(0.181, abs=0.001)


def test_real_files_of_all_kinds(speech_data: Path, tmp_path: Path) -> None:
    """Every readable file with a text is in the manifest, every broken one among the dropped."""
    source = speech_data / "other" / "manifest.tsv"
    argv = ("folder", "--list", source, "--root", speech_data / "other", "--out", tmp_path)
    assert run(*argv, "--max-duration-s", "700", "--keep-leaks", "audio") == 0
    with source.open() as file:
        listed = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows, lost = read_manifests([str(tmp_path)]), dropped(tmp_path)
    assert len(rows) + len(lost) == len(listed)
    reasons = {row["audio"].removeprefix(f"{speech_data}/other/"): row["reason"] for row in lost}
    for row in listed:
        readable_text = row["text"] and not any(c in "0123456789<>" for c in row["text"])
        expected = row["path"].startswith("broken/") or row["path"].endswith(".raw") or not readable_text
        assert (row["path"] in reasons) == expected, (row, reasons.get(row["path"]))
    assert {row.sample_rate for row in rows} >= {8000, 16000, 44100, 48000}


# A hostile or unlucky user


def test_a_device_in_a_list_is_no_file(tmp_path: Path, audio: Path) -> None:
    assert run_list(tmp_path, "l.tsv", "path\ttext\na.wav\tone\n/dev/zero\ttwo\n") == 0
    assert [(row["audio"], row["reason"]) for row in dropped(tmp_path / "out")] == [("/dev/zero", "missing file")]


def test_times_that_no_recording_has_are_told(tmp_path: Path, audio: Path) -> None:
    rows = ["a.wav\tone\t\t", "a.wav\ttwo\t1e308\t", "a.wav\tthree\t0\t1e300"]
    assert run_list(tmp_path, "l.tsv", "\n".join(["path\ttext\toffset_s\tduration_s", *rows])) == 0
    assert [row["reason"] for row in dropped(tmp_path / "out")] == ["bad row", "bad row"]


def test_a_line_of_brackets_is_told(tmp_path: Path, audio: Path) -> None:
    assert run_list(tmp_path, "l.jsonl", '{"path": "a.wav", "text": "one"}\n' + "[" * 100_000) == 0
    assert [row["reason"] for row in dropped(tmp_path / "out")] == ["bad row"]


def test_an_empty_list_option_is_one_line(tmp_path: Path, audio: Path, capsys: Out) -> None:
    assert run("folder", "--list", "", "--root", audio, "--out", tmp_path / "out") == 1
    assert "a path is empty" in capsys.readouterr().err


def test_a_url_without_a_bucket_is_no_folder(tmp_path: Path, audio: Path, capsys: Out) -> None:
    assert run_list(tmp_path, "l.tsv", "path\ttext\na.wav\tone\n", "--out", "s3://") == 1
    assert "s3://: names no bucket" in capsys.readouterr().err


def test_force_never_deletes_audio_that_a_list_names(tmp_path: Path, audio: Path, capsys: Out) -> None:
    out = tmp_path / "out"
    assert run_list(tmp_path, "l.tsv", "path\ttext\na.wav\tone\n") == 0
    write_toy(str(out / "kept.wav"), 2.0)
    assert run_list(tmp_path, "m.tsv", f"path\ttext\n{out}/kept.wav\ttwo\n", "--force") == 1
    assert "which is read here" in capsys.readouterr().err and (out / "kept.wav").exists()


def test_the_report_does_not_keep_the_secret_of_a_url(tmp_path: Path) -> None:
    root = librispeech.tiny(tmp_path)[1]
    with tarfile.open(tmp_path / "toy.tar.gz", "w:gz") as packed:
        packed.add(root, "LibriSpeech")
    with serve() as site:
        site.files["/toy.tar.gz"] = (tmp_path / "toy.tar.gz").read_bytes()
        url = f"{site.url.replace('://', '://me:password@')}/toy.tar.gz?X-Signature=token&v=1"
        argv = ["librispeech", "--root", tmp_path / "root", "--archive", url, "--out", tmp_path / "out"]
        assert run(*argv) == 0
    assert "toy.tar.gz?...&amp;v=1" in (tmp_path / "out" / "report.html").read_text()
    for path in [*(tmp_path / "out").iterdir(), *(tmp_path / "root").iterdir()]:
        data = path.read_bytes()
        assert b"token" not in data and b"password" not in data, path


def test_a_language_without_a_table_is_told(tmp_path: Path, audio: Path, capsys: Out) -> None:
    assert run_list(tmp_path, "l.tsv", "path\ttext\na.wav\tnuqneH\n", "--language", "tlh") == 0
    assert "language tlh: no alphabet is known" in capsys.readouterr().out


def test_a_leak_that_is_kept_is_told(tmp_path: Path, audio: Path, capsys: Out) -> None:
    rows = "path\ttext\tsplit\tspeaker\na.wav\tone\ttrain\tann\nsub/b.flac\ttwo\ttest\tann\n"
    assert run_list(tmp_path, "l.tsv", rows, "--keep-leaks", "speaker") == 0
    assert "reported, not dropped: speaker also in test: 1 utterance," in capsys.readouterr().out
    (tmp_path / "out").rename(tmp_path / "other")
    assert run_list(tmp_path, "l.tsv", rows) == 1
    assert "--keep-leaks speaker" in capsys.readouterr().err


def test_a_file_as_out_is_told_before_anything_is_heard(tmp_path: Path, audio: Path, capsys: Out) -> None:
    (tmp_path / "out").write_text("mine")
    assert run_list(tmp_path, "l.tsv", "path\ttext\na.wav\tone\n") == 1
    printed = capsys.readouterr()
    assert "out: is a file; --out is a folder" in printed.err and "listening" not in printed.out
