"""Text to piece ids and back: a sentencepiece model with the transducer's blank at id 0, and how one is trained.

An imported model may have pieces of another kind instead, see asr/importing/char_bpe.py.
"""

import hashlib
import io
import re
from collections.abc import Iterable
from typing import Any, Literal, get_args

import sentencepiece

from asr.importing import char_bpe
from asr.importing.char_bpe import CharBpe
from manifests import storage

Kind = Literal["bpe", "unigram", "char"]
KINDS: tuple[Kind, ...] = get_args(Kind)

BLANK = 0
BLANK_PIECE = "<blank>"
UNKNOWN = 1
WORD_MARK = "▁"  # sentencepiece writes it for the space before each word, the first included

# What sentencepiece uses as marks of its own: such text would come back as other text, or not be trained on at all.
_RESERVED = re.compile(r"[\x00-\x1f\x7f\u2581\u2585]|<blank>|<unk>|<0x[0-9A-F]{2}>")


class Tokenizer:
    """A vocab in use. `decode(encode(t)) == t` for every text it was trained on."""

    def __init__(self, model_bytes: bytes, name: str = "vocab") -> None:
        """Raises ValueError when the bytes are no sentencepiece model, or one whose id 0 is not the blank.

        `name` is what error messages call it.
        """
        self.model_bytes = model_bytes
        self._model: Any  # encodes a text, decodes ids
        if model_bytes.startswith(char_bpe.BEGIN):
            self._model = words = _load_char_bpe(model_bytes, name)
            self._pieces, self.unknown = words.pieces, words.special.unknown
            self._starts_word = [False] * len(self._pieces)
            self._ends_word = [words.ends_word(i) for i in range(len(self._pieces))]
        else:
            self._model = model = _load(model_bytes, name)
            self._pieces, self.unknown = [model.id_to_piece(i) for i in range(model.get_piece_size())], UNKNOWN
            self._starts_word = [piece.startswith(WORD_MARK) for piece in self._pieces]
            self._ends_word = [False] * len(self._pieces)
        self.size = len(self._pieces)

    @classmethod
    def load(cls, uri: str) -> "Tokenizer":
        """Raises FileNotFoundError, and ValueError as the constructor does and for a folder."""
        if storage.is_local(uri) and storage.is_folder(uri):
            raise ValueError(f"{uri}: is a folder; give the .model file that build-vocab has written there")
        return cls(storage.read_bytes(uri), name=uri)

    @property
    def fingerprint(self) -> str:
        """12 hex digits of the SHA-256 of the model file."""
        return hashlib.sha256(self.model_bytes).hexdigest()[:12]

    def encode(self, text: str) -> list[int]:
        return self._model.encode(text)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        if isinstance(self._model, CharBpe):
            return [self._model.encode(text) for text in texts]
        # one thread: whoever encodes much already runs a process per core, and sentencepiece would take every core
        return self._model.encode(texts, num_threads=1)

    def decode(self, ids: list[int]) -> str:
        """The text of a whole utterance; blanks are passed over, an unknown piece reads ` ⁇ `."""
        return self._model.decode(ids)

    def pieces(self, ids: list[int]) -> list[str]:
        return [self._pieces[i] for i in ids]

    def starts_word(self, piece_id: int) -> bool:
        """True for a piece that begins a new word, so that the word before it is complete.

        In a char vocab, and for a rare first letter in the others, that piece is the word mark alone.
        """
        return self._starts_word[piece_id]

    def ends_word(self, piece_id: int) -> bool:
        """True for a piece that ends its word, so that it is complete and the next piece begins another.

        Never of a sentencepiece model, whose pieces mark where words begin.
        """
        return self._ends_word[piece_id]


def _load(model_bytes: bytes, name: str) -> sentencepiece.SentencePieceProcessor:
    message = f"{name}: not a sentencepiece model; give the .model file that build-vocab wrote"
    if not model_bytes:  # sentencepiece takes nothing for a model of no pieces
        raise ValueError(message)
    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
    except RuntimeError:
        raise ValueError(message) from None
    first = model.id_to_piece(BLANK)
    if first != BLANK_PIECE or not model.is_control(BLANK) or model.unk_id() != UNKNOWN:
        raise ValueError(f"{name}: has {first!r} at id {BLANK}, not {BLANK_PIECE!r}; make a vocab with build-vocab")
    return model


def _load_char_bpe(model_bytes: bytes, name: str) -> CharBpe:
    try:
        model = CharBpe.parse(model_bytes)
    except ValueError as err:
        raise ValueError(f"{name}: is damaged ({' '.join(str(err).split())}); get the bundle again") from None
    if BLANK not in model.special.silent:
        raise ValueError(f"{name}: has {model.pieces[BLANK]!r} at id {BLANK}, where blank must be")
    return model


def reserved(text: str) -> str | None:
    """The first part of `text` that sentencepiece keeps for itself, or None when it can be trained on."""
    found = _RESERVED.search(text)
    return found[0] if found else None


def characters(texts: Iterable[str]) -> set[str]:
    """Every character that a vocab of these texts needs, the word mark among them."""
    found = {WORD_MARK}
    for text in texts:
        found.update(text.replace(" ", WORD_MARK))
    return found


def smallest_size(texts: Iterable[str], byte_fallback: bool) -> int:
    """Pieces in the smallest vocab that covers every character: blank, unknown, perhaps 256 bytes, the characters.

    It is the only size that a char vocab can have.
    """
    return 2 + 256 * byte_fallback + len(characters(texts))


def train(texts: Iterable[str], kind: Kind, size: int, byte_fallback: bool) -> bytes:
    """A sentencepiece model of exactly `size` pieces; the same texts, in any order, give the same bytes.

    The texts hold nothing `reserved` and are taken as they are: no normalisation, every character covered.
    With `byte_fallback` a character that the texts lack is spelled in UTF-8 bytes instead of being unknown. Raises
    ValueError that names the smallest or the largest possible size when these texts allow no vocab of this size.
    """
    texts = sorted(texts)  # ties between pieces are broken by what came first
    smallest = smallest_size(texts, byte_fallback)
    bytes_too = ", the 256 bytes" if byte_fallback else ""
    if kind == "char" and size != smallest:
        raise ValueError(
            f"--size {size}: a char vocab of these texts has exactly {smallest} pieces; say --size {smallest}"
        )
    if size < smallest:
        raise ValueError(
            f"--size {size}: too small for every character of these texts{bytes_too}, blank and unknown; "
            f"the smallest possible is --size {smallest}"
        )
    possible, model = _train_at_most(texts, kind, size, byte_fallback)
    if possible < size:
        raise ValueError(
            f"--size {size}: these texts do not hold that many different {kind} pieces; "
            f"the largest possible is --size {possible}"
        )
    return model


def _train_at_most(texts: list[str], kind: Kind, size: int, byte_fallback: bool) -> tuple[int, bytes]:
    """The model of `size` pieces, or else of the largest size below it that works, and that size.

    sentencepiece names its limit only after a failed run; the run at that limit shows that it can be had.
    """
    while True:
        try:
            return size, _run_trainer(texts, kind, size, byte_fallback)
        except RuntimeError as err:
            limit = re.search(r"set it to a value <= (\d+)", str(err))
            if limit is None:
                raise ValueError(f"sentencepiece cannot make a {kind} vocab of {size} pieces: {err}") from None
            assert int(limit[1]) < size, f"sentencepiece refuses its own limit: {err}"
            size = int(limit[1])


def _run_trainer(texts: list[str], kind: Kind, size: int, byte_fallback: bool) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type=kind,
        vocab_size=size,
        byte_fallback=byte_fallback,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        pad_id=BLANK,
        pad_piece=BLANK_PIECE,
        unk_id=UNKNOWN,
        bos_id=-1,
        eos_id=-1,
        max_sentence_length=1 << 30,  # bytes; longer texts would be left out in silence
        num_threads=1,  # the number is written into the model and decides the order of unigram's sums
        minloglevel=5,  # nothing: what matters comes as an exception
    )
    return model.getvalue()
