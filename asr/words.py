"""Tokens become words with times and confidences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from asr.searching.hypotheses import Token
from asr.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a stream. Its times are those of the encoder frames in which its first and last token were said."""

    text: str
    start_s: float  # since the stream began
    end_s: float
    confidence: float  # 0 to 1: the geometric mean of its tokens' probabilities
    segment: int  # which of the stream's segments it belongs to, from 0


@dataclass(frozen=True, slots=True)
class Clock:
    """Where a segment lies in its stream."""

    start_s: float
    frame_s: float  # of an encoder frame
    segment: int


def split(tokens: Sequence[Token], tokenizer: Tokenizer) -> list[list[Token]]:
    """The tokens of each word. The last one may still grow."""
    groups: list[list[Token]] = []
    for token in tokens:
        if not groups or tokenizer.starts_word(token.id) or tokenizer.ends_word(groups[-1][-1].id):
            groups.append([])
        groups[-1].append(token)
    return groups


def word(tokens: Sequence[Token], tokenizer: Tokenizer, clock: Clock) -> list[Word]:
    """The word of these tokens; none when they are a word mark alone, which a model may emit twice in a row."""
    text = tokenizer.decode([token.id for token in tokens]).strip()
    if not text:
        return []
    start_s = clock.start_s + tokens[0].frame * clock.frame_s
    end_s = clock.start_s + (tokens[-1].frame + 1) * clock.frame_s
    confidence = math.exp(sum(token.logp for token in tokens) / len(tokens))
    return [Word(text, start_s, end_s, min(1.0, confidence), clock.segment)]
