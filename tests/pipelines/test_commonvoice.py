"""Common Voice as it comes: every version's columns, quotes as they are, an extra training split that leaks nothing."""

import argparse
import csv
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import storage
from manifests.schema import Dropped
from pipelines.candidates import Candidate
from pipelines.commonvoice import clip_table
from pipelines.corpora import commonvoice

OLD = ("client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accent")
NEW = ("client_id", "path", "sentence_id", "sentence", "sentence_domain", "up_votes", "down_votes", "age", "gender",
       "accents", "variant", "locale", "segment")  # fmt: skip
LOCALES = {
    "cv-corpus-1": ["en"],
    "cv-corpus-6.1-2020-12-11": ["ar", "de", "en", "es", "fr", "ja", "pt", "ru", "ta", "zh-CN", "zh-HK", "zh-TW"],
}
TABLES = ("train", "dev", "test", "validated", "other", "invalidated")


def arguments(root: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    commonvoice.add_arguments(parser)
    args = parser.parse_args(["--root", str(root), *more])
    args.workers, args.ray_address, args.json = 1, None, False
    return args


def listed(root: Path, *more: str) -> list[Candidate | Dropped]:
    return list(commonvoice.candidates(arguments(root, *more)))


def usable(found: list[Candidate | Dropped]) -> list[Candidate]:
    assert [item for item in found if isinstance(item, Dropped)] == []
    return [item for item in found if isinstance(item, Candidate)]


def reasons(found: list[Candidate | Dropped]) -> list[tuple[str, str, str, str]]:
    return [(item.id, item.split, item.reason, item.detail) for item in found if isinstance(item, Dropped)]


def write(
    folder: Path, rows: dict[str, list[dict[str, str]]], columns: tuple[str, ...] = NEW, clips: bool = True
) -> Path:
    """A release in `folder` with the rows of each table; their clips hold only their names."""
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    for table in TABLES:
        cells = [[row.get(column, "") for column in columns] for row in rows.get(table, [])]
        text = "".join("\t".join(line) + "\n" for line in [columns, *cells])
        (folder / f"{table}.tsv").write_text(text, encoding="utf-8")
        for row in rows.get(table, []) if clips else []:
            (folder / "clips" / row["path"]).write_text(row["path"])
    return folder


def row(number: int, speaker: str = "ann", sentence: str = "Some words.", **cells: str) -> dict[str, str]:
    return {"client_id": speaker, "path": f"common_voice_en_{number}.mp3", "sentence": sentence, **cells}


def test_every_language_and_version_is_read_as_the_tables_say(speech_data: Path) -> None:
    """Against Python's CSV reader, which is right for these tables: they hold no lone quote."""
    for release, languages in LOCALES.items():
        for language in languages:
            folder = speech_data / "CommonVoice" / release / language
            found = usable(listed(folder.parent, "--language", language))
            expected = []
            for split in ("train", "dev", "test"):
                with (folder / f"{split}.tsv").open(newline="", encoding="utf-8") as file:
                    expected += [(split, cells) for cells in csv.DictReader(file, delimiter="\t")]
            assert len(found) > 10
            assert [(c.split, c.speaker, c.text_raw, c.audio) for c in found] == [
                (split, cells["client_id"], cells["sentence"].strip(), str(folder / "clips" / cells["path"]))
                for split, cells in expected
            ]
            assert {(c.language, c.licence[:3]) for c in found} == {(language, "CC0")}
            assert {release.removeprefix("cv-corpus-") in c.source for c in found} == {True}
            assert all(c.size_bytes == Path(c.audio).stat().st_size for c in found)


def test_an_archive_gives_what_its_tree_gives(speech_data: Path, tmp_path: Path) -> None:
    releases = speech_data / "CommonVoice" / "cv-corpus-6.1-2020-12-11"
    packed = tmp_path / "cv.tar.gz"
    with tarfile.open(packed, "w:gz", compresslevel=1) as file:
        for language in ("ta", "zh-HK"):
            file.add(releases / language, f"cv-corpus-6.1-2020-12-11/{language}")
    root = tmp_path / "root"
    commonvoice.fetch(arguments(root, "--archive", str(packed)))
    from_tar = usable(listed(root, "--language", "ta", "zh-HK"))
    from_tree = usable(listed(releases, "--language", "ta", "zh-HK"))
    assert len(from_tar) == 24

    def without_place(found: list[Candidate]) -> list[tuple[object, ...]]:
        return [(c.id, c.split, c.speaker, c.text_raw, c.extra, c.source, storage.read_bytes(c.audio)) for c in found]

    assert without_place(from_tar) == without_place(from_tree)
    assert all(c.audio.startswith(f"{root}/cv.tar#") for c in from_tar)


def test_any_folder_around_a_release_will_do(tmp_path: Path) -> None:
    folder = write(tmp_path / "all" / "cv-corpus-17.0-2024-03-15" / "en", {"train": [row(1)]})
    expected = usable(listed(folder))
    assert [c.source for c in expected] == ["Common Voice 17.0-2024-03-15 en (mozilladatacollective.com)"]
    assert listed(folder.parent) == listed(folder.parent.parent) == listed(tmp_path, "--language", "en") == expected


def test_the_first_versions_have_no_folder_for_the_language(tmp_path: Path) -> None:
    folder = write(tmp_path / "cv-corpus-4-2019-12-10", {"train": [row(1)]}, OLD)
    with pytest.raises(ValueError, match="which language is to be read"):
        listed(folder)
    assert [c.language for c in usable(listed(folder, "--language", "de"))] == ["de"]


def test_rows_of_another_language_are_not_taken_for_this_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", {"train": [row(1, locale="de"), row(2, locale="en")]})
    assert [(d[0], d[2], d[3]) for d in reasons(listed(folder, "--language", "en"))] == [
        ("common_voice_en_1", "other language", "en/train.tsv, line 2: its locale is de")
    ]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ([], "which language is to be read. Say --language with one or more of de, en"),
        (["--language", "fr"], "--language fr: not in .*; there are de, en"),
        (["--language", "en"], "holds several versions of en: 16.1-2023-12-06, 17.0-2024-03-15; choose one with --ver"),
        (["--language", "en", "--version", "18"], "--version 18: not in .* for en; there are 16.1-2023-12-06, 17.0-"),
        (
            ["--language", "de", "--splits", "test", "train-extra"],
            "de in .* has no test.tsv; there are dev, invalid",
        ),
    ],
)
def test_a_choice_that_is_not_made_says_what_there_is(tmp_path: Path, more: list[str], says: str) -> None:
    for place in ("cv-corpus-16.1-2023-12-06/en", "cv-corpus-17.0-2024-03-15/en", "cv-corpus-17.0-2024-03-15/de"):
        write(tmp_path / place, {"train": [row(1)]})
    (tmp_path / "cv-corpus-17.0-2024-03-15" / "de" / "test.tsv").unlink()
    with pytest.raises(ValueError, match=says):
        listed(tmp_path, *more)


def test_a_version_is_chosen_by_its_number_or_its_whole_name(tmp_path: Path) -> None:
    for place in ("cv-corpus-1/en", "cv-corpus-17.0-2024-03-15/en"):
        write(tmp_path / place, {"train": [row(1)]})
    for version in ("17.0", "17.0-2024-03-15", "1"):
        (found,) = usable(listed(tmp_path, "--language", "en", "--version", version))
        assert f"cv-corpus-{version}" in found.audio


def test_a_folder_of_something_else_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp3").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"holds no <language>/clips and .* as Common Voice does, but notes.txt; give"):
        listed(tmp_path)


def test_columns_that_a_version_lacks_are_left_out(tmp_path: Path) -> None:
    old = write(tmp_path / "1" / "en", {"train": [row(1, age="teens", accent="us", up_votes="3")]}, OLD)
    new = write(
        tmp_path / "2" / "en",
        {"train": [row(1, accents="England, Wales", variant="en-GB", sentence_id="ab12", sentence_domain="finance",
                       segment="Benchmark", gender="female_feminine", down_votes="0")]},
    )  # fmt: skip
    assert [json.loads(c.extra) for c in usable(listed(old))] == [{"age": "teens", "accent": "us", "up_votes": "3"}]
    assert [json.loads(c.extra) for c in usable(listed(new))] == [
        {"gender": "female_feminine", "accent": "England, Wales", "variant": "en-GB", "segment": "Benchmark",
         "down_votes": "0", "sentence_id": "ab12", "sentence_domain": "finance"}
    ]  # fmt: skip
    (new / "train.tsv").write_text("client_id\tsentence\n")
    with pytest.raises(ValueError, match=r"train.tsv: has no column path; it has client_id, sentence"):
        listed(new)


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ('"""Thank you,"" said the boy."', '"Thank you," said the boy.'),
        ('"He saw cinema as ""plastic art in motion""."', 'He saw cinema as "plastic art in motion".'),
        ('"A lone "" quote"', 'A lone " quote'),
        ('"Never closed', '"Never closed'),
        ('5 " long', '5 " long'),
        ('"Quoted as a whole"', '"Quoted as a whole"'),
        ('"One" and "two"', '"One" and "two"'),
        ('"Odd""', '"Odd""'),
        ('""', '""'),
        ('"', '"'),
    ],
)
def test_quotes_are_undone_where_a_cell_is_wrapped_and_swallow_nothing(
    tmp_path: Path, cell: str, sentence: str
) -> None:
    rows = [row(1, sentence="Before."), row(2, sentence=cell), row(3, sentence="After.")]
    found = usable(listed(write(tmp_path / "en", {"train": rows})))
    assert [c.text_raw for c in found] == ["Before.", sentence, "After."]


@given(st.text(st.characters(exclude_characters="\t\r\n", exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1))
def test_what_a_csv_writer_wraps_is_unwrapped(sentence: str) -> None:
    file = io.StringIO()
    csv.writer(file, delimiter="\t", lineterminator="").writerow([sentence, "x"])
    assert clip_table.unquote(file.getvalue().removesuffix("\tx")) == sentence


def test_lines_that_make_no_sense_are_dropped_with_their_number(tmp_path: Path) -> None:
    folder = write(tmp_path / "en", {"train": [row(1), row(2)]})
    lines = (folder / "train.tsv").read_text().splitlines()
    broken = [*lines[:2], "only\ttwo", lines[2] + "\tmore", "", "\t" * 12, lines[2]]
    (folder / "train.tsv").write_bytes(("\ufeff" + "\r\n".join(broken)).encode())
    found = listed(folder)
    assert [c.id for c in found if isinstance(c, Candidate)] == ["common_voice_en_1", "common_voice_en_2"]
    assert reasons(found) == [
        ("en-train-line-3", "train", "bad row", "en/train.tsv, line 3: 2 columns where the header has 13"),
        ("en-train-line-4", "train", "bad row", "en/train.tsv, line 4: 14 columns where the header has 13"),
        ("en-train-line-6", "train", "bad row", "en/train.tsv, line 6: its path is empty"),
    ]


@pytest.mark.parametrize(("data", "says"), [(b"", "is empty"), (b"client_id\tpath\tsentence\nx\ty\t\xff\n", "line 2")])
def test_a_table_that_was_damaged_is_named(tmp_path: Path, data: bytes, says: str) -> None:
    folder = write(tmp_path / "en", {"train": [row(1)]})
    (folder / "train.tsv").write_bytes(data)
    with pytest.raises(ValueError, match=f"train.tsv.*{says}"):
        listed(folder)


def test_missing_clips_and_impossible_durations_are_seen_without_opening_a_clip(tmp_path: Path) -> None:
    folder = write(tmp_path / "en", {"train": [row(n) for n in range(1, 6)]})
    (folder / "clips" / "common_voice_en_1.mp3").unlink()
    (folder / "clips" / "common_voice_en_5.mp3").rename(folder / "clips" / "common_voice_en_6.mp3")
    lines = ["clip\tduration[ms]", "common_voice_en_2.mp3\t0", "common_voice_en_3.mp3\t3600000"]
    (folder / "clip_durations.tsv").write_text("\n".join(lines))
    found = listed(folder)
    assert [c.id for c in found if isinstance(c, Candidate)] == ["common_voice_en_4"]
    assert [(d.id, d.reason, d.duration_s) for d in found if isinstance(d, Dropped)] == [
        ("common_voice_en_1", "missing file", 0.0),
        ("common_voice_en_2", "impossible duration", 0.0),
        ("common_voice_en_3", "impossible duration", 3600.0),
        ("common_voice_en_5", "missing file", 0.0),
    ]


def test_names_without_extension_find_their_clips(tmp_path: Path) -> None:
    folder = write(tmp_path / "en", {"train": [row(1)]})
    table = folder / "train.tsv"
    table.write_text(table.read_text().replace(".mp3", ""))
    assert [(c.id, Path(c.audio).name) for c in usable(listed(folder))] == [
        ("common_voice_en_1", "common_voice_en_1.mp3")
    ]


def test_other_splits_come_when_they_are_asked_for(tmp_path: Path) -> None:
    rows = {table: [row(n, f"speaker {n}", f"Sentence {n}")] for n, table in enumerate(TABLES)}
    folder = write(tmp_path / "en", rows)
    assert Counter(c.split for c in usable(listed(folder))) == {"train": 1, "dev": 1, "test": 1}
    assert [c.split for c in usable(listed(folder, "--splits", "other", "validated"))] == ["validated", "other"]


def test_the_extra_split_says_what_it_left_out(tmp_path: Path) -> None:
    splits = {"train": [row(1, "ann", "One.")], "dev": [row(2, "ben", "Two!")], "test": [row(3, "cat", "Three, two.")]}
    more = [
        row(4, "ben", "New words"),
        row(5, "dan", "three  two"),
        row(6, "ann", "Bad words"),
        row(7, "ann", "Good words"),
    ]
    folder = write(tmp_path / "en", splits | {"validated": [r for s in splits.values() for r in s] + more})
    reported = "sentence_id\tsentence\tlocale\treason\nx\tBad words\ten\toffensive-language\nx\tBad words\ten\tmine\n"
    (folder / "reported.tsv").write_text(reported)
    found = listed(folder, "--splits", "train-extra", "train")
    assert [(c.split, c.id) for c in found if isinstance(c, Candidate)] == [
        ("train", "common_voice_en_1"),
        ("train-extra", "common_voice_en_7"),
    ]
    assert reasons(found) == [
        ("common_voice_en_4", "train-extra", "speaker of dev or test", "en/validated.tsv, line 5: ben"),
        ("common_voice_en_5", "train-extra", "sentence of dev or test", "en/validated.tsv, line 6"),
        (
            "common_voice_en_6",
            "train-extra",
            "reported sentence",
            "en/validated.tsv, line 7: mine, offensive-language",
        ),
    ]


def test_reported_sentences_stay_in_published_splits_and_say_so(tmp_path: Path) -> None:
    folder = write(tmp_path / "en", {"test": [row(1, sentence='"A ""bad"" one"')]})
    (folder / "reported.tsv").write_text('sentence\tlocale\treason\n"A ""bad"" one"\ten\tgrammar-or-spelling\n')
    (found,) = usable(listed(folder))
    assert json.loads(found.extra) == {"reported": "grammar-or-spelling"}


clips = st.lists(
    st.tuples(
        st.sampled_from(["train", "dev", "test", "validated", "validated"]),
        st.sampled_from(["ann", "ben", "cat", "dan", "eve", "fay"]),
        st.sampled_from(["Yes.", "yes", "No!", '"""No,"" he said."', "Maybe so", "नमस्ते", "नमस्ता"]),
    ),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(clips)
def test_the_extra_split_shares_no_speaker_and_no_sentence_with_the_tests(
    tmp_path_factory: pytest.TempPathFactory, clips: list[tuple[str, str, str]]
) -> None:
    rows: dict[str, list[dict[str, str]]] = {table: [] for table in TABLES}
    for number, (table, speaker, sentence) in enumerate(clips):
        for each in {table, "validated"}:
            rows[each].append(row(number, speaker, sentence))
    folder = write(tmp_path_factory.mktemp("cv") / "en", rows, OLD)
    found = listed(folder, "--splits", "train", "dev", "test", "train-extra")
    of: dict[str, list[Candidate]] = {}
    for item in found:
        if isinstance(item, Candidate):
            of.setdefault(item.split, []).append(item)
    tests = of.get("dev", []) + of.get("test", [])
    extra = of.get("train-extra", [])
    assert not {c.speaker for c in extra} & {c.speaker for c in tests}
    assert not {c.text_raw.casefold().strip(".") for c in extra} & {c.text_raw.casefold().strip(".") for c in tests}
    assert sorted(item.id for item in found) == sorted(f"common_voice_en_{n}" for n in range(len(clips)))  # all, once


def test_the_self_test_knows_the_release_it_is_for(tmp_path: Path) -> None:
    for version in ("25.0-2026-03-09", "17.0-2024-03-15"):
        for language in ("en", "de"):
            write(tmp_path / f"cv-corpus-{version}" / language, {"train": [row(1)]})
    new = tmp_path / "cv-corpus-25.0-2026-03-09"
    assert commonvoice.published(arguments(new, "--language", "en")) == {"train": 1147812, "dev": 16403, "test": 16403}
    assert commonvoice.published(arguments(new, "--language", "en", "--splits", "train-extra")) == {}
    for languages in (["de"], ["en", "de"]):
        assert commonvoice.published(arguments(new, "--language", *languages)) == {}
    assert commonvoice.published(arguments(tmp_path / "cv-corpus-17.0-2024-03-15", "--language", "en")) == {}
