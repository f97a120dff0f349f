"""Byte pair encoding of words whose last piece ends in `</w>`: vocabularies of Hugging Face's CharBPETokenizer.

R. Sennrich et al., "Neural machine translation of rare words with subword units", 2016. Kept for models that were
trained on such pieces (asr/import_bundle.py); build-vocab makes sentencepiece models, which cannot express it: their
merges follow from the pieces alone, while here only listed pairs are merged, and a word's last letter is another symbol
than the same letter inside it.
"""

import functools
import itertools
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

END = "</w>"
BEGIN = b'{"char-bpe"'  # of the model file; no sentencepiece model begins so
_IDEOGRAPHS = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2FA1F))
WORDS = 1 << 16  # whose pieces are remembered


@dataclass(frozen=True, slots=True)
class Special:
    """Ids of pieces that are no text."""

    unknown: int
    silent: frozenset[int]  # blank, padding, start: passed over in decoding


class CharBpe:
    """Text is taken in small letters; words are what stands between spaces.

    Punctuation is a word of its own where no piece of the vocabulary holds it beside other characters, and so is a
    Chinese character: CharBPETokenizer splits words there or not as it was told, and does not say so in its files.
    """

    def __init__(self, pieces: Sequence[str], merges: Sequence[tuple[str, str]], special: Special) -> None:
        """`pieces` by id; `merges` the earliest first."""
        self.pieces = list(pieces)
        self.special = special
        self._ids = {piece: i for i, piece in enumerate(pieces)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        texts = [p.removesuffix(END) for i, p in enumerate(pieces) if i not in special.silent and i != special.unknown]
        longer = [text for text in texts if len(text) > 1]
        self._alone = [test for test in (_is_punctuation, _is_chinese) if not any(any(map(test, t)) for t in longer)]
        self._word = functools.lru_cache(WORDS)(self._encode_word)

    @classmethod
    def parse(cls, data: bytes) -> "CharBpe":
        """The model file that `dump` made. Raises ValueError for anything else."""
        try:
            values = json.loads(data)["char-bpe"]
            special = Special(values["unknown"], frozenset(values["silent"]))
            merges = [(left, right) for left, right in values["merges"]]
            if not all(isinstance(piece, str) for piece in values["pieces"]):
                raise ValueError("a piece is no text")
            return cls(values["pieces"], merges, special)
        except (KeyError, TypeError) as err:
            raise ValueError(f"it is damaged: {err}") from None

    def encode(self, text: str) -> list[int]:
        return [i for word in self._split(text.lower()) for i in self._word(word)]

    def decode(self, ids: Sequence[int]) -> str:
        said = (i for i in ids if i not in self.special.silent)
        texts = (" ⁇ " if i == self.special.unknown else self.pieces[i].replace(END, " ") for i in said)
        return " ".join("".join(texts).split())

    def ends_word(self, piece_id: int) -> bool:
        return self.pieces[piece_id].endswith(END) or piece_id == self.special.unknown

    def _split(self, text: str) -> list[str]:
        if self._alone:
            text = "".join(f" {c} " if any(test(c) for test in self._alone) else c for c in text)
        return text.split()

    def _encode_word(self, word: str) -> tuple[int, ...]:
        """Merges the pair that comes first in the list, wherever it stands, until none of the list is left."""
        parts = [*word[:-1], word[-1] + END]
        while len(parts) > 1:
            pair = min(itertools.pairwise(parts), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if pair not in self._ranks:
                break
            merged, i = [], 0
            while i < len(parts):
                both = tuple(parts[i : i + 2]) == pair
                merged.append(pair[0] + pair[1] if both else parts[i])
                i += 2 if both else 1
            parts = merged
        return tuple(self._ids.get(part, self.special.unknown) for part in parts)


def dump(pieces: Sequence[str], merges: Sequence[tuple[str, str]], special: Special) -> bytes:
    """The bytes of a model file."""
    values = {
        "pieces": list(pieces), "merges": [list(pair) for pair in merges],
        "unknown": special.unknown, "silent": sorted(special.silent),
    }  # fmt: skip
    data = json.dumps({"char-bpe": values}, ensure_ascii=False, separators=(",", ":")).encode()
    assert data.startswith(BEGIN)
    return data


def _is_punctuation(char: str) -> bool:
    """As BERT's tokenizer has it: what ASCII has besides letters and digits, and Unicode's punctuation."""
    return (char.isascii() and char.isprintable() and not char.isalnum() and char != " ") or (
        unicodedata.category(char).startswith("P")
    )


def _is_chinese(char: str) -> bool:
    """The ideographs that BERT's tokenizer sets apart."""
    return any(first <= ord(char) <= last for first, last in _IDEOGRAPHS)
