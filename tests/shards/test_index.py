"""Shard sets as they are found, joined, read column by column, and refused."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests import storage
from shards.columns import BATCH_ROWS
from shards.content import NAMES, Content
from shards.index import SCHEMA, ShardSet, open_shards
from shards.moments import Moments
from shards.spec import FrontendSpec
from tests.shards.noise_sets import Spoken, make_set

Sets = dict[str, Path]
SMALL = replace(FrontendSpec(), mels=8)


@pytest.fixture(scope="module")
def spoken() -> dict[str, list[Spoken]]:
    return {}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, spoken: dict[str, list[Spoken]]) -> Sets:
    """`both` holds train in two shards and dev in one, `dev` the latter alone; `small` has other features."""
    root = tmp_path_factory.mktemp("sets")
    spoken["both"] = make_set(root / "both", splits={"train": (4, 3), "dev": (2,)})
    spoken["dev"] = make_set(root / "dev", splits={"dev": (2,)})
    spoken["audio"] = make_set(root / "audio", "audio", splits={"dev": (2,)})
    spoken["small"] = make_set(root / "small", splits={"dev": (2,)}, spec=SMALL)
    return {name: root / name for name in spoken}


def ids(source: Path) -> list[str]:
    return open_shards(str(source)).column("id")


def test_folder_index_and_list_of_urls_are_the_same_set(sets: Sets, spoken: dict[str, list[Spoken]]) -> None:
    everything = [u.id for u in spoken["both"]]
    for name in ("", "index.parquet", "urls.txt"):
        assert ids(sets["both"] / name) == everything
    assert ids(sets["both"] / "urls-dev.txt") == [i for i in everything if i.startswith("dev")]


def test_lists_name_shards_relative_to_themselves_so_that_a_set_can_be_moved(sets: Sets, tmp_path: Path) -> None:
    moved = shutil.copytree(sets["both"], tmp_path / "moved")
    lines = (moved / "urls.txt").read_text().splitlines()
    assert len(lines) == 3
    shards = open_shards(str(moved / "urls.txt"))
    assert [file.url for file in shards.files] == [str(moved / line) for line in lines]
    assert set(shards.column("shard")) == {file.url for file in shards.files}


def test_a_single_shard_and_a_chosen_few(sets: Sets, tmp_path: Path) -> None:
    one, two = sorted(sets["both"].glob("train-*.tar"))
    assert set(open_shards(str(one)).column("shard")) == {str(one)}
    chosen = tmp_path / "chosen.txt"
    chosen.write_text(f"{two}\n\n{one.as_uri()}\n{two}\n")
    assert ids(chosen) == ids(one) + ids(two)


def test_files_are_the_chosen_shards_with_size_and_hash(sets: Sets) -> None:
    shards = open_shards(str(sets["both"] / "train-00001.tar"))
    (file,) = shards.files
    assert file.url == str(sets["both"] / "train-00001.tar")
    assert (file.size_bytes, len(file.sha256)) == (Path(file.url).stat().st_size, 64)
    assert shards.column("shard_sha256") == [file.sha256] * 3
    assert shards.shard.dtype == np.int32 and shards.shard.tolist() == [0, 0, 0]
    assert open_shards(str(sets["both"])).shard.tolist() == [0] * 4 + [1] * 3 + [2] * 2


def check_columns(shards: ShardSet, names: list[str]) -> None:
    """What is in memory, and what is read when asked for, are the same rows."""
    table = shards.table(names)
    assert table.column_names == names and len(table) == len(shards)
    for name in names:
        assert table.schema.field(name).type == SCHEMA.field(name).type
        assert table[name].to_pylist() == shards.column(name)
    for name in (
        "frames",
        *(f"{part}_{what}" for part in ("feature", "audio", "text") for what in ("offset", "length")),
    ):
        assert getattr(shards, name).tolist() == shards.column(name)
        assert getattr(shards, name).dtype == (np.int32 if name == "frames" else np.int64)
    assert [text for texts in shards.texts() for text in texts] == shards.column("text")
    assert [shards.files[i].url for i in shards.shard] == shards.column("shard")


def test_every_column_can_be_asked_for_of_a_set_of_chosen_shards_and_of_several_sets(
    sets: Sets, tmp_path: Path, spoken: dict[str, list[Spoken]]
) -> None:
    joined = tmp_path / "joined.txt"
    joined.write_text(f"{sets['dev'] / 'dev-00000.tar'}\n{sets['both'] / 'train-00001.tar'}\n")
    for source in (sets["both"], sets["both"] / "urls-train.txt", joined, sets["audio"]):
        check_columns(open_shards(str(source)), SCHEMA.names)
    expected = [u.text for u in (*spoken["dev"], *spoken["both"][4:7])]
    assert open_shards(str(joined)).column("text") == expected


@pytest.mark.parametrize("name", NAMES)
def test_the_content_comes_back_from_the_set(tmp_path: Path, name: str) -> None:
    make_set(tmp_path, name, {"train": (1,)})
    shards = open_shards(str(tmp_path))
    assert shards.content == Content.named(name)
    assert bool(shards.feature_length.any()) == (shards.content.features is not None)
    assert bool(shards.audio_length.any()) == shards.content.audio
    assert shards.moments.frames == shards.frames.sum() and shards.moments.mean_f.any()


def test_two_sets_are_joined_with_their_statistics(sets: Sets, tmp_path: Path) -> None:
    both = tmp_path / "both.txt"
    both.write_text(f"{sets['both'] / 'train-00000.tar'}\n{sets['dev'] / 'dev-00000.tar'}\n")
    joined, train, dev = (
        open_shards(str(s)) for s in (both, sets["both"] / "urls-train.txt", sets["dev"] / "dev-00000.tar")
    )
    assert len(joined) == 4 + 2
    expected = train.moments.add(dev.moments)
    assert joined.moments.frames == expected.frames
    np.testing.assert_allclose(joined.moments.mean_f, expected.mean_f)
    np.testing.assert_allclose(joined.moments.variance_f, expected.variance_f)


def test_mean_and_variance_are_those_of_the_float_features(sets: Sets, spoken: dict[str, list[Spoken]]) -> None:
    for name in ("both", "dev", "audio"):
        feats_tf = np.concatenate([u.feats_tf for u in spoken[name]]).astype(np.float64)
        shards = open_shards(str(sets[name]))
        np.testing.assert_allclose(shards.moments.mean_f, feats_tf.mean(0), atol=2e-6)
        np.testing.assert_allclose(shards.moments.variance_f, feats_tf.var(0), atol=1e-5)
        stats = json.loads((sets[name] / "stats.json").read_text())
        np.testing.assert_allclose(stats["mean"], feats_tf.mean(0), atol=2e-6)
        assert (stats["frames"], stats["fingerprint"]) == (len(feats_tf), FrontendSpec().fingerprint)
        assert shards.hours == pytest.approx(len(feats_tf) / 360_000)


def test_the_fingerprint_is_of_the_shards_and_the_rows_and_not_of_the_place(sets: Sets, tmp_path: Path) -> None:
    moved = shutil.copytree(sets["both"], tmp_path / "moved")
    of = {name: open_shards(str(source)).fingerprint for name, source in {
        "here": sets["both"], "moved": moved, "train": moved / "urls-train.txt", "dev": sets["dev"],
        "dev of both": moved / "urls-dev.txt",
    }.items()}  # fmt: skip
    assert of["here"] == of["moved"] and len(of["here"]) == 12
    assert of["dev"] == of["dev of both"]
    assert len({of["here"], of["train"], of["dev"]}) == 3


def test_an_index_may_be_apart_from_its_shards(sets: Sets, tmp_path: Path) -> None:
    """What index-shards makes: whole paths in the index, and lists beside it."""
    table = pq.read_table(sets["both"] / "index.parquet")
    whole = [str(sets["both"] / name) for name in table["shard"].to_pylist()]
    table = table.set_column(table.schema.get_field_index("shard"), SCHEMA.field("shard"), pa.array(whole))
    pq.write_table(table, tmp_path / "index.parquet")
    shutil.copy(sets["both"] / "stats.json", tmp_path / "stats.json")
    (tmp_path / "urls-dev.txt").write_text(f"{whole[-1]}\n")
    shards = open_shards(str(tmp_path))
    assert shards.column("shard") == whole
    (sets["both"] / "index.parquet").rename(tmp_path / "hidden")
    try:
        assert open_shards(str(tmp_path / "urls-dev.txt")).column("split") == ["dev", "dev"]
    finally:
        (tmp_path / "hidden").rename(sets["both"] / "index.parquet")


def test_an_index_of_many_row_groups_is_read_in_order(sets: Sets, tmp_path: Path) -> None:
    """Dictionaries differ between row groups, and a batch ends where a row group does."""
    table = pq.read_table(sets["both"] / "index.parquet")
    folder = tmp_path / "many"
    folder.mkdir()
    shutil.copy(sets["both"] / "stats.json", folder / "stats.json")
    repeated = pa.concat_tables([table.take([8, 0, 5, 1, 4])] * 3)
    pq.write_table(repeated, folder / "index.parquet", row_group_size=2)
    shards = open_shards(str(folder))
    assert shards.column("id") == repeated["id"].to_pylist()
    assert shards.shard.tolist() == [0, 1, 2, 1, 2] * 3
    names = [str(folder / name) for name in repeated["shard"].to_pylist()]
    assert shards.column("shard") == names
    (folder / "one.txt").write_text(f"{names[2]}\n")
    check_columns(open_shards(str(folder / "one.txt")), SCHEMA.names)
    assert len(open_shards(str(folder / "one.txt"))) == 6 and len(repeated) < BATCH_ROWS


def test_sets_of_other_features_or_contents_are_not_joined(sets: Sets, tmp_path: Path) -> None:
    both = tmp_path / "both.txt"
    both.write_text("".join(f"{sets[name] / 'dev-00000.tar'}\n" for name in ("dev", "small")))
    with pytest.raises(ValueError, match="have other features: mels 80 against 8") as err:
        open_shards(str(both))
    assert "preemphasis" not in str(err.value)
    both.write_text("".join(f"{sets[name] / 'dev-00000.tar'}\n" for name in ("dev", "audio")))
    with pytest.raises(ValueError, match=r"dev holds logmel and .*audio holds audio; .* --content"):
        open_shards(str(both))


@pytest.mark.parametrize("missing", ["index.parquet", "stats.json"])
def test_an_unfinished_set_is_refused(sets: Sets, tmp_path: Path, missing: str) -> None:
    folder = shutil.copytree(sets["dev"], tmp_path / "unfinished")
    (folder / missing).unlink()
    for source in (folder, folder / "urls.txt"):
        with pytest.raises(ValueError, match=f"unfinished: has no {missing}, so it is not a finished shard set"):
            open_shards(str(source))


def test_lists_in_a_store_may_lead_up_and_down_as_on_a_disk(sets: Sets, bucket: str) -> None:
    for path in sets["both"].iterdir():
        storage.write_bytes(f"{bucket}/sets/both/{path.name}", path.read_bytes())
    lines = b"../both/train-00001.tar\r\n\r\n ./../both/train-00000.tar \r\n"
    storage.write_bytes(f"{bucket}/sets/lists/some.txt", lines)
    urls = [file.url for file in open_shards(f"{bucket}/sets/lists/some.txt").files]
    assert urls == [f"{bucket}/sets/both/train-0000{n}.tar" for n in range(2)]


def test_logins_and_signatures_are_not_shown() -> None:
    site = "http://user:PASSWORD@127.0.0.1:1"
    for name in ("index.parquet?SECRET", "a.tar?SECRET", "other.parquet", "list.txt?S/T"):
        with pytest.raises(ValueError, match=r"^http://127\.0\.0\.1:1/") as told:
            open_shards(f"{site}/{name}")
        assert not re.search("PASSWORD|SECRET|S/T", str(told.value))


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


def test_an_index_of_an_older_version_or_with_other_columns_is_refused(sets: Sets, tmp_path: Path) -> None:
    folder = shutil.copytree(sets["dev"], tmp_path / "old")
    table = pq.read_table(folder / "index.parquet")
    pq.write_table(table.drop_columns(["frames"]), folder / "index.parquet")
    with pytest.raises(ValueError, match="has other columns than this version"):
        open_shards(str(folder))
    older = table.drop_columns(["audio_offset"]).replace_schema_metadata({"speechmill": "index 2"})
    pq.write_table(older, folder / "index.parquet")
    with pytest.raises(
        ValueError, match=r"another version \(index 2.*write the shards again with write-shards --force"
    ):
        open_shards(str(folder))


def test_a_damaged_index_and_another_parquet_are_named(sets: Sets, tmp_path: Path) -> None:
    folder = shutil.copytree(sets["dev"], tmp_path / "cut")
    shutil.copy(folder / "index.parquet", folder / "dropped.parquet")
    with pytest.raises(ValueError, match=r"dropped\.parquet: is not the index\.parquet"):
        open_shards(str(folder / "dropped.parquet"))
    whole = (folder / "index.parquet").read_bytes()
    (folder / "index.parquet").write_bytes(whole[:-8])
    with pytest.raises(ValueError, match=r"index\.parquet: is damaged"):
        open_shards(str(folder))
    (folder / "index.parquet").write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    with pytest.raises(ValueError, match=r"index\.parquet: is damaged"):
        open_shards(str(folder))


OTHER_MELS = (
    '{"spec": {}, "content": {"features": "float16", "audio": false}, '
    '"splits": {"dev": {"mean": [1, 2], "variance": [1, 2], "frames": 9}}}'
)


@pytest.mark.parametrize(
    "stats", ["", "{}", "[1]", '{"spec": {}, "content": {"features": "float8", "audio": true}}', OTHER_MELS]
)
def test_damaged_statistics_are_named(sets: Sets, tmp_path: Path, stats: str) -> None:
    folder = shutil.copytree(sets["dev"], tmp_path / "cut")
    (folder / "stats.json").write_text(stats)
    with pytest.raises(ValueError, match=r"stats\.json: is damaged"):
        open_shards(str(folder))


def test_statistics_of_another_index_are_named(sets: Sets, tmp_path: Path) -> None:
    folder = shutil.copytree(sets["both"], tmp_path / "mixed")
    shutil.copy(sets["dev"] / "stats.json", folder / "stats.json")
    assert len(open_shards(str(folder / "urls-dev.txt"))) == 2
    with pytest.raises(ValueError, match=r"stats\.json: is not of this index\.parquet: it has no split train"):
        open_shards(str(folder))


def test_a_set_in_an_object_store_is_opened_by_its_folder_its_index_and_its_lists(sets: Sets, bucket: str) -> None:
    for path in sets["both"].iterdir():
        storage.write_bytes(f"{bucket}/sets/both/{path.name}", path.read_bytes())
    for name in ("", "/index.parquet", "/urls.txt"):
        shards = open_shards(f"{bucket}/sets/both{name}")
        check_columns(shards, ["id", "shard", "frames"])
        assert shards.column("id") == ids(sets["both"])
        assert shards.files[0].url == f"{bucket}/sets/both/train-00000.tar"
    with pytest.raises(ValueError, match=r"sets/nothing: has no index\.parquet"):
        open_shards(f"{bucket}/sets/nothing")
    with pytest.raises(ValueError, match=r"no such list.* has urls\.txt and urls-<split>\.txt"):
        open_shards(f"{bucket}/sets/both/urls-test.txt")


def test_a_set_behind_a_web_server_is_opened_without_listing_folders(sets: Sets, bucket: str) -> None:
    s3 = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    for path in sets["both"].iterdir():
        s3.put_object(Bucket="speech", Key=f"sets/both/{path.name}", Body=path.read_bytes(), ACL="public-read")
    site = f"{os.environ['AWS_ENDPOINT_URL']}/speech/sets/both"
    assert site.startswith("http://")
    for name in ("", "/", "/index.parquet", "/urls.txt"):
        shards = open_shards(site + name)
        check_columns(shards, ["id", "shard", "frames"])
        assert shards.column("id") == ids(sets["both"])
    assert open_shards(f"{site}/train-00001.tar").files[0].url == f"{site}/train-00001.tar"
    with pytest.raises(ValueError, match=r"nothing: has no index\.parquet"):
        open_shards(f"{site}/nothing")


FRAMES = st.lists(st.floats(-20, 20), min_size=1, max_size=12)


@given(FRAMES, st.data())
def test_moments_of_parts_are_those_of_the_whole(values: list[float], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(values)))
    total = Moments.zero(1)
    for part in (values[:cut], values[cut:]):
        total = total.add(Moments.from_json(Moments.of(np.array(part).reshape(-1, 1)).to_json()))
    assert total.frames == len(values)
    assert total.mean_f[0] == pytest.approx(np.mean(values), abs=1e-9)
    assert total.variance_f[0] == pytest.approx(np.var(values), abs=1e-9)


def test_the_spec_comes_back_from_the_set(sets: Sets) -> None:
    assert open_shards(str(sets["dev"])).spec == FrontendSpec()
    assert open_shards(str(sets["small"])).spec == SMALL
