"""What a language model is made of and how it is trained; the values are in configs/lm/*.yaml."""

import math
from dataclasses import dataclass, field

MAX_SEED = 2**32 - 1  # as of train-asr


@dataclass(frozen=True)
class LmConfig:
    """Embedding -> LSTM -> projection back to the embedding's size; the embeddings are the output weights too."""

    embedding: int = 128
    hidden: int = 256
    layers: int = 1
    dropout: float = 0.2  # in training only

    def __post_init__(self) -> None:
        _at_least(self, 1, "model.", "embedding", "hidden", "layers")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout is {self.dropout:g}; it must be from 0 to below 1")


@dataclass(frozen=True)
class LmTrainConfig:
    """The learning rate warms up to `lr`; every epoch that is no better on the held-out texts multiplies it."""

    epochs: int = 40  # at most
    patience: int = 3  # the training ends when so many epochs in a row were no better
    seed: int = 0
    dev_share: float = 0.05  # of the texts, held out when no others are given to measure on; at most 10,000
    # Share of texts that another one follows without an end, as not everybody pauses after a sentence. On the demo
    # corpus it cost nothing, and the perplexity of a sentence after another one fell from 3.96 to 1.66 (alone: 1.63).
    join: float = 0.2
    max_tokens: int = 500  # longer texts are left out, and counted
    batch_tokens: int = 4000  # padding included
    lr: float = 2e-3
    warmup_steps: int = 200
    factor: float = 0.5
    weight_decay: float = 0.01
    clip: float = 1.0  # norm of the gradient that longer ones are scaled down to
    log_steps: int = 100
    save_steps: int = 1000
    model: LmConfig = field(default_factory=LmConfig)

    def __post_init__(self) -> None:
        _at_least(self, 1, "", "epochs", "patience", "max_tokens", "warmup_steps", "log_steps", "save_steps")
        _at_least(self, 0, "", "seed", "weight_decay")
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name):g}; it must be above 0 and finite")
        for name in ("dev_share", "join", "factor"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name):g}; it must be from 0 to below 1")
        if self.batch_tokens < self.max_tokens:
            raise ValueError(f"batch_tokens is {self.batch_tokens}; it must be max_tokens ({self.max_tokens}) or more, "
                             "so that every text fits a batch")  # fmt: skip
        if self.seed > MAX_SEED:
            raise ValueError(f"seed is {self.seed}; it must be {MAX_SEED} or less")


def _at_least(config: object, least: int, where: str, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not least <= value < math.inf:
            raise ValueError(f"{where}{name} is {value}; it must be {least} or more, and finite")
