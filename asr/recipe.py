"""What decides the course of a training; the values are in configs/train/*.yaml."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from asr.augment import AugmentConfig
from asr.model_config import LossConfig, ModelConfig, check_together
from configs import ranges

MAX_SEED = 2**32 - 1  # torch takes 64 bits, and a step's seed is made of this, the step and the rank
MAX_WEIGHT = 1000  # an epoch is held in memory: with a weight of a billion there would be none


@dataclass(frozen=True)
class DataConfig:
    """A batch costs its padded audio in seconds x (1 + its padded tokens x token_weight), batch_s at most."""

    batch_s: float = 240.0  # on each rank
    batch_examples: int = 32
    token_weight: float = 0.0  # cost of a token's joint, relative to that of a frame's encoder
    max_s: float = 20.0  # longer utterances are left out, and counted
    splice: int = 1  # up to this many utterances become one example
    splice_s: float = 0.0  # of at most this length
    threads: int = 1  # that read ahead; batches and their order do not depend on it
    mix: dict[str, float] = field(default_factory=dict)  # corpus to how often it comes in an epoch; none: all once
    mix_temperature: float = 1.0  # above 1 brings the shares of the corpora nearer to each other

    def __post_init__(self) -> None:
        ranges.at_least(1, "data.", self, "batch_examples", "splice", "threads")
        ranges.at_least(0, "data.", self, "token_weight", "splice_s")
        ranges.above_0("data.", self, "batch_s", "max_s", "mix_temperature")
        _check_weights(self.mix)
        if self.splice > 1 and not self.splice_s:
            raise ValueError(f"data.splice is {self.splice}, but with data.splice_s 0 nothing is spliced")


@dataclass(frozen=True)
class OptimConfig:
    """Learning rate: warm-up to `lr`, and from there down by one of three schedules."""

    kind: Literal["adamw", "muon", "sgd"] = "adamw"
    lr: float = 1e-3
    warmup_steps: int = 500
    schedule: Literal["cosine", "eden", "plateau"] = "cosine"
    final_lr: float = 0.02  # share of lr at the end of the cosine, which is that of the training
    eden_steps: float = 7500.0  # Eden (Yao et al. 2023, "Zipformer", section 3.4): where its decay by steps sets in
    eden_epochs: float = 4.0  # and where that by epochs does
    factor: float = 0.5  # plateau: what the rate is multiplied with
    patience: int = 1  # when the dev WER has not become better in more than so many measurements in a row
    min_lr: float = 1e-6  # and not below this
    momentum: float = 0.9  # of SGD
    weight_decay: float = 0.01
    clip: float = 5.0  # norm of the gradient that longer ones are scaled down to
    accumulate: int = 1  # batches of each rank in one step

    def __post_init__(self) -> None:
        ranges.at_least(1, "optim.", self, "warmup_steps", "accumulate")
        ranges.at_least(0, "optim.", self, "patience", "min_lr", "weight_decay", "final_lr")
        ranges.above_0("optim.", self, "lr", "clip", "eden_steps", "eden_epochs")
        ranges.below_1("optim.", self, "factor", "momentum")


@dataclass(frozen=True)
class TrainConfig:
    frontend: str = "default"
    epochs: int = 30
    seed: int = 0
    shortest_first: int = 1  # epochs in order of length, without augmentation, to leave the all-blank phase
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: bf16 where the processor has it natively
    checkpoint_activations: bool = False  # the encoder's layers are computed again in the backward pass, for memory
    ema: float = 0.0  # decay, a step, of the mean of the weights that is measured and saved; 0: the weights as they are
    keep_epochs: int = 0  # bundles of this many last epochs, for average-bundles
    waveform: str = ""  # configs/augment/<name>.yaml for batches of audio shards, on the device
    log_steps: int = 20
    save_steps: int = 500
    dev_epochs: int = 1  # recognise the dev set every so many epochs
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        ranges.at_least(1, "", self, "epochs", "log_steps", "save_steps", "dev_epochs")
        ranges.at_least(0, "", self, "seed", "shortest_first", "keep_epochs")
        ranges.below_1("", self, "ema")
        check_together(self.model, self.loss)
        if self.seed > MAX_SEED:
            raise ValueError(f"seed is {self.seed}; it must be {MAX_SEED} or less")


def as_values(config: TrainConfig) -> dict[str, Any]:
    """For comparison with what was written when a training began, perhaps before there were all keys of today: those
    that came later are left out where they change nothing.
    """
    values = asdict(config)
    if not config.model.start_token:
        del values["model"]["start_token"]
    if config.loss.precision == "auto":
        del values["loss"]["precision"]
    return values


def _check_weights(mix: dict[str, float]) -> None:
    for name, weight in mix.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not 0 <= weight <= MAX_WEIGHT:
            raise ValueError(f"data.mix: the weight of {name} is {weight!r}; it must be from 0 to {MAX_WEIGHT}")
