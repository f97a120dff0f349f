"""Which utterance goes into which shard, what travels to its task, and what tells two manifests apart."""

import io
import itertools
from dataclasses import replace
from random import Random

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.waveform_config import Level, WaveformConfig
from manifests.schema import UTTERANCE_SCHEMA, Utterance, safe_id, to_table, utterances
from pipelines.shard_plan import AUDIO_BYTES, Place, Recipe, Tasks, check_copy_ids, content_hash, copy_id, plan_shards
from shards.content import NAMES, Content
from shards.spec import FrontendSpec
from shards.writer import pack

SPEC = FrontendSpec()
LOGMEL = Recipe(SPEC, Content.named("logmel"))
LOUDER = WaveformConfig(level=Level(share=1.0, gain_db=(-6.0, 6.0)))
ROW = Utterance("", "c", "", "en", "s", "/a.flac", 0.0, 1.0, 16000, 1, "A", "a", "CC0", "here")
PLACE = Place("train-00000", "/out", "/out/parts/f")


def table(lengths: list[tuple[str, float]]) -> pa.Table:
    rows = [replace(ROW, id=f"u{i}", split=split, duration_s=s, text="é" * i) for i, (split, s) in enumerate(lengths)]
    return to_table(rows, UTTERANCE_SCHEMA)


def ids(manifest: pa.Table, recipe: Recipe, shard_bytes: int) -> list[tuple[str, str, list[str]]]:
    return [
        (shard.name, shard.split, [manifest["id"][row].as_py() for row in shard.rows.tolist()])
        for shard in plan_shards(manifest, recipe, shard_bytes)
    ]


LENGTHS = st.lists(st.tuples(st.sampled_from(["train", "dev"]), st.floats(0.1, 30)), min_size=1, max_size=120)
RECIPES = st.builds(
    lambda name, copies: Recipe(SPEC, Content.named(name), LOUDER if copies else None, copies),
    st.sampled_from(NAMES), st.integers(0, 2),
)  # fmt: skip


@settings(deadline=None)
@given(LENGTHS, RECIPES, st.integers(1, 3_000_000), st.randoms())
def test_a_plan_holds_each_utterance_once_however_the_manifest_is_sorted(
    lengths: list[tuple[str, float]], recipe: Recipe, shard_bytes: int, random: Random
) -> None:
    manifest = table(lengths)
    plan = ids(manifest, recipe, shard_bytes)
    assert sorted(id_ for _, _, group in plan for id_ in group) == sorted(manifest["id"].to_pylist())
    assert len({name for name, _, _ in plan}) == len(plan)
    split_of = dict(zip(manifest["id"].to_pylist(), manifest["split"].to_pylist(), strict=True))
    assert all(group and {split_of[id_] for id_ in group} == {split} for _, split, group in plan)
    order = np.arange(len(manifest)).tolist()
    random.shuffle(order)
    assert ids(manifest.take(order), recipe, shard_bytes) == plan


def packed_bytes(row: Utterance, recipe: Recipe) -> int:
    """What an utterance and its copies take, as they are written; FLAC of the planned size."""
    samples = round(row.duration_s * SPEC.sample_rate)
    feats_tf = np.zeros((SPEC.num_frames(samples), SPEC.mels), np.float32)
    data = pack(row.id, feats_tf, b"x" * int(samples * AUDIO_BYTES), "flac", row.text, recipe.content).data
    return len(data) * (1 + recipe.copies_of(row.split))


@settings(deadline=None)
@given(LENGTHS, RECIPES, st.integers(1, 3_000_000))
def test_a_shard_is_as_large_as_fits_the_limit_or_holds_one_utterance(
    lengths: list[tuple[str, float]], recipe: Recipe, shard_bytes: int
) -> None:
    manifest = table(lengths)
    row_of = {row.id: row for row in utterances(manifest)}
    plan = [
        (split, [packed_bytes(row_of[id_], recipe) for id_ in group])
        for _, split, group in ids(manifest, recipe, shard_bytes)
    ]
    for (split, sizes), (next_split, next_sizes) in zip(plan, [*plan[1:], ("", [0])], strict=True):
        assert len(sizes) == 1 or sum(sizes) <= shard_bytes
        assert next_split != split or sum(sizes) + next_sizes[0] > shard_bytes


@pytest.mark.parametrize(("hours", "each_s", "shards"), [(0.1, 10, 1), (1, 10, 4), (40, 60, 65), (2000, 1200, 231)])
def test_without_a_size_there_is_work_for_a_cluster_but_no_crumbs(hours: float, each_s: float, shards: int) -> None:
    """An hour of float16 features is 57.6 MB."""
    rows = [replace(ROW, id=f"u{i}", split="train", duration_s=each_s) for i in range(round(hours * 3600 / each_s))]
    assert len(plan_shards(to_table(rows, UTTERANCE_SCHEMA), LOGMEL)) == pytest.approx(shards, abs=1)


def test_audio_is_planned_near_its_true_size() -> None:
    """Speech-like noise; a shard is to be neither half nor twice as large as asked for."""
    noise = np.cumsum(np.random.default_rng(0).normal(0, 0.01, 160_000)) % 0.2
    file = io.BytesIO()
    soundfile.write(file, noise, 16000, format="FLAC", subtype="PCM_16")
    assert 0.5 < len(file.getvalue()) / (len(noise) * AUDIO_BYTES) < 2


def test_neighbours_in_the_manifest_are_not_neighbours_in_a_shard() -> None:
    ((_, _, group),) = ids(table([("train", 1.0)] * 400), LOGMEL, 10**9)
    assert abs(np.corrcoef(np.arange(400), [int(id_[1:]) for id_ in group])[0, 1]) < 0.2


def test_splits_whose_shards_would_share_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"splits 'dev/x' and 'dev_x': their shards would share names"):
        plan_shards(table([("dev/x", 1.0), ("dev_x", 1.0)]), LOGMEL, 10**9)


def cut(manifest: pa.Table, at: list[int]) -> pa.Table:
    """The same rows in chunks that begin at these rows, in buffers of which they are only parts."""
    starts = [0, *sorted(at), len(manifest)]
    return pa.concat_tables([manifest.slice(a, b - a) for a, b in itertools.pairwise(starts)])


@settings(deadline=None)
@given(LENGTHS, st.lists(st.integers(0, 120), max_size=3))
def test_a_task_carries_the_rows_of_its_shard_from_whatever_chunks(
    lengths: list[tuple[str, float]], at: list[int]
) -> None:
    manifest = table(lengths)
    planned = [(shard, PLACE) for shard in plan_shards(manifest, LOGMEL, 500_000)]
    tasks = Tasks(cut(manifest, [min(a, len(manifest)) for a in at]), planned, LOGMEL, 10)
    assert len(tasks) == len(planned)
    for (shard, _), task in zip(planned, tasks, strict=True):
        assert task.table().equals(manifest.take(pa.array(shard.rows)))
        assert len(task.rows) < 20_000 + 1_000 * len(shard.rows)  # no row of another shard travels with it


VALUES = st.fixed_dictionaries({
    "id": st.text(max_size=3), "text": st.text(max_size=3),
    "duration_s": st.floats(0, 9), "channel": st.integers(-1, 1),
    "loudness_lufs": st.none() | st.sampled_from([0.0, -23.0]),
})  # fmt: skip


@settings(deadline=None)
@given(st.lists(VALUES, max_size=5), st.lists(VALUES, max_size=5), st.lists(st.integers(0, 5), max_size=3))
def test_manifests_have_one_hash_exactly_when_they_say_the_same(
    ours: list[dict], theirs: list[dict], at: list[int]
) -> None:
    first, second = (to_table([replace(ROW, **v) for v in values], UTTERANCE_SCHEMA) for values in (ours, theirs))
    assert (content_hash(first) == content_hash(second)) == (ours == theirs)
    assert content_hash(cut(first, [min(a, len(first)) for a in at])) == content_hash(first)
    if ours:
        assert content_hash(first.slice(1)) == content_hash(first.take(np.arange(1, len(first))))


def test_held_out_splits_have_no_copies() -> None:
    recipe = Recipe(SPEC, Content.named("logmel"), LOUDER, 3)
    assert [recipe.copies_of(s) for s in ("train-clean", "validated", "dev", "test-other", "valid")] == [3, 3, 0, 0, 0]


def test_an_utterance_with_the_name_of_anothers_copy_is_refused() -> None:
    recipe = Recipe(SPEC, Content.named("logmel"), LOUDER, 2)
    rows = [replace(ROW, id=id_, split="train") for id_ in ("a", "b-copy7", "a-copy2")]
    check_copy_ids(to_table(rows[:2], UTTERANCE_SCHEMA), recipe)
    check_copy_ids(to_table(rows, UTTERANCE_SCHEMA), LOGMEL)
    with pytest.raises(ValueError, match="utterance a-copy2 has the name of another one's copy"):
        check_copy_ids(to_table(rows, UTTERANCE_SCHEMA), recipe)
    long = safe_id("x" * 90)
    assert len({copy_id(long, n) for n in range(3)}) == 3 and len(copy_id(long, 2).encode()) <= 90
