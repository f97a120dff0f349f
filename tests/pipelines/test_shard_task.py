"""One task writes one shard: what stands in it, what a repeat leaves alone, what cannot be read, and what kills."""

import hashlib
import io
import json
import multiprocessing
import os
import signal
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from asr import audio
from asr.frontend import logmel
from asr.waveform_config import Level, Speed, WaveformConfig
from manifests import parquet, storage
from manifests.schema import UTTERANCE_SCHEMA, Utterance, to_table
from pipelines import executors, shard_example
from pipelines.executors import Run
from pipelines.shard_example import Found, make
from pipelines.shard_plan import Place, Recipe, Task, Tasks, plan_shards
from pipelines.shard_task import TooManyQuarantined, Written, write_shard, write_shard_carefully
from shards import index
from shards.content import NAMES, Content, dequantise
from shards.index import SCHEMA
from shards.moments import Moments
from shards.spec import FrontendSpec
from tests.faulty_proxy import Fault, FaultyProxy

SPEC = FrontendSpec()
LOGMEL = Recipe(SPEC, Content.named("logmel"))
CHANGED = WaveformConfig(speed=Speed(share=1.0, factor=(1.05, 1.1)), level=Level(share=1.0, gain_db=(-12.0, -6.0)))


def task_for(out: str, utterances: list[Utterance], recipe: Recipe = LOGMEL, max_quarantined: int = 10) -> Task:
    storage.write_text(f"{out}/step.json", "{}")
    table = to_table(utterances, UTTERANCE_SCHEMA)
    (shard,) = plan_shards(table, recipe, 10**9)
    (task,) = Tasks(table, [(shard, Place(shard.name, out, f"{out}/parts/f"))], recipe, max_quarantined)
    return task


def files(out: str) -> dict[str, bytes]:
    return {uri.removeprefix(out): storage.read_bytes(uri) for uri, _ in storage.list_files(out)}


def rows_of(task: Task) -> list[dict]:
    return parquet.read(task.place.rows_uri).to_pylist()


def record_of(task: Task) -> dict:
    return json.loads(storage.read_bytes(task.place.record_uri))


@pytest.fixture
def utterances(tmp_path: Path, corpus: Callable[..., list[Utterance]]) -> list[Utterance]:
    return corpus(tmp_path / "corpus", 12, duration_s=0.2)


@pytest.mark.parametrize("name", NAMES)
def test_rows_point_into_an_archive_that_any_tool_can_read(
    tmp_path: Path, utterances: list[Utterance], name: str
) -> None:
    content = Content.named(name)
    task = task_for(str(tmp_path / "out"), utterances, Recipe(SPEC, content))
    done = write_shard(task)
    assert done == Written(pytest.approx(sum(u.duration_s for u in utterances)), 12, 0, 0)
    data = Path(task.place.uri).read_bytes()
    table = pq.read_table(task.place.rows_uri)
    assert table.schema.equals(SCHEMA, check_metadata=True)
    assert table.select(UTTERANCE_SCHEMA.names).cast(UTTERANCE_SCHEMA).equals(task.table())
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        members = {m.name: (m.offset_data, tar.extractfile(m).read()) for m in tar.getmembers()}  # type: ignore[union-attr]
    moments = Moments.zero(SPEC.mels)
    for row in table.to_pylist():
        samples_t = audio.read(row["audio"])
        feats_tf = logmel(samples_t, SPEC)
        moments = moments.add(Moments.of(feats_tf))
        part = {key: data[row[f"{key}_offset"] :][: row[f"{key}_length"]] for key in ("feature", "audio", "text")}
        assert (row["frames"], row["copy"], row["augmentation"]) == (len(feats_tf), 0, "")
        assert part["text"] == row["text"].encode() and members.pop(f"{row['id']}.txt")[1] == part["text"]
        if content.features == "float16":
            assert part["feature"] == feats_tf.astype(np.float16).tobytes()
            stored_tf = np.load(io.BytesIO(members.pop(f"{row['id']}.npy")[1]))
            np.testing.assert_array_equal(stored_tf, feats_tf.astype(np.float16))
        elif content.features == "uint8":
            (scale_at, scale), (codes_at, codes) = (members.pop(f"{row['id']}{end}") for end in (".scale.npy", ".npy"))
            stored_tf = dequantise(np.load(io.BytesIO(codes)), np.load(io.BytesIO(scale)))
            assert np.abs(stored_tf - feats_tf).max() <= np.ptp(feats_tf, axis=0).max() / 255
            assert (row["feature_offset"], row["feature_length"]) == (
                scale_at + 128,
                codes_at + len(codes) - scale_at - 128,
            )
        assert row["audio_format"] == ("flac" if content.audio else "")
        if content.audio:
            assert members.pop(f"{row['id']}.flac")[1] == part["audio"]
            decoded_t, rate = soundfile.read(io.BytesIO(part["audio"]), dtype="float32")
            np.testing.assert_array_equal(decoded_t, samples_t)
            assert rate == 16000
        assert (row["shard"], row["shard_bytes"]) == ("train-00000.tar", len(data))
        assert row["shard_sha256"] == hashlib.sha256(data).hexdigest()
    assert not members
    record = record_of(task)
    assert record["bytes"] == len(data) and record["moments"] == moments.to_json()


@pytest.mark.parametrize("frames", [1, 15, 16, 1205, 9000])
def test_mean_and_variance_are_those_of_float64(frames: int) -> None:
    """Sums are taken in float32 over short stretches."""
    feats_tf = np.random.default_rng(0).normal(-8, 4, (frames, 80)).astype(np.float32)
    moments = Moments.of(feats_tf)
    np.testing.assert_allclose(moments.mean_f, feats_tf.astype(np.float64).mean(0), atol=1e-5)
    np.testing.assert_allclose(moments.variance_f, feats_tf.astype(np.float64).var(0), atol=1e-4)


def test_a_finished_shard_is_left_and_an_unfinished_one_made_again(tmp_path: Path, utterances: list[Utterance]) -> None:
    task = task_for(str(tmp_path / "out"), utterances)
    done = write_shard(task)
    tar, record = Path(task.place.uri), Path(task.place.record_uri)
    whole = files(task.place.out)
    before = [path.stat() for path in (tar, record)]
    assert write_shard(task) == done and [path.stat() for path in (tar, record)] == before
    for damage in (record.unlink, tar.unlink, lambda: tar.write_bytes(b"half")):
        damage()
        assert write_shard(task) == done and files(task.place.out) == whole


def test_a_stretch_of_a_file_in_chosen_channel_offset_and_gain_is_featurised_as_that(tmp_path: Path) -> None:
    noise_tc = np.random.default_rng(0).uniform(-0.4, 0.4, (16000, 2))
    soundfile.write(tmp_path / "two.flac", noise_tc, 16000, subtype="PCM_16")
    samples_tc, _ = soundfile.read(tmp_path / "two.flac", dtype="float32")
    row = Utterance("a", "c", "train", "en", "s", str(tmp_path / "two.flac"), 0.25, 0.5, 16000, 2, "A", "a", "", "",
                    channel=1, dc_offset=0.01, gain_db=-6.0)  # fmt: skip
    task = task_for(str(tmp_path / "out"), [row], Recipe(SPEC, Content.named("logmel+audio")))
    write_shard(task)
    expected_t = (samples_tc[4000:12000, 1] - np.float32(0.01)) * np.float32(10 ** (-6 / 20))
    data, (stored,) = Path(task.place.uri).read_bytes(), rows_of(task)
    feats = data[stored["feature_offset"] :][: stored["feature_length"]]
    assert feats == logmel(expected_t, SPEC).astype(np.float16).tobytes()
    decoded_t, _ = soundfile.read(io.BytesIO(data[stored["audio_offset"] :][: stored["audio_length"]]))
    assert np.abs(decoded_t - expected_t).max() <= 0.5 / 32768 + 1e-7


def test_a_worker_that_was_thought_dead_beside_its_retry_does_no_harm(
    tmp_path: Path, utterances: list[Utterance]
) -> None:
    undisturbed, task = (task_for(str(tmp_path / name), utterances) for name in ("undisturbed", "out"))
    write_shard(undisturbed)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        assert len(set(pool.map(write_shard, [task] * 8))) == 1
    assert files(task.place.out) == files(undisturbed.place.out)


@pytest.mark.parametrize(
    ("change", "rate", "channels", "subtype", "kept"),
    [
        ({}, 16000, 1, "PCM_16", True),
        ({"offset_s": 0.1, "duration_s": 0.4}, 16000, 1, "PCM_16", False),
        ({"duration_s": 0.4}, 16000, 1, "PCM_16", False),
        ({"gain_db": 3.0}, 16000, 1, "PCM_16", False),
        ({"dc_offset": 0.002}, 16000, 1, "PCM_16", False),
        ({}, 16000, 2, "PCM_16", False),
        ({}, 16000, 1, "PCM_24", False),
        ({}, 8000, 1, "PCM_16", False),
    ],
)
@pytest.mark.parametrize("large", [False, True])
def test_flac_is_copied_bit_for_bit_exactly_when_it_already_is_what_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict, rate: int, channels: int, subtype: str, kept: bool,
    large: bool,
) -> None:  # fmt: skip
    """Also in a tar that was never unpacked, and of a file that is too large to be read at once."""
    noise = np.random.default_rng(0).uniform(-0.4, 0.4, (rate // 2, channels))
    file = io.BytesIO()
    soundfile.write(file, noise, rate, format="FLAC", subtype=subtype, compression_level=0)  # not as we would encode it
    data = file.getvalue()
    (tmp_path / "x.flac").write_bytes(data)
    (tmp_path / "x.tar").write_bytes(bytes(512) + data)
    row = Utterance(
        "plain", "c", "train", "en", "s", str(tmp_path / "x.flac"), 0.0, 0.5, rate, channels, "A", "a", "", ""
    )
    in_tar = storage.member_uri(f"{tmp_path}/x.tar", 512, len(data), "x.flac")
    rows = [replace(row, **change), replace(row, id="member", audio=in_tar, **change)]
    if large:
        monkeypatch.setattr(audio, "SMALL_BYTES", 100)
    task = task_for(str(tmp_path / "out"), rows, Recipe(SPEC, Content.named("audio")))
    assert write_shard(task).utterances == 2
    tar = Path(task.place.uri).read_bytes()
    for stored in rows_of(task):
        flac = tar[stored["audio_offset"] :][: stored["audio_length"]]
        assert (flac == data) == kept
        info = soundfile.info(io.BytesIO(flac))
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert stored["frames"] == SPEC.num_frames(info.frames)


def test_copies_stand_behind_their_original_and_are_what_the_index_says(
    tmp_path: Path, utterances: list[Utterance]
) -> None:
    recipe = Recipe(SPEC, Content.named("logmel+audio"), CHANGED, 2)
    task = task_for(str(tmp_path / "out"), utterances, recipe)
    assert write_shard(task).utterances == 36
    rows, tar = rows_of(task), Path(task.place.uri).read_bytes()
    original = [row["id"] for row in task.table().to_pylist()]
    assert [row["id"] for row in rows] == [f"{id_}{end}" for id_ in original for end in ("", "-copy1", "-copy2")]
    factors = set()
    for own, *copies in (rows[i : i + 3] for i in range(0, 36, 3)):
        assert (own["copy"], own["augmentation"]) == (0, "")
        for number, row in enumerate(copies, 1):
            speed, level = json.loads(row["augmentation"])[:2]
            assert (row["copy"], speed["name"], level["name"]) == (number, "speed", "level")
            factors.add(speed["factor"])
            decoded_t, _ = soundfile.read(
                io.BytesIO(tar[row["audio_offset"] :][: row["audio_length"]]), dtype="float32"
            )
            assert row["duration_s"] == len(decoded_t) / 16000
            assert row["duration_s"] == pytest.approx(own["duration_s"] / speed["factor"], abs=1e-3)
            assert row["frames"] == SPEC.num_frames(len(decoded_t)) and row["text"] == own["text"]
            feats_tf = np.frombuffer(tar[row["feature_offset"] :][: row["feature_length"]], np.float16).reshape(-1, 80)
            assert np.abs(feats_tf - logmel(decoded_t, SPEC)).mean() < 0.05  # FLAC has rounded to 16 bits
    assert len(factors) > 20  # each copy is another
    again = task_for(str(tmp_path / "again"), utterances[::-1], recipe)
    write_shard(again)
    assert files(again.place.out) == files(task.place.out)


def test_what_cannot_be_featurised_becomes_a_row_with_its_reason(tmp_path: Path, utterances: list[Utterance]) -> None:
    good, cut, gone, short = utterances[:4]
    Path(cut.audio).write_bytes(Path(cut.audio).read_bytes()[:2000])
    Path(gone.audio).unlink()
    task = task_for(str(tmp_path / "out"), [good, cut, gone, replace(short, duration_s=0.02)])
    assert write_shard(task).dropped == 3
    assert [row["id"] for row in rows_of(task)] == [good.id]
    reasons = {row["id"]: (row["reason"], row["detail"]) for row in record_of(task)["dropped"]}
    assert reasons[cut.id][0] == "undecodable" and "truncated" in reasons[cut.id][1]
    assert reasons[gone.id][0] == "undecodable" and reasons[gone.id][1].endswith("No such file or directory")
    assert reasons[short.id] == ("too short", "0.02 s hold no frame of 400 samples")


def test_a_copy_that_becomes_too_short_is_a_row_of_its_own(tmp_path: Path, utterances: list[Utterance]) -> None:
    barely = replace(utterances[0], duration_s=401 / 16000)
    task = task_for(str(tmp_path / "out"), [barely], Recipe(SPEC, Content.named("logmel"), CHANGED, 1))
    write_shard(task)
    assert [row["id"] for row in rows_of(task)] == [barely.id]
    (dropped,) = record_of(task)["dropped"]
    assert (dropped["id"], dropped["reason"]) == (f"{barely.id}-copy1", "too short")


def test_a_shard_of_which_nothing_is_left_has_no_tar_and_is_finished(
    tmp_path: Path, utterances: list[Utterance]
) -> None:
    for u in utterances:
        Path(u.audio).write_bytes(b"RIFF, once")
    task = task_for(str(tmp_path / "out"), utterances)
    assert write_shard(task).dropped == 12
    before = files(task.place.out)
    assert sorted(before) == ["/parts/f/train-00000.json", "/parts/f/train-00000.parquet", "/step.json"]
    assert write_shard(task).dropped == 12 and files(task.place.out) == before and rows_of(task) == []


def test_a_name_too_long_for_a_shard_is_named(tmp_path: Path, utterances: list[Utterance]) -> None:
    task = task_for(str(tmp_path / "out"), [replace(utterances[0], id="x" * 97)])
    with pytest.raises(ValueError, match=r"x\.npy: names in a shard may be 100 bytes long, this one has 101"):
        write_shard(task)
    assert list(files(task.place.out)) == ["/step.json"]


def test_a_machine_that_does_not_see_the_folders_says_so(tmp_path: Path, utterances: list[Utterance]) -> None:
    """As a node of a cluster whose disk is another one; not a shard set of dropped rows."""
    elsewhere = [replace(u, audio=u.audio.replace("/corpus/", "/not-mounted/")) for u in utterances]
    task = task_for(str(tmp_path / "out"), elsewhere)
    with pytest.raises(ValueError, match=r"machine \S+ does not see \S+/not-mounted; give a URL, or a folder that all"):
        write_shard(task)
    inside = storage.member_uri(f"{tmp_path}/not-mounted/x.tar", 512, 100, "x.wav")
    with pytest.raises(ValueError, match=r"does not see \S+/not-mounted; give a URL"):
        write_shard(task_for(str(tmp_path / "out"), [replace(utterances[0], audio=inside)]))
    task = task_for(str(tmp_path / "out"), utterances)
    Path(tmp_path / "out" / "step.json").unlink()
    with pytest.raises(ValueError, match=r"machine \S+ does not see \S+/out; give a URL"):
        write_shard(task)


# What a store does not give


@pytest.fixture
def in_store(
    bucket: str, monkeypatch: pytest.MonkeyPatch, utterances: list[Utterance]
) -> Iterator[tuple[FaultyProxy, list[Utterance]]]:
    """The utterances in a bucket behind a proxy; no long pauses."""
    rows = [replace(u, audio=f"{bucket}/audio/{u.id}.wav") for u in utterances]
    for u, row in zip(utterances, rows, strict=True):
        storage.write_bytes(row.audio, Path(u.audio).read_bytes())
    monkeypatch.setattr(shard_example, "PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(shard_example, "READERS", 1)  # so that faults fall on files that the test knows
    with FaultyProxy(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy, rows
        for thread in threading.enumerate():  # what a task that gave up had begun to read
            if thread.name.startswith(shard_example.READER_NAME):
                thread.join()


def test_audio_in_a_store_gives_the_shard_of_a_disk_and_is_written_to_one(
    in_store: tuple[FaultyProxy, list[Utterance]], bucket: str, utterances: list[Utterance], tmp_path: Path
) -> None:
    _, rows = in_store
    there, here = task_for(f"{bucket}/out", rows), task_for(str(tmp_path / "out"), utterances)
    assert write_shard(there) == write_shard(here)
    assert storage.read_bytes(there.place.uri) == storage.read_bytes(here.place.uri)
    assert [row | {"audio": ""} for row in rows_of(there)] == [row | {"audio": ""} for row in rows_of(here)]


REFUSED = Fault("error", status=403)  # a store that forbids for a while; obstore itself does not ask again


def test_a_file_that_is_refused_twice_is_read_at_the_third_try(
    in_store: tuple[FaultyProxy, list[Utterance]], tmp_path: Path
) -> None:
    proxy, rows = in_store
    task = task_for(str(tmp_path / "out"), rows)
    proxy.queue.extend([REFUSED, REFUSED])
    assert write_shard(task).utterances == 12 and proxy.counts["error"] == 2
    undisturbed = task_for(str(tmp_path / "undisturbed"), rows)
    write_shard(undisturbed)
    assert files(task.place.out) == files(undisturbed.place.out)


def test_a_file_that_is_refused_again_and_again_is_quarantined(
    in_store: tuple[FaultyProxy, list[Utterance]], tmp_path: Path
) -> None:
    proxy, rows = in_store
    task = task_for(str(tmp_path / "out"), rows)
    first = task.table()["id"][0].as_py()
    proxy.queue.extend([REFUSED] * 3)
    assert write_shard(task).quarantined == 1
    (dropped,) = record_of(task)["dropped"]
    assert (dropped["id"], dropped["reason"]) == (first, "quarantined") and "403" in dropped["detail"]
    assert [row["id"] for row in rows_of(task)] == task.table()["id"].to_pylist()[1:]


def test_a_task_gives_up_when_it_is_not_the_utterances(
    in_store: tuple[FaultyProxy, list[Utterance]], tmp_path: Path
) -> None:
    proxy, rows = in_store
    task = task_for(str(tmp_path / "out"), rows, max_quarantined=3)
    proxy.queue.extend([REFUSED] * 100)
    with pytest.raises(TooManyQuarantined, match=r"4 utterances could not be read, more than --max-quarantined 3; the "
                                                 r"first: s3://speech/audio/train-\d+.wav: .*403"):  # fmt: skip
        write_shard(task)
    assert list(files(task.place.out)) == ["/step.json"]


# What kills


POISON = b"\xde\xad\xbe\xef" * 4


def fatal(utterance: Utterance, recipe: Recipe, data: bytes | None) -> Found:
    """A decoder with a fault: some bytes take its process with them."""
    assert data is not None
    if POISON in data:
        os.kill(os.getpid(), signal.SIGKILL)
    return make(utterance, recipe, data)


def with_fault(task: Task) -> Written:
    return write_shard(task, fatal)


def carefully_with_fault(task: Task) -> Written:
    return write_shard_carefully(task, fatal)


def test_an_utterance_that_kills_its_worker_is_quarantined_and_the_others_are_as_ever(
    ray_run: Run, tmp_path: Path, utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "RETRIES", 0)  # each death costs seconds until Ray has another worker
    undisturbed = task_for(str(tmp_path / "undisturbed"), [u for u in utterances if u is not utterances[5]])
    write_shard(undisturbed)
    data = Path(utterances[5].audio).read_bytes()
    Path(utterances[5].audio).write_bytes(data[:100] + POISON + data[116:])
    task = task_for(str(tmp_path / "out"), utterances)
    ((_, done),) = ray_run(with_fault, [task], fallback=carefully_with_fault)
    assert (done.utterances, done.quarantined) == (11, 1)
    (dropped,) = record_of(task)["dropped"]
    assert dropped["id"] == utterances[5].id and "2 processes died over it" in dropped["detail"]
    assert storage.read_bytes(task.place.uri) == storage.read_bytes(undisturbed.place.uri)
    assert rows_of(task) == rows_of(undisturbed)


def test_carefully_written_shards_have_the_bytes_of_others(tmp_path: Path, utterances: list[Utterance]) -> None:
    Path(utterances[3].audio).write_bytes(b"RIFF, once")  # its reason comes back from the other process too
    recipe = Recipe(SPEC, Content.named("logmel8+audio"))
    one, other = (task_for(str(tmp_path / name), utterances, recipe) for name in ("one", "other"))
    assert write_shard(one) == write_shard_carefully(other)
    assert files(one.place.out) == files(other.place.out)
    assert index.SCHEMA.equals(parquet.read(other.place.rows_uri).schema)
