"""Leaks: training data that a model will be tested on, and audio that it would hear twice.

Splits are held out when is_held_out says so; all others are trained on. Held-out utterances are never removed. Of the
training utterances go, unless their kind is kept:

- audio: those of which at least SHARE of the shorter one is in a held-out utterance, "audio also in test", or in another
  training utterance that comes before it in the order of corpus and id and is not removed itself, "duplicate audio".
- sentence: those whose normalised text is that of a held-out utterance of the same language, "sentence also in test",
  when it has MIN_WORDS words, or MIN_CHARACTERS characters in a script without spaces; less is commonplace.
- speaker: those whose speaker, if known, is also in a held-out utterance of the same corpus, "speaker also in test".
  Names of speakers mean nothing across corpora.

An utterance with several reasons is given the first of: audio also in test, sentence, speaker, duplicate audio.
"""

from collections.abc import Iterator, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.matching import Pairs, find_duplicates

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

KINDS = ("audio", "sentence", "speaker")
SHARE = 0.5
MIN_WORDS = 4
MIN_CHARACTERS = 8
EXAMPLES = 5

_WITHOUT_SPACES = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
_HELD_OUT = ("dev", "test", "eval", "validation")


@dataclass(frozen=True, slots=True)
class Finding:
    """How many training (or held-out) utterances something is true of. `kind` is what keeps them, one of KINDS.

    `dropped` says whether they were removed or are only reported.
    """

    kind: str
    what: str
    dropped: bool
    utterances: int
    hours: float
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Leaks:
    """`dropped` has a row per utterance that goes: `row` (in the table), `id`, `reason`, `detail`; in the order of row."""

    dropped: pa.Table
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]


def is_held_out(split: str) -> bool:
    """True of dev, test, eval and validation, whatever follows, and of val and valid; "validated" is trained on."""
    return split.lower().startswith(_HELD_OUT) or split.lower() in ("val", "valid")


@dataclass(frozen=True, slots=True)
class _Rows:
    """The utterances in the order in which they have precedence: held-out ones, then by corpus and id."""

    table: pa.Table
    row: Ints
    held: Mask
    duration_s: npt.NDArray[np.float64]

    def name(self, place: int) -> str:
        row = self.table.slice(int(self.row[place]), 1).select(["id", "corpus", "split"]).to_pylist()[0]
        return f"{row['id']} ({row['corpus']} {row['split']})"


@dataclass(frozen=True, slots=True)
class _Found:
    """Utterances and, for each, the one that it is found in (places in _Rows), in ascending order."""

    kind: str
    what: str
    drops: bool
    places: Ints
    others: Ints


def find(table: pa.Table, prints: pa.Table, keep: Set[str] = frozenset()) -> Leaks:
    """The leaks in `table` (columns id, corpus, split, language, speaker, duration_s, text) and which rows go.

    `prints` are fingerprints (pipelines.fingerprint.SCHEMA) by id; an utterance without one is compared by its text and
    speaker only. Leaks of the kinds in `keep` are only reported. Raises ValueError for an unknown kind, an id that occurs
    twice, or when no training utterance would be left.
    """
