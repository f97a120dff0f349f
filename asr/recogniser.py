"""What models of every kind share: normalisation, encoder, and how an utterance ends.

Shape letters: b batch, t frames, f mels, u tokens, e encoder output.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import asr.encoders
from asr.model_config import LossConfig, ModelConfig
from configs.load import build

T = TypeVar("T", int, Tensor, np.ndarray)
Precision = Literal["fp32", "bf16", "fp16"]  # fp16: for GPUs without bf16, with gradients that somebody scales
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
DEFAULT_LOSS = LossConfig()


@dataclass
class Losses:
    """Means over the utterances of a batch, in nats."""

    total: Tensor  # what training minimises
    main: Tensor  # of the transducer, or of a CTC model
    ctc: Tensor  # of the CTC head beside a transducer; 0 without one


class Encoder(Protocol):
    """What asr/encoders/<name>.py offers as `Encoder(config, mels)`, beside its frozen dataclass `Config`.

    One whose frames see some of the future has also `chunk`, see `chunk_of`; one that can compute its layers again in
    the backward pass instead of keeping what they computed has `checkpointing`, false at first.
    """

    output_size: int
    reduction: int  # feature frames in one encoder frame

    def init_state(self, batch: int) -> Any: ...

    def step(self, feats_btf: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Normalised frames, a multiple of `reduction`, to [b, t / reduction, e] and the state behind them."""


def chunk_of(encoder: Encoder) -> int:
    """Encoder frames that come out together, as the first may have seen the last; 1 for an encoder that says nothing.

    Steps give what one step of all frames gives when all but the last have a multiple of chunk * reduction frames.
    """
    return int(getattr(encoder, "chunk", 1))


def encoder_names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(asr.encoders.__path__)]


def make_encoder(name: str, options: dict[str, Any], mels: int) -> Encoder:
    if name not in encoder_names():
        raise ValueError(f"model.encoder is {name!r}; there are {', '.join(encoder_names())}")
    module = importlib.import_module(f"asr.encoders.{name}")
    return cast(Encoder, module.Encoder(build(module.Config, options, "model.encoder_options"), mels))


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Inside, matrices are multiplied in this precision."""
    return torch.autocast(device.type, HALF.get(precision, torch.bfloat16), enabled=precision in HALF)


class Recogniser(nn.Module):
    mean_f: Tensor
    scale_f: Tensor

    def __init__(self, config: ModelConfig, mels: int, vocab: int) -> None:
        super().__init__()
        self.config = config
        self.vocab = vocab
        self.register_buffer("mean_f", torch.zeros(mels))
        self.register_buffer("scale_f", torch.ones(mels))
        self.encoder = make_encoder(config.encoder, config.encoder_options, mels)

    def set_normalisation(self, mean_f: Tensor, variance_f: Tensor) -> None:
        """Global mean and variance of the training features, applied to every input."""
        self.mean_f.copy_(mean_f)
        self.scale_f.copy_(variance_f.clamp(min=1e-4).rsqrt())

    def normalise(self, feats_btf: Tensor) -> Tensor:
        return (feats_btf - self.mean_f) * self.scale_f

    def encoder_frames(self, frames: T) -> T:
        """Encoder frames of an utterance of so many feature frames: its last one is filled up, the tail follows."""
        return -(-frames // self.encoder.reduction) + self.config.tail_frames

    def closing_frames(self, frames: int) -> int:
        """Feature frames of zeros, which are mean frames, that end an utterance of so many. Training, offline and
        streamed recognition all end in this way."""
        return self.encoder_frames(frames) * self.encoder.reduction - frames

    def encode(self, feats_btf: Tensor, lens_b: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised features, zero behind each end, to encoder outputs [b, t', e] and their lengths."""
        padded = functional.pad(feats_btf, (0, 0, 0, self.closing_frames(feats_btf.shape[1])))
        enc_bte, _ = self.encoder.step(padded, self.encoder.init_state(len(padded)))
        return enc_bte, self.encoder_frames(lens_b)
