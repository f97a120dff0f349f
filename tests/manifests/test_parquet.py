from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.parquet import MANIFEST, in_order, read_manifests, write, write_utterances
from manifests.schema import DROPPED_SCHEMA, UTTERANCE_SCHEMA, Dropped, Utterance, to_table

ROW = Utterance("a-1", "c", "train", "en", "s", "/a.flac", 0.5, 1.25, 16000, 1, "Á!", "a", "CC0", "here")
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def save(folder: Path, *rows: Utterance) -> str:
    write_utterances(str(folder / MANIFEST), rows)
    return str(folder)


@settings(max_examples=20, deadline=None)  # the first example also loads pyarrow's machinery
@given(rows=st.lists(st.tuples(WORDS, st.floats(0, 1e6)), unique_by=lambda pair: pair[0]))
def test_what_was_written_is_read_in_order_of_split_and_id(
    rows: list[tuple[str, float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    utterances = [replace(ROW, id=word, text_raw=word, offset_s=offset_s) for word, offset_s in rows]
    folder = save(tmp_path_factory.mktemp("m"), *utterances)
    assert read_manifests([folder]) == sorted(utterances, key=lambda u: (u.split, u.id))


def test_the_order_of_rows_does_not_change_the_file(tmp_path: Path) -> None:
    rows = [replace(ROW, id=f"a-{i}", split="ab"[i % 2]) for i in range(10)]
    save(tmp_path / "one", *rows)
    save(tmp_path / "two", *rows[::-1])
    assert (tmp_path / "one" / MANIFEST).read_bytes() == (tmp_path / "two" / MANIFEST).read_bytes()


def test_what_was_not_measured_comes_back_as_that(tmp_path: Path) -> None:
    rows = [replace(ROW, id="quiet", loudness_lufs=-61.5, channel=1, notes="n", extra='{"a": "b"}'), ROW]
    assert read_manifests([save(tmp_path, *rows)]) == [ROW, rows[0]]


def test_folders_and_files_are_joined_and_splits_chosen(tmp_path: Path) -> None:
    one = save(tmp_path / "one", ROW, replace(ROW, id="a-2", split="dev"))
    two = save(tmp_path / "two", replace(ROW, id="b-1", split="test"))
    uris = [one, f"{two}/{MANIFEST}"]
    assert [u.id for u in read_manifests(uris)] == ["a-2", "a-1", "b-1"]
    assert [u.id for u in read_manifests(uris, ["train", "test"])] == ["a-1", "b-1"]
    with pytest.raises(ValueError, match="no split dev-clean; there are dev, test, train"):
        read_manifests(uris, ["train", "dev-clean"])


def test_an_id_in_two_manifests_is_refused(tmp_path: Path) -> None:
    one, two = save(tmp_path / "one", ROW), save(tmp_path / "two", ROW)
    with pytest.raises(ValueError, match=r"a-1 is in .*one and again in .*two"):
        read_manifests([one, two])
    with pytest.raises(ValueError, match="a-1 is in"):
        read_manifests([one, one])


def test_a_missing_manifest_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"prepare-corpus ... --out {tmp_path}/x` makes one"):
        read_manifests([f"{tmp_path}/x"])
    with pytest.raises(ValueError, match=rf"prepare-corpus ... --out {tmp_path}/x` makes one"):
        read_manifests([f"{tmp_path}/x/{MANIFEST}"])


def test_another_schema_is_refused_with_both_printed(tmp_path: Path) -> None:
    uri = str(tmp_path / MANIFEST)
    write(uri, to_table([ROW], UTTERANCE_SCHEMA).rename_columns(["name", *UTTERANCE_SCHEMA.names[1:]]))
    with pytest.raises(ValueError, match=r"(?s)It has:\nname: string.*This version reads:\nid: string"):
        read_manifests([uri])
    older = UTTERANCE_SCHEMA.with_metadata({"speechmill": "Utterance 0"})
    write(uri, to_table([ROW], UTTERANCE_SCHEMA).cast(older))
    with pytest.raises(ValueError, match="Utterance 0"):
        read_manifests([uri])


def test_dropped_rows_are_no_manifest(tmp_path: Path) -> None:
    uri = str(tmp_path / "dropped.parquet")
    rows = [Dropped("a", "c", "train", "/a", 0.0, "", "undecodable", "cut off")]
    write(uri, in_order(to_table(rows, DROPPED_SCHEMA)))
    with pytest.raises(ValueError, match="reason: string"):
        read_manifests([uri])


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    uri = tmp_path / MANIFEST
    uri.write_text("not parquet at all")
    with pytest.raises(ValueError, match=f"{uri}: not a readable Parquet file"):
        read_manifests([str(uri)])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    folder = save(tmp_path, ROW)
    with pytest.raises(pa.ArrowInvalid):
        write_utterances(f"{folder}/{MANIFEST}", [replace(ROW, sample_rate="fast")])  # type: ignore[arg-type]
    assert read_manifests([folder]) == [ROW]
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]
