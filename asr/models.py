"""The kinds of models."""

from asr.ctc import Ctc
from asr.model_config import ModelConfig
from asr.transducer import Transducer

Model = Transducer | Ctc


def make_model(config: ModelConfig, mels: int, vocab: int) -> Model:
    """A model with random weights, in training mode."""
    return Ctc(config, mels, vocab) if config.kind == "ctc" else Transducer(config, mels, vocab)
