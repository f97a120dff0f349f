"""The one normaliser of transcripts: what training, the vocabulary and scoring see is what comes out of here.

A text is never guessed at: a character whose spoken form is not known (digits, %, &, foreign letters in English) makes
`normalise` raise, so that the utterance is left out with a reason instead of teaching the model a wrong one.
"""

import re
import unicodedata

VERSION = 1  # raise it whenever some text comes out differently: prepared corpora are then made anew

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘‛ʼʹ′＇´`", "'"))  # before NFKC, which makes ´ a space with an accent
_ENGLISH = str.maketrans({"ʻ": "'", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"})
_TURKIC = str.maketrans({"I": "ı", "İ": "i"})
_SPOKEN = frozenset("&%@#§‰")  # Unicode calls them punctuation, but a reader says them
_SHOWN = 10  # unknown characters named in one message


def normalise(text: str, language: str) -> str:
    """`text` in lower case, words separated by one space; "" when there are no words.

    English becomes a-z and the apostrophe, with accents folded (café: cafe). Other languages keep all their letters
    and marks, in NFKC, lowered but not case-folded (Straße stays; Turkish I becomes ı). Punctuation becomes a space,
    invisible characters vanish. An apostrophe stays where it touches a letter ('cause, dogs', l'eau), except around
    a single quoted word ('word'). Raises ValueError that shows the characters it does not know.
    """
    base = re.split("[-_]", language.strip().lower(), maxsplit=1)[0]
    if base in ("en", "eng"):
        folded = _fold_english(text)
        kept = _keep(folded, "abcdefghijklmnopqrstuvwxyz")
    else:
        kept = unicodedata.normalize("NFKC", _keep(_lower(text, base), None))
    words = (_trim_apostrophes(word) for word in re.sub("''+", " ", kept).split())
    return " ".join(word for word in words if word)


def _fold_english(text: str) -> str:
    composed = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).casefold().translate(_ENGLISH)
    letters_and_marks = unicodedata.normalize("NFKD", composed)
    return "".join(c for c in letters_and_marks if unicodedata.category(c) != "Mn")


def _lower(text: str, language: str) -> str:
    composed = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES))
    return unicodedata.normalize(
        "NFKC", (composed.translate(_TURKIC) if language in ("tr", "az") else composed).lower()
    )


def _keep(text: str, alphabet: str | None) -> str:
    """Letters (of `alphabet`, or any), their marks and apostrophes; a space for punctuation."""
    kept: list[str] = []
    unknown: list[str] = []
    for char in text:
        kind = unicodedata.category(char)
        if char == "'" or (kind[0] == "L" and (alphabet is None or char in alphabet)):
            kept.append(char)
        elif kind[0] == "M" and alphabet is None:
            if kept and kept[-1] not in (" ", "'"):  # a mark belongs to the letter before it
                kept.append(char)
        elif char.isspace() or kind == "Sk" or (kind[0] == "P" and char not in _SPOKEN):
            kept.append(" ")
        elif kind != "Cf":
            unknown.append(char)
    if unknown:
        raise ValueError("unknown characters: " + _show(unknown))
    return "".join(kept)


def _trim_apostrophes(word: str) -> str:
    quoted = len(word) > 2 and word[0] == word[-1] == "'"
    return word.strip("'") if quoted or word == "'" else word


def _show(unknown: list[str]) -> str:
    distinct = sorted(set(unknown))
    shown = " ".join(c if c.isprintable() else f"U+{ord(c):04X}" for c in distinct[:_SHOWN])
    return shown if len(distinct) <= _SHOWN else f"{shown} and {len(distinct) - _SHOWN} more"
