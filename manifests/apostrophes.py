"""Apostrophes at the edges of words: which belong to the word, which are quotation marks, which a tokeniser cut off."""

import re

from manifests.languages import Apostrophes

_AT_AN_EDGE = re.compile("^'|'$|''| '|' ")


def tidy(plain: str, rules: Apostrophes | None) -> str:
    """`plain`, words with one space between two, without the apostrophes that belong to no word.

    With rules, words that were cut at an apostrophe are joined, and quotes go wherever one that opens a word has one
    that closes a word behind it; an apostrophe without a partner is part of its word. Without rules only a single
    word loses its quotes. Nothing changes when the result comes here again: every pass makes it shorter or ends.
    """
    before = ""
    while plain != before and _AT_AN_EDGE.search(plain):
        before = plain
        plain = re.sub("''+", " ", plain)
        for cut, joined in rules.clitics if rules else ():
            plain = re.sub(cut, joined, plain)
        words = plain.split()
        plain = " ".join(_unquoted(words, rules) if rules else filter(None, map(_bare, words)))
    return plain


def _bare(word: str) -> str:
    """A word without quotes around it."""
    return word.strip("'") if word[0] == word[-1] == "'" else word


def _unquoted(words: list[str], rules: Apostrophes) -> list[str]:
    """The words without the quotes that have a partner. One that stands by itself closes if one is open, else opens."""
    kept: list[str] = []
    opened: list[int] = []  # where in `kept` quotes wait for their partner
    for word in words:
        if len(word) > 1 and word[0] == word[-1] == "'":
            word = _bare(word)
        elif word[-1] == "'" and opened:
            first = opened.pop()
            kept[first] = kept[first][1:]
            word = word[:-1]
        elif word[0] == "'" and word[1:].partition("'")[0] not in rules.elided:
            opened.append(len(kept))
        kept.append(word)
    return _with_plurals(kept) if rules.plural_s else [word for word in kept if word not in ("", "'")]


def _with_plurals(words: list[str]) -> list[str]:
    """A quote by itself that found no partner belongs to the plural before it, and vanishes elsewhere."""
    kept: list[str] = []
    for i, word in enumerate(words):
        if word == "'" and kept and kept[-1].endswith("s") and i + 1 < len(words):
            kept[-1] += word
        elif word not in ("", "'"):
            kept.append(word)
    return kept
