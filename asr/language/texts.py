"""The texts of a language model: read and normalised, made tokens, some held out, and put into batches."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from asr.language.config import LmTrainConfig
from asr.tokenizer import BLANK, Tokenizer, reserved
from manifests import parquet, storage
from manifests.schema import is_held_out
from manifests.text import normalise

DEV_MOST = 10_000  # texts are held out at most: they are measured on after every epoch
NAMED_MOST = 10_000  # texts that were left out are named at most; all are counted
WINDOW = 50  # batches whose examples are sorted by length together
TOGETHER = 10_000  # texts in a call of sentencepiece

Line = tuple[str, str]  # where a text stands, and the text


@dataclass
class LeftOut:
    """What is not trained on, and why."""

    counts: Counter[str] = field(default_factory=Counter)
    named: list[str] = field(default_factory=list)

    def add(self, where: str, reason: str, detail: str = "") -> None:
        self.counts[reason] += 1
        if len(self.named) < NAMED_MOST:
            self.named.append(f"{where}\t{reason}\t{detail}\n")

    def reasons(self) -> str:
        return "; ".join(f"{count:,} {reason}" for reason, count in sorted(self.counts.items()) if count) or "none"


@dataclass(frozen=True)
class Texts:
    """Texts as tokens, one behind the other: text i is `tokens[ends[i] - lengths[i] : ends[i]]`."""

    tokens: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]
    words: npt.NDArray[np.int32]
    hashes: npt.NDArray[np.uint64]  # of what they say
    unknown_id: int  # the token of what the vocabulary lacks

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def ends(self) -> npt.NDArray[np.int64]:
        return np.cumsum(self.lengths, dtype=np.int64)

    @property
    def unknown(self) -> int:
        """Tokens that are no piece of the vocabulary."""
        return int((self.tokens == self.unknown_id).sum())

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.tokens.tobytes())
        digest.update(self.lengths.tobytes())
        return digest.hexdigest()[:12]

    def where(self, mask: npt.NDArray[np.bool_]) -> "Texts":
        tokens = self.tokens[np.repeat(mask, self.lengths)]
        return Texts(tokens, self.lengths[mask], self.words[mask], self.hashes[mask], self.unknown_id)


def manifest_lines(uris: Sequence[str], wanted: Sequence[str] | None, dev: bool = False) -> list[Line]:
    """The texts of manifests: of the splits wanted, or else of those that are trained on; with `dev`, of dev splits.

    Raises ValueError when there is no such split.
    """
    table = parquet.read_tables(uris, wanted, ["id", "split", "text"])
    there = set(table["split"].to_pylist())
    splits = {split for split in there if wanted or (_is_dev(split) if dev else not is_held_out(split))}
    if not splits:
        what = "dev split" if dev else "split to train on"
        names = ", ".join(sorted(there)) or "none"
        raise ValueError(f"{', '.join(uris)}: has no {what} (splits: {names})"
                         + ("" if dev else "; say which to take all the same with --splits"))  # fmt: skip
    columns = (table[name].to_pylist() for name in ("id", "split", "text"))
    return [(id_, text) for id_, split, text in zip(*columns, strict=True) if split in splits]


def _is_dev(split: str) -> bool:
    return is_held_out(split) and split.lower().startswith(("dev", "val"))


def file_lines(uri: str, language: str, left_out: LeftOut) -> Iterator[Line]:
    """The lines of a text file, normalised as transcripts are. Raises ValueError for a line that is not UTF-8."""
    with storage.open_read(uri) as file:
        for number, data in enumerate(file, 1):
            where = f"{uri}:{number}"
            try:
                line = data.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as err:
                raise ValueError(f"{uri}, line {number}: not UTF-8 (byte 0x{data[err.start]:02x}); convert it first, "
                                 f"for instance: iconv -f latin1 -t utf-8 {storage.name(uri)}") from None  # fmt: skip
            try:
                yield where, normalise(line, language)
            except ValueError as err:
                reason, _, detail = str(err).partition(": ")
                left_out.add(where, reason, detail)


def to_tokens(lines: Iterable[Line], tokenizer: Tokenizer, max_tokens: int, left_out: LeftOut) -> Texts:
    """The texts that are no longer than `max_tokens`, in their order."""
    tokens, lengths, words, hashes = ([np.zeros(0, kind)] for kind in (np.int32, np.int32, np.int32, np.uint64))
    for some in _grouped(_sayable(lines, left_out)):
        parts = tokenizer.encode_batch([text for _, text in some])
        fits = [len(ids) <= max_tokens for ids in parts]
        for (where, _), ids, fit in zip(some, parts, fits, strict=True):
            if not fit:
                left_out.add(where, f"longer than max_tokens ({max_tokens})", f"{len(ids)} tokens")
        kept = [(text, ids) for (_, text), ids, fit in zip(some, parts, fits, strict=True) if fit]
        tokens.append(np.array([i for _, ids in kept for i in ids], np.int32))
        lengths.append(np.array([len(ids) for _, ids in kept], np.int32))
        words.append(np.array([len(text.split()) for text, _ in kept], np.int32))
        hashes.append(np.array([_hash(text) for text, _ in kept], np.uint64))
    return Texts(
        np.concatenate(tokens),
        np.concatenate(lengths),
        np.concatenate(words),
        np.concatenate(hashes),
        tokenizer.unknown,
    )


def _sayable(lines: Iterable[Line], left_out: LeftOut) -> Iterator[Line]:
    for where, text in lines:
        if not text:
            left_out.add(where, "no words")
        elif mark := reserved(text):
            left_out.add(where, "holds what sentencepiece keeps for itself", repr(mark))
        else:
            yield where, text


def _grouped(lines: Iterable[Line]) -> Iterator[list[Line]]:
    group: list[Line] = []
    for line in lines:
        group.append(line)
        if len(group) == TOGETHER:
            yield group
            group = []
    if group:
        yield group


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def hold_out(texts: Texts, share: float) -> tuple[Texts, Texts]:
    """(to train on, held out): by what they say, so that no sentence is on both sides, nor on another one tomorrow."""
    threshold = round(share * 2**64)
    if len(texts) > DEV_MOST:
        threshold = min(threshold, int(np.partition(texts.hashes, DEV_MOST)[DEV_MOST]))
    held = texts.hashes < np.uint64(threshold)
    return texts.where(~held), texts.where(held)


def without(texts: Texts, others: Texts) -> Texts:
    """The texts that are not among the others."""
    return texts.where(~np.isin(texts.hashes, others.hashes))


def unigram_nats(train: Texts, dev: Texts, vocab: int) -> float:
    """What a token of the held-out texts costs a model that knows only how often each occurs (one added to all)."""
    counts = np.bincount(train.tokens, minlength=vocab)[1:] + 1
    return float(-np.log(counts / counts.sum())[dev.tokens - 1].mean())


@dataclass(frozen=True)
class Plan:
    """The batches of an epoch: examples, each of texts that follow each other."""

    order: npt.NDArray[np.int64]  # texts
    first: npt.NDArray[np.int64]  # where in `order` an example begins; and where the last one ends
    batches: list[npt.NDArray[np.int64]]  # examples


def plan(texts: Texts, config: LmTrainConfig, epoch: int) -> Plan:
    """Every text once: shuffled, some joined, like lengths together. The same for the same seed and epoch."""
    rng = np.random.default_rng((config.seed, epoch))
    order = rng.permutation(len(texts))
    lengths = texts.lengths[order].astype(np.int64)
    begins = rng.random(len(order)) >= config.join
    begins[:1] = True
    example = np.cumsum(begins) - 1
    begins |= (np.bincount(example, lengths) > config.max_tokens)[example]  # too long together: each for itself
    first = np.append(np.flatnonzero(begins), len(order))
    sizes = np.add.reduceat(lengths, first[:-1])
    window = max(1, round(WINDOW * config.batch_tokens / float(sizes.mean())))
    shuffled = rng.permutation(len(sizes))
    batches: list[npt.NDArray[np.int64]] = []
    for start in range(0, len(shuffled), window):
        some = shuffled[start : start + window]
        batches += _cut(some[np.argsort(sizes[some], kind="stable")], sizes, config.batch_tokens)
    return Plan(order, first, [batches[i] for i in rng.permutation(len(batches))])


def in_order(texts: Texts, batch_tokens: int) -> Plan:
    """Every text for itself, the shortest first."""
    order = np.argsort(texts.lengths, kind="stable")
    examples = np.arange(len(texts))
    return Plan(order, np.arange(len(texts) + 1), _cut(examples, texts.lengths[order], batch_tokens))


def _cut(
    examples: npt.NDArray[np.int64], sizes: npt.NDArray[np.integer], batch_tokens: int
) -> list[npt.NDArray[np.int64]]:
    """Examples that come in order of their length, into batches that are full."""
    batches, start = [], 0
    for end in range(1, len(examples) + 1):
        if end == len(examples) or (end + 1 - start) * int(sizes[examples[end]]) > batch_tokens:
            batches.append(examples[start:end])
            start = end
    return batches


def pack(texts: Texts, ends: npt.NDArray[np.int64], plan: Plan, batch: int) -> npt.NDArray[np.int64]:
    """Tokens [b, 1 + u] of a batch, padded with blank, blank before the first one."""
    rows = []
    for example in plan.batches[batch]:
        which = plan.order[plan.first[example] : plan.first[example + 1]]
        rows.append(np.concatenate([texts.tokens[ends[i] - texts.lengths[i] : ends[i]] for i in which]))
    packed = np.full((len(rows), 1 + max(map(len, rows))), BLANK, np.int64)
    for row, tokens in zip(packed, rows, strict=True):
        row[1 : 1 + len(tokens)] = tokens
    return packed
