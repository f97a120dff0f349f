"""Hugging Face data sets in all the forms that they come in on a disk, written by `datasets` itself where it can."""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests import storage
from manifests.schema import Dropped
from pipelines.candidates import Candidate, write_toy
from pipelines.corpora import hf
from pipelines.hf import hubdata, packed
from pipelines.hf.hubdata import Row

REVISION = "5" * 40


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five FLAC files."""
    folder = tmp_path_factory.mktemp("sounds")
    paths = [folder / f"{name}.flac" for name in ("one", "two", "three", "four", "five")]
    for path in paths:
        write_toy(str(path), 0.2)
    return paths


@pytest.fixture(scope="module")
def library() -> Any:
    """`datasets`, as our code imports it: without torch."""
    return hubdata._datasets()


@pytest.fixture(autouse=True)
def nothing_in_the_home_folder(library: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`datasets` leaves a lock in its cache for whatever it opens."""
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def table(sounds: list[Path], **columns: list[Any]) -> pa.Table:
    """Rows with their audio in them, as the hub shows Parquet files of speech."""
    audio = [{"bytes": path.read_bytes(), "path": path.name} for path in sounds]
    sentences = [f"Sentence {path.stem}" for path in sounds]
    return pa.table({"audio": audio, "sentence": sentences} | columns)


def write_parquet(folder: Path, rows: pa.Table, split: str = "train") -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def arguments(dataset: Path | str, tmp_path: Path, *more: str, text: str = "sentence") -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    hf.add_arguments(parser)
    where = ["--root", str(tmp_path / "audio")]
    args = parser.parse_args(["--dataset", str(dataset), "--text-column", text, *where, *more])
    args.out, args.json, args.force = str(tmp_path / "out"), False, False
    return args


def listed(args: argparse.Namespace) -> list[Candidate | Dropped]:
    return list(hf.candidates(args))


def usable(found: list[Candidate | Dropped]) -> list[Candidate]:
    assert [item for item in found if isinstance(item, Dropped)] == []
    return [item for item in found if isinstance(item, Candidate)]


def check(found: list[Candidate], sounds: list[Path], split: str = "train") -> None:
    """All of them, in their order, with the right sentences and the right bytes."""
    assert [(c.split, c.text_raw) for c in found] == [(split, f"Sentence {path.stem}") for path in sounds]
    assert [storage.read_bytes(c.audio) for c in found] == [path.read_bytes() for path in sounds]
    assert [c.size_bytes for c in found] == [path.stat().st_size for path in sounds]
    assert len({c.id for c in found}) == len(found)


def audiofolder(folder: Path, sounds: list[Path], kind: str) -> Path:
    (folder / "train").mkdir(parents=True)
    for path in sounds:
        shutil.copy(path, folder / "train")
    rows = [{"file_name": path.name, "sentence": f"Sentence {path.stem}"} for path in sounds]
    lines = {
        "jsonl": [json.dumps(row) for row in rows],
        "csv": ["file_name,sentence", *(f"{row['file_name']},{row['sentence']}" for row in rows)],
    }
    (folder / "train" / f"metadata.{kind}").write_text("\n".join(lines[kind]) + "\n")
    return folder


@pytest.mark.parametrize("more", [[], ["--streaming"]])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_files_on_disk_are_used_where_they_are(sounds: list[Path], tmp_path: Path, kind: str, more: list[str]) -> None:
    folder = audiofolder(tmp_path / "set", sounds, kind)
    found = usable(listed(arguments(folder, tmp_path, *more)))
    check(found, sounds)
    assert [Path(c.audio).parent for c in found] == [folder / "train"] * len(sounds)
    assert not (tmp_path / "audio").exists()


@pytest.mark.parametrize("more", [[], ["--streaming"]])
def test_audio_inside_parquet_is_written_once_to_tars(sounds: list[Path], tmp_path: Path, more: list[str]) -> None:
    folder = write_parquet(tmp_path / "set", table(sounds))
    write_parquet(folder, table(sounds[:2]), "validation")
    args = arguments(folder, tmp_path, *more)
    found = usable(listed(args))
    check(found[:5], sounds)
    check(found[5:], sounds[:2], "validation")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "audio").rglob("*")}
    assert listed(args) == found
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "audio").rglob("*")} == before
    with tarfile.open(tmp_path / "audio" / "set" / "train" / "00000.tar") as tar:  # a tar for everybody
        assert tar.getnames() == [f"00000000{n}.flac" for n in range(5)] + ["metadata.jsonl"]


def test_what_datasets_itself_writes_is_read(sounds: list[Path], tmp_path: Path, library: Any) -> None:
    features = library.Features({"audio": library.Audio(), "sentence": library.Value("string")})
    rows = library.Dataset(table(sounds)).cast(features)
    rows.to_parquet(str(tmp_path / "parquet" / "train.parquet"))
    rows.save_to_disk(str(tmp_path / "saved"))
    library.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "splits"))
    check(usable(listed(arguments(tmp_path / "parquet", tmp_path))), sounds)
    check(usable(listed(arguments(tmp_path / "saved", tmp_path))), sounds)
    check(usable(listed(arguments(tmp_path / "splits", tmp_path, "--splits", "test"))), sounds, "test")
    named = library.Dataset(pa.table({"audio": [str(path) for path in sounds], "sentence": rows["sentence"][:]}))
    named.cast_column("audio", library.Audio()).save_to_disk(str(tmp_path / "named"))
    check(usable(listed(arguments(tmp_path / "named", tmp_path))), sounds)


def test_a_list_that_names_files_is_enough(sounds: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "wav").mkdir(parents=True)
    for path in sounds:
        shutil.copy(path, folder / "wav")
    lines = ["file,sentence", *(f"wav/{path.name},Sentence {path.stem}" for path in sounds)]
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    check(usable(listed(arguments(folder, tmp_path, "--audio-column", "file"))), sounds)
    (folder / "wav" / "two.flac").unlink()
    (lost,) = [d for d in listed(arguments(folder, tmp_path, "--audio-column", "file")) if isinstance(d, Dropped)]
    assert (lost.id, lost.reason, lost.text_raw) == ("set-train-0000001", "missing file", "Sentence two")
    assert lost.detail == f"split train, row 1: {folder}/wav/two.flac is not there"


def test_files_inside_a_zip_are_taken_out_of_it_once(sounds: list[Path], tmp_path: Path) -> None:
    folder = audiofolder(tmp_path / "loose", sounds, "csv")
    (tmp_path / "set").mkdir()
    with zipfile.ZipFile(tmp_path / "set" / "train.zip", "w") as file:
        for path in sorted((folder / "train").iterdir()):
            file.write(path, path.name)
    found = usable(listed(arguments(tmp_path / "set", tmp_path)))
    check(found, sounds)
    assert all(c.audio.startswith(f"{tmp_path}/audio/set/train/00000.tar#") for c in found)


def test_web_datasets_have_their_columns_in_columns(sounds: list[Path], tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set" / "train-00000.tar", "w") as tar:
        for path in sounds:
            about = tmp_path / f"{path.stem}.json"
            about.write_text(json.dumps({"sentence": f"Sentence {path.stem}", "speaker": {"name": "ann"}}))
            tar.add(path, path.name)
            tar.add(about, about.name)
    more = ["--audio-column", "flac", "--speaker-column", "json.speaker.name"]
    found = usable(listed(arguments(tmp_path / "set", tmp_path, *more, text="json.sentence")))
    check(found, sounds)
    assert {c.speaker for c in found} == {"ann"}


def test_other_columns_say_who_in_which_language(sounds: list[Path], tmp_path: Path, library: Any) -> None:
    columns = {"who": [7, 7, 8, 8, None], "lang": ["de", None, "fr", "", "de"], "gender": [0, 1, 1, 0, 1],
               "key": list("abcde"), "age": [30] * 5}  # fmt: skip
    features = library.Features(
        {"audio": library.Audio(), "sentence": library.Value("string"), "who": library.Value("int64"),
         "lang": library.Value("string"), "gender": library.ClassLabel(names=["male", "female"]),
         "key": library.Value("string"), "age": library.Value("int64")}
    )  # fmt: skip
    library.Dataset(table(sounds, **columns)).cast(features).to_parquet(str(tmp_path / "set" / "train.parquet"))
    more = ["--speaker-column", "who", "--language-column", "lang", "--language", "pt", "--id-column", "key",
            "--licence", "CC BY 4.0"]  # fmt: skip
    found = usable(listed(arguments(tmp_path / "set", tmp_path, *more)))
    assert [c.speaker for c in found] == ["7", "7", "8", "8", ""]
    assert [c.language for c in found] == ["de", "pt", "fr", "pt", "de"]
    assert [c.id for c in found] == list("abcde")
    assert [json.loads(c.extra)["gender"] for c in found] == ["male", "female", "female", "male", "female"]
    assert {(c.licence, c.source, c.corpus, json.loads(c.extra)["age"]) for c in found} == {
        ("CC BY 4.0", "set", "set", "30")
    }


def test_rows_without_audio_or_text_are_dropped_for_that(sounds: list[Path], tmp_path: Path) -> None:
    rows = table(sounds).to_pylist()
    rows[0]["audio"] = None
    rows[1]["audio"] = {"bytes": None, "path": None}
    rows[2]["sentence"] = None
    rows[3]["sentence"] = "  "
    found = listed(arguments(write_parquet(tmp_path / "set", pa.Table.from_pylist(rows)), tmp_path))
    assert [(d.id, d.reason, d.detail) for d in found if isinstance(d, Dropped)] == [
        ("set-train-0000000", "no audio", "split train, row 0"),
        ("set-train-0000001", "no audio", "split train, row 1"),
        ("set-train-0000002", "no transcript", "split train, row 2"),
        ("set-train-0000003", "no transcript", "split train, row 3"),
    ]
    check([item for item in found if isinstance(item, Candidate)], sounds[4:])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--text-column", "text"], "--text-column text: no such column; split train has the columns audio, sentence, "
         "tags, samples, sound.array, sound.rate, n; is it --text-column sentence?"),
        (["--audio-column", "wav"], "--audio-column wav: no such column; .*; is it --audio-column audio?"),
        (["--speaker-column", "spk"], "--speaker-column spk: no such column; split train has the columns audio, sent"),
        (["--text-column", "tags"], "--text-column tags: holds list<.*string>, not one value a row"),
        (["--audio-column", "samples"], "--audio-column samples: holds samples and not audio files, .* datasets.Audio"),
        (["--audio-column", "sound"], "--audio-column sound: holds samples and not audio files"),
        (["--audio-column", "n"], "--audio-column n: holds int64, neither audio files nor their names"),
        (["--splits", "train", "test"], "--splits: no test in .*; there are train"),
        (["--config", "fr"], "--dataset .*: BuilderConfig 'fr' not found. Available: .*'default'"),
    ],
)  # fmt: skip
def test_a_choice_that_does_not_fit_says_what_there_is(
    sounds: list[Path], tmp_path: Path, more: list[str], says: str
) -> None:
    columns = {"tags": [["a"]] * 5, "samples": [[0.5]] * 5, "sound": [{"array": [0.5], "rate": 16000}] * 5,
               "n": [1] * 5}  # fmt: skip
    folder = write_parquet(tmp_path / "set", table(sounds, **columns))
    with pytest.raises(ValueError, match=says) as error:
        listed(arguments(folder, tmp_path, *more))
    assert "\n" not in str(error.value)


def test_audio_inside_tables_asks_for_a_place(sounds: list[Path], tmp_path: Path) -> None:
    args = arguments(write_parquet(tmp_path / "set", table(sounds)), tmp_path)
    args.root = None
    with pytest.raises(ValueError, match="keeps its audio inside its tables; say --root FOLDER"):
        listed(args)


def test_no_code_of_a_dataset_is_run(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    mark = tmp_path / "was run"
    (tmp_path / "set" / "set.py").write_text(f"open({str(mark)!r}, 'w')\n")
    for more in ([], ["--streaming"]):
        with pytest.raises(ValueError, match=r"--dataset .*: Dataset scripts are no longer supported"):
            listed(arguments(tmp_path / "set", tmp_path, *more))
    assert not mark.exists()
    with pytest.raises(SystemExit):
        arguments(tmp_path / "set", tmp_path, "--trust-remote-code")


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "s3://bucket/set", "a/b/c"])
def test_what_is_neither_folder_nor_name_is_told_without_a_network(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"--dataset {name}: no such folder, and no name on the hub either"):
        listed(arguments(name, tmp_path))


def test_damaged_data_is_one_line(sounds: list[Path], tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "set", table(sounds))
    (file,) = (folder / "data").iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"^--dataset .*set: .|^split train, after row 0: .") as error:
        listed(arguments(folder, tmp_path))
    assert "\n" not in str(error.value)


def test_changed_data_is_never_taken_for_what_was_packed(sounds: list[Path], tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "set", table(sounds[:2]))
    args = arguments(folder, tmp_path)
    check(usable(listed(args)), sounds[:2])
    write_parquet(folder, table(sounds[2:]))
    with pytest.raises(ValueError, match=r"set/train: holds .* other inputs \(files\); choose another --root"):
        listed(args)
    args.force = True
    check(usable(listed(args)), sounds[2:])


def test_root_and_out_may_lie_inside_the_dataset(sounds: list[Path], tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "set", table(sounds))
    args = arguments(folder, folder)
    found = usable(listed(args))
    (folder / "out").mkdir()
    (folder / "out" / "manifest.parquet").touch()
    assert listed(args) == found


def rows_of(sounds: list[Path], read: list[int]) -> Callable[[int], Iterator[Row]]:
    def rows(start: int) -> Iterator[Row]:
        read.append(start)
        for number in range(start, len(sounds)):
            yield Row(number, {"sentence": f"Sentence {number}"}, sounds[number].name, sounds[number].read_bytes())

    return rows


def test_packing_goes_on_where_it_was_stopped_and_gives_the_same_bytes(sounds: list[Path], tmp_path: Path) -> None:
    part_bytes = 2 * sounds[0].stat().st_size
    starts: list[int] = []
    whole, cut = str(tmp_path / "whole"), str(tmp_path / "cut")
    assert packed.write(rows_of(sounds, starts), hubdata.content, whole, part_bytes) == 3

    def stops(row: Row) -> bytes | None:
        if row.number == 3 and len(starts) == 2:
            raise KeyboardInterrupt
        return hubdata.content(row)

    with pytest.raises(KeyboardInterrupt):
        packed.write(rows_of(sounds, starts), stops, cut, part_bytes)
    assert sorted(os.listdir(cut)) == ["00000.tar", "00000.tar.index.parquet"]
    assert packed.write(rows_of(sounds, starts), stops, cut, part_bytes) == 3
    assert starts == [0, 0, 2]
    assert sorted(os.listdir(cut)) == sorted(os.listdir(whole))
    for name in os.listdir(whole):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    found = list(packed.read(cut))
    assert [columns for columns, _ in found] == [{"sentence": f"Sentence {n}"} for n in range(5)]
    assert [storage.read_bytes(file.uri) for _, file in found if file] == [path.read_bytes() for path in sounds]


def test_reading_a_dataset_loads_no_torch(sounds: list[Path], tmp_path: Path) -> None:
    folders = [audiofolder(tmp_path / "files", sounds, "csv"), write_parquet(tmp_path / "inside", table(sounds))]
    code = """
import argparse, sys
from pipelines.corpora import hf

assert "datasets" not in sys.modules
for folder in sys.argv[2:]:
    args = argparse.Namespace(dataset=folder, config=None, splits=None, audio_column="audio", text_column="sentence",
        speaker_column=None, id_column=None, language_column=None, language="en", licence=None, streaming=True,
        root=sys.argv[1] + "/audio", out=sys.argv[1] + "/out", json=True, force=False)
    print(len(list(hf.candidates(args))), {"datasets", "torch", "torchcodec", "ray"} & set(sys.modules))
"""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code, str(tmp_path), *map(str, folders)]
    environment = os.environ | {"HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    assert done.stdout == "5 {'datasets'}\n" * 2, done.stderr


class Hub(BaseHTTPRequestHandler):
    """What the hub answers about one data set, own/er, with the files of `server.files`."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        files: dict[str, bytes] = self.server.files
        url = urlsplit(self.path)
        is_api = url.path.startswith("/api/")
        about = unquote(url.path).removeprefix("/api").removeprefix("/datasets/own/er").strip("/")
        kind, _, rest = about.partition("/")
        name = rest.partition("/")[2]
        if is_api and kind in ("", "revision"):
            self.answer(200, json.dumps({"id": "own/er", "sha": REVISION, "siblings": []}).encode())
        elif is_api and kind == "tree":
            below = name + "/" if name else ""
            inside = {path: data for path, data in files.items() if path.startswith(below)}
            folders = {str(parent) for path in inside for parent in Path(path).parents} - {".", name}
            found = [
                {"type": "file", "oid": "0" * 40, "size": len(data), "path": path} for path, data in inside.items()
            ]
            found += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in sorted(folders)]
            deep = "recursive=true" in url.query
            found = [entry for entry in found if deep or "/" not in str(entry["path"]).removeprefix(below)]
            self.answer(200, json.dumps(found).encode())
        elif kind == "resolve" and name in files:
            self.send_file(files[name])
        else:
            self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound" if "/own/er" in url.path else "RepoNotFound"})

    do_HEAD = do_GET

    def send_file(self, data: bytes) -> None:
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": REVISION}
        span = self.headers.get("Range", "")
        if not span:
            self.answer(200, data, headers)
            return
        first, _, last = span.removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1] if last else data[int(first) :]
        end = int(first) + len(part) - 1
        self.answer(206, part, headers | {"Content-Range": f"bytes {first}-{end}/{len(data)}"})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("form", ["tables", "files"])
def test_the_hub_is_read_streamed_and_not(sounds: list[Path], tmp_path: Path, form: str) -> None:
    """In a process of its own: `datasets` reads HF_ENDPOINT when it is imported."""
    if form == "tables":
        folder = write_parquet(tmp_path / "set", table(sounds))
    else:
        folder = audiofolder(tmp_path / "set", sounds, "jsonl")
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    code = """
import argparse, json, sys
from manifests import storage
from pipelines.corpora import hf

for more in ([], ["--streaming"]):
    parser = argparse.ArgumentParser()
    hf.add_arguments(parser)
    where = ["--root", f"{sys.argv[1]}/audio{len(more)}"]
    args = parser.parse_args(["--dataset", "own/er", "--text-column", "sentence", *where, *more])
    args.out, args.json, args.force = sys.argv[1] + "/out", True, False
    print(json.dumps([[c.id, c.text_raw, c.source, storage.read_bytes(c.audio).hex()] for c in hf.candidates(args)]))
args.dataset = "no/body"
try:
    list(hf.candidates(args))
except ValueError as err:
    print(json.dumps(str(err)))
"""
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}", "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    server.shutdown()
    server.server_close()
    thread.join()
    expected = [
        [f"er-train-{n:07d}", f"Sentence {path.stem}", "huggingface.co/datasets/own/er", path.read_bytes().hex()]
        for n, path in enumerate(sounds)
    ]
    *found, refused = [json.loads(line) for line in done.stdout.splitlines()] or [done.stderr[-2000:]]
    assert found == [expected] * 2
    assert refused == "--dataset no/body: Dataset 'no/body' doesn't exist on the Hub or cannot be accessed."
