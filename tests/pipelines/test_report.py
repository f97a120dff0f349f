"""The report of a manifest: its figures are those of the rows, no value can do harm, and what is missing is said."""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from manifests.schema import DROPPED_SCHEMA, UTTERANCE_SCHEMA, Dropped, Utterance, to_table
from pipelines import fingerprint, leaks, report
from pipelines.leaks import Leaks
from pipelines.reporting import text

ROW = Utterance("a", "toy", "train", "en", "s", "gone.wav", 0.0, 2.0, 16000, 1, "One!", "one", "CC0", "made")
LOST = Dropped("x", "toy", "train", "x.wav", 1.5, "Some 1", "unknown characters", "unknown characters: 1")
VOID = {"meta", "img", "br", "hr", "input", "link"}
HOSTILE = "</td></bdi><script>alert('x')</script><img src=x onerror=alert(1)>\"'&amp;\u202e"


class Page(HTMLParser):
    """A page taken apart: tables by the label of their box, and all text, tags and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._table: list[list[str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == [], "tags that are not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        values = {name: value or "" for name, value in attrs}
        self.attributes += [(tag, name, value) for name, value in values.items()]
        if "id" in values:
            self.ids.append(values["id"])
        if values.get("role") == "region":
            self._table = self.tables.setdefault(values["aria-label"], [])
        if tag == "tr":
            self._table.append([])
        if tag in ("td", "th"):
            self._table[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} is closed, but is not what was opened last"

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.open):
            self._table[-1][-1] += data

    def values(self, tag: str, attribute: str) -> list[str]:
        return [value for t, name, value in self.attributes if (t, name) == (tag, attribute)]


def leaks_of(rows: list[Utterance], *keep: str) -> Leaks:
    return leaks.find(to_table(rows, UTTERANCE_SCHEMA), fingerprint.to_table({}), frozenset(keep))


def page(
    folder: Path,
    rows: list[Utterance],
    lost: list[Dropped] | None = None,
    found: Leaks | None = None,
    title: str = "Toy",
) -> Page:
    dropped = to_table(lost or [], DROPPED_SCHEMA)
    report.write(str(folder), to_table(rows, UTTERANCE_SCHEMA), dropped, found, title, "prepare-corpus toy --out m")
    return Page((folder / "report.html").read_text())


def figures(rows: list[Utterance], of: Callable[[Utterance], str]) -> dict[str, list[str]]:
    """What a table of hours says of each group: hours, utterances, speakers."""
    found = {}
    for name in {of(row) for row in rows}:
        group = [row for row in rows if of(row) == name]
        speakers = len({(row.corpus, row.speaker) for row in group if row.speaker})
        hours = sum(row.duration_s for row in group) / 3600
        found[name] = [f"{hours:,.3f}", f"{len(group):,}", f"{speakers:,}" if speakers else "not known"]
    return found


def mixture() -> list[Utterance]:
    rng = np.random.default_rng(1)
    rows = []
    for i in range(2000):
        language = ["en", "ru", "zh-CN"][i % 3]
        words = {"en": ["the", "cat", "it's"], "ru": ["кот", "и", "пёс"], "zh-CN": ["你好", "世界"]}[language]
        spoken = rng.choice(words, rng.integers(1, 9)).tolist()
        rows.append(
            replace(
                ROW,
                id=f"u{i:04d}",
                corpus=["one", "two"][i % 2],
                split=rng.choice(["train", "dev", "test"], p=[0.8, 0.1, 0.1]).item(),
                language=language,
                speaker=["", *map(str, range(60))][rng.integers(61)],
                duration_s=float(rng.gamma(4, 1.5)) + 0.2,
                sample_rate=[16000, 8000][int(i % 10 == 0)],
                licence=["CC0", "CC BY 4.0"][i % 2],
                text=("" if language == "zh-CN" else " ").join(spoken),
                loudness_lufs=float(rng.normal(-25, 4)),
                peak_dbfs=-3.0,
                clipped_share=0.002 if i % 50 == 0 else 0.0,
                notes=f"offset of {rng.normal():+.4f} taken out; channel 1 is silent" if i % 4 == 0 else "",
                extra=json.dumps({"accent": ["us", "gb"][i % 2], "clip": str(i)}) if i % 3 else "",
            )
        )
    return rows


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Utterance], Page]:
    rows = mixture()
    return rows, page(tmp_path_factory.mktemp("mixed"), rows)


@pytest.mark.parametrize("column", ["split", "language", "corpus", "licence"])
def test_hours_utterances_and_speakers_are_those_of_the_rows(mixed: tuple[list[Utterance], Page], column: str) -> None:
    rows, shown = mixed
    table = shown.tables[f"Hours by {column}"]
    assert {r[0]: [r[1], r[4], r[5]] for r in table[1:]} == figures(rows, lambda u: getattr(u, column))
    hours = [float(r[1]) for r in table[1:]]
    assert hours == sorted(hours, reverse=True)
    if column != "split":  # a column for each split, which add up to the whole
        assert sorted(table[0][6:]) == ["dev", "test", "train"]
        for row in table[1:]:
            assert sum(float(h) for h in row[6:] if h != "–") == pytest.approx(float(row[1]), abs=0.002)


def test_the_speakers_with_most_hours_come_first_and_the_unknown_are_counted(
    mixed: tuple[list[Utterance], Page],
) -> None:
    rows, shown = mixed
    seconds: Counter[tuple[str, str]] = Counter()
    for row in rows:
        seconds[row.speaker, row.corpus] += row.duration_s  # type: ignore[assignment]
    unknown = sum(row.speaker == "" for row in rows)
    top = sorted(((s, k) for k, s in seconds.items() if k[0]), reverse=True)[:30]
    table = shown.tables["Speakers with the most hours"][1:]
    assert [row[0] for row in table] == [f"{speaker} {corpus}" for _, (speaker, corpus) in top]
    assert [row[1] for row in table] == [f"{s / 3600:.3f}" for s, _ in top]
    assert f"120 speakers known by name. {unknown} utterances" in shown.text
    periods = shown.tables["Speakers by how long they are heard"][1:]
    assert sum(int(row[1]) for row in periods) == 120


def test_characters_and_words_of_each_language_are_counted(mixed: tuple[list[Utterance], Page]) -> None:
    rows, shown = mixed
    for language in ("en", "ru", "zh-CN"):
        texts = [row.text for row in rows if row.language == language]
        characters = Counter("".join(texts))
        part = re.split(r"(?=<details class=\"card\")", shown.html)
        mine = next(p for p in part if f">{language}</bdi>: {len(texts)} utt" in p)
        chips = re.findall(r'title="U\+([0-9A-F]+)[^"]*"><bdi[^>]*>[^<]*</bdi><small>([\d,]+)<', mine)
        assert {chr(int(code, 16)): int(n.replace(",", "")) for code, n in chips} == characters
        assert f"{len(characters)} different characters, {characters.total():,} in all" in mine
        if language == "zh-CN":
            assert "Not counted" in mine
            continue
        words = Counter(word for t in texts for word in t.split())
        shown_words = re.findall(r"<span><bdi[^>]*>([^<]*)</bdi><small>([\d,]+)<", mine)
        assert {unescaped(w): int(n.replace(",", "")) for w, n in shown_words} == words
        assert f"{words.total():,} words, {len(words)} different" in mine


def unescaped(value: str) -> str:
    return value.replace("&#x27;", "'")


def test_rates_clipping_remarks_and_what_else_is_known_are_counted(mixed: tuple[list[Utterance], Page]) -> None:
    rows, shown = mixed

    def counts(label: str) -> dict[str, str]:
        return {row[0]: row[1] for row in shown.tables[label][1:]}

    assert counts("Sample rate of the file") == {"16,000 Hz": "1,800", "8,000 Hz": "200"}
    assert counts("Clipped samples") == {"none": "1,960", "0.1 to 1 %": "40"}
    assert counts("Remarks on the audio") == {"offset of … taken out": "500", "channel … is silent": "500"}
    accents = Counter(json.loads(row.extra)["accent"] for row in rows if row.extra)
    assert counts("accent") == {accent: f"{n:,}" for accent, n in accents.items()}
    clips = sum(row.extra != "" for row in rows)
    assert len(counts("clip")) == 10 and f"{clips - 10:,} more values" in shown.text


def test_histograms_say_how_many_and_the_median(mixed: tuple[list[Utterance], Page]) -> None:
    rows, shown = mixed
    for split in ("train", "dev", "test"):
        lengths = [row.duration_s for row in rows if row.split == split]
        start = f"Length in s, {split}: n = {len(lengths):,}, median {round(float(np.median(lengths)), 2):g}, "
        about = [value for value in shown.values("svg", "aria-label") if value.startswith(start)]
        assert len(about) == 1
        drawing = shown.html.split(f'aria-label="{about[0]}">')[1].split("</svg>")[0]
        bars = re.findall(r"<title>([\d.]+) (?:– ([\d.]+)|and above) s: ([\d,]+) ", drawing)
        assert sum(int(n.replace(",", "")) for _, _, n in bars) == len(lengths)
        for low, high, n in bars:
            assert int(n) == sum(float(low) <= length < float(high or "inf") for length in lengths)


def test_what_was_dropped_is_counted_with_examples_of_different_details(tmp_path: Path) -> None:
    lost = [replace(LOST, id=f"a{i}", detail=f"unknown characters: {i % 3}") for i in range(30)]
    lost += [replace(LOST, id="b", reason="too long", duration_s=3600.0, audio="/a/long.wav", detail="61 s")]
    shown = page(tmp_path, [ROW], lost)
    table = shown.tables["Dropped, by reason"][1:]
    assert [(row[0], row[1], row[4]) for row in table] == [
        ("unknown characters", "30", f"{45 / 3600:.3f}"),
        ("too long", "1", "1.000"),
    ]
    examples = shown.tables["Examples: unknown characters"][1:]
    assert len(examples) == 5 and {row[1][-1] for row in examples} == {"0", "1", "2"}
    assert shown.tables["Examples: too long"][1] == ["b", "61 s", "Some 1", "/a/long.wav", "3600.00", "train"]
    assert "31 utterances of 32 (96.9 %)" in shown.text
    assert "Nothing was dropped" in page(tmp_path, [ROW]).text


def test_leaks_are_counted_those_that_stay_first_of_all(tmp_path: Path) -> None:
    said = "a sentence of five words"
    rows = [replace(ROW, id=f"u{i}", speaker=f"s{i}", text=said if i < 3 else f"something else {i}") for i in range(9)]
    rows += [replace(ROW, id="t", split="test", speaker="s8", text=said, duration_s=3600.0)]
    found = leaks_of(rows, "speaker")
    shown = page(tmp_path, rows, found=found)
    table = {row[0]: row[1:4] for row in shown.tables["Leaks and duplicates"][1:]}
    assert table["sentence also in test"] == ["dropped", "3", "0.002"]
    assert table["speaker also in test"] == ["only reported", "1", "0.001"]
    assert "u0 (toy train): said in t (toy test)" in shown.text
    assert "Reported, not dropped: 1 utterance, speaker also in test." in shown.text
    clean = Leaks(found.dropped.slice(0, 0), (), ("toy: <b>warned</b>",))
    assert "None found" in page(tmp_path, rows, found=clean).text
    assert "toy: <b>warned</b>" in page(tmp_path, rows, found=clean).text
    assert "Not looked for" in page(tmp_path, rows).text


@pytest.mark.parametrize(
    "field", ["id", "split", "corpus", "language", "speaker", "text", "text_raw", "licence", "source", "audio"]
)
def test_no_value_of_a_row_becomes_part_of_the_page(tmp_path: Path, field: str) -> None:
    plain = page(tmp_path, [ROW], [LOST])
    hostile = page(tmp_path, [replace(ROW, **{field: HOSTILE})], [LOST])
    assert hostile.tags["script"] == 0 and hostile.tags["img"] == plain.tags["img"]
    assert not [a for a in hostile.attributes if a[1].startswith("on")]
    assert HOSTILE[:19] in hostile.text  # a speaker's name is shortened


def test_nor_does_anything_else_that_it_is_given(tmp_path: Path) -> None:
    lost = replace(LOST, id=HOSTILE, reason=HOSTILE, detail=HOSTILE, text_raw=HOSTILE, audio=HOSTILE, split=HOSTILE)
    row = replace(ROW, notes=HOSTILE, extra=json.dumps({HOSTILE: HOSTILE}))
    report.write(
        str(tmp_path), to_table([row], UTTERANCE_SCHEMA), to_table([lost], DROPPED_SCHEMA), None, HOSTILE, HOSTILE
    )
    shown = Page((tmp_path / "report.html").read_text())
    assert shown.tags["script"] == 0 and shown.tags["img"] == 0
    assert shown.text.count(HOSTILE) >= 10


def test_the_page_names_no_address_that_a_browser_would_load(mixed: tuple[list[Utterance], Page]) -> None:
    shown = mixed[1]
    loaded = [
        (t, a, v) for t, a, v in shown.attributes if a in ("src", "srcset", "poster", "data", "action", "background")
    ]
    assert all(value.startswith("data:") for _, _, value in loaded)
    assert all(value.startswith("#") for value in shown.values("a", "href"))
    assert set(shown.tags) & {"script", "link", "iframe", "object", "base", "form"} == set()
    assert "@import" not in shown.html and "url(" not in shown.html
    assert "default-src 'none'" in shown.values("meta", "content")[0]
    targets = [value.removeprefix("#") for value in shown.values("a", "href")]
    assert set(targets) <= set(shown.ids) and len(shown.ids) == len(set(shown.ids))


def test_the_same_rows_give_the_same_bytes_in_whatever_chunks(tmp_path: Path) -> None:
    rows = mixture()[:300]
    table = to_table(rows, UTTERANCE_SCHEMA)
    chunks = pa.concat_tables([table.slice(0, 7), table.slice(7, 0), table.slice(7)])
    for folder, form in (("a", table), ("b", table), ("c", chunks)):
        report.write(str(tmp_path / folder), form, to_table([LOST], DROPPED_SCHEMA), None, "Toy", "made")
    first = (tmp_path / "a/report.html").read_bytes()
    assert first == (tmp_path / "b/report.html").read_bytes() == (tmp_path / "c/report.html").read_bytes()


def test_audio_that_nobody_listened_to_has_no_levels(tmp_path: Path) -> None:
    shown = page(tmp_path, [ROW, replace(ROW, id="b")])
    assert shown.tables["Clipped samples"][1:] == [["not listened to", "2", "100.0 %", "0.001"]]
    assert "2 utterances not listened to" in shown.text
    assert not [row for row in shown.tables["Spreads"] if row[0].startswith(("Loudness", "Peak"))]


def test_a_manifest_without_speakers_and_one_without_rows(tmp_path: Path) -> None:
    nobody = page(tmp_path, [replace(ROW, speaker="")])
    assert "0 speakers known by name. 1 utterance" in nobody.text and "not known" in nobody.tables["Hours by split"][1]
    empty = page(tmp_path, [], [LOST])
    assert "1 utterance of 1 (100.0 %)" in empty.text and "Hours by split" not in empty.tables


def test_audio_that_has_moved_away_leaves_the_rest_of_the_report(
    tmp_path: Path, corpus: Callable[..., list[Utterance]]
) -> None:
    rows = corpus(tmp_path, 3)
    Path(rows[1].audio).unlink()
    Path(rows[2].audio).write_bytes(b"RIFF")
    shown = page(tmp_path, rows)
    assert shown.tags["audio"] == shown.tags["img"] == 1
    assert shown.text.count("cannot be read any more") == 2


@pytest.mark.parametrize(
    ("char", "name"),
    [
        ("a", "Latin"),
        ("ß", "Latin"),
        ("я", "Cyrillic"),
        ("ع", "Arabic"),
        ("א", "Hebrew"),
        ("த", "Tamil"),
        ("்", "Tamil"),
        ("字", "Han"),
        ("々", "Han"),
        ("か", "Hiragana"),
        ("ー", "Katakana"),
        ("한", "Hangul"),
        ("ไ", "Thai"),
        ("\u0301", "marks of several scripts"),
        ("'", "space and signs"),
        (" ", "space and signs"),
        ("ʼ", "space and signs"),
        ("3", "digits"),
    ],
)
def test_the_script_of_a_character(char: str, name: str) -> None:
    assert text.script(char) == name


def test_a_stray_letter_is_marked_and_leads_to_its_utterance(tmp_path: Path) -> None:
    rows = [replace(ROW, id=f"u{i}", text="the cat sat on the mat " * 50) for i in range(40)]
    rows[7] = replace(rows[7], text="thе cat")  # a Cyrillic е
    shown = page(tmp_path, rows)
    assert "1 rare character" in shown.text and "Language en: 1 of" in shown.text
    assert re.search(r'<dt><bdi[^>]*>е</bdi> 1×</dt><dd><bdi dir="auto">u7</bdi></dd>', shown.html)
    assert shown.html.count('class="rare"') == 1
