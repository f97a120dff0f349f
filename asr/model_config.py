"""What a model is made of and what its training minimises; the values are in configs/train/*.yaml."""

from dataclasses import dataclass, field
from typing import Any, Literal

from configs import ranges


@dataclass(frozen=True)
class ModelConfig:
    """Of a CTC model only `encoder`, `encoder_options` and `tail_frames` count."""

    encoder: str = "lstm"  # a module of asr/encoders
    encoder_options: dict[str, Any] = field(default_factory=dict)  # its Config
    embedding: int = 64
    predictor_layers: int = 1
    predictor_hidden: int = 256
    predictor_projection: int = 256
    predictor_dropout: float = 0.0
    predictor: Literal["lstm", "stateless"] = "lstm"
    predictor_context: int = 2  # tokens that a stateless one sees
    joint: int = 256
    tail_frames: int = 0  # encoder frames of mean input behind an utterance, in which its last words come out
    ctc: bool = True  # a CTC head on the encoder, used in training only
    prune: int = 0  # tokens to a frame at which the pruned loss computes the joint; 0: the exact loss
    kind: Literal["transducer", "ctc"] = "transducer"
    start_token: int = 0  # that a predictor is given before the first; 0: blank

    def __post_init__(self) -> None:
        ranges.at_least(1, "model.", self, "embedding", "predictor_layers", "predictor_hidden", "predictor_projection",
                        "predictor_context", "joint")  # fmt: skip
        ranges.at_least(0, "model.", self, "tail_frames", "start_token")
        ranges.below_1("model.", self, "predictor_dropout")
        if self.prune < 0 or self.prune == 1:
            raise ValueError(f"model.prune is {self.prune}; it must be 0 (the exact loss) or 2 and more")
        if self.prune and self.kind == "ctc":
            raise ValueError(
                f"model.prune is {self.prune}, but a model of kind ctc has no joint to prune; leave it out"
            )


@dataclass(frozen=True)
class LossConfig:
    ctc_weight: float = 0.3  # of the loss of the CTC head beside the transducer's
    # Of the joint's products. auto: bf16 where the training is in bf16, else fp32; int8: logits from bytes, on a CPU
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    eps: float = 1e-4  # posterior of a lattice point below which it is left out of the gradient; 0: none is
    fastemit: float = 0.0  # lambda of Yu et al. 2021
    delay_penalty: float = 0.0  # lambda of Kang et al. 2022
    prune_warmup_steps: int = 2000  # over which the pruned loss takes over from the simple one

    def __post_init__(self) -> None:
        ranges.at_least(0, "loss.", self, "ctc_weight", "eps", "fastemit", "delay_penalty", "prune_warmup_steps")


def check_together(model: ModelConfig, loss: LossConfig) -> None:
    """Raises ValueError for options of the loss that a CTC model would pass over in silence."""
    for name in ("fastemit", "delay_penalty", "precision"):
        value = getattr(loss, name)
        if model.kind == "ctc" and value not in (0, "auto"):
            said = f"{value:g}" if isinstance(value, float) else value
            raise ValueError(f"loss.{name} is {said}, but only a transducer's loss knows it and the model is of kind "
                             "ctc; leave it out")  # fmt: skip
