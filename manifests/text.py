"""The one normaliser of transcripts: what training, the vocabulary and scoring see is what comes out of here.

A text is never guessed at: a character whose spoken form is not certain (most symbols, digits that can be read in
two ways, letters of another script) makes `normalise` raise, so that the utterance is left out with a reason instead
of teaching the model a wrong one. Alphabets and what is particular to a language stand in manifests/languages.py,
numbers in manifests/numbers.py.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache

from manifests import apostrophes, numbers
from manifests.languages import LANGUAGES, Language, base

VERSION = 2  # raise it whenever some text comes out differently: prepared corpora are then made anew

_APOSTROPHES = "'’‘‛ʼʹ′＇´`"
# Punctuation to Unicode, but a reader says something there, or the text is a note and not what was said: [Music], f***
_SPOKEN = frozenset("&%@#§/\\*[]{}〜‰‱٪؉؊")
# variation selectors, the grapheme joiner and Hangul fillers: no mark or letter to be seen
_INVISIBLE = frozenset("\u034f\u115f\u1160\u3164\uffa0") | frozenset(
    map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)])
)
_UNKNOWN = "\0"  # stands for what has no known spoken form, until the error message names it
_LOOSE_MARKS = re.compile(r"(?:^|(?<=[ ']))[^\w ']+")  # marks without the letter that they belong to
_WITH_DIGITS = re.compile(r"(?<![A-Za-z0-9.,:/+%°$€£-])[A-Za-z0-9.,:/+%°$€£-]*\d[\dA-Za-z.,:/+%°$€£-]*")
_SHOWN = 10  # unknown characters named in one message
_SHOWN_LENGTH = 20  # characters of a number in it


def normalise(text: str, language: str) -> str:
    """`text` in lower case, words separated by one space; "" when there are no words.

    NFKC; punctuation becomes a space and invisible characters vanish; numbers and signs become words where there is
    one way to say them. Letters are never lost: those of the language stay as they are, foreign accents are folded
    (English café: cafe). Chinese and Japanese come out without any space: there no word begins at one, and nobody
    hears where punctuation stood. An apostrophe stays where it touches a letter ('cause, dogs', l'eau), except
    around quoted words; words that a tokeniser cut at it are joined (they 're: they're). `language` is a tag (en,
    zh-TW, pt_BR); without a table of its own it keeps all letters and marks, lowered. A text that was normalised
    stays as it is. Raises ValueError that shows the characters, or numbers, that it does not know how to say.
    """
    rules = _rules(base(language))
    for doubt in rules.doubts:
        if (found := doubt.search(text)) and not text.isupper():
            raise ValueError(f"unknown characters: {_word_at(text, found.start())[:_SHOWN_LENGTH]}")
    plain = _letters(text, rules)
    if _UNKNOWN in plain:
        text = numbers.spell(_simplified(text), language)
        plain = _letters(text, rules)
        if _UNKNOWN in plain:
            raise ValueError("unknown characters: " + _show(text, rules))
    return _words(plain, rules)


def alphabet(language: str) -> str | None:
    """The characters that can come out besides space and apostrophe, in code-point order; None without a table."""
    table = LANGUAGES.get(base(language))
    return None if table is None else _members(table.letters)


class _Fates(dict[int, str]):
    """What becomes of a character, for str.translate: found out when it is first met, then looked up.

    So unicodedata is asked once for every character, not once for every character of every text.
    """

    def __init__(self, table: Language | None) -> None:
        self._table = table
        self._letters = re.compile(f"[{table.letters}]+") if table else None
        self._silent = re.compile(f"[{table.silent}]") if table and table.silent else None

    def __missing__(self, code: int) -> str:
        fate = self[code] = self._found(chr(code))
        return fate

    def _found(self, char: str) -> str:
        kind = unicodedata.category(char)
        if kind == "Cf" or char in _INVISIBLE:
            return ""
        if char in _APOSTROPHES:
            return "'" if self._table is None or self._table.apostrophes else " "
        as_letter = self._as_letter(char, kind)
        if as_letter is not None:
            return as_letter
        punctuation = kind == "Sk" or (kind[0] == "P" and char not in _SPOKEN)
        return " " if punctuation or char.isspace() else _UNKNOWN

    def _as_letter(self, char: str, kind: str) -> str | None:
        """The letters, or none, that a letter or mark becomes; None for any other character."""
        if self._table is None or self._letters is None:
            return char if kind[0] in "LM" else None
        if self._letters.fullmatch(char):
            return char
        if char in self._table.folds:
            return self._table.folds[char]
        parts = unicodedata.normalize("NFKD", char)
        if self._silent:
            parts = self._silent.sub("", parts)
        folded = "".join(self._table.folds.get(part, part) for part in parts)
        return folded if not folded or self._letters.fullmatch(folded) else None


class _Signs(dict[int, str]):
    """For str.translate before NFKC, which would make signs into letters and digits that nobody says: ½ ² ① № ™ 1ª."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        sign = unicodedata.category(char) in ("No", "Nl", "So") or char in "ªº"
        changed = unicodedata.normalize("NFKC", char) != char and char not in "℃℉" and not "⺀" <= char <= "⿕"
        self[code] = "'" if char == "´" else _UNKNOWN if sign and changed else char
        return self[code]


@dataclass(frozen=True, slots=True)
class _Rules:
    table: Language | None
    fates: _Fates
    doubts: tuple[re.Pattern[str], ...]
    marks: bool
    turkic: bool


_SIGNS = _Signs()
_TURKIC = str.maketrans({"I": "ı", "İ": "i"})


@cache
def _rules(key: str) -> _Rules:
    table = LANGUAGES.get(key)
    doubts = tuple(map(re.compile, table.doubts)) if table else ()
    marks = table is None or any(unicodedata.category(end)[0] == "M" for end in table.letters)
    return _Rules(table, _Fates(table), doubts, marks, turkic=key in ("tr", "az"))


def _letters(text: str, rules: _Rules) -> str:
    """Letters, apostrophes and spaces, and _UNKNOWN for each character without a known spoken form."""
    if not text.isascii() and not unicodedata.is_normalized("NFKC", text):
        text = unicodedata.normalize("NFKC", text.translate(_SIGNS))
    if rules.turkic:
        text = text.translate(_TURKIC)
    return text.lower().translate(rules.fates)


def _words(plain: str, rules: _Rules) -> str:
    table = rules.table
    if table and not table.spaced:
        return "".join(plain.split())
    if rules.marks and not plain.isascii():  # a vanished character may have kept a mark from its letter
        plain = _LOOSE_MARKS.sub("", unicodedata.normalize("NFKC", plain))
    plain = " ".join(plain.split())
    if "'" in plain:
        plain = apostrophes.tidy(plain, table.apostrophes if table else None)
    if table and table.expanded:
        words = plain.split(" ")
        if not table.expanded.keys().isdisjoint(words):
            plain = " ".join(table.expanded.get(word, word) for word in words)
        if not table.titles.keys().isdisjoint(words[:-1]):
            words = plain.split(" ")
            plain = " ".join([*(table.titles.get(word, word) for word in words[:-1]), words[-1]])
    return plain


def _simplified(text: str) -> str:
    """NFKC but for the signs that it would change: 1ª has a spoken form. A wide comma groups only wide digits."""
    text = re.sub("(?<![０-９])，|，(?![０-９])", ", ", text)
    return "".join(c if _SIGNS[ord(c)] != c else unicodedata.normalize("NFKC", c) for c in text)


@cache
def _members(letters: str) -> str:
    """All characters of the inside of a regular expression's []."""
    ends = re.sub("(.)-(.)", lambda m: "".join(map(chr, range(ord(m[1]), ord(m[2]) + 1))), letters)
    return "".join(sorted(set(ends)))


def _word_at(text: str, place: int) -> str:
    return text[:place].rpartition(" ")[2] + text[place:].partition(" ")[0]


def _show(text: str, rules: _Rules) -> str:
    """The numbers of `text` that could not be said, and its unknown characters."""
    unknown = {found[:_SHOWN_LENGTH] for found in _WITH_DIGITS.findall(text)}
    rest = unicodedata.normalize("NFC", _WITH_DIGITS.sub("", text))
    unknown.update(c for c in rest if _UNKNOWN in _letters(c, rules))
    listed = sorted(unknown)
    shown = " ".join("".join(c if c.isprintable() else f"U+{ord(c):04X}" for c in part) for part in listed[:_SHOWN])
    return shown if len(listed) <= _SHOWN else f"{shown} and {len(listed) - _SHOWN} more"
