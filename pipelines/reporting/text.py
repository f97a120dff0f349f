"""What a report counts in the texts of one language: its characters by script, its words."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.filters import numbers
from pipelines.reporting.counts import SLICE, Tally, joined, tallies

RARE_TIMES = 20  # a character below both of these is called rare: a recogniser can hardly learn it from so few
RARE_SHARE = 1e-4
WORDS = 60  # the most frequent ones
# Scripts that are written without spaces between words, by the first word of their characters' names
_NO_SPACES = frozenset(("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan"))
_MARKS, _DIGITS, _SIGNS = "marks of several scripts", "digits", "space and signs"
_OTHER_NAMES = {"Cjk": "Han", "Ideographic": "Han", "Combining": _MARKS, "Modifier": _SIGNS}


@dataclass(frozen=True, slots=True)
class Character:
    """A character, its count, and for a rare one the id of an utterance that has it."""

    char: str
    count: int
    rare: bool
    example: str


@dataclass(frozen=True, slots=True)
class Script:
    name: str
    characters: list[Character]  # the most frequent first

    @property
    def count(self) -> int:
        return sum(c.count for c in self.characters)

    @property
    def letters(self) -> bool:
        """False for what every script may have: spaces, digits, combining marks."""
        return self.name not in (_MARKS, _DIGITS, _SIGNS)


@dataclass(frozen=True, slots=True)
class Words:
    """`once` counts the words that occur a single time, `top` are the most frequent with their counts."""

    running: int
    distinct: int
    once: int
    top: list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class LanguageText:
    """The texts of a language; `words` is None where no spaces are written between words."""

    language: str
    utterances: int
    hours: float
    scripts: list[Script]
    words: Words | None

    @property
    def characters(self) -> list[Character]:
        return [character for script in self.scripts for character in script.characters]


def languages(table: pa.Table) -> list[LanguageText]:
    """One for each language, most utterances first."""
    return [_language(table, tally) for tally in tallies(table["language"], numbers(table, "duration_s"))]


def _language(table: pa.Table, tally: Tally) -> LanguageText:
    rows = table.select(["id", "text", "language"]).filter(pc.equal(table["language"], tally.name))
    scripts = _scripts(rows)
    letters = sum(s.count for s in scripts)
    unspaced = sum(s.count for s in scripts if s.name in _NO_SPACES)
    words = None if 2 * unspaced > letters else _words(rows["text"])
    return LanguageText(tally.name, tally.utterances, tally.hours, scripts, words)


def count_characters(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """How often each code point occurs: [0x110000]."""
    counts = np.zeros(0x110000, np.int64)
    for text in joined(column, ""):
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        found = np.bincount(codes)
        counts[: len(found)] += found
    return counts


def _scripts(rows: pa.Table) -> list[Script]:
    counts = count_characters(rows["text"])
    total = int(counts.sum())
    codes = np.flatnonzero(counts)
    codes = codes[np.argsort(-counts[codes], kind="stable")]
    rare = [chr(c) for c in codes if counts[c] < RARE_TIMES and counts[c] < RARE_SHARE * total]
    examples = _examples(rows, rare)
    by_script: dict[str, list[Character]] = {}
    for code in codes.tolist():
        char = chr(code)
        character = Character(char, int(counts[code]), char in examples, examples.get(char, ""))
        by_script.setdefault(script(char), []).append(character)
    found = [Script(name, characters) for name, characters in by_script.items()]
    return sorted(found, key=lambda s: (-s.count, s.name))


def script(char: str) -> str:
    """The script of a letter or mark, from its Unicode name, which begins with it; else what kind of sign it is."""
    kind = unicodedata.category(char)
    if kind[0] in "LM":
        first = unicodedata.name(char, "UNNAMED").split()[0].split("-")[0].title()
        return _OTHER_NAMES.get(first, first)
    return _DIGITS if kind[0] == "N" else _SIGNS


def _examples(rows: pa.Table, chars: list[str]) -> dict[str, str]:
    """For each of the characters the id of the first utterance that has it."""
    if not chars:
        return {}
    # one search for all of them, which leaves few rows; \x{…} needs no escaping, whatever the character is
    some = pc.match_substring_regex(rows["text"], "[" + "".join(f"\\x{{{ord(c):x}}}" for c in chars) + "]")
    found: dict[str, str] = {}
    wanted = set(chars)
    for id_, text in _pairs(rows.filter(some)):
        for char in wanted.intersection(text):
            found[char] = id_
            wanted.discard(char)
    return found


def _pairs(rows: pa.Table) -> Iterator[tuple[str, str]]:
    yield from zip(rows["id"].to_pylist(), rows["text"].to_pylist(), strict=True)


def _words(texts: pa.ChunkedArray) -> Words:
    counted = []
    for chunk in texts.chunks:
        for start in range(0, len(chunk), SLICE):  # a slice at a time: all words at once would be another manifest
            words = pc.list_flatten(pc.split_pattern(chunk.slice(start, SLICE), " "))
            counted.append(pa.Table.from_struct_array(pc.value_counts(words.filter(pc.not_equal(words, "")))))
    if not counted:
        return Words(0, 0, 0, [])
    sums = pa.concat_tables(counted).group_by("values", use_threads=False).aggregate([("counts", "sum")])
    counts = sums["counts_sum"].to_numpy()
    top = sums.sort_by([("counts_sum", "descending"), ("values", "ascending")]).slice(0, WORDS)
    pairs = list(zip(top["values"].to_pylist(), top["counts_sum"].to_pylist(), strict=True))
    return Words(int(counts.sum()), len(counts), int((counts == 1).sum()), pairs)
