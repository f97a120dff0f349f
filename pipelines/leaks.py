"""Leaks: training data that a model will be tested on, and audio that it would hear twice.

Splits are held out when is_held_out says so; all others are trained on. Held-out utterances are never removed. Of the
training utterances go, unless their kind is kept:

- audio: those that have at least SHARE of the shorter one's audio in common with a held-out utterance, "audio also in
  test", or with a training utterance that stays and comes before them by corpus and id, "duplicate audio".
- sentence: those with the normalised text of a held-out utterance of the same language, "sentence also in test", when
  it has MIN_WORDS words, or MIN_CHARACTERS characters in a script without spaces; less is commonplace.
- speaker: those whose speaker, if known, is also in a held-out utterance of the same corpus, "speaker also in test".
  Names of speakers mean nothing across corpora.

An utterance with several reasons is given the first of: audio also in test, sentence, speaker, duplicate audio.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.schema import is_held_out
from pipelines.matching import Pairs, find_duplicates

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

KINDS = ("audio", "sentence", "speaker")
SHARE = 0.5
MIN_WORDS = 4
MIN_CHARACTERS = 8
DROPPED_SCHEMA = pa.schema([("row", pa.int64()), ("id", pa.string()), ("reason", pa.string()), ("detail", pa.string())])

_EXAMPLES = 5
_WITHOUT_SPACES = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"


@dataclass(frozen=True, slots=True)
class Finding:
    """How many utterances something is true of; one utterance may count in several.

    `kind` is the one of KINDS that would keep them, `dropped` whether they were removed or are only reported.
    """

    kind: str
    what: str
    dropped: bool
    utterances: int
    hours: float
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Leaks:
    """`dropped` is a table of DROPPED_SCHEMA: the rows that go, ascending. `warnings` are lines for the user."""

    dropped: pa.Table
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Rows:
    """The utterances by precedence, held-out ones first, then by corpus and id. A place is one in that order."""

    table: pa.Table
    row: Ints
    held: Mask
    duration_s: npt.NDArray[np.float64]

    def column(self, name: str, places: Ints) -> pa.Array:
        return self.table[name].combine_chunks().take(pa.array(self.row[places]))

    def names(self, places: Ints) -> pa.Array:
        """Such as "1284-1180-0003 (librispeech test-clean)"."""
        id_, corpus, split = (self.column(name, places) for name in ("id", "corpus", "split"))
        return _joined(id_, " (", corpus, " ", split, ")")


@dataclass(frozen=True, slots=True)
class _Found:
    """The utterances of a finding, as ascending places, and what is to be said of each."""

    kind: str
    what: str
    drops: bool
    places: Ints
    details: pa.Array


def find(table: pa.Table, prints: pa.Table, keep: Set[str] = frozenset()) -> Leaks:
    """The leaks among utterances and which of them go.

    `table` has the columns id, corpus, split, language, speaker, duration_s and text of a manifest, or of several.
    `prints` are fingerprints (pipelines.fingerprint.SCHEMA) by id; where one is missing, text and speaker are compared
    all the same. Leaks of the kinds in `keep` are only reported. Raises ValueError for an unknown kind, an id that
    occurs twice, or when nothing would be left to train on.
    """
    if unknown := sorted(set(keep) - set(KINDS)):
        raise ValueError(f"--keep-leaks {unknown[0]}: there are {', '.join(KINDS)}")
    rows = _by_precedence(table)
    printed, places = _in_order(rows, prints)
    del prints  # they are as large as what they are found in; the caller may not hold them either
    pairs = find_duplicates(printed)
    pairs = Pairs(places[pairs.first], places[pairs.second], pairs.offset_s, pairs.overlap_s, pairs.share)
    found = [*_held_audio(rows, pairs), *_sentences(rows), _speakers(rows)]
    gone = np.zeros(len(rows.row), np.bool_)
    for leak in found:
        if leak.drops and leak.kind not in keep:
            gone[leak.places] = True
    involved = np.isin(places, np.concatenate((pairs.first, pairs.second))) & ~gone[places] & ~rows.held[places]
    found.append(_duplicates(rows, printed.filter(pa.array(involved)), places[involved]))
    found.append(_not_compared(rows, printed, places))
    dropped = _dropped(rows, [leak for leak in found if leak.drops and leak.kind not in keep])
    findings = tuple(_finding(rows, leak, keep) for leak in found if len(leak.places))
    return Leaks(dropped, findings, tuple(_warnings(rows, found, keep, dropped.num_rows)))


def _by_precedence(table: pa.Table) -> _Rows:
    """Raises ValueError for an id that occurs twice."""
    ids = table["id"]
    if pc.count_distinct(ids).as_py() < len(ids):
        counts = ids.value_counts()
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")[0].as_py()
        raise ValueError(f"utterance {twice} occurs twice; leave one of them out")
    split = table["split"].combine_chunks().dictionary_encode()
    held = np.array([is_held_out(name) for name in split.dictionary.to_pylist()], np.bool_)[split.indices.to_numpy()]
    keys = pa.table({"train": pa.array(~held), "corpus": table["corpus"], "id": ids})
    row = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names]).to_numpy()
    row = row.astype(np.int64)
    return _Rows(table, row, held[row], table["duration_s"].to_numpy()[row])


def _in_order(rows: _Rows, prints: pa.Table) -> tuple[pa.Table, Ints]:
    """The fingerprints of the utterances that have one, by precedence, and the places of these."""
    where = pc.index_in(rows.table["id"].combine_chunks(), prints["id"].combine_chunks())
    where = where.take(pa.array(rows.row))
    return prints.take(where.drop_null()), np.flatnonzero(where.is_valid().to_numpy(zero_copy_only=False))


def _held_audio(rows: _Rows, pairs: Pairs) -> Iterator[_Found]:
    """What has audio in common with something held out, which comes first in its pair."""
    pairs = pairs.take(rows.held[pairs.first])
    enough = pairs.share >= SHARE
    train = ~rows.held[pairs.second]
    whole = pairs.take(train & enough)
    yield _audio(rows, "audio also in test", True, whole)
    part = pairs.take(train & ~enough & ~np.isin(pairs.second, whole.second))
    yield _audio(rows, f"less than {SHARE:.0%} of the audio also in test", False, part)
    yield _audio(rows, "held-out audio twice", False, pairs.take(~train & enough))


def _audio(rows: _Rows, what: str, drops: bool, pairs: Pairs) -> _Found:
    """Of pairs with the same second utterance the first counts."""
    places, index = np.unique(pairs.second, return_index=True)
    overlaps = pa.array([f"{overlap_s:.1f} s in " for overlap_s in pairs.overlap_s[index]], pa.string())
    return _Found("audio", what, drops, places, _joined(overlaps, rows.names(pairs.first[index])))


def _sentences(rows: _Rows) -> Iterator[_Found]:
    text = rows.table["text"].combine_chunks()
    keys = _joined(_base_languages(rows.table["language"]), "\n", text)
    spaces = pc.count_substring(text, " ").to_numpy()
    long = spaces + 1 >= MIN_WORDS
    few = np.flatnonzero(~long)
    short_texts = text.take(pa.array(few))
    characters = pc.utf8_length(short_texts).to_numpy() - spaces[few]
    unspaced = pc.match_substring_regex(short_texts, _WITHOUT_SPACES).to_numpy(zero_copy_only=False)
    long[few] = unspaced & (characters >= MIN_CHARACTERS)
    places, others = _also_held(rows, keys, long)
    yield _Found("sentence", "sentence also in test", True, places, _joined("said in ", rows.names(others)))
    places, others = _also_held(rows, keys, ~long)
    yield _Found("sentence", "short sentence also in test", False, places, _joined("said in ", rows.names(others)))


def _base_languages(languages: pa.ChunkedArray) -> pa.Array:
    """Without region or script: a sentence in zh-TW leaks to zh-CN where it is written alike."""
    encoded = languages.combine_chunks().dictionary_encode()
    bases = [name.lower().replace("_", "-").partition("-")[0] for name in encoded.dictionary.to_pylist()]
    return pa.array(bases, pa.string()).take(encoded.indices)


def _speakers(rows: _Rows) -> _Found:
    speaker = rows.table["speaker"].combine_chunks()
    keys = _joined(rows.table["corpus"].combine_chunks(), "\n", speaker)
    known = pc.not_equal(speaker, "").to_numpy(zero_copy_only=False)
    places, others = _also_held(rows, keys, known)
    details = _joined("speaker ", rows.column("speaker", places), " in ", rows.names(others))
    return _Found("speaker", "speaker also in test", True, places, details)


def _also_held(rows: _Rows, keys: pa.Array, counts: Mask) -> tuple[Ints, Ints]:
    """Places of the training utterances whose key a held-out one has, and of the first that has it.

    `keys` and `counts`, which says who takes part, are in the order of the table.
    """
    encoded = keys.dictionary_encode()
    code, counts = encoded.indices.to_numpy()[rows.row], counts[rows.row]
    first = np.full(len(encoded.dictionary), -1)
    held = np.flatnonzero(rows.held & counts)[::-1]
    first[code[held]] = held  # the last to be written stays: the one with the lowest place
    places = np.flatnonzero(~rows.held & counts & (first[code] >= 0))
    return places, first[code[places]]


def _duplicates(rows: _Rows, printed: pa.Table, places: Ints) -> _Found:
    """Which of these utterances repeat one that stays.

    Repeated until none is found: of many copies only the first few are compared with all others, and one that overlaps
    two others may itself have gone.
    """
    repeated: dict[int, tuple[int, float]] = {}
    while True:
        pairs = find_duplicates(printed)
        gone = np.zeros(len(places), np.bool_)
        by_second = np.lexsort((pairs.first, pairs.second))
        for i in by_second[pairs.share[by_second] >= SHARE]:
            first, second = pairs.first[i], pairs.second[i]
            if not gone[first] and not gone[second]:
                gone[second] = True
                repeated[int(places[second])] = (int(places[first]), float(pairs.overlap_s[i]))
        if not gone.any():
            break
        printed, places = printed.filter(pa.array(~gone)), places[~gone]
    seconds = np.array(sorted(repeated), np.int64)
    firsts = np.array([repeated[second][0] for second in seconds.tolist()], np.int64)
    none = np.zeros(len(seconds))
    overlap_s = np.array([repeated[second][1] for second in seconds.tolist()])
    return _audio(rows, "duplicate audio", True, Pairs(firsts, seconds, none, overlap_s, none))


def _not_compared(rows: _Rows, printed: pa.Table, places: Ints) -> _Found:
    with_words = places[pc.list_value_length(printed["words"]).to_numpy() > 0]
    without = np.setdiff1d(np.arange(len(rows.row)), with_words)
    printless = np.isin(without, places, invert=True)
    details = pa.array(np.where(printless, "no fingerprint", "silent or one steady sound").tolist(), pa.string())
    return _Found("audio", "audio not compared", False, without, details)


def _dropped(rows: _Rows, leaks: Sequence[_Found]) -> pa.Table:
    """Each utterance once, with the first reason."""
    chunks = [DROPPED_SCHEMA.empty_table()]
    gone = np.zeros(len(rows.row), np.bool_)
    for leak in leaks:
        new = ~gone[leak.places]
        places = leak.places[new]
        reasons = pa.array([leak.what] * len(places), pa.string())
        columns = [pa.array(rows.row[places]), rows.column("id", places), reasons, leak.details.filter(pa.array(new))]
        chunks.append(pa.Table.from_arrays(columns, schema=DROPPED_SCHEMA))
        gone[places] = True
    return pa.concat_tables(chunks).sort_by("row")


def _finding(rows: _Rows, leak: _Found, keep: Set[str]) -> Finding:
    shown = leak.places[:_EXAMPLES]
    examples = _joined(rows.names(shown), ": ", leak.details.slice(0, _EXAMPLES)).to_pylist()
    hours = float(np.sort(rows.duration_s[leak.places]).sum()) / 3600  # sorted: the same in whatever order they came
    return Finding(leak.kind, leak.what, leak.drops and leak.kind not in keep, len(leak.places), hours, tuple(examples))


def _warnings(rows: _Rows, found: Sequence[_Found], keep: Set[str], dropped: int) -> Iterator[str]:
    """A line for each reason that takes more than half of what a corpus has to train on.

    Raises ValueError when all reasons together take everything.
    """
    corpus = rows.table["corpus"].combine_chunks().dictionary_encode()
    code = corpus.indices.to_numpy()[rows.row]
    names = corpus.dictionary.to_pylist()
    total = np.bincount(code[~rows.held], minlength=len(names))
    leaks = [leak for leak in found if leak.drops and leak.kind not in keep]
    if dropped and dropped == total.sum():
        most = max(leaks, key=lambda leak: len(leak.places))
        raise ValueError("nothing would be left to train on: " + _takes(most, len(most.places), dropped))
    for leak in leaks:
        taken = np.bincount(code[leak.places], minlength=len(names))
        for i in sorted(np.flatnonzero(2 * taken > total), key=names.__getitem__):
            yield f"{names[i]}: {_takes(leak, taken[i], total[i])}"


def _takes(leak: _Found, taken: int, total: int) -> str:
    return f"{leak.what} takes {taken:,} of {total:,} training utterances; --keep-leaks {leak.kind} keeps them"


def _joined(*parts: pa.Array | str) -> pa.Array:
    """Strings put together, row by row."""
    return pc.binary_join_element_wise(*parts, "")
