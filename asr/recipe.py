"""What decides the course of a training; the values are in configs/train/*.yaml."""

from dataclasses import dataclass, field
from typing import Literal

from asr.augment import AugmentConfig
from asr.transducer import TransducerConfig


@dataclass(frozen=True)
class DataConfig:
    batch_s: float = 240.0  # padded audio in a batch, on each rank
    batch_examples: int = 32
    max_s: float = 20.0  # longer utterances are left out, and counted
    splice: int = 1  # up to this many utterances become one example
    splice_s: float = 0.0  # of at most this length


@dataclass(frozen=True)
class OptimConfig:
    lr: float = 1e-3
    warmup_steps: int = 500
    final_lr: float = 0.02  # share of lr at the end of the cosine
    weight_decay: float = 0.01
    clip: float = 5.0


@dataclass(frozen=True)
class TrainConfig:
    frontend: str = "default"
    epochs: int = 30
    seed: int = 0
    shortest_first: int = 1  # epochs in order of length, without augmentation, to leave the all-blank phase
    ctc_weight: float = 0.3
    loss_eps: float = 1e-4
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the processor multiplies it natively
    log_steps: int = 20
    save_steps: int = 500
    dev_epochs: int = 1  # recognise the dev set every so many epochs
    model: TransducerConfig = field(default_factory=TransducerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
