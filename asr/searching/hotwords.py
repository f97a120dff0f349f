"""Hotwords of a stream: phrases that gain log-probability, token by token, while they are being said.

A trie of token ids with the automaton of Aho and Corasick (1975): one state, a node, per hypothesis, and a table lookup
per token. It finds phrases from left to right, at each place the longest. A phrase begins where a word begins and is
complete where its last word ends: "cat" gains nothing in "category". A complete phrase keeps what its tokens gained;
what was gained for one that breaks off is taken back with the token that breaks it, and what was said since is matched
again as though it had never begun.

A word is matched in the tokens that the tokenizer gives it: a recogniser trained on these says a word in others so
seldom (tests/bench/beam.md) that a second way to spell it would only cost room.
"""

import math
from collections.abc import Sequence

import numpy as np

from asr.engine import Floats
from asr.tokenizer import BLANK, WORD_MARK, Tokenizer

MAX_PHRASES = 1000  # with these limits a stream's automaton is below 30 MB and made in less than a second
MAX_CHARACTERS = 60
MAX_BOOST = 20.0  # log-probability; far above it only hotwords would be said

ROOT = 0


class Hotwords:
    """`boost` is the log-probability that each token of a phrase gains; a lone word mark, which says nothing, has none.

    Raises ValueError for a vocabulary that marks ends of words instead of their starts, for a phrase that is empty,
    too long or has characters that the vocabulary lacks, for too many phrases, and for a boost that is negative or
    above MAX_BOOST.
    """

    def __init__(self, phrases: Sequence[str], tokenizer: Tokenizer, boost: float) -> None:
        if not (math.isfinite(boost) and 0 <= boost <= MAX_BOOST):
            raise ValueError(f"hotword boost {boost}: must be from 0 to {MAX_BOOST:g}; 0.3 to 1 is usual")
        if len(phrases) > MAX_PHRASES:
            raise ValueError(f"{len(phrases)} hotwords: at most {MAX_PHRASES} for a stream; leave out the common words")
        if any(tokenizer.ends_word(i) for i in range(tokenizer.size)):
            raise ValueError("hotwords: not for a vocabulary whose pieces mark the ends of words, as imported ones do")
        self._starts_v = np.array([tokenizer.starts_word(i) for i in range(tokenizer.size)])
        self._worth_v = np.full(tokenizer.size, boost, np.float32)
        for i, piece in enumerate(tokenizer.pieces(list(range(tokenizer.size)))):
            if piece == WORD_MARK:
                self._worth_v[i] = 0.0
        self._next: list[dict[int, int]] = [{}]  # of each node: the token and the node behind it
        self._ends = [False]  # whether a phrase ends in the node
        for phrase in phrases:
            self._add(_encode(phrase, tokenizer))
        self._link()

    def _add(self, ids: Sequence[int]) -> None:
        node = ROOT
        for token in ids:
            if token not in self._next[node]:
                self._next[node][token] = len(self._next)
                self._next.append({})
                self._ends.append(False)
            node = self._next[node][token]
        self._ends[node] = True

    def _link(self) -> None:
        """The gain that each node may still lose, and where its match goes on when it breaks off.

        Nodes are met in the order of their depth, so `_go` has all it needs of shallower ones.
        """
        count = len(self._next)
        self._open = [0.0] * count  # gained in this node since the last phrase on its way was complete
        self._fall = [ROOT] * count  # the node that matching anew, from behind where this one's match began, leads to
        self._kept = [0.0] * count  # what phrases that are complete gained on that way
        nodes = [ROOT]
        for node in nodes:
            for token, after in self._next[node].items():
                worth = float(self._worth_v[token])
                if self._ends[node] and self._starts_v[token]:
                    self._open[after] = worth
                    self._fall[after], _ = self._go(ROOT, token)
                else:
                    self._open[after] = self._open[node] + worth
                    if node != ROOT:
                        self._fall[after], gain = self._go(self._fall[node], token)
                        lost = self._open[self._fall[after]] - self._open[self._fall[node]]
                        self._kept[after] = self._kept[node] + gain - lost
                nodes.append(after)

    def _go(self, node: int, token: int) -> tuple[int, float]:
        """The node after a token, and what the token gains or, below zero, loses."""
        before = 0.0
        while True:
            complete = self._ends[node] and bool(self._starts_v[token])
            if complete:
                before += self._open[node]
            if token in self._next[node]:
                after = self._next[node][token]
                return after, before + self._open[after] - self._open[node]
            before -= self._open[node]
            if node == ROOT:
                return ROOT, before
            if complete:
                node = ROOT
            else:
                before += self._kept[node] + self._open[self._fall[node]]
                node = self._fall[node]

    def follow(self, node: int, token: int) -> int:
        """The node after one token more; the match begins at ROOT."""
        return self._go(node, token)[0]

    def gains(self, node: int) -> Floats:
        """What each token [v] would gain in this node, below zero for those that break a match off; 0 for blank."""
        gain_v = np.empty(len(self._starts_v), np.float32)
        way = [(node, 0.0)]  # nodes that a token may fall to, with what it has gained on the way there
        while (at := way[-1][0]) != ROOT:
            fall = self._fall[at]
            way.append((fall, way[-1][1] - self._open[at] + self._kept[at] + self._open[fall]))
        at_root_v = np.zeros_like(gain_v)
        at_root_v[list(self._next[ROOT])] = [self._open[after] for after in self._next[ROOT].values()]
        for at, gained in reversed(way):
            if at == ROOT:
                gain_v = at_root_v + gained
            elif self._ends[at]:  # the phrase is complete with any token that starts a word, and its gain is kept
                gain_v[self._starts_v] = at_root_v[self._starts_v] + gained
            for token, after in self._next[at].items() if at != ROOT else ():
                kept = self._open[at] if self._ends[at] and self._starts_v[token] else 0.0
                gain_v[token] = gained + kept + self._open[after] - self._open[at]
        gain_v[BLANK] = 0.0
        return gain_v

    def unfinished(self, node: int) -> float:
        """What is taken back when nothing more is said, zero or below: the gain of a phrase that is not complete."""
        lost = 0.0
        while node != ROOT and not self._ends[node]:
            lost += self._kept[node] + self._open[self._fall[node]] - self._open[node]
            node = self._fall[node]
        return lost


def _encode(phrase: str, tokenizer: Tokenizer) -> list[int]:
    text = " ".join(phrase.split())
    if not text:
        raise ValueError("a hotword is empty; give a word or a phrase, or leave it out")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(
            f"hotword {text[:20] + '…'!r}: has {len(text)} characters, at most {MAX_CHARACTERS} are allowed"
        )
    ids = tokenizer.encode(text)
    if tokenizer.unknown not in ids:
        return ids
    lacking = "".join(sorted({c for c in text if c != " " and tokenizer.unknown in tokenizer.encode(c)}))
    small = text.lower()
    if small != text and tokenizer.unknown not in tokenizer.encode(small):
        raise ValueError(f"hotword {text!r}: the vocabulary has no {lacking!r}; say {small!r}")
    raise ValueError(f"hotword {text!r}: the vocabulary has no {lacking!r}; write it as the training texts would")
