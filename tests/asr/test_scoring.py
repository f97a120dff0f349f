import dataclasses
import json
import math
from html.parser import HTMLParser

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.evaluation.score_page import render, summary_text
from asr.evaluation.scoring import Edits, Scored, align, count_edits, score, tokens

WORDS = st.lists(st.sampled_from(["a", "b", "c", "dé", "ee", "<i>", "文"]), max_size=12)
TEXTS = st.lists(st.tuples(WORDS, WORDS).map(lambda p: (" ".join(p[0]), " ".join(p[1]))), max_size=12)


def scored(reference: str, hypothesis: str, id: str = "u", speaker: str = "s", corpus: str = "c") -> Scored:
    return Scored(id, corpus, "test", speaker, 1.5, reference, hypothesis)


def corpus_of(count: int, speakers: int, seed: int = 0) -> list[Scored]:
    """Texts of 1 to 20 words in which about one word of five is recognised wrongly, or one is lost."""
    rng = np.random.default_rng(seed)
    results = []
    for i in range(count):
        said = [f"w{n}" for n in rng.integers(50, size=rng.integers(1, 21))]
        heard = [word if rng.random() > 0.2 else "wrong" for word in said if rng.random() > 0.05]
        results.append(scored(" ".join(said), " ".join(heard), f"u{i}", f"s{i % speakers}"))
    return results


def levenshtein(reference: list[str], hypothesis: list[str]) -> int:
    """Wagner and Fischer 1974, the plain table."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(hypothesis) + 1)] for i in range(len(reference) + 1)]
    for i, said in enumerate(reference, 1):
        for j, heard in enumerate(hypothesis, 1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (said != heard))
    return table[-1][-1]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "edits"),
    [
        ("", "", Edits()),
        ("", "a b", Edits(insertions=2)),
        ("a b", "", Edits(deletions=2)),
        ("the cat sat", "the cat sat", Edits(hits=3)),
        ("the cat sat", "the bat sat", Edits(hits=2, substitutions=1)),
        ("the cat sat", "the sat", Edits(hits=2, deletions=1)),
        ("the cat sat", "the old cat sat", Edits(hits=3, insertions=1)),
        ("  the\tcat ", "the\n cat", Edits(hits=2)),
    ],
)
def test_words_by_hand(reference: str, hypothesis: str, edits: Edits) -> None:
    assert count_edits(reference, hypothesis) == edits


def test_characters_count_one_space_between_words() -> None:
    assert tokens(" ab \n c ", "char") == ["a", "b", " ", "c"]
    assert count_edits("ab  c", "abc", "char") == Edits(hits=3, deletions=1)
    assert count_edits("", "ab", "char") == Edits(insertions=2)


def test_pairs_by_hand() -> None:
    assert align(["the", "cat", "sat", "still"], ["the", "sat", "still", "down"]) == [
        ("the", "the"),
        ("cat", None),
        ("sat", "sat"),
        ("still", "still"),
        (None, "down"),
    ]
    assert align([], ["a"]) == [(None, "a")]
    assert align(["a"], []) == [("a", None)]
    assert align([], []) == []


@given(WORDS, WORDS)
def test_fewest_edits_and_both_sides_kept(reference: list[str], hypothesis: list[str]) -> None:
    pairs = align(reference, hypothesis)
    assert [said for said, _ in pairs if said is not None] == reference
    assert [heard for _, heard in pairs if heard is not None] == hypothesis
    assert sum(said != heard for said, heard in pairs) == levenshtein(reference, hypothesis)
    edits = count_edits(" ".join(reference), " ".join(hypothesis))
    assert edits.errors == levenshtein(reference, hypothesis)
    assert edits.reference_length == len(reference)
    assert edits.hits + edits.substitutions + edits.insertions == len(hypothesis)
    chars = count_edits(" ".join(reference), " ".join(hypothesis), "char")
    assert chars.errors == levenshtein(list(" ".join(reference)), list(" ".join(hypothesis)))


@given(WORDS.filter(len))
def test_identical_texts_have_rate_0(words: list[str]) -> None:
    report = score([scored(" ".join(words), " ".join(words), f"u{i}") for i in range(3)], resamples=20)
    assert report.total.wer.edits.rate == report.total.cer.edits.rate == 0
    assert (report.total.wer.low, report.total.wer.high) == (0, 0)
    assert not report.worst and not report.substitutions and not report.deletions and not report.insertions


@given(TEXTS.map(lambda texts: [(said, heard) for said, heard in texts if said]).filter(len))
def test_rates_of_the_whole_are_jiwers(texts: list[tuple[str, str]]) -> None:
    total = score([scored(*pair, id=f"u{i}") for i, pair in enumerate(texts)], resamples=10).total
    said, heard = [pair[0] for pair in texts], [pair[1] for pair in texts]
    assert total.wer.edits.rate == pytest.approx(jiwer.wer(said, heard))
    assert total.cer.edits.rate == pytest.approx(jiwer.cer(said, heard))


@given(TEXTS.filter(lambda texts: len(texts) > 1 and any(said for said, _ in texts)))
def test_interval_holds_the_rate(texts: list[tuple[str, str]]) -> None:
    total = score([scored(*pair, id=f"u{i}") for i, pair in enumerate(texts)]).total
    for measure in (total.wer, total.cer):
        assert measure.low <= measure.edits.rate <= measure.high


def test_rate_is_no_mean_of_rates() -> None:
    report = score([scored("a", "b", "short"), scored("a b c d e f g h i", "a b c d e f g h i", "long")])
    assert report.total.wer.edits.rate == 1 / 10


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(100):
        wrong = rng.random((40, 5)) < 0.3
        texts = [("a a a a a", " ".join("b" if w else "a" for w in row)) for row in wrong]
        total = score([scored(*pair, id=f"u{i}") for i, pair in enumerate(texts)], resamples=200).total
        covered += total.wer.low <= 0.3 <= total.wer.high
    assert 88 <= covered <= 99


def test_interval_narrows_with_more_data() -> None:
    def width(count: int) -> float:
        wer = score(corpus_of(count, speakers=1)).total.wer
        return wer.high - wer.low

    assert width(800) < width(200) / 1.5 < width(50) / 1.5**2


def test_speakers_are_resampled_when_there_are_ten() -> None:
    def of(speakers: int, unknown: int = 0) -> str:
        results = corpus_of(20, speakers)
        return score(
            [dataclasses.replace(r, speaker="") for r in results[:unknown]] + results[unknown:]
        ).total.resampled

    assert of(9) == "utterances"
    assert of(10) == "speakers"
    assert of(10, unknown=11) == "utterances"


def test_speakers_who_differ_widen_the_interval() -> None:
    good = [scored("a b c d", "a b c d", f"g{i}", f"good{i % 5}") for i in range(100)]
    bad = [scored("a b c d", "a b x y", f"b{i}", f"bad{i % 5}") for i in range(100)]
    by_speaker = score(good + bad).total.wer
    by_utterance = score([dataclasses.replace(r, speaker="") for r in good + bad]).total.wer
    assert by_speaker.high - by_speaker.low > 2 * (by_utterance.high - by_utterance.low)


def test_bootstrap_follows_its_seed_and_not_the_order() -> None:
    results = corpus_of(60, speakers=12)
    assert score(results, seed=3) == score(results[::-1], seed=3)
    assert score(results, seed=3).total.wer.low != score(results, seed=4).total.wer.low


def test_large_sets_are_drawn_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    results = corpus_of(30, speakers=1)
    whole = score(results).total
    monkeypatch.setattr("asr.evaluation.scoring.DRAWS_AT_ONCE", 700)
    assert score(results).total == whole


def test_groups_keep_corpora_apart() -> None:
    results = [
        scored("a b", "a b", "1", "anna", "x"),
        scored("a b", "a c", "2", "anna", "y"),
        scored("a", "c", "3", "", "y"),
    ]
    report = score(results)
    assert [(g.corpus, g.name, g.wer.edits.errors) for g in report.corpora] == [("x", "x", 0), ("y", "y", 2)]
    assert [(g.corpus, g.name, g.wer.edits.errors) for g in report.splits] == [("x", "test", 0), ("y", "test", 2)]
    assert [(g.corpus, g.name, g.utterances) for g in report.speakers] == [
        ("x", "anna", 1),
        ("y", "", 1),
        ("y", "anna", 1),
    ]
    assert report.total.speakers == 2
    assert report.total.hours == pytest.approx(4.5 / 3600)
    assert math.isnan(report.corpora[0].wer.low)


def test_worst_utterances_and_confusions() -> None:
    results = [
        scored("a b c", "a b c", "right"),
        scored("a b c", "x b", "two-of-three"),
        scored("a b", "x y", "two-of-two"),
        scored("", "um um", "two-of-none"),
        scored("a", "x", "one"),
    ]
    report = score(results)
    assert [a.scored.id for a in report.worst] == ["two-of-none", "two-of-two", "two-of-three", "one"]
    assert report.worst[2].pairs == [("a", "x"), ("b", "b"), ("c", None)]
    assert [(c.reference, c.hypothesis, c.count) for c in report.substitutions] == [("a", "x", 3), ("b", "y", 1)]
    assert [(c.reference, c.count) for c in report.deletions] == [("c", 1)]
    assert [(c.hypothesis, c.count) for c in report.insertions] == [("um", 2)]
    assert len(score([scored("a", "b", f"u{i}") for i in range(30)]).worst) == 20


def test_json_is_plain() -> None:
    report = json.loads(json.dumps(score(corpus_of(40, speakers=12)).to_json(), allow_nan=False))
    wer = report["wer"]
    assert wer["rate"] == (wer["substitutions"] + wer["deletions"] + wer["insertions"]) / report["words"]
    assert wer["low"] < wer["rate"] < wer["high"]
    assert report["resampled"] == "speakers" and len(report["by_speaker"]) == 12
    assert report["worst"][0]["alignment"][0][0] == report["worst"][0]["reference"].split()[0]


@pytest.mark.parametrize("results", [[], [scored("", "um"), scored("", "", "v")]])
def test_no_reference_words(results: list[Scored]) -> None:
    report = score(results)
    assert math.isnan(report.total.wer.edits.rate)
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert plain["wer"]["rate"] is None and plain["wer"]["low"] is None
    assert "no reference words" in summary_text(report)
    page = render(report, "Empty", {})
    assert "no reference words" in page and "nan" not in page


def test_no_resamples_is_refused() -> None:
    with pytest.raises(ValueError, match="resamples is 0; give 1 or more"):
        score([], resamples=0)


class Page(HTMLParser):
    """Collects a page's tags, the addresses it would load, its text, and checks that tags close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_escapes_and_loads_nothing() -> None:
    evil = "<script>alert('1')</script>"
    results = [Scored(evil, evil, evil, evil, 1.0, f"said {evil}", f"{evil} heard &amp;"), *corpus_of(12, speakers=12)]
    page = Page(render(score(results), f"Test {evil}", {f"bundle {evil}": f"e4d1 {evil}"}))
    assert "script" not in page.tags and not page.addresses
    assert page.text.count(evil) >= 8
    assert "&amp;" in page.text


def test_page_shows_figures_and_marks_without_colour() -> None:
    page = render(
        score([scored("one two three", "one too three four"), scored("five", "", "v")]), "Title", {"beam": "4"}
    )
    text = Page(page).text
    assert "75.00 %" in text and "utterances were drawn" in text and "beam" in text
    for mark in ("S", "D", "I"):
        assert f'">{mark}</b>' in page
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page


def test_page_limits_speakers_and_says_so() -> None:
    text = Page(render(score(corpus_of(120, speakers=120), resamples=20), "Many", {})).text
    assert "The 50 with the highest word error rate, of 120" in text


def test_summary_lines() -> None:
    report = score([scored("one two three four", "one too three", "u"), scored("a", "a b", "v")])
    lines = summary_text(report).splitlines()
    assert 4 <= len(lines) <= 7
    assert lines[0].startswith("WER 60.00 %") and lines[1].startswith("CER ")
    assert "1 substituted, 1 deleted, 1 inserted" in lines[2]
    assert "hours; intervals" in summary_text(score([dataclasses.replace(scored("a", "a", "u"), speaker="")])), (
        "nobody is named"
    )
