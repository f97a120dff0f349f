"""How far recognised texts are from their references: edits, error rates, and how sure one can be of them.

Texts are compared as they are; normalise both sides first, the same way. Rates are those of the whole set: errors
summed over utterances, divided by the summed length of the references. The edit operations are jiwer's.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any, Literal, cast

import jiwer
import numpy as np

Unit = Literal["word", "char"]
Pair = tuple[str | None, str | None]

WORST = 20  # utterances that a report shows in full
CONFUSIONS = 20  # lines of each list of frequent mistakes
MIN_SPEAKERS = 10  # with fewer, resampling speakers says little, and utterances are resampled
CONFIDENCE = 0.95
DRAWS_AT_ONCE = 1_000_000  # bounds the memory of the bootstrap to some 30 MB


@dataclass(frozen=True, slots=True)
class Scored:
    """An utterance, what was said (`reference`) and what was recognised (`hypothesis`). An unknown speaker is ''."""

    id: str
    corpus: str
    split: str
    speaker: str
    duration_s: float
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class Edits:
    """What turns references into hypotheses, counted in words or in characters."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference_length(self) -> int:
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per unit of reference: 0 is perfect, insertions can take it above 1, nan without a reference."""
        return self.errors / self.reference_length if self.reference_length else math.nan

    def __add__(self, other: "Edits") -> "Edits":
        return Edits(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


@dataclass(frozen=True)
class Measure:
    """Edits of a set of utterances; `low` and `high` bound its rate with 95 % confidence (nan below two units)."""

    edits: Edits
    low: float
    high: float


@dataclass(frozen=True)
class Group:
    """The figures of a set of utterances. `resampled` says which units were drawn for its intervals."""

    corpus: str
    name: str
    utterances: int
    speakers: int
    hours: float
    wer: Measure
    cer: Measure
    resampled: Literal["speakers", "utterances"]


@dataclass(frozen=True)
class Aligned:
    """One utterance with its words paired; None is the side on which a word is missing."""

    scored: Scored
    words: Edits
    chars: Edits
    pairs: list[Pair]


@dataclass(frozen=True)
class Confusion:
    """A mistake and how often it was made: a deletion has no `hypothesis`, an insertion no `reference`."""

    reference: str | None
    hypothesis: str | None
    count: int


@dataclass(frozen=True)
class Difference:
    """How much higher the second of two WERs is, with bounds as a Measure has them, and how many utterances differ."""

    value: float
    low: float
    high: float
    changed: int


@dataclass(frozen=True)
class Report:
    """All that `score` finds. Groups stand in the order of their names, utterances and confusions worst first."""

    total: Group
    corpora: list[Group]
    splits: list[Group]
    speakers: list[Group]
    worst: list[Aligned]
    substitutions: list[Confusion]
    deletions: list[Confusion]
    insertions: list[Confusion]
    resamples: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """The report as plain values; a rate or bound that does not exist is None."""
        return {
            **_group_json(self.total),
            "bootstrap": {"confidence": CONFIDENCE, "resamples": self.resamples, "seed": self.seed},
            "by_corpus": [_group_json(g) for g in self.corpora],
            "by_split": [_group_json(g) for g in self.splits],
            "by_speaker": [_group_json(g) for g in self.speakers],
            "worst": [
                {**asdict(a.scored), "wer": _edits_json(a.words), "alignment": [list(pair) for pair in a.pairs]}
                for a in self.worst
            ],
            "substitutions": [asdict(c) for c in self.substitutions],
            "deletions": [asdict(c) for c in self.deletions],
            "insertions": [asdict(c) for c in self.insertions],
        }


def tokens(text: str, unit: Unit) -> list[str]:
    """The words of a text, or its characters (code points) with one space between words."""
    return text.split() if unit == "word" else list(" ".join(text.split()))


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Pair]:
    """The two sequences paired with the fewest edits: (word, None) is a deletion, (None, word) an insertion."""
    return _pairs(reference, hypothesis, _operations(reference, hypothesis))


def count_edits(reference: str, hypothesis: str, unit: Unit = "word") -> Edits:
    return _edits(_operations(tokens(reference, unit), tokens(hypothesis, unit)))


def score(results: Iterable[Scored], *, resamples: int = 1000, seed: int = 0) -> Report:
    """The report on a set of utterances; their order does not matter. Raises ValueError for fewer than one resample."""
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; give 1 or more, 1000 is usual")
    aligned = [_aligned(scored) for scored in sorted(results, key=astuple)]

    def by(field: Literal["corpus", "split", "speaker"]) -> list[Group]:
        parts: dict[tuple[str, str], list[Aligned]] = defaultdict(list)
        for a in aligned:
            parts[a.scored.corpus, getattr(a.scored, field)].append(a)
        return [_group(*names, part, resamples, seed) for names, part in sorted(parts.items())]

    mistakes = Counter(pair for a in aligned for pair in a.pairs if pair[0] != pair[1])
    return Report(
        total=_group("", "all", aligned, resamples, seed),
        corpora=by("corpus"),
        splits=by("split"),
        speakers=by("speaker"),
        worst=_worst(aligned),
        substitutions=_most_frequent(mistakes, said=True, heard=True),
        deletions=_most_frequent(mistakes, said=True, heard=False),
        insertions=_most_frequent(mistakes, said=False, heard=True),
        resamples=resamples,
        seed=seed,
    )


def difference(
    before: Sequence[Scored], after: Sequence[Scored], *, resamples: int = 1000, seed: int = 0
) -> Difference:
    """Of two recognitions of the same utterances, in the same order. Its bounds are those of pairs drawn again: what is
    hard for both does not widen them."""
    assert [s.id for s in before] == [s.id for s in after]
    first, second = ([_aligned(scored) for scored in side] for side in (before, after))
    group = _group("", "all", first, 1, seed)
    units_n4 = _units(first, by_speaker=group.resampled == "speakers")
    units_n4[:, 0] = _units(second, by_speaker=group.resampled == "speakers")[:, 0] - units_n4[:, 0]
    errors, words = units_n4[:, :2].sum(0)
    sums_r4 = _resample(units_n4, resamples, seed)
    changed = sum(1 for a, b in zip(before, after, strict=True) if a.hypothesis != b.hypothesis)
    return Difference(errors / words if words else math.nan, *_interval(sums_r4[:, 0], sums_r4[:, 1]), changed)


def _operations(reference: Sequence[str], hypothesis: Sequence[str]) -> list[jiwer.AlignmentChunk]:
    """jiwer's runs of equal operations, from the first token to the last."""
    # jiwer takes texts and a way to cut them; ours are cut already, and `list` leaves them as they are
    said, heard, cut = cast(Any, [list(reference)]), cast(Any, [list(hypothesis)]), cast(Any, list)
    return jiwer.process_words(said, heard, cut, cut).alignments[0]


def _pairs(reference: Sequence[str], hypothesis: Sequence[str], operations: list[jiwer.AlignmentChunk]) -> list[Pair]:
    pairs: list[Pair] = []
    for op in operations:
        said = reference[op.ref_start_idx : op.ref_end_idx]
        heard = hypothesis[op.hyp_start_idx : op.hyp_end_idx]
        if op.type == "delete":
            pairs += [(word, None) for word in said]
        elif op.type == "insert":
            pairs += [(None, word) for word in heard]
        else:
            pairs += zip(said, heard, strict=True)
    return pairs


def _edits(operations: list[jiwer.AlignmentChunk]) -> Edits:
    counts = {"equal": 0, "substitute": 0, "delete": 0, "insert": 0}
    for op in operations:
        counts[op.type] += max(op.ref_end_idx - op.ref_start_idx, op.hyp_end_idx - op.hyp_start_idx)
    return Edits(counts["equal"], counts["substitute"], counts["delete"], counts["insert"])


def _aligned(scored: Scored) -> Aligned:
    said, heard = tokens(scored.reference, "word"), tokens(scored.hypothesis, "word")
    operations = _operations(said, heard)
    chars = count_edits(scored.reference, scored.hypothesis, "char")
    return Aligned(scored, _edits(operations), chars, _pairs(said, heard, operations))


def _group(corpus: str, name: str, part: Sequence[Aligned], resamples: int, seed: int) -> Group:
    speakers = {(a.scored.corpus, a.scored.speaker) for a in part if a.scored.speaker}
    resampled: Literal["speakers", "utterances"] = "speakers" if len(speakers) >= MIN_SPEAKERS else "utterances"
    sums_r4 = _resample(_units(part, by_speaker=resampled == "speakers"), resamples, seed)
    return Group(
        corpus=corpus,
        name=name,
        utterances=len(part),
        speakers=len(speakers),
        hours=math.fsum(a.scored.duration_s for a in part) / 3600,
        wer=Measure(sum((a.words for a in part), Edits()), *_interval(sums_r4[:, 0], sums_r4[:, 1])),
        cer=Measure(sum((a.chars for a in part), Edits()), *_interval(sums_r4[:, 2], sums_r4[:, 3])),
        resampled=resampled,
    )


def _units(part: Sequence[Aligned], *, by_speaker: bool) -> np.ndarray:
    """What is resampled, as float[units, 4]: word errors, reference words, character errors, reference characters."""
    units: dict[tuple[str, str | int], np.ndarray] = defaultdict(lambda: np.zeros(4))
    for i, a in enumerate(part):
        # utterances whose speaker is not known stand by themselves: nothing says that they hang together
        unit = (a.scored.corpus, a.scored.speaker if by_speaker and a.scored.speaker else i)
        units[unit] += (a.words.errors, a.words.reference_length, a.chars.errors, a.chars.reference_length)
    return np.array(list(units.values())).reshape(-1, 4)


def _resample(units_n4: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """The columns' sums over n units drawn with replacement, `resamples` times: float[resamples, 4].

    The bootstrap of Efron and Tibshirani (1993, chapter 13). Below two units, which say nothing of the spread, no rows.
    """
    n = len(units_n4)
    if n < 2:
        return np.zeros((0, 4))
    rng = np.random.default_rng(seed)
    rows_at_once = max(1, DRAWS_AT_ONCE // n)
    sums = []
    for start in range(0, resamples, rows_at_once):
        rows = min(rows_at_once, resamples - start)
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        times_rn = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        sums.append(times_rn.astype(float) @ units_n4)
    return np.concatenate(sums)


def _interval(errors_r: np.ndarray, lengths_r: np.ndarray) -> tuple[float, float]:
    some = lengths_r > 0  # a draw of utterances in which nobody speaks has no rate
    if not some.any():
        return math.nan, math.nan
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(errors_r[some] / lengths_r[some], [tail, 1 - tail])
    return float(low), float(high)


def _worst(aligned: Sequence[Aligned]) -> list[Aligned]:
    """Most errors first, then the highest rate (with as many errors, that of the shortest reference), then by id."""
    found = [a for a in aligned if a.words.errors]
    return sorted(found, key=lambda a: (-a.words.errors, a.words.reference_length, a.scored.id))[:WORST]


def _most_frequent(mistakes: Counter[Pair], *, said: bool, heard: bool) -> list[Confusion]:
    wanted = [pair for pair in mistakes if (pair[0] is not None, pair[1] is not None) == (said, heard)]
    found = [Confusion(*pair, mistakes[pair]) for pair in wanted]
    return sorted(found, key=lambda c: (-c.count, c.reference or "", c.hypothesis or ""))[:CONFUSIONS]


def _edits_json(edits: Edits) -> dict[str, Any]:
    return {**asdict(edits), "reference_length": edits.reference_length, "rate": _or_none(edits.rate)}


def _group_json(group: Group) -> dict[str, Any]:
    def measure(m: Measure) -> dict[str, Any]:
        return {**_edits_json(m.edits), "low": _or_none(m.low), "high": _or_none(m.high)}

    words = group.wer.edits.reference_length
    return {**asdict(group), "words": words, "wer": measure(group.wer), "cer": measure(group.cer)}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
