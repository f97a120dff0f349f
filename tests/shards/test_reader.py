"""Features, audio and text of rows, out of shards that are here, elsewhere, cut short or gone."""

import gc
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests import storage
from shards import reader as reader_module
from shards.cache import Cache
from shards.content import NAMES, Content, dequantise, quantise
from shards.index import SCHEMA, open_shards
from shards.reader import Reader
from tests.shards.noise_sets import Spoken, make_set

SPLITS = {"train": (3, 4), "dev": (2,)}


@pytest.fixture(scope="module", params=NAMES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("set")
    return folder, make_set(folder, request.param, SPLITS), Content.named(request.param)


def stored(spoken: Spoken, content: Content) -> np.ndarray:
    """Its features as they are to come back."""
    if content.features == "uint8":
        return dequantise(*quantise(spoken.feats_tf))
    return spoken.feats_tf.astype(np.float16)


def check(reader: Reader, row: int, spoken: Spoken, content: Content) -> None:
    assert reader.text(row) == spoken.text
    if content.features:
        features = reader.features(row)
        assert features.dtype == (np.float32 if content.features == "uint8" else np.float16)
        np.testing.assert_array_equal(features, stored(spoken, content))
    if content.audio:
        assert reader.audio(row) == spoken.flac


def test_every_row_comes_back_as_it_was_written(made: tuple[Path, list[Spoken], Content]) -> None:
    folder, spoken, content = made
    reader = Reader(open_shards(str(folder)))
    for row in (4, *range(len(spoken)), 0):
        check(reader, row, spoken[row], content)


def test_many_threads_read_at_once(made: tuple[Path, list[Spoken], Content], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while maps are closed all the time."""
    folder, spoken, content = made
    monkeypatch.setattr(reader_module, "MAPS", 2)
    reader = Reader(open_shards(str(folder)))
    rows = np.random.default_rng(0).integers(0, len(spoken), 400).tolist()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda row: check(reader, row, spoken[row], content), rows))


def test_features_cannot_be_written_to_and_outlive_the_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken = make_set(tmp_path, splits={"train": (2, 2, 2)})
    monkeypatch.setattr(reader_module, "MAPPED_BYTES", 100)  # closed after every read
    reader = Reader(open_shards(str(tmp_path)))
    first = reader.features(0)
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 1
    for row in range(1, 6):
        reader.features(row)
    del reader
    gc.collect()
    np.testing.assert_array_equal(first, spoken[0].feats_tf.astype(np.float16))


def test_open_maps_do_not_use_up_the_file_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken = make_set(tmp_path, splits={"train": (1,) * 30})
    monkeypatch.setattr(reader_module, "MAPS", 8)
    reader = Reader(open_shards(str(tmp_path)))
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    for row in range(30):
        check(reader, row, spoken[row], Content.named("logmel"))
        assert len(list(descriptors.iterdir())) <= before + 8


def test_a_text_that_the_shard_does_not_have_comes_from_the_index(tmp_path: Path) -> None:
    spoken = make_set(tmp_path)
    table = pq.read_table(tmp_path / "index.parquet")
    for name in ("text_offset", "text_length"):
        zeros = pa.array(np.zeros(len(table), np.int64))
        table = table.set_column(table.schema.get_field_index(name), SCHEMA.field(name), zeros)
    texts = pa.array([f"other {i}" for i in range(len(table))])
    table = table.set_column(table.schema.get_field_index("text"), SCHEMA.field("text"), texts)
    pq.write_table(table, tmp_path / "index.parquet")
    reader = Reader(open_shards(str(tmp_path)))
    assert [reader.text(row) for row in (6, 0)] == ["other 6", "other 0"]
    assert len(spoken) == 7


def test_float32_features_of_sets_made_elsewhere_are_a_view_too(tmp_path: Path) -> None:
    """Their numbers need not be aligned: a short .npy header makes them start anywhere."""
    (spoken,) = make_set(tmp_path, splits={"train": (1,)})
    data = b"x" * 1001 + spoken.feats_tf.tobytes()
    (tmp_path / "train-00000.tar").write_bytes(data)
    table = pq.read_table(tmp_path / "index.parquet")
    for name, value in (("feature_offset", 1001), ("feature_length", len(data) - 1001)):
        column = pa.array([value], pa.int64())
        table = table.set_column(table.schema.get_field_index(name), SCHEMA.field(name), column)
    pq.write_table(table, tmp_path / "index.parquet")
    stats = (tmp_path / "stats.json").read_text().replace('"float16"', '"float32"')
    (tmp_path / "stats.json").write_text(stats)
    features = Reader(open_shards(str(tmp_path))).features(0)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, spoken.feats_tf)


@pytest.mark.parametrize("left_bytes", [5000, 0])
def test_a_shard_that_was_cut_short_is_named(tmp_path: Path, left_bytes: int) -> None:
    make_set(tmp_path)
    tar = tmp_path / "train-00000.tar"
    tar.write_bytes(tar.read_bytes()[:left_bytes])
    reader = Reader(open_shards(str(tmp_path)))
    for read in (reader.features, reader.text):
        with pytest.raises(EOFError, match=r"train-00000\.tar: is shorter than its index says"):
            read(3)
    assert reader.features(4).any()  # the other shard is whole


def test_a_shard_that_is_gone_is_named(tmp_path: Path) -> None:
    make_set(tmp_path)
    (tmp_path / "train-00001.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-00001\.tar"):
        Reader(open_shards(str(tmp_path))).features(5)


def test_shards_elsewhere_come_through_the_cache(tmp_path: Path, bucket: str) -> None:
    spoken = make_set(tmp_path / "set", "logmel8+audio", SPLITS)
    for path in (tmp_path / "set").iterdir():
        storage.write_bytes(f"{bucket}/set/{path.name}", path.read_bytes())
    shutil.rmtree(tmp_path / "set")
    shards = open_shards(f"{bucket}/set")
    with pytest.raises(ValueError, match=r"s3://speech/set/train-00000\.tar: is not on this machine; .* cache"):
        Reader(shards)
    cache = Cache(str(tmp_path / "cache"))
    reader = Reader(shards, cache)
    check(reader, 8, spoken[8], shards.content)
    assert fetched(tmp_path) == {shards.files[2].sha256}
    reader.prefetch([1, 0])
    wait_for(lambda: len(fetched(tmp_path)) == 3)
    for file in shards.files:
        storage.delete(file.url)
    for row, utterance in enumerate(spoken):
        check(reader, row, utterance, shards.content)
    cache.close()


def test_a_shard_elsewhere_that_is_gone_is_named(tmp_path: Path, bucket: str) -> None:
    spoken = make_set(tmp_path / "set")
    for path in (tmp_path / "set").iterdir():
        storage.write_bytes(f"{bucket}/set/{path.name}", path.read_bytes())
    storage.delete(f"{bucket}/set/train-00001.tar")
    cache = Cache(str(tmp_path / "cache"))
    reader = Reader(open_shards(f"{bucket}/set"), cache)
    check(reader, 0, spoken[0], Content.named("logmel"))
    with pytest.raises(OSError, match=r"s3://speech/set/train-00001\.tar"):
        reader.features(6)
    cache.close()


def test_nothing_is_fetched_of_what_is_here(tmp_path: Path) -> None:
    make_set(tmp_path / "set")
    cache = Cache(str(tmp_path / "cache"))
    reader = Reader(open_shards(str(tmp_path / "set")), cache)
    reader.prefetch([1, 0])
    assert reader.features(0).any()
    cache.close()
    assert fetched(tmp_path) == set()


def fetched(tmp_path: Path) -> set[str]:
    """The hashes of the shards in the cache."""
    return {path.stem for path in (tmp_path / "cache").rglob("*.tar")}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
