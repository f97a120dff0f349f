"""Shard sets as they are found, joined, read by offset, and refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr import audio
from asr.frontend import logmel
from manifests.schema import Utterance
from pipelines import featurize
from shards.index import Moments, open_shards
from shards.reader import Reader
from shards.spec import FrontendSpec

Sets = dict[str, Path]


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory, corpus: Callable[..., list[Utterance]]) -> list[Utterance]:
    folder = tmp_path_factory.mktemp("corpus")
    return corpus(folder / "a", 20) + corpus(folder / "b", 6, "dev")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, utterances: list[Utterance]) -> Sets:
    """`both` holds train in several shards and dev in one, `dev` the latter alone, and `8k` has other features."""
    root = tmp_path_factory.mktemp("sets")
    a, b = (str(Path(u.audio).parent) for u in (utterances[0], utterances[-1]))
    options = ["--workers", "0", "--shard-size", "0.05"]
    assert featurize.main(["--manifest", a, b, "--out", str(root / "both"), *options]) == 0
    assert featurize.main(["--manifest", b, "--out", str(root / "dev"), *options]) == 0
    assert featurize.main(["--manifest", b, "--out", str(root / "8k"), "--frontend", "8k", *options]) == 0
    return {name: root / name for name in ("both", "dev", "8k")}


def ids(source: Path) -> list[str]:
    return open_shards(str(source)).column("id")


def test_folder_index_and_list_of_urls_are_the_same_set(sets: Sets, utterances: list[Utterance]) -> None:
    everything = sorted(u.id for u in utterances)
    for name in ("", "index.parquet", "urls.txt"):
        assert sorted(ids(sets["both"] / name)) == everything
    assert sorted(ids(sets["both"] / "urls-dev.txt")) == [i for i in everything if i.startswith("dev")]


def test_lists_name_shards_relative_to_themselves_so_that_a_set_can_be_moved(sets: Sets, tmp_path: Path) -> None:
    moved = shutil.copytree(sets["both"], tmp_path / "moved")
    lines = (moved / "urls.txt").read_text().splitlines()
    assert len(lines) > 2 and sorted(lines) == sorted(path.name for path in moved.glob("*.tar"))
    shards = open_shards(str(moved / "urls.txt"))
    assert {Path(url) for url in shards.column("shard")} == {moved / line for line in lines}


def test_a_single_shard_and_a_chosen_few(sets: Sets, tmp_path: Path) -> None:
    one, two, *_ = sorted(sets["both"].glob("train-*.tar"))
    assert set(open_shards(str(one)).column("shard")) == {str(one)}
    chosen = tmp_path / "chosen.txt"
    chosen.write_text(f"{two}\n\n{one.as_uri()}\n")
    assert sorted(ids(chosen)) == sorted(ids(one) + ids(two))


def test_two_sets_are_joined_with_their_statistics(sets: Sets, tmp_path: Path) -> None:
    both = tmp_path / "both.txt"
    both.write_text(f"{sets['both'] / 'train-00000.tar'}\n{sets['dev'] / 'dev-00000.tar'}\n")
    joined, train, dev = (
        open_shards(str(s)) for s in (both, sets["both"] / "urls-train.txt", sets["dev"] / "dev-00000.tar")
    )
    assert len(joined) == len(ids(sets["both"] / "train-00000.tar")) + len(ids(sets["dev"] / "dev-00000.tar"))
    expected = train.moments.add(dev.moments)
    assert joined.moments.frames == expected.frames
    np.testing.assert_allclose(joined.moments.mean_f, expected.mean_f)
    np.testing.assert_allclose(joined.moments.variance_f, expected.variance_f)


def test_hours_and_frames_are_those_of_the_audio(sets: Sets, utterances: list[Utterance]) -> None:
    shards = open_shards(str(sets["both"]))
    frames = {u.id: FrontendSpec().num_frames(round(u.duration_s * 16000)) for u in utterances}
    assert dict(zip(shards.column("id"), shards.frames.tolist(), strict=True)) == frames
    assert shards.hours == pytest.approx(sum(frames.values()) / 360_000)


def test_mean_and_variance_are_those_of_the_float_features(sets: Sets, utterances: list[Utterance]) -> None:
    spec = FrontendSpec()
    for source, chosen in (("both", utterances), ("dev", utterances[20:])):
        feats_tf = np.concatenate([logmel(audio.read(u.audio), spec) for u in chosen]).astype(np.float64)
        moments = open_shards(str(sets[source])).moments
        np.testing.assert_allclose(moments.mean_f, feats_tf.mean(0), atol=2e-6)
        np.testing.assert_allclose(moments.variance_f, feats_tf.var(0), atol=1e-5)
        stats = json.loads((sets[source] / "stats.json").read_text())
        np.testing.assert_allclose(stats["mean"], feats_tf.mean(0), atol=2e-6)
        np.testing.assert_allclose(stats["variance"], feats_tf.var(0), atol=2e-6)
        assert (stats["frames"], stats["fingerprint"]) == (len(feats_tf), spec.fingerprint)


def test_the_offsets_of_the_index_lead_to_exactly_the_features_and_the_text(
    sets: Sets, utterances: list[Utterance]
) -> None:
    texts = {u.id: (u.text, u.audio) for u in utterances}
    index = pq.read_table(sets["both"] / "index.parquet").to_pylist()
    reader = Reader(open_shards(str(sets["both"])))
    for row, facts in enumerate(index):
        text, uri = texts[facts["id"]]
        shard = (sets["both"] / facts["shard"]).read_bytes()
        expected = logmel(audio.read(uri), FrontendSpec()).astype(np.float16)
        raw = shard[facts["feature_offset"] : facts["feature_offset"] + facts["feature_length"]]
        assert raw == expected.tobytes() and facts["frames"] == len(expected)
        np.testing.assert_array_equal(reader.features(row), expected)
        assert shard[facts["text_offset"] : facts["text_offset"] + facts["text_length"]].decode() == text
        assert facts["shard_bytes"] == len(shard)


def test_a_shard_that_was_cut_short_is_named(sets: Sets, tmp_path: Path) -> None:
    cut = shutil.copytree(sets["dev"], tmp_path / "cut")
    tar = cut / "dev-00000.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    shards = open_shards(str(tar))
    with pytest.raises(EOFError, match=r"dev-00000\.tar: is shorter than its index says"):
        Reader(shards).features(len(shards) - 1)


def test_sets_of_other_features_are_not_joined(sets: Sets, tmp_path: Path) -> None:
    both = tmp_path / "both.txt"
    both.write_text("".join(f"{sets[name] / 'dev-00000.tar'}\n" for name in ("dev", "8k")))
    with pytest.raises(ValueError, match="have other features") as err:
        open_shards(str(both))
    assert "sample_rate 16000 against 8000" in str(err.value) and "mels 80 against 40" in str(err.value)
    assert "preemphasis" not in str(err.value)


@pytest.mark.parametrize("missing", ["index.parquet", "stats.json"])
def test_an_unfinished_set_is_refused(sets: Sets, tmp_path: Path, missing: str) -> None:
    folder = shutil.copytree(sets["dev"], tmp_path / "unfinished")
    (folder / missing).unlink()
    for source in (folder, folder / "urls.txt"):
        with pytest.raises(ValueError, match=f"unfinished: has no {missing}, so it is not a finished shard set"):
            open_shards(str(source))


def test_lists_that_lead_nowhere_are_refused(sets: Sets, tmp_path: Path) -> None:
    shards = tmp_path / "list.txt"
    with pytest.raises(ValueError, match="no such list, folder or index"):
        open_shards(str(shards))
    shards.write_text("\n \n")
    with pytest.raises(ValueError, match="lists no shards"):
        open_shards(str(shards))
    shards.write_text(f"{sets['dev'] / 'dev-99999.tar'}\n")
    with pytest.raises(ValueError, match=r"index\.parquet: knows nothing of dev-99999\.tar"):
        open_shards(str(shards))


def test_an_index_with_other_columns_is_refused(sets: Sets, tmp_path: Path) -> None:
    folder = shutil.copytree(sets["dev"], tmp_path / "old")
    table = pq.read_table(folder / "index.parquet")
    pq.write_table(table.drop_columns(["frames"]), folder / "index.parquet")
    with pytest.raises(ValueError, match="has other columns than this version"):
        open_shards(str(folder))


def test_a_damaged_index_and_another_parquet_are_named(sets: Sets, tmp_path: Path) -> None:
    folder = shutil.copytree(sets["dev"], tmp_path / "cut")
    shutil.copy(folder / "index.parquet", folder / "dropped.parquet")
    with pytest.raises(ValueError, match=r"dropped\.parquet: is not the index\.parquet"):
        open_shards(str(folder / "dropped.parquet"))
    (folder / "index.parquet").write_bytes((folder / "index.parquet").read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"index\.parquet: is damaged"):
        open_shards(str(folder))


FRAMES = st.lists(st.floats(-20, 20), min_size=1, max_size=12)


@given(FRAMES, st.data())
def test_moments_of_parts_are_those_of_the_whole(values: list[float], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(values)))
    total = Moments.zero(1)
    for part in (values[:cut], values[cut:]):
        column = np.array(part).reshape(-1, 1)
        moments = Moments(len(part), column.sum(0), (column * column).sum(0))
        total = total.add(Moments.from_json(moments.to_json()))
    assert total.frames == len(values)
    assert total.mean_f[0] == pytest.approx(np.mean(values), abs=1e-9)
    assert total.variance_f[0] == pytest.approx(np.var(values), abs=1e-9)


def test_the_spec_comes_back_from_the_set(sets: Sets) -> None:
    assert open_shards(str(sets["dev"])).spec == FrontendSpec()
    assert open_shards(str(sets["8k"])).spec == replace(
        FrontendSpec(), sample_rate=8000, window_samples=200, hop_samples=80, fft_samples=256, mels=40, high_hz=4000.0
    )
