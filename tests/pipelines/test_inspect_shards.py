"""inspect-shards: totals that add up, one utterance as a file, and damage of every kind found and named."""

import hashlib
import io
import json
import os
import shutil
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from asr import audio
from asr.frontend import logmel
from manifests import parquet, storage
from manifests.schema import Utterance
from pipelines import dump_utterance, featurize, index_shards, inspect_shards
from pipelines.reporting import charts
from shards.content import NAMES
from shards.index import INDEX, STATS, URLS, open_shards
from shards.spec import FrontendSpec
from shards.writer import HEADER_BYTES

Corpus = Callable[..., list[Utterance]]
Printed = pytest.CaptureFixture[str]


def write(manifest: Path, out: Path, *more: str) -> None:
    assert featurize.main(["--manifest", str(manifest), "--out", str(out), "--workers", "0", *more]) == 0


@pytest.fixture(scope="module")
def made(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six train shards and one of dev, features and audio, never to be changed; its manifest is beside it."""
    folder = tmp_path_factory.mktemp("made")
    rows = corpus(folder / "train", 20) + corpus(folder / "dev", 3, split="dev")
    parquet.write_utterances(f"{folder}/m/manifest.parquet", rows)
    write(folder / "m", folder / "set", "--content", "logmel8+audio", "--shard-size", "0.1")
    assert len(open_shards(f"{folder}/set").files) > 4
    return folder


@pytest.fixture
def damaged(made: Path, tmp_path: Path) -> Path:
    """A copy of the set, to be damaged."""
    shutil.copytree(made / "set", tmp_path / "set")
    return tmp_path / "set"


def inspect(printed: Printed, *argv: object, code: int = 0) -> Any:
    """What the command prints with --json."""
    printed.readouterr()
    assert inspect_shards.main([*map(str, argv), "--json"]) == code
    return json.loads(printed.readouterr().out)


def error(printed: Printed, *argv: object) -> str:
    printed.readouterr()
    assert inspect_shards.main([*map(str, argv)]) == 1
    (line,) = printed.readouterr().err.splitlines()
    return line.removeprefix("inspect-shards: error: ")


def test_totals_are_those_of_the_utterances_and_files(made: Path, capsys: Printed) -> None:
    seen = inspect(capsys, made / "set")
    rows = pq.read_table(made / "set" / INDEX).to_pylist()
    sizes = {path.name: path.stat().st_size for path in (made / "set").glob("*.tar")}
    assert (seen["utterances"], seen["shards"], seen["bytes"]) == (23, len(sizes), sum(sizes.values()))
    assert seen["hours"] == pytest.approx(sum(row["frames"] for row in rows) * 0.01 / 3600, abs=1e-4)
    for split in ("train", "dev"):
        own = [row for row in rows if row["split"] == split]
        assert seen["splits"][split]["utterances"] == len(own)
        assert seen["splits"][split]["bytes"] == sum({row["shard"]: row["shard_bytes"] for row in own}.values())
    assert seen["content"] == "logmel8+audio" and seen["speakers"] == len({row["speaker"] for row in rows})
    assert list(seen["corpora"]) == ["toy"] and seen["corpora"]["toy"]["bytes"] == sum(sizes.values())
    for key, best in (("longest", max), ("shortest", min)):
        assert seen[key]["seconds"] == pytest.approx(best(row["frames"] for row in rows) * 0.01)
    assert (seen["originals"], seen["copies"], seen["augmentation"]) == (23, 0, {})
    assert inspect_shards.main([str(made / "set")]) == 0
    text = capsys.readouterr().out
    assert "an epoch is each of the 23 once" in text and "logmel8+audio: 80 mels, frames of 10 ms" in text


def test_copies_and_what_was_applied_to_them_are_counted(made: Path, tmp_path: Path, capsys: Printed) -> None:
    write(made / "m", tmp_path / "set", "--augment", "speed", "--copies", "2", "--splits", "train")
    seen = inspect(capsys, tmp_path / "set")
    assert (seen["utterances"], seen["originals"], seen["copies"]) == (60, 20, 40)
    assert seen["augmentation"]["speed"] > 30 and 0 < seen["copies_hours"] < seen["hours"]
    assert inspect_shards.main([str(tmp_path / "set")]) == 0
    assert "40 of them" in capsys.readouterr().out
    assert inspect(capsys, tmp_path / "set", "--verify")["good"] == seen["shards"]


def test_the_list_has_a_line_for_each_shard(made: Path, capsys: Printed) -> None:
    listed = inspect(capsys, made / "set", "--list")["shards"]
    for one in listed:
        data = Path(one["url"]).read_bytes()
        assert (one["bytes"], one["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        with tarfile.open(one["url"]) as file:
            names = file.getnames()
        assert one["utterances"] == len([name for name in names if name.endswith(".txt")])
    assert sorted(one["url"] for one in listed) == sorted(map(str, (made / "set").glob("*.tar")))
    capsys.readouterr()
    assert inspect_shards.main([str(made / "set" / URLS), "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(listed)


def test_an_utterance_is_shown_with_its_row(made: Path, capsys: Printed) -> None:
    facts = inspect(capsys, made / "set", "--utterance", "train-0007")
    (row,) = [row for row in pq.read_table(made / "set" / INDEX).to_pylist() if row["id"] == "train-0007"]
    assert facts == row | {"shard": f"{made}/set/{row['shard']}"}


@pytest.mark.parametrize("searched", [20_000, 5])
def test_an_unknown_utterance_gets_the_nearest_names(
    made: Path, capsys: Printed, searched: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect_shards, "SEARCHED", searched)
    line = error(capsys, made / "set", "--utterance", "train-00077")
    assert line.startswith("no utterance train-00077 among 23; the nearest are train-000")
    assert "ids are like" in error(capsys, made / "set", "--utterance", "?")


def test_what_does_not_fit_together_is_one_clear_line(made: Path, tmp_path: Path, capsys: Printed) -> None:
    assert "which utterance? Say --utterance ID" in error(capsys, made / "set", "--to", "a.wav")
    line = error(capsys, made / "set", "--utterance", "train-0001", "--to", f"{tmp_path}/a.doc")
    assert line == f"--to {tmp_path}/a.doc: an utterance is written as .wav, .flac, .png, .txt, .json"
    assert "no such list, folder or index" in error(capsys, tmp_path / "none")
    with pytest.raises(SystemExit):
        inspect_shards.main([str(made / "set"), "--list", "--verify"])


@pytest.fixture(scope="module")
def reading(speech_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of one utterance of real speech, called `reading`."""
    folder = tmp_path_factory.mktemp("reading")
    path = sorted((speech_data / "LibriSpeech/test-other").rglob("*.flac"))[3]
    seconds = audio.probe(str(path)).duration_s
    row = Utterance("reading", "toy", "test", "en", "s", str(path), 0.0, seconds, 16000, 1, "Hé!", "hé", "CC0", "made")
    parquet.write_utterances(f"{folder}/manifest.parquet", [row])
    return folder


def dumped(shards: Path, to: Path) -> bytes:
    assert inspect_shards.main([str(shards), "--utterance", "reading", "--to", str(to)]) == 0
    return to.read_bytes()


@pytest.mark.parametrize("content", NAMES)
def test_an_utterance_is_dumped_to_be_heard_seen_and_read(
    content: str, reading: Path, tmp_path: Path, capsys: Printed
) -> None:
    write(reading, tmp_path / "set", "--content", content)
    original = Path(parquet.read_manifests([str(reading)])[0].audio)
    samples_t = audio.read(str(original))
    feats_tf = logmel(samples_t, FrontendSpec())
    heard_t, rate = soundfile.read(io.BytesIO(dumped(tmp_path / "set", tmp_path / "a.wav")), dtype="float32")
    assert rate == 16000
    if "audio" in content:
        assert np.array_equal(heard_t, samples_t)
        assert dumped(tmp_path / "set", tmp_path / "a.flac") == original.read_bytes()
        assert "the shard's own bytes" in capsys.readouterr().out
    else:
        assert "resynthesised from log-mel (Griffin-Lim); the shard has no audio" in capsys.readouterr().out
        again_tf = logmel(heard_t, FrontendSpec())
        assert again_tf.shape == feats_tf.shape and np.abs(again_tf - feats_tf).mean() < 0.4
        assert np.corrcoef(again_tf.ravel(), feats_tf.ravel())[0, 1] > 0.98
    with av.open(io.BytesIO(dumped(tmp_path / "set", tmp_path / "a.png")), mode="r") as picture:
        pixels = next(picture.decode(video=0)).to_ndarray(format="rgb24")
    side = dump_utterance.PIXELS
    assert pixels.shape == (80 * side, len(feats_tf) * side, 3)
    places = np.rint((feats_tf.T[::-1] - feats_tf.min()) / np.ptp(feats_tf) * 63).astype(int)  # the lowest mel is below
    seen = (charts.palette().astype(int)[None, None] == pixels[::side, ::side, None]).all(3).argmax(2)
    assert np.abs(seen - places).max() <= 1
    assert dumped(tmp_path / "set", tmp_path / "a.txt") == "hé\n".encode()
    assert json.loads(dumped(tmp_path / "set", tmp_path / "a.json"))["frames"] == len(feats_tf)


@pytest.mark.parametrize("content", NAMES)
def test_what_write_shards_leaves_is_found_good(content: str, made: Path, tmp_path: Path, capsys: Printed) -> None:
    write(made / "m", tmp_path / "set", "--content", content, "--shard-size", "0.2")
    seen = inspect(capsys, tmp_path / "set", "--verify")
    assert seen["bad"] == {} and seen["beside"] == [] and seen["good"] == seen["shards"] > 1
    assert seen["good_utterances"] == 23


def place(folder: Path, id: str) -> tuple[Path, dict[str, Any]]:
    """The tar of an utterance and its row."""
    (row,) = [row for row in pq.read_table(folder / INDEX).to_pylist() if row["id"] == id]
    return folder / row["shard"], row


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x20
    path.write_bytes(data)


def alter(folder: Path, column: str, id: str, value: Any) -> None:
    table = pq.read_table(folder / INDEX)
    values = [value if row["id"] == id else row[column] for row in table.select(["id", column]).to_pylist()]
    field = table.schema.field(column)
    table = table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))
    parquet.write(str(folder / INDEX), table)


@pytest.mark.parametrize(
    ("column", "step", "names", "fault"),
    [
        ("feature_offset", 5, False, "its bytes differ: sha256 "),
        ("feature_offset", -120, True, "is not float32 [2, 80]"),
        ("text_offset", 1, True, "its text is not that of the index"),
        ("text_offset", -512, True, "damaged as a tar: the header at byte"),
        ("audio_offset", 0, True, "its audio is no FLAC"),
        ("audio_offset", 99, False, "its bytes differ: sha256 "),
    ],
)
def test_a_flipped_byte_is_found_and_where_it_can_be_told_the_utterance(
    damaged: Path, capsys: Printed, column: str, step: int, names: bool, fault: str
) -> None:
    path, row = place(damaged, "train-0011")
    flip(path, row[column] + step)
    seen = inspect(capsys, damaged, "--verify", code=1)
    assert list(seen["bad"]) == [str(path)] and seen["good"] == seen["shards"] - 1
    told = "; ".join(seen["bad"][str(path)])
    assert fault in told and "its bytes differ" in told and ("train-0011" in told) == names
    others = [r for r in pq.read_table(damaged / INDEX).to_pylist() if r["shard"] != path.name]
    assert seen["good_utterances"] == len(others)


def test_a_shard_that_was_cut_or_is_gone_is_told_and_the_others_are_still_looked_at(
    damaged: Path, capsys: Printed
) -> None:
    cut, gone, spoilt, *_ = sorted(damaged.glob("train-*.tar"))
    cut.write_bytes(cut.read_bytes()[:-5000])
    gone.unlink()
    flip(spoilt, 3000)
    seen = inspect(capsys, damaged, "--verify", code=1)
    assert set(seen["bad"]) == {str(cut), str(gone), str(spoilt)} and seen["good"] == seen["shards"] - 3
    assert seen["bad"][str(gone)] == ["is missing"]
    first, *rest = seen["bad"][str(cut)]
    assert first.startswith("is shorter: it has ") and any("utterance train-" in fault for fault in rest)
    line = error(capsys, damaged, "--verify")
    assert line.startswith(f"damage was found; to mend it delete {cut}, {gone}, {spoilt}, then repeat the same write")


def test_swapped_shards_are_told_as_that(damaged: Path, capsys: Printed) -> None:
    one, other, *_ = sorted(damaged.glob("train-*.tar"))
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    seen = inspect(capsys, damaged, "--verify", code=1)["bad"]
    assert seen == {str(one): [f"holds the bytes of {other.name}"], str(other): [f"holds the bytes of {one.name}"]}


@pytest.mark.parametrize(
    ("column", "value", "fault"),
    [
        ("text", "other words", "its text is not that of the index"),
        ("frames", 7, "not uint8 [7, 80]"),
        ("feature_offset", 512, "features"),
        ("feature_length", 8, "features"),
        ("audio_offset", 1024, "no audio of"),
        ("audio_format", "wav", "its audio is called train-0011.flac"),
        ("id", "train-9999", "utterance train-9999: its features are called train-0011.npy"),
        ("text_length", 10_000, "no text of 10000 bytes"),
    ],
)
def test_an_index_that_was_altered_does_not_fit(
    damaged: Path, capsys: Printed, column: str, value: Any, fault: str
) -> None:
    path, _ = place(damaged, "train-0011")
    alter(damaged, column, "train-0011", value)
    seen = inspect(capsys, damaged, "--verify", code=1)
    assert list(seen["bad"]) == [str(path)] and fault in seen["bad"][str(path)][0]
    assert bool(seen["beside"]) == (column == "frames")  # the totals of stats.json


def test_many_bad_utterances_are_counted_not_listed(damaged: Path, capsys: Printed) -> None:
    for i in range(20):
        alter(damaged, "text", f"train-{i:04d}", "other words")
    seen = inspect(capsys, damaged, "--verify", code=1)["bad"]
    assert len(seen) > 3 and all(len(faults) <= 4 for faults in seen.values())
    named = sum(fault.startswith("utterance") for faults in seen.values() for fault in faults)
    counted = sum(int(fault.split()[1]) for faults in seen.values() for fault in faults if fault.startswith("and "))
    assert named + counted == 20


def test_totals_and_lists_beside_the_shards_are_checked(damaged: Path, capsys: Printed) -> None:
    stats = json.loads((damaged / STATS).read_text())
    stats["splits"]["dev"]["frames"] += 1
    (damaged / STATS).write_text(json.dumps(stats))
    (damaged / URLS).write_text("train-00000.tar\n")
    seen = inspect(capsys, damaged, "--verify", code=1)
    assert seen["bad"] == {} and seen["good"] == seen["shards"] and len(seen["beside"]) == 2
    assert "split dev has" in seen["beside"][0] and "urls.txt: lists other shards" in seen["beside"][1]


def test_what_verify_says_mends_a_set(made: Path, damaged: Path, capsys: Printed) -> None:
    path, row = place(damaged, "train-0011")
    flip(path, row["feature_offset"] + 5)
    assert f"delete {path}, then repeat the same write-shards command" in error(capsys, damaged, "--verify")
    path.unlink()
    write(made / "m", damaged, "--content", "logmel8+audio", "--shard-size", "0.1")
    assert inspect(capsys, damaged, "--verify")["bad"] == {}


def test_a_list_of_some_shards_verifies_those_alone(damaged: Path, capsys: Printed) -> None:
    flip(damaged / "dev-00000.tar", 3000)
    seen = inspect(capsys, damaged / "urls-train.txt", "--verify")
    assert seen["bad"] == {} and seen["beside"] == [] and seen["good_utterances"] == 20


def test_a_set_in_an_object_store_is_inspected_where_it_is(
    bucket: str, made: Path, tmp_path: Path, capsys: Printed
) -> None:
    for path in (made / "set").iterdir():
        storage.write_bytes(f"{bucket}/set/{path.name}", path.read_bytes())
    assert inspect(capsys, f"{bucket}/set") == inspect(capsys, made / "set")
    assert inspect(capsys, f"{bucket}/set", "--verify")["good_utterances"] == 23
    for place in (f"{bucket}/a.flac", f"{tmp_path}/a.flac"):
        inspect(capsys, f"{bucket}/set", "--utterance", "dev-0001", "--to", place)
    assert (tmp_path / "a.flac").read_bytes() == storage.read_bytes(f"{bucket}/a.flac")[: 10**9] != b""
    storage.delete(f"{bucket}/set/dev-00000.tar")
    data = bytearray(storage.read_bytes(f"{bucket}/set/train-00000.tar"))
    data[5000] ^= 1
    storage.write_bytes(f"{bucket}/set/train-00000.tar", bytes(data))
    seen = inspect(capsys, f"{bucket}/set", "--verify", code=1)
    assert seen["bad"][f"{bucket}/set/dev-00000.tar"] == ["is missing"] and len(seen["bad"]) == 2


def test_a_set_on_a_web_server_is_inspected_by_its_index(
    bucket: str, made: Path, tmp_path: Path, capsys: Printed
) -> None:
    s3 = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    for path in (made / "set").iterdir():
        s3.put_object(Bucket="speech", Key=f"set/{path.name}", Body=path.read_bytes(), ACL="public-read")
    index_url = f"{os.environ['AWS_ENDPOINT_URL']}/speech/set/{INDEX}"
    assert inspect(capsys, index_url, "--verify")["good_utterances"] == 23
    for source, to in ((index_url, tmp_path / "there.png"), (made / "set", tmp_path / "here.png")):
        inspect(capsys, source, "--utterance", "dev-0001", "--to", to)
    assert (tmp_path / "there.png").read_bytes() == (tmp_path / "here.png").read_bytes()
    login = index_url.replace("//", "//user:PASSWORD@")
    for more in (["--list"], ["--verify"], ["--utterance", "dev-0001", "--to", f"{tmp_path}/a.json"]):
        assert inspect_shards.main([login, *more]) == 0
    assert inspect_shards.main([login.replace("/set/", "/nothing/")]) == 1
    printed = capsys.readouterr()
    assert "PASSWORD" not in printed.out + printed.err + (tmp_path / "a.json").read_text()


def pack(tar: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(tar, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def test_what_index_shards_takes_is_found_good(tmp_path: Path, capsys: Printed) -> None:
    """Suffixes in capitals, WAV that is called FLAC, .npy headers of any length, a text of megabytes."""
    wav, samples = io.BytesIO(), np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    soundfile.write(wav, samples, 16000, format="WAV")
    feats_tf = logmel(samples, FrontendSpec()).astype(np.float16)
    text = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {feats_tf.shape}, }}".encode().ljust(3000) + b"\n"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + feats_tf.tobytes()
    sets = {
        "sounds": {"A.FLAC": wav.getvalue(), "A.TXT": b"a word", "b.flac": wav.getvalue(), "b.txt": b"a word"},
        "features": {"A.NPY": npy, "A.TXT": b"a word", "b.npy": npy, "b.txt": b"words " * 200_000},
    }
    for name, members in sets.items():
        pack(tmp_path / f"{name}.tar", members)
        out = f"{tmp_path}/{name}"
        assert index_shards.main([f"{out}.tar", "--out", out, "--frontend", "default"]) == 0
        assert inspect(capsys, out, "--verify")["good_utterances"] == 2


def test_a_flipped_bit_of_a_npy_header_is_damage_and_never_a_crash(damaged: Path, capsys: Printed) -> None:
    path, row = place(damaged, "train-0011")
    start, whole = row["feature_offset"] - HEADER_BYTES, path.read_bytes()
    for i in (7, 10, 11, 30, 44, 52, 63, 70):
        for bit in (0, 3, 6):
            flipped = bytearray(whole)
            flipped[start + i] ^= 1 << bit
            path.write_bytes(flipped)
            assert list(inspect(capsys, damaged, "--verify", code=1)["bad"]) == [str(path)]


def test_a_file_that_is_written_over_is_told_and_a_folder_is_named(made: Path, tmp_path: Path, capsys: Printed) -> None:
    once, folder = f"{tmp_path}/a.txt", tmp_path / "b.txt"
    folder.mkdir()
    for says in (f"{once}: the text", f"{once}: replaced by the text"):
        assert inspect_shards.main([f"{made}/set", "--utterance", "train-0003", "--to", once]) == 0
        assert says in capsys.readouterr().out.splitlines()
    assert error(capsys, made / "set", "--utterance", "train-0003", "--to", folder) == f"{folder}: Is a directory"
    assert "no utterance  among" in error(capsys, made / "set", "--utterance", "")


def test_shards_made_elsewhere_are_verified_too(tmp_path: Path, capsys: Printed) -> None:
    """Names with folders and dots, white space around texts, texts in JSON: as index-shards takes them."""
    tar, sound = tmp_path / "theirs.tar", io.BytesIO()
    soundfile.write(sound, np.random.default_rng(0).normal(0, 0.1, 8000), 16000, format="FLAC")
    members = {"a/one two.flac": sound.getvalue(), "a/one two.txt": b" some words\n",
               "b/2.flac": sound.getvalue(), "b/2.json": b'{"text": "other words"}'}  # fmt: skip
    pack(tar, members)
    assert index_shards.main([str(tar), "--out", f"{tmp_path}/index", "--frontend", "default"]) == 0
    assert inspect(capsys, tmp_path / "index", "--verify")["good_utterances"] == 2
    flip(tar, tar.read_bytes().index(b"some words"))
    assert (
        "its text is not that of the index"
        in inspect(capsys, tmp_path / "index", "--verify", code=1)["bad"][str(tar)][1]
    )
    assert "get these tars again" in error(capsys, tmp_path / "index", "--verify")
