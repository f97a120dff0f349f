"""What a language model is made of and how it is trained; the values are in configs/lm/*.yaml."""

from dataclasses import dataclass, field

from configs.ranges import above_0, at_least, below_1

MAX_SEED = 2**32 - 1  # as of train-asr


@dataclass(frozen=True)
class LmConfig:
    """Embedding -> LSTM -> projection back to the embedding's size; the embeddings are the output weights too."""

    embedding: int = 128
    hidden: int = 256
    layers: int = 1
    dropout: float = 0.2  # in training only

    def __post_init__(self) -> None:
        at_least(1, "model.", self, "embedding", "hidden", "layers")
        below_1("model.", self, "dropout")


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
        at_least(1, "", self, "epochs", "patience", "max_tokens", "warmup_steps", "log_steps", "save_steps")
        at_least(0, "", self, "seed", "weight_decay")
        above_0("", self, "lr", "clip")
        below_1("", self, "dev_share", "join", "factor")
        if self.batch_tokens < self.max_tokens:
            raise ValueError(f"batch_tokens is {self.batch_tokens}; it must be max_tokens ({self.max_tokens}) or more, "
                             "so that every text fits a batch")  # fmt: skip
        if self.seed > MAX_SEED:
            raise ValueError(f"seed is {self.seed}; it must be {MAX_SEED} or less")
