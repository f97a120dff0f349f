"""What a search carries on from frame to frame: tokens, hypotheses, the state of a stream; and how it is to search."""

from dataclasses import dataclass
from typing import Any

from asr.engine import Floats, State
from asr.tokenizer import BLANK


@dataclass(frozen=True, slots=True)
class Token:
    """A token, the encoder frame of its segment in which it was said, and its log-probability there."""

    id: int
    frame: int
    logp: float


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A way to read what was said so far.

    `tokens` are only those since the last `settle`, so that an hour costs no more memory than a second.
    """

    tokens: tuple[Token, ...]
    score: float  # log-probability, of language model and hotwords too
    pred_j: Floats  # the predictor's output; of a CTC model empty
    pred: State  # the predictor's state, one row; of a CTC model empty
    last: int = BLANK  # CTC: the symbol of the last frame
    extra: Any = None  # what a beam keeps with it: language model, hotwords


@dataclass(frozen=True, slots=True)
class SearchState:
    """Of one stream. All hypotheses go on from what was settled."""

    hypotheses: tuple[Hypothesis, ...]  # the best one first
    frames: int  # encoder frames searched since the segment began


@dataclass(frozen=True)
class SearchOptions:
    """How all streams are searched. Hotwords belong to a stream, see `start`."""

    beam: int = 1  # hypotheses of a stream; 1: greedy
    lm: Any = None  # an asr.lm.LanguageModel
    lm_weight: float = 0.3
    hotword_boost: float = 0.5  # log-probability that each token of a hotword gains; see asr/searching/hotwords.py

    def __post_init__(self) -> None:
        if not 1 <= self.beam <= 64:
            raise ValueError(f"--beam {self.beam}: must be from 1 to 64")
        if not 0 <= self.lm_weight <= 10:
            raise ValueError(f"--lm-weight {self.lm_weight}: must be from 0 to 10; 0.1 to 0.5 is usual")
