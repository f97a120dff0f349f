"""Parts of shards: what is planned, what a task writes, and what a repeat leaves alone."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr import audio
from asr.frontend import logmel
from manifests import storage
from manifests.schema import Utterance
from pipelines.parts import PART_UTTERANCES, Shard, join_shard, plan_shards, rows_uri, write_part
from shards.spec import FrontendSpec

SPEC = FrontendSpec()
ROW = Utterance("", "c", "", "en", "s", "/a.flac", 0.0, 1.0, 16000, 1, "A", "a", "CC0", "here")


def rows(lengths: list[tuple[str, float]]) -> list[Utterance]:
    return [replace(ROW, id=f"u{i}", split=split, duration_s=s) for i, (split, s) in enumerate(lengths)]


LENGTHS = st.lists(st.tuples(st.sampled_from(["train", "dev"]), st.floats(0.1, 30)), min_size=1, max_size=120)


@given(LENGTHS, st.integers(1, 3_000_000))
def test_a_plan_holds_each_utterance_once_whatever_the_order_of_the_manifest(
    lengths: list[tuple[str, float]], shard_bytes: int
) -> None:
    utterances = rows(lengths)
    shards = plan_shards(utterances, SPEC, shard_bytes, "/out", "/work")
    planned = [u for shard in shards for part in shard.parts for u in part.utterances]
    assert sorted(planned, key=lambda u: u.id) == sorted(utterances, key=lambda u: u.id)
    assert plan_shards(utterances[::-1], SPEC, shard_bytes, "/out", "/work") == shards
    uris = [uri for shard in shards for uri in (shard.uri, rows_uri(shard), *(part.uri for part in shard.parts))]
    assert len(set(uris)) == len(uris)
    for shard in shards:
        assert {u.split for part in shard.parts for u in part.utterances} == {shard.split}
        assert all(len(part.utterances) == PART_UTTERANCES for part in shard.parts[:-1])


@given(LENGTHS, st.integers(1, 3_000_000))
def test_a_shard_is_over_its_size_by_less_than_one_utterance(
    lengths: list[tuple[str, float]], shard_bytes: int
) -> None:
    for shard in plan_shards(rows(lengths), SPEC, shard_bytes, "/out", "/work"):
        sizes = [
            SPEC.num_frames(round(u.duration_s * 16000)) * 160 + 128 for part in shard.parts for u in part.utterances
        ]
        assert len(sizes) == 1 or sum(sizes) <= shard_bytes


def test_neighbours_in_the_manifest_are_not_neighbours_in_a_shard() -> None:
    (shard,) = plan_shards(rows([("train", 1.0)] * 400), SPEC, 10**9, "/out", "/work")
    order = [int(u.id[1:]) for part in shard.parts for u in part.utterances]
    assert abs(np.corrcoef(np.arange(400), order)[0, 1]) < 0.2


def test_splits_whose_shards_would_share_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"splits 'dev/x' and 'dev_x': their shards would share names"):
        plan_shards(rows([("dev/x", 1.0), ("dev_x", 1.0)]), SPEC, 10**9, "/out", "/work")


def plan(tmp_path: Path, utterances: list[Utterance]) -> Shard:
    (shard,) = plan_shards(utterances, SPEC, 10**9, str(tmp_path / "out"), str(tmp_path / "out" / "parts"))
    return shard


@pytest.fixture
def utterances(tmp_path: Path, corpus: Callable[..., list[Utterance]]) -> list[Utterance]:
    return corpus(tmp_path / "corpus", PART_UTTERANCES + 8, duration_s=0.2)


def test_a_finished_part_is_left_and_an_unfinished_one_made_again(tmp_path: Path, utterances: list[Utterance]) -> None:
    part = plan(tmp_path, utterances).parts[0]
    written = write_part(part)
    files = [Path(part.uri), Path(part.uri + ".json")]
    before, bytes_before = [file.stat() for file in files], [file.read_bytes() for file in files]
    assert write_part(part) == written and [file.stat() for file in files] == before
    files[1].unlink()  # as when a task dies between its two files
    files[0].write_bytes(b"half")
    assert write_part(part) == written and [file.read_bytes() for file in files] == bytes_before
    assert written.utterances == len(part.utterances) and written.dropped == 0
    assert written.audio_s == pytest.approx(sum(u.duration_s for u in part.utterances))


def test_a_joined_shard_is_one_archive_whose_rows_point_into_it(tmp_path: Path, utterances: list[Utterance]) -> None:
    shard = plan(tmp_path, utterances)
    assert len(shard.parts) == 2
    for part in shard.parts:
        write_part(part)
    join_shard(shard)
    assert [uri for uri, _ in storage.list_files(str(tmp_path / "out" / "parts"))] == [rows_uri(shard)]
    data = Path(shard.uri).read_bytes()
    joined = json.loads(Path(rows_uri(shard)).read_bytes())
    planned = [u for part in shard.parts for u in part.utterances]
    assert [row["id"] for row in joined["rows"]] == [u.id for u in planned]
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        offsets = {member.name: member.offset_data for member in tar.getmembers()}
    for row in joined["rows"]:
        expected = logmel(audio.read(row["audio"]), SPEC).astype(np.float16)
        assert data[row["feature_offset"] :][: row["feature_length"]] == expected.tobytes()
        assert row["text_offset"] == offsets[f"{row['id']}.txt"]
        assert row["shard_sha256"] == hashlib.sha256(data).hexdigest() and row["shard_bytes"] == len(data)
    before = Path(shard.uri).stat()
    join_shard(shard)  # its parts are gone; what has rows is finished
    assert Path(shard.uri).stat() == before


def test_what_cannot_be_featurised_becomes_a_row_with_its_reason(tmp_path: Path, utterances: list[Utterance]) -> None:
    good, cut, gone, short = utterances[:4]
    Path(cut.audio).write_bytes(Path(cut.audio).read_bytes()[:2000])
    Path(gone.audio).unlink()
    short = replace(short, duration_s=0.02)
    shard = plan(tmp_path, [good, cut, gone, short])
    assert write_part(shard.parts[0]).dropped == 3
    join_shard(shard)
    joined = json.loads(Path(rows_uri(shard)).read_bytes())
    assert [row["id"] for row in joined["rows"]] == [good.id]
    reasons = {row["id"]: (row["reason"], row["detail"]) for row in joined["dropped"]}
    assert reasons[cut.id][0] == "undecodable" and "truncated" in reasons[cut.id][1]
    assert reasons[gone.id][0] == "undecodable" and reasons[gone.id][1].endswith("No such file or directory")
    assert reasons[short.id] == ("too short", "0.02 s hold no frame of 400 samples")


def test_a_stretch_of_a_file_is_featurised_as_that_stretch(tmp_path: Path, utterances: list[Utterance]) -> None:
    long = replace(utterances[0], id="long", offset_s=0.05, duration_s=0.1)
    shard = plan(tmp_path, [long])
    write_part(shard.parts[0])
    (row,) = json.loads(Path(shard.parts[0].uri + ".json").read_bytes())["rows"]
    expected = logmel(audio.read(long.audio)[800:2400], SPEC).astype(np.float16)
    data = Path(shard.parts[0].uri).read_bytes()
    assert data[row["feature_offset"] :][: row["feature_length"]] == expected.tobytes()


def test_a_name_too_long_for_a_shard_is_named(tmp_path: Path, utterances: list[Utterance]) -> None:
    long = replace(utterances[0], id="x" * 97)
    with pytest.raises(ValueError, match=r"x\.npy: names in a shard may be 100 bytes long, this one has 101"):
        write_part(plan(tmp_path, [long]).parts[0])
    assert list(storage.list_files(str(tmp_path / "out"))) == []
