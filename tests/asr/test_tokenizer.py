"""A vocab gives every text back, keeps the blank to itself, and says which sizes are possible."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import tokenizer
from asr.importing import char_bpe
from asr.importing.char_bpe import CharBpe, Special
from asr.tokenizer import BLANK, KINDS, UNKNOWN, Kind, Tokenizer

TEXTS = [
    "the cat sat on the mat",
    "the dog saw the cat",
    "a cat and a dog",
    "straße über größe",
    "日本語 を 話す",
    "привет",
]

# what a normaliser leaves: words of any script with one space between two
words = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)
texts = st.lists(words, min_size=1, max_size=6).map(" ".join).filter(lambda t: tokenizer.reserved(t) is None)
corpora = st.lists(texts, min_size=1, max_size=8)


def smallest_vocab(corpus: list[str], kind: Kind, byte_fallback: bool = False) -> Tokenizer:
    size = tokenizer.smallest_size(corpus, byte_fallback)
    return Tokenizer(tokenizer.train(corpus, kind, size, byte_fallback))


def vocab_of(kind: Kind, byte_fallback: bool = False) -> Tokenizer:
    merges = 8 if kind == "bpe" else 0  # the other kinds find nothing more in so little text
    size = tokenizer.smallest_size(TEXTS, byte_fallback) + merges
    return Tokenizer(tokenizer.train(TEXTS, kind, size, byte_fallback))


def other_model(corpus: list[str], **options: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=model, model_type="char", vocab_size=40, minloglevel=5, **options
    )
    return model.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(corpus=corpora, byte_fallback=st.booleans())
def test_every_training_text_comes_back_and_never_holds_blank_or_unknown(
    kind: Kind, corpus: list[str], byte_fallback: bool
) -> None:
    vocab = smallest_vocab(corpus, kind, byte_fallback)
    for text, ids in zip(corpus, vocab.encode_batch(corpus), strict=True):
        assert ids == vocab.encode(text)
        assert vocab.decode(ids) == text
        assert not {BLANK, UNKNOWN} & set(ids)
        assert sum(map(vocab.starts_word, ids)) == len(text.split(" "))


@settings(max_examples=25, deadline=None)
@given(corpus=corpora)
def test_the_size_named_as_largest_is_possible_and_the_next_is_not(corpus: list[str]) -> None:
    for kind in ("bpe", "unigram"):
        with pytest.raises(ValueError, match="largest possible is --size") as too_large:
            tokenizer.train(corpus, kind, 5000, False)
        largest = int(re.findall(r"--size (\d+)", str(too_large.value))[-1])
        vocab = Tokenizer(tokenizer.train(corpus, kind, largest, False))
        assert vocab.size == largest
        assert [vocab.decode(ids) for ids in vocab.encode_batch(corpus)] == corpus
        with pytest.raises(ValueError, match=f"largest possible is --size {largest}"):
            tokenizer.train(corpus, kind, largest + 1, False)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("byte_fallback", [False, True])
def test_a_size_too_small_for_the_characters_names_the_smallest(kind: Kind, byte_fallback: bool) -> None:
    smallest = 2 + len(set("".join(TEXTS))) + (256 if byte_fallback else 0)  # the space stands for the word mark
    with pytest.raises(ValueError, match=f"smallest possible is --size {smallest}"):
        tokenizer.train(TEXTS, kind, smallest - 1, byte_fallback)
    assert Tokenizer(tokenizer.train(TEXTS, kind, smallest, byte_fallback)).size == smallest


@pytest.mark.parametrize("off", [-1, 1])
def test_a_char_vocab_has_one_size(off: int) -> None:
    size = tokenizer.smallest_size(TEXTS, False)
    with pytest.raises(ValueError, match=f"say --size {size}$"):
        tokenizer.train(TEXTS, "char", size + off, False)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_texts_in_any_order_give_the_same_bytes(kind: Kind) -> None:
    again = Tokenizer(tokenizer.train(TEXTS[::-1], kind, vocab_of(kind).size, False))
    assert again.model_bytes == vocab_of(kind).model_bytes
    assert again.fingerprint == vocab_of(kind).fingerprint
    assert re.fullmatch(r"[0-9a-f]{12}", again.fingerprint)
    assert again.fingerprint != smallest_vocab(TEXTS[:2], kind).fingerprint


@pytest.mark.parametrize("text", ["word " * 2000 + "quiz", " two  spaces "], ids=["long", "spaces"])
def test_texts_are_taken_as_they_are(text: str) -> None:
    vocab = smallest_vocab(["do", text], "bpe")
    assert vocab.decode(vocab.encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_an_unseen_character_is_unknown_unless_bytes_spell_it(kind: Kind) -> None:
    assert UNKNOWN in vocab_of(kind).encode("the ñ")
    vocab = vocab_of(kind, byte_fallback=True)
    assert UNKNOWN not in vocab.encode("the ñ 漢字 😀")
    assert vocab.decode(vocab.encode("the ñ 漢字 😀")) == "the ñ 漢字 😀"


def test_blank_is_passed_over_and_never_comes_from_text() -> None:
    vocab = vocab_of("bpe")
    ids = vocab.encode("the cat")
    assert vocab.decode([BLANK, *[i for pair in zip(ids, [BLANK] * len(ids), strict=True) for i in pair]]) == "the cat"
    assert BLANK not in vocab.encode("<blank>")
    assert vocab.pieces([BLANK, UNKNOWN]) == ["<blank>", "<unk>"]
    assert (vocab.encode(""), vocab.decode([])) == ([], "")


def test_a_word_starts_at_its_mark_in_each_kind() -> None:
    for kind in KINDS:
        vocab = vocab_of(kind)
        ids = vocab.encode("the cat")
        starts = [piece for i, piece in zip(ids, vocab.pieces(ids), strict=True) if vocab.starts_word(i)]
        assert len(starts) == 2 and all(piece.startswith("▁") for piece in starts)
    char = vocab_of("char")
    assert char.pieces(char.encode("a cat")) == list("▁a▁cat")


@pytest.mark.parametrize(
    "text", ["a\tb", "a\nb", "a\0b", "a▁b", "a▅b", "say <unk> now", "<blank>", "x<0x41>"], ids=lambda t: ascii(t)
)
def test_marks_of_sentencepiece_are_found_in_text(text: str) -> None:
    mark = tokenizer.reserved(text)
    assert mark is not None and mark in text
    assert tokenizer.reserved(text.replace(mark, " ")) is None


def test_load_reads_the_file_and_names_it_in_errors(tmp_path: Path) -> None:
    vocab = vocab_of("bpe")
    (tmp_path / "a.model").write_bytes(vocab.model_bytes)
    loaded = Tokenizer.load(str(tmp_path / "a.model"))
    assert (loaded.fingerprint, loaded.size) == (vocab.fingerprint, vocab.size)
    with pytest.raises(FileNotFoundError):
        Tokenizer.load(str(tmp_path / "b.model"))
    with pytest.raises(ValueError, match=r"is a folder; give the \.model file"):
        Tokenizer.load(str(tmp_path))
    for content in (b"", b"not a model", vocab.model_bytes[:-20]):
        (tmp_path / "bad.model").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.model: not a sentencepiece model"):
            Tokenizer.load(str(tmp_path / "bad.model"))


@pytest.mark.parametrize(
    "options",
    [{}, {"pad_id": 1, "pad_piece": "<blank>", "unk_id": 0, "bos_id": -1, "eos_id": -1}, {"pad_id": 0, "unk_id": 3}],
    ids=["unk-first", "blank-second", "pad-first"],
)
def test_a_model_without_the_blank_at_0_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^theirs: has '<(unk|pad)>' at id 0, not '<blank>'"):
        Tokenizer(other_model(TEXTS, **options), "theirs")


# A vocabulary of Hugging Face's CharBPETokenizer, and the pieces that its rules give.
MERGES = ["t h", "th e</w>", "a t</w>", "c at</w>", "i n", "in g</w>", "o n</w>", "e r", "er e</w>", "th ere</w>"]
LETTERS = "abcdefghijklmnopqrstuvwxyz'é"
SPECIAL = Special(3, frozenset({0, 1, 2}))


def char_bpe_model(merges: list[str] = MERGES, more: str = "") -> Tokenizer:
    pairs = [tuple(line.split(" ")) for line in merges]
    letters = [*LETTERS, *more]
    pieces = [
        "<blank>",
        "<pad>",
        "<bos>",
        "<unk>",
        *letters,
        *(f"{c}</w>" for c in letters),
        *("".join(p) for p in pairs),
    ]
    return Tokenizer(char_bpe.dump(pieces, [(left, right) for left, right in pairs], SPECIAL))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("the cat", ["the</w>", "cat</w>"]),
        ("THE", ["the</w>"]),
        ("thing there then", ["th", "ing</w>", "there</w>", "th", "e", "n</w>"]),  # e</w> is not the e of then
        ("attic at", ["a", "t", "t", "i", "c</w>", "at</w>"]),  # at</w> ends a word
        ("hothere", ["h", "o", "there</w>"]),
        ("a  é\tb", ["a</w>", "é</w>", "b</w>"]),
        ("c7t", ["c", "<unk>", "t</w>"]),
        ("7", ["<unk>"]),
        ("", []),
    ],
)
def test_pieces_of_another_system_are_those_that_it_made(text: str, pieces: list[str]) -> None:
    vocab = char_bpe_model()
    ids = vocab.encode(text)
    assert vocab.pieces(ids) == pieces and vocab.encode_batch([text, ""]) == [ids, []]
    assert vocab.unknown == 3 and not any(map(vocab.starts_word, range(vocab.size)))
    assert [vocab.ends_word(i) for i in ids] == [p.endswith("</w>") or p == "<unk>" for p in pieces]


def test_punctuation_is_a_word_where_the_vocabulary_knows_it_alone_only() -> None:
    assert char_bpe_model().pieces(char_bpe_model().encode("it's")) == ["i", "t</w>", "'</w>", "s</w>"]
    joined = char_bpe_model([*MERGES, "' s</w>"])
    assert joined.pieces(joined.encode("it's")) == ["i", "t", "'s</w>"]
    assert joined.decode(joined.encode("it's there")) == "it's there"


def test_chinese_characters_are_words_where_the_vocabulary_knows_them_alone_only() -> None:
    alone, joined = char_bpe_model(more="你好"), char_bpe_model([*MERGES, "你 好</w>"], more="你好")
    assert alone.pieces(alone.encode("你好a")) == ["你</w>", "好</w>", "a</w>"]
    assert joined.pieces(joined.encode("你好")) == ["你好</w>"]


@given(st.lists(st.text(LETTERS, min_size=1, max_size=9), max_size=6).map(" ".join))
def test_texts_of_the_vocabularys_letters_come_back(text: str) -> None:
    vocab = char_bpe_model([*MERGES, "' s</w>"])
    ids = vocab.encode(text)
    assert vocab.decode(ids) == text and vocab.decode([BLANK, 1, *ids, 2]) == text
    assert sum(map(vocab.ends_word, ids)) == len(text.split())
    assert vocab.decode([*ids, 3]) == f"{text} ⁇".strip()


def test_its_file_comes_back_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    vocab = char_bpe_model()
    (tmp_path / "v.model").write_bytes(vocab.model_bytes)
    again = Tokenizer.load(str(tmp_path / "v.model"))
    assert again.fingerprint == vocab.fingerprint and again.encode("the cat") == vocab.encode("the cat")
    for data in (vocab.model_bytes[:-1], b'{"char-bpe":{}}', b'{"char-bpe":7}', b'{"char-bpe"'):
        with pytest.raises(ValueError, match="v: is damaged") as caught:
            Tokenizer(data, "v")
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="where blank must be"):
        Tokenizer(char_bpe.dump(["a", "<unk>"], [], Special(1, frozenset())), "v")


def test_a_pair_is_merged_only_where_it_is_listed() -> None:
    """sentencepiece would merge "a" and "bc</w>", whose sum is a piece."""
    model = CharBpe(["<blank>", "?", "a", "b", "c</w>", "ab", "bc</w>", "abc</w>"],
                    [("b", "c</w>"), ("ab", "c</w>"), ("a", "b")], Special(1, frozenset({0})))  # fmt: skip
    assert [model.pieces[i] for i in model.encode("abc")] == ["a", "bc</w>"]
