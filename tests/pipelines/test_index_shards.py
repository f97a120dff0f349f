"""index-shards: tars as others make them, with the webdataset package and with tar, become a set that is read."""

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.frontend import logmel
from manifests import storage
from pipelines import index_shards
from pipelines.samples import Part, Sample, take
from shards.cache import Cache
from shards.content import Content
from shards.index import ShardSet, open_shards
from shards.reader import Reader
from shards.spec import FrontendSpec

Out = pytest.CaptureFixture[str]
SPEC = FrontendSpec()
RNG = np.random.default_rng(7)


def sound(seconds: float = 0.5, rate: int = 16000) -> np.ndarray:
    """Float32 that 16 bits hold exactly."""
    samples = RNG.normal(0, 0.1, round(seconds * rate)).clip(-1, 1)
    return ((samples * 32767).round() / 32768).astype(np.float32)


def encoded(samples: np.ndarray, format: str = "FLAC", rate: int = 16000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format)
    return file.getvalue()


def write(path: Path, samples: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path), encoder=True) as writer:
        for sample in samples:
            writer.write(sample)
    return path


def run(*argv: object) -> int:
    return index_shards.main([*map(str, argv), *(() if "--frontend" in argv else ("--frontend", "default"))])


def dropped(out: Path) -> dict[str, tuple[str, str]]:
    return {row["id"]: (row["reason"], row["detail"]) for row in pq.read_table(out / "dropped.parquet").to_pylist()}


def texts(shards: ShardSet) -> dict[str, str]:
    reader = Reader(shards)
    found = {id: reader.text(row) for row, id in enumerate(shards.column("id"))}
    assert list(found.values()) == shards.column("text")
    return found


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_features_of_webdataset_are_read_as_they_were_written(tmp_path: Path, dtype: type) -> None:
    feats: dict[str, np.ndarray] = {f"u{i}": logmel(sound(0.3 + i / 10), SPEC).astype(dtype) for i in range(5)}
    samples = [
        {"__key__": key, "npy": feats_tf, "txt": f"Word {'abcde'[i]}!"}
        for i, (key, feats_tf) in enumerate(feats.items())
    ]
    tars = [write(tmp_path / f"in/a-{n}.tar", samples[2 * n : 2 * n + 2]) for n in range(3)]
    assert run(*tars, "--out", tmp_path / "out", "--language", "xx") == 0
    shards = open_shards(str(tmp_path / "out"))
    assert shards.content == Content(np.dtype(dtype).name, False)  # type: ignore[arg-type]
    reader = Reader(shards)
    for row, id in enumerate(shards.column("id")):
        features = reader.features(row)
        assert features.dtype == dtype
        np.testing.assert_array_equal(features, feats[id])
    assert texts(shards) == {f"u{i}": f"word {'abcde'[i]}" for i in range(5)}
    assert shards.column("text_raw") == [f"Word {letter}!" for letter in "abcde"]
    assert shards.frames.tolist() == [len(f) for f in feats.values()]
    everything = np.concatenate(list(feats.values())).astype(np.float64)
    np.testing.assert_allclose(shards.moments.mean_f, everything.mean(0), atol=2e-6)
    np.testing.assert_allclose(shards.moments.variance_f, everything.var(0), atol=1e-5)
    assert [file.url for file in shards.files] == [str(tar) for tar in tars]


def test_audio_with_json_is_read_with_what_the_json_says(tmp_path: Path, capsys: Out) -> None:
    sounds = {"a": sound(0.5), "b": sound(0.7)}
    facts = {
        "a": {"text": "Good Morning", "speaker_id": 17, "language": "en", "license": "CC0", "gender": "female"},
        "b": {"text": "Guten Morgen, Äpfel", "lang": "de", "duration": 0.7},
    }
    tar = write(tmp_path / "in/a.tar", [
        {"__key__": key, "flac": encoded(samples), "json": facts[key]} for key, samples in sounds.items()
    ])  # fmt: skip
    assert run(tar, "--out", tmp_path / "out", "--corpus", "talks", "--split", "dev", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["splits"]["dev"]["utterances"] == 2 and summary["content"] == "audio"
    shards = open_shards(str(tmp_path / "out/urls-dev.txt"))
    reader = Reader(shards)
    for row, (key, samples) in enumerate(sounds.items()):
        read, rate = soundfile.read(io.BytesIO(reader.audio(row)), dtype="float32")
        assert rate == 16000
        np.testing.assert_array_equal(read, samples)
        assert shards.frames[row] == SPEC.num_frames(len(samples))
        assert storage.read_bytes(shards.column("audio")[row]) == reader.audio(row), key
    assert texts(shards) == {"a": "good morning", "b": "guten morgen äpfel"}
    expected = {
        "speaker": ["17", ""], "language": ["en", "de"], "licence": ["CC0", ""], "corpus": ["talks"] * 2,
        "duration_s": [0.5, 0.7], "extra": ['{"gender": "female"}', '{"duration": "0.7"}'], "split": ["dev"] * 2,
        "audio_format": ["flac"] * 2, "copy": [0, 0], "augmentation": ["", ""], "sample_rate": [16000, 16000],
    }  # fmt: skip
    assert {name: shards.column(name) for name in expected} == expected
    feats_tf = np.concatenate([logmel(samples, SPEC) for samples in sounds.values()]).astype(np.float64)
    np.testing.assert_allclose(shards.moments.mean_f, feats_tf.mean(0), atol=1e-5)


@pytest.mark.parametrize(("format", "extension"), [("WAV", "wav"), ("MP3", "mp3"), ("OGG", "ogg"), ("OGG", "opus")])
def test_other_audio_is_resampled_for_its_frames_and_stays_as_it_is_in_the_tar(
    tmp_path: Path, format: str, extension: str
) -> None:
    rate = 48000 if extension == "opus" else 44100
    file = io.BytesIO()
    stereo = np.stack([sound(0.6, rate), sound(0.6, rate)], axis=1)
    soundfile.write(file, stereo, rate, format=format, subtype="OPUS" if extension == "opus" else None)
    tar = write(tmp_path / "a.tar", [{"__key__": "a", extension: file.getvalue(), "txt": "a word"}])
    assert run(tar, "--out", tmp_path / "out") == 0
    shards = open_shards(str(tmp_path / "out"))
    assert Reader(shards).audio(0) == file.getvalue()
    assert (shards.column("sample_rate"), shards.column("channels")) == ([rate], [2])
    assert shards.column("audio_format") == [extension]
    assert abs(int(shards.frames[0]) - SPEC.num_frames(9600)) <= 3


def test_members_in_folders_give_ids_with_the_folder(tmp_path: Path) -> None:
    """As GNU tar packs a tree: folders, a ./ before each name, long names, names with several dots."""
    deep = tmp_path / "tree" / ("long-" * 18) / "x"
    for folder, name in ((tmp_path / "tree/s1", "a"), (tmp_path / "tree/s2", "a"), (deep, "b.16k")):
        folder.mkdir(parents=True)
        (folder / f"{name}.wav").write_bytes(encoded(sound(), "WAV"))
        (folder / f"{name.partition('.')[0]}.txt").write_text("in a folder\n")
    (deep / "b.wav").write_bytes(encoded(sound(), "WAV"))
    subprocess.run(
        ["tar", "--format=gnu", "-cf", str(tmp_path / "a.tar"), "-C", str(tmp_path / "tree"), "."], check=True
    )
    assert run(tmp_path / "a.tar", "--out", tmp_path / "out") == 0
    shards = open_shards(str(tmp_path / "out"))
    found = texts(shards)
    assert set(found.values()) == {"in a folder"}
    assert {id for id in found if len(id) < 10} == {"s1_a", "s2_a"}
    (long,) = (id for id in found if len(id) > 10)
    assert long.endswith("long-_x_b") and len(long.encode()) <= 90
    assert [len(Reader(shards).audio(row)) for row in range(3)] == [16044] * 3


def test_parts_of_a_sample_may_stand_anywhere_in_the_tar(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for extension in ("txt", "flac"):
            for key in ("a", "b"):
                data = f"word {key}".encode() if extension == "txt" else encoded(sound())
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    assert run(tmp_path / "a.tar", "--out", tmp_path / "out") == 0
    assert texts(open_shards(str(tmp_path / "out"))) == {"a": "word a", "b": "word b"}


def test_text_of_the_tar_is_pointed_at_only_where_it_is_the_text(tmp_path: Path) -> None:
    samples = {"same": "two words", "spaced": " two words\n", "other": "Two words", "accent": "déjà vu"}
    tar = write(tmp_path / "a.tar", [
        {"__key__": key, "wav": encoded(sound(), "WAV"), "txt": text} for key, text in samples.items()
    ])  # fmt: skip
    assert run(tar, "--out", tmp_path / "out", "--language", "fr") == 0
    shards = open_shards(str(tmp_path / "out"))
    data = tar.read_bytes()
    lengths = dict(zip(shards.column("id"), shards.text_length.tolist(), strict=True))
    assert lengths == {"same": 9, "spaced": 9, "other": 0, "accent": 9}
    for row in np.flatnonzero(shards.text_length):
        start = shards.text_offset[row]
        assert data[start : start + shards.text_length[row]].decode() == shards.column("text")[row]
    assert texts(shards)["other"] == "two words"


def test_the_text_may_come_from_a_field_that_is_named(tmp_path: Path) -> None:
    said = {"text": "not this", "norm": "but this"}
    tar = write(tmp_path / "a.tar", [
        {"__key__": "a", "flac": encoded(sound()), "json": said, "txt": "nor this"},
        {"__key__": "b", "flac": encoded(sound()), "json": {"text": "without it"}},
    ])  # fmt: skip
    assert run(tar, "--out", tmp_path / "out", "--text-field", "norm") == 0
    assert texts(open_shards(str(tmp_path / "out"))) == {"a": "but this"}
    assert dropped(tmp_path / "out")["b"][0] == "no text"


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path: Path, capsys: Out) -> None:
    good = logmel(sound(), SPEC).astype(np.float16)
    broken = good.copy()
    broken[3, 4] = np.nan
    vast = np.full((20, 80), 1e30, np.float32)  # finite; its squares are not, nor the means of all with it
    cases: dict[str, dict[str, Any]] = {
        "good": {"npy": good, "txt": "a word"},
        "silent": {"npy": good},
        "digits": {"npy": good, "txt": "call 0x7f now"},
        "empty": {"npy": good, "txt": " ... "},
        "latin": {"npy": good, "txt": b"caf\xe9"},
        "narrow": {"npy": good[:, :40].copy(), "txt": "a word"},
        "flat": {"npy": good.reshape(-1), "txt": "a word"},
        "columns": {"npy": np.asfortranarray(good), "txt": "a word"},
        "double": {"npy": good.astype(np.float64), "txt": "a word"},
        "single": {"npy": good.astype(np.float32), "txt": "a word"},
        "nan": {"npy": broken, "txt": "a word"},
        "vast": {"npy": vast, "txt": "a word"},
        "damaged": {"npy": good, "json": b"{", "txt": "a word"},
        "list": {"npy": good, "json": [1], "txt": "a word"},
        "nothing": {"txt": "a word", "cls": b"3"},
        "audio": {"flac": encoded(sound()), "txt": "a word"},
    }
    write(tmp_path / "a.tar", [{"__key__": key, **parts} for key, parts in cases.items()])
    with tarfile.open(tmp_path / "a.tar", "a") as tar:  # webdataset writes no files that are not whole
        for name, data in (
            ("cut.npy", npy_bytes(good)[:-100]),
            ("no.npy", b"x" * 200),
            ("cut.txt", b"a"),
            ("no.txt", b"a"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.npy")
        link.type, link.linkname = tarfile.SYMTYPE, "good.npy"
        tar.addfile(link)
    assert run(tmp_path / "a.tar", "--out", tmp_path / "out") == 0
    assert open_shards(str(tmp_path / "out")).column("id") == ["good"]
    found = dropped(tmp_path / "out")
    reasons = {
        "no text": ["silent"], "unknown characters": ["digits"], "empty text": ["empty"],
        "unreadable text": ["latin", "damaged", "list"],
        "wrong features": ["narrow", "flat", "columns", "double", "nan", "vast", "cut", "no"],
        "other content": ["single", "audio"], "no features or audio": ["nothing"],
    }  # fmt: skip
    assert {id: reason for id, (reason, _) in found.items()} == {
        id: reason for reason, members in reasons.items() for id in members
    }
    assert "has the shape [48, 40]; features are [frames, 80]" in found["narrow"][1]
    assert found["nothing"][1] == "nothing: it has cls, txt"
    printed = capsys.readouterr().out
    assert "dropped: wrong features: 8 samples" in printed and "link to a file of the archive: 1" in printed


def npy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, 127), st.sampled_from(b"(){}[],:'\"\n\0\\#L<>|if0123456789 \xff")), max_size=4)
)
def test_a_damaged_npy_header_is_a_reason_and_never_a_crash(changes: list[tuple[int, int]]) -> None:
    good = npy_bytes(np.ones((20, 80), np.float16))
    data = bytearray(good)
    for place, byte in changes:
        data[place] = byte
    sample = Sample("a")
    take(sample, "npy", Part("a.npy", 512, len(data)), bytes(data), SPEC)
    assert [reason for reason, _ in sample.faults] in ([], ["wrong features"])
    if sample.features:
        part, kept = sample.features.part, sample.features.moments.frames
        assert part.length == kept * 80 * np.dtype(sample.features.dtype).itemsize
        assert part.offset + part.length == 512 + len(data)


@pytest.mark.parametrize(
    "text", [rb'{"text": "half \ud800"}', b"[" * 100_000, b"\xff\xfe", b'{"text": 1' + b"1" * 5000 + b"}"]
)
def test_json_that_is_none_is_a_reason_and_never_a_crash(tmp_path: Path, text: bytes) -> None:
    tar = write(tmp_path / "a.tar", [
        {"__key__": "a", "flac": encoded(sound()), "json": text},
        {"__key__": "b", "flac": encoded(sound()), "json": {"text": "a word"}},
    ])  # fmt: skip
    assert run(tar, "--out", tmp_path / "out") == 0
    assert open_shards(str(tmp_path / "out")).column("id") == ["b"]
    assert dropped(tmp_path / "out")["a"][0] == "unreadable text"


def test_audio_that_cannot_be_decoded_or_holds_no_frame_is_left_out(tmp_path: Path) -> None:
    whole = encoded(sound(2.0))
    cases = {
        "good": whole,
        "cut": whole[: len(whole) // 2],
        "no": b"no audio",
        "none": b"",
        "short": encoded(sound(0.01)),
    }
    tar = write(tmp_path / "a.tar", [{"__key__": key, "flac": data, "txt": "a word"} for key, data in cases.items()])
    assert run(tar, "--out", tmp_path / "out") == 0
    assert open_shards(str(tmp_path / "out")).column("id") == ["good"]
    found = dropped(tmp_path / "out")
    assert {id: reason for id, (reason, _) in found.items()} == {
        "cut": "undecodable", "no": "undecodable", "none": "undecodable", "short": "too short",
    }  # fmt: skip
    assert found["cut"][1].startswith("cut: cut.flac: truncated or damaged: decoding stops at")


def test_features_that_another_frontend_made_of_the_audio_are_left_out(tmp_path: Path) -> None:
    samples = {key: sound(0.5) for key in ("good", "other")}
    feats = {key: logmel(x, SPEC).astype(np.float16) for key, x in samples.items()}
    feats["other"] = feats["other"][::2].copy()
    tar = write(tmp_path / "a.tar", [
        {"__key__": key, "npy": feats[key], "flac": encoded(samples[key]), "txt": "a word"} for key in samples
    ])  # fmt: skip
    assert run(tar, "--out", tmp_path / "out") == 0
    shards = open_shards(str(tmp_path / "out"))
    assert shards.content.name == "logmel+audio" and shards.column("id") == ["good"]
    np.testing.assert_array_equal(Reader(shards).features(0), feats["good"])
    assert dropped(tmp_path / "out")["other"] == (
        "wrong features", "other: it has 24 frames, but its audio gives 48 with this frontend"
    )  # fmt: skip


def test_tars_that_number_their_samples_alike_get_ids_with_the_tars_name(tmp_path: Path) -> None:
    for n in range(2):
        write(tmp_path / f"a-{n}.tar", [{"__key__": "0000", "flac": encoded(sound()), "txt": f"word {'ab'[n]}"}])
    (tmp_path / "list.txt").write_text("a-0.tar\na-1.tar\n")
    assert run(tmp_path / "list.txt", "--out", tmp_path / "out") == 0
    assert texts(open_shards(str(tmp_path / "out"))) == {"0000": "word a", "a-1_0000": "word b"}


def test_an_index_beside_its_tars_moves_with_them(tmp_path: Path, capsys: Out) -> None:
    tar = write(tmp_path / "set/a.tar", [{"__key__": "a", "flac": encoded(sound()), "txt": "a word"}])
    assert run(tar, "--out", tmp_path / "set") == 1
    assert "say --force" in capsys.readouterr().err
    assert run(tar, "--out", tmp_path / "set", "--force") == 0
    (tmp_path / "set").rename(tmp_path / "moved")
    for source in ("", "a.tar", "urls.txt", "urls-train.txt"):
        assert texts(open_shards(str(tmp_path / "moved" / source))) == {"a": "a word"}


def test_a_finished_index_is_not_made_again_and_other_inputs_need_force(tmp_path: Path, capsys: Out) -> None:
    tar = write(tmp_path / "a.tar", [{"__key__": "a", "flac": encoded(sound()), "txt": "a word"}])
    out = tmp_path / "out"
    assert run(tar, "--out", out) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(before) == {"index.parquet", "stats.json", "urls.txt", "urls-train.txt", "dropped.parquet", "step.json"}
    assert run(tar, "--out", out) == 0
    assert "already done" in capsys.readouterr().out
    (out / "index.parquet").unlink()
    assert run(tar, "--out", out) == 0
    assert "making it again" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert run(tar, "--out", out, "--language", "de") == 1
    assert "from other inputs (language)" in capsys.readouterr().err
    assert run(tar, "--out", out, "--language", "de", "--force") == 0 and tar.exists()
    assert open_shards(str(out)).column("language") == ["de"]


def failure(capsys: Out, *argv: object) -> str:
    assert run(*argv) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_tars_that_cannot_be_indexed_are_named_in_one_line(tmp_path: Path, capsys: Out) -> None:
    tar = write(tmp_path / "a.tar", [{"__key__": "a", "flac": encoded(sound()), "txt": "a word"}])
    out = tmp_path / "out"
    assert "no-such.tar: no such file" in failure(capsys, tmp_path / "no-such.tar", "--out", out)
    assert "a.tar: is given twice" in failure(capsys, tar, tar, "--out", out)
    assert "no config called nope" in failure(capsys, tar, "--out", out, "--frontend", "nope")
    assert not out.exists()
    subprocess.run(["gzip", "-k", str(tar)], check=True)
    assert "is compressed" in failure(capsys, tmp_path / "a.tar.gz", "--out", out)
    (tmp_path / "hidden.tar").write_bytes((tmp_path / "a.tar.gz").read_bytes())
    error = failure(capsys, tmp_path / "hidden.tar", "--out", out)
    assert "unpack it first, for instance: gunzip hidden.tar" in error
    with tarfile.open(tar) as whole:
        between = whole.getmembers()[1].offset
    for length in (3000, between):
        (tmp_path / "cut.tar").write_bytes(tar.read_bytes()[:length])
        assert "cut.tar: it was cut short" in failure(capsys, tmp_path / "cut.tar", "--out", out)
    (tmp_path / "page.tar").write_bytes(b"<html>" * 200)
    assert "page.tar: it is no tar" in failure(capsys, tmp_path / "page.tar", "--out", out)
    write(tmp_path / "none.tar", [{"__key__": "a", "cls": b"1"}])
    error = failure(capsys, tmp_path / "none.tar", "--out", out)
    assert "no sample could be used of 1; the first: no features or audio: a: it has cls" in error
    assert not list(out.iterdir())


def test_a_secret_in_a_url_is_not_kept_in_an_index(tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "list.txt").write_text("http://127.0.0.1:1/a.tar?SECRET/x")
    for source in ("http://user:SECRET@127.0.0.1:1/a.tar", "http://127.0.0.1:1/a.tar?SECRET/x", tmp_path / "list.txt"):
        error = failure(capsys, source, "--out", tmp_path / "out")
        assert "http://127.0.0.1:1/a.tar: its login or signature would be kept" in error and "SECRET" not in error
    assert not (tmp_path / "out").exists()


@pytest.fixture
def store(tmp_path: Path, bucket: str) -> Iterator[tuple[str, str]]:
    """The URLs, s3:// and http://, of a bucket with two tars in it and a list of them."""
    s3 = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    for n in range(2):
        samples = [{"__key__": f"u{n}{i}", "flac": encoded(sound(0.4)), "txt": f"word {'abc'[i]}"} for i in range(3)]
        data = write(tmp_path / f"a-{n}.tar", samples).read_bytes()
        s3.put_object(Bucket="speech", Key=f"in/a-{n}.tar", Body=data, ACL="public-read")
    s3.put_object(Bucket="speech", Key="in/list.txt", Body=b"a-0.tar\na-1.tar\n", ACL="public-read")
    yield bucket, f"{os.environ['AWS_ENDPOINT_URL']}/speech"


@pytest.mark.parametrize("kind", [0, 1])
def test_tars_in_a_store_are_indexed_from_there_and_read_through_a_cache(
    tmp_path: Path, store: tuple[str, str], kind: int
) -> None:
    site = store[kind]
    out = f"{store[0]}/out-{kind}"
    assert run(f"{site}/in/list.txt", "--out", out) == 0
    shards = open_shards(out)
    assert [file.url for file in shards.files] == [f"{site}/in/a-{n}.tar" for n in range(2)]
    cache = Cache(str(tmp_path / "cache"))
    reader = Reader(shards, cache)
    local = [(tmp_path / f"a-{n}.tar").read_bytes() for n in range(2)]
    for row in range(6):
        assert reader.text(row) == f"word {'abc'[row % 3]}"
        start = shards.audio_offset[row]
        assert reader.audio(row) == local[row // 3][start : start + shards.audio_length[row]]
        assert soundfile.info(io.BytesIO(reader.audio(row))).frames == 6400
    cache.close()
    assert run(f"{site}/in/list.txt", "--out", out) == 0


def test_real_speech_in_a_tar_is_indexed(tmp_path: Path, speech_data: Path) -> None:
    flacs = sorted(speech_data.rglob("*.flac"))[:3]
    if not flacs:
        pytest.skip("no FLAC in the speech data")
    tar = write(tmp_path / "a.tar", [
        {"__key__": path.stem, "flac": path.read_bytes(), "txt": "unknown words"} for path in flacs
    ])  # fmt: skip
    assert run(tar, "--out", tmp_path / "out") == 0
    shards = open_shards(str(tmp_path / "out"))
    assert [Reader(shards).audio(row) for row in range(len(shards))] == [path.read_bytes() for path in flacs]
