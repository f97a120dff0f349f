"""Leaks: what goes from the training data and why, what is only told, and that nothing is left to find afterwards."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import audio
from manifests.schema import is_held_out
from pipelines.fingerprint import Fingerprint, fingerprint, is_fine, to_table
from pipelines.leaks import KINDS, Finding, Leaks, find

WORDS = np.random.default_rng(5).integers(0, 2**32, 40_000, dtype=np.uint32)
COARSE = WORDS[~is_fine(WORDS)]
ROW = {"corpus": "c", "language": "en", "speaker": "", "duration_s": 5.0}


def recording(number: int, start: int = 0, words: int = 40) -> Fingerprint:
    """A stretch of 25 s that no other recording resembles; every eighth of a second has a word."""
    own = np.random.default_rng(number).choice(COARSE, 200, replace=False)
    return Fingerprint(own[start : start + words], np.arange(0, 25 * words, 25, dtype=np.uint32), words / 8)


def table(*rows: dict[str, object]) -> pa.Table:
    """Utterances a, b, c, ... of a corpus; where nothing else is said, all differ in everything."""
    full = [ROW | {"id": "abcdefghijklmnop"[i], "text": f"this is sentence {i}"} | row for i, row in enumerate(rows)]
    return pa.Table.from_pylist(full)


def prints(**numbers: Fingerprint | int) -> pa.Table:
    return to_table((id_, recording(n) if isinstance(n, int) else n) for id_, n in numbers.items())


NO_PRINTS = to_table([])


def gone(leaks: Leaks) -> dict[str, tuple[str, str]]:
    rows = leaks.dropped.to_pylist()
    assert [row["row"] for row in rows] == sorted(row["row"] for row in rows)
    return {row["id"]: (row["reason"], row["detail"]) for row in rows}


def finding(leaks: Leaks, what: str) -> Finding | None:
    """The one of that name, if any."""
    return next((f for f in leaks.findings if f.what == what), None)


@pytest.mark.parametrize(
    "split", ["dev", "dev-clean", "test", "test-other", "Test", "eval", "evaluation", "validation", "val", "valid"]
)
def test_held_out(split: str) -> None:
    assert is_held_out(split)


@pytest.mark.parametrize(
    "split", ["train", "train-clean-100", "validated", "other", "invalidated", "latest", "contest", ""]
)
def test_trained_on(split: str) -> None:
    assert not is_held_out(split)


def test_the_same_audio_in_test() -> None:
    rows = table({"split": "train"}, {"split": "test", "corpus": "other corpus"}, {"split": "train"})
    leaks = find(rows, prints(a=1, b=1, c=2))
    assert gone(leaks) == {"a": ("audio also in test", "5.0 s in b (other corpus test)")}
    told = finding(leaks, "audio also in test")
    assert told == Finding(
        "audio", "audio also in test", True, 1, 5 / 3600, ("a (c train): 5.0 s in b (other corpus test)",)
    )


def test_half_of_the_shorter_one_counts_and_less_is_told() -> None:
    """The test has words 40 to 80 of a recording, the training data 25 to 65, 68 to 108 and 0 to 160."""
    rows = table({"split": "train"}, {"split": "train"}, {"split": "train"}, {"split": "test"})
    heard = prints(a=recording(1, 25), b=recording(1, 68), c=recording(1, 0, 160), d=recording(1, 40))
    leaks = find(rows, heard)
    assert {id_: reason for id_, (reason, _) in gone(leaks).items()} == dict.fromkeys("ac", "audio also in test")
    told = finding(leaks, "less than 50% of the audio also in test")
    assert told is not None and not told.dropped and told.utterances == 1
    assert told.examples == ("b (c train): 1.5 s in d (c test)",)


def test_repeated_training_audio_stays_once() -> None:
    rows = table(*[{"split": "train"}] * 4, {"split": "validated", "corpus": "b"}, {"split": "other", "corpus": "a"})
    leaks = find(rows, prints(a=1, b=2, c=1, d=3, e=1, f=2))
    assert gone(leaks) == {
        "b": ("duplicate audio", "5.0 s in f (a other)"),
        "c": ("duplicate audio", "5.0 s in e (b validated)"),
        "a": ("duplicate audio", "5.0 s in e (b validated)"),
    }


def test_a_copy_of_what_goes_for_another_reason_stays() -> None:
    rows = table(
        {"split": "train", "text": "one two three four"},
        {"split": "train"},
        {"split": "test", "text": "one two three four"},
    )
    assert gone(find(rows, prints(a=1, b=1))) == {"a": ("sentence also in test", "said in c (c test)")}


def test_held_out_audio_is_told_and_kept() -> None:
    rows = table({"split": "dev"}, {"split": "test"}, {"split": "test"}, {"split": "train"})
    leaks = find(rows, prints(a=1, b=1, c=2, d=3))
    assert gone(leaks) == {}
    told = finding(leaks, "held-out audio twice")
    assert told is not None and not told.dropped and told.examples == ("b (c test): 5.0 s in a (c dev)",)


def test_copies_by_the_hundred() -> None:
    """More than a word's links: the first stays, of those whose first copies go for another reason as well."""
    many = [
        ROW | {"id": f"u{i:03}", "split": "train", "text": "one two three four" if i < 20 else f"{i}"}
        for i in range(200)
    ]
    rows = pa.Table.from_pylist([*many, ROW | {"id": "t", "split": "test", "text": "one two three four"}])
    reasons = {
        id_: reason
        for id_, (reason, _) in gone(find(rows, to_table((row["id"], recording(1)) for row in many))).items()
    }
    assert reasons == {
        f"u{i:03}": "sentence also in test" if i < 20 else "duplicate audio" for i in range(200) if i != 20
    }


@pytest.mark.parametrize(
    ("text", "language", "reason"),
    [
        ("one two three four", "en", "sentence also in test"),
        ("one two three", "en", None),
        ("it's a-b c", "en", None),
        ("今天天气非常好吗", "zh-CN", "sentence also in test"),
        ("今天天气很好吗", "zh-CN", None),
        ("今天 天气 很好 吗", "zh-CN", "sentence also in test"),
        ("きょうはいいてんきです", "ja", "sentence also in test"),
        ("สวัสดีครับผม", "th", "sentence also in test"),
        ("доброе утро вам всем", "ru", "sentence also in test"),
    ],
)
def test_a_sentence_that_is_no_commonplace(text: str, language: str, reason: str | None) -> None:
    said = {"text": text, "language": language}
    leaks = find(table({"split": "train"} | said, {"split": "train"}, {"split": "dev"} | said), NO_PRINTS)
    assert gone(leaks) == ({} if reason is None else {"a": (reason, "said in c (c dev)")})
    short = finding(leaks, "short sentence also in test")
    assert (short is None) == (reason is not None)
    assert short is None or (short.utterances == 1 and not short.dropped)


def test_a_sentence_leaks_within_a_language() -> None:
    said = [("train", "en"), ("train", "de"), ("train", "en-GB"), ("test", "en_US")]
    leaks = find(table(*({"split": s, "language": n, "text": "die die die die"} for s, n in said)), NO_PRINTS)
    assert set(gone(leaks)) == {"a", "c"}


def test_speakers_are_compared_within_a_corpus() -> None:
    rows = table(
        {"split": "train", "speaker": "19"},
        {"split": "train", "speaker": "19", "corpus": "other"},
        {"split": "train", "speaker": ""},
        {"split": "train", "speaker": "20"},
        {"split": "test", "speaker": "19"},
        {"split": "test", "speaker": ""},
    )
    assert gone(find(rows, NO_PRINTS)) == {"a": ("speaker also in test", "speaker 19 in e (c test)")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_is_kept_is_told(kind: str) -> None:
    same = {"text": "one two three four", "speaker": "s"}
    rows = table({"split": "train"} | same, {"split": "train"}, {"split": "train"}, {"split": "test"} | same)
    leaks = find(rows, prints(a=1, b=2, c=2, d=1), frozenset(KINDS) - {kind})
    assert {f.kind for f in leaks.findings if f.dropped} == {kind}
    assert {f.kind for f in leaks.findings} == set(KINDS)
    assert set(gone(leaks)) == ({"a", "c"} if kind == "audio" else {"a"})
    assert gone(find(rows, prints(a=1, b=2, c=2, d=1), frozenset(KINDS))) == {}


def test_what_could_not_be_compared_is_told() -> None:
    silent = Fingerprint(np.empty(0, np.uint32), np.empty(0, np.uint32), 5.0)
    told = finding(find(table(*[{"split": "train"}] * 3), prints(a=1, b=silent, x=1)), "audio not compared")
    assert told is not None and told.utterances == 2 and not told.dropped
    assert told.examples == ("b (c train): silent or one steady sound", "c (c train): no fingerprint")


def test_a_rule_that_takes_most_of_a_corpus_says_so() -> None:
    speakers = [{"split": "train", "speaker": "s"}] * 3 + [{"split": "train", "speaker": "t"}] * 2
    leaks = find(table(*speakers, {"split": "test", "speaker": "s"}), NO_PRINTS)
    assert len(gone(leaks)) == 3
    assert leaks.warnings == (
        "c: speaker also in test takes 3 of 5 training utterances; --keep-leaks speaker keeps them",
    )
    assert find(table(*speakers, {"split": "test", "speaker": "t"}), NO_PRINTS).warnings == ()


def test_warnings_come_in_the_order_of_corpora() -> None:
    pieces = [{"corpus": c, "split": s, "speaker": "s"} for c in "ba" for s in ("train", "test")]
    rows = table(*pieces, {"split": "train"})
    assert [warning[:2] for warning in find(rows, NO_PRINTS).warnings] == ["a:", "b:"]


def test_a_rule_that_takes_everything_is_an_error() -> None:
    rows = table(*[{"split": "train", "speaker": "s"}] * 3, {"split": "test", "speaker": "s"})
    with pytest.raises(ValueError) as error:
        find(rows, NO_PRINTS)
    takes = "speaker also in test takes 3 of 3 training utterances; --keep-leaks speaker keeps them"
    assert str(error.value) == f"nothing would be left to train on: {takes}"
    assert gone(find(rows, NO_PRINTS, {"speaker"})) == {}
    assert gone(find(rows.slice(3), NO_PRINTS)) == {}  # there was nothing to train on


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="--keep-leaks speakers: there are audio, sentence, speaker"):
        find(table({"split": "train"}), NO_PRINTS, {"speakers"})
    with pytest.raises(ValueError, match="utterance a occurs twice; leave one of them out"):
        find(table({"split": "train"}, {"split": "train", "id": "a"}), NO_PRINTS)


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["train", "validated", "dev", "test"]),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["en", "zh"]),
        st.sampled_from(["", "s", "t", "u"]),
        st.sampled_from(["one two three four", "yes", "one two three five", "今天天气非常好吗", "a b c d e"]),
        st.one_of(st.none(), st.tuples(st.integers(0, 3), st.integers(0, 30), st.integers(12, 40))),
    ),
    max_size=16,
)  # split, corpus, language, speaker, text and a stretch of one of four recordings


@settings(max_examples=120, deadline=None)
@given(ROWS, st.sets(st.sampled_from(KINDS)), st.randoms())
def test_nothing_is_left_to_find(rows: list[tuple], keep: set[str], random: object) -> None:
    ids = [f"u{i:02}" for i in range(len(rows))]
    columns = ["split", "corpus", "language", "speaker", "text"]
    given = pa.table(
        {name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(columns)}
        | {"id": pa.array(ids, pa.string()), "duration_s": pa.array([5.0] * len(rows), pa.float64())}
    )
    given_prints = to_table((id_, recording(*row[5])) for id_, row in zip(ids, rows, strict=True) if row[5])
    try:
        leaks = find(given, given_prints, keep)
    except ValueError as err:
        assert "nothing would be left" in str(err)
        return
    dropped = gone(leaks)
    assert not any(is_held_out(row[0]) for id_, row in zip(ids, rows, strict=True) if id_ in dropped)
    kept = given.filter(pc.invert(pc.is_in(given["id"], pa.array(list(dropped), pa.string()))))
    again = find(kept, given_prints, keep)
    assert gone(again) == {} and not any(f.dropped for f in again.findings)
    order = random.sample(range(len(rows)), len(rows))
    shuffled = find(given.take(pa.array(order, pa.int64())), given_prints, keep)
    assert gone(shuffled) == dropped
    assert shuffled.findings == leaks.findings and shuffled.warnings == leaks.warnings


def test_real_recordings_within_and_across_corpora(speech_data: Path) -> None:
    """A talk in the test set comes again as a video; a chapter of one reader is in both splits."""
    files = {
        "talk": ("tedlium", "test", "TEDLIUM_release1/test/sph/AcousticCorpus_2015.sph", ""),
        "video": ("youtube", "train", "youtube/wRdT1m3d_01/wRdT1m3d_01.webm", ""),
        "sonnet": ("youtube", "train", "youtube/Sh4k3sp3are/Sh4k3sp3are.mp3", ""),
        "read-0": ("librispeech", "train", "LibriSpeech/test-other/367/130732/367-130732-0000.flac", "367"),
        "read-1": ("librispeech", "dev", "LibriSpeech/test-other/367/130732/367-130732-0001.flac", "367"),
        "read-2": ("librispeech", "train", "LibriSpeech/test-other/3005/163389/3005-163389-0000.flac", "3005"),
    }
    rows = pa.Table.from_pylist(
        [ROW | {"id": i, "corpus": c, "split": s, "speaker": p, "text": i} for i, (c, s, _, p) in files.items()]
    )
    heard = to_table((id_, fingerprint(audio.read(str(speech_data / uri)))) for id_, (_, _, uri, _) in files.items())
    leaks = find(rows, heard)
    assert {id_: reason for id_, (reason, _) in gone(leaks).items()} == {
        "video": "audio also in test",
        "read-0": "speaker also in test",
    }
    assert gone(leaks)["video"][1].endswith("s in talk (tedlium test)")
