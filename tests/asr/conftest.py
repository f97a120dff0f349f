"""Small real parts: a vocab, a random model that has something to say, a bundle, a shard set."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from livesite import Site, serve
from toys import TEXTS, Toy, row_features, write_toys

from asr import tokenizer
from asr.checkpoint import Bundle
from asr.endpoint import EndpointRules
from asr.engines.torch_engine import TorchEngine
from asr.live import http as live_http
from asr.live import playlist as live_playlist
from asr.model_config import ModelConfig
from asr.stream import Listener
from asr.tokenizer import Tokenizer
from asr.transducer import BLANK, Transducer
from shards.spec import FrontendSpec

MakeModel = Callable[..., Transducer]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def vocab() -> Tokenizer:
    size = tokenizer.smallest_size(TEXTS, byte_fallback=False) + 8
    return Tokenizer(tokenizer.train(TEXTS, "bpe", size, byte_fallback=False))


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """A small random model in evaluation mode that emits tokens of several kinds in some frames and none in others.

    For this both sides of the joint are made loud: a random model else says the same all the time. `blank_bias` says
    how seldom it emits; far below zero every frame is full of tokens.
    """

    def make(
        seed: int = 4, mels: int = 8, size: int = 12, blank_bias: float = 6.0, tail_frames: int = 0,
        predictor: Literal["lstm", "stateless"] = "lstm",
    ) -> Transducer:  # fmt: skip
        torch.manual_seed(seed)
        encoder = {"layers": 2, "hidden": 16, "projection": 12, "stack": 3, "reduce_after": [1]}
        config = ModelConfig("lstm", encoder, 8, 1, 16, 12, joint=16, tail_frames=tail_frames, predictor=predictor)
        model = Transducer(config, mels, size)
        with torch.no_grad():
            for layer, factor in ((model.enc_joint, 20), (model.pred_joint, 40), (model.output, 6)):
                layer.weight.mul_(factor)
            for parameter in (
                model.predictor.lstm if predictor == "lstm" else model.predictor.convolution
            ).parameters():
                parameter.mul_(3)
            model.output.bias[BLANK] += blank_bias
        return model.eval()

    return make


@pytest.fixture(scope="session")
def bundle(vocab: Tokenizer, make_model: MakeModel) -> Bundle:
    """Of random weights. Tests leave it as it is."""
    spec = FrontendSpec(mels=16)
    model = make_model(seed=3, mels=16, size=vocab.size)
    model.set_normalisation(torch.full((16,), -2.0), torch.full((16,), 2.3))
    return Bundle(model, vocab, spec, {"step": 7, "config": {"seed": 3}})


@pytest.fixture(scope="session")
def listener(bundle: Bundle) -> Listener:
    """In torch, greedy, with endpoints."""
    return Listener(TorchEngine(bundle.model), bundle.tokenizer, bundle.spec, endpoints=EndpointRules())


@pytest.fixture(scope="session")
def hum() -> np.ndarray:
    """Two seconds at 16 kHz of a voice that rises and falls over a little noise."""
    time_s = np.arange(32000) / 16000
    phase = np.cumsum(2 * np.pi * (120 + 60 * np.sin(2 * np.pi * 0.7 * time_s)) / 16000)
    voice = sum(np.sin(h * phase) / h for h in range(1, 20)) * np.abs(np.sin(2 * np.pi * 1.5 * time_s)) * 0.1
    return (voice + np.random.default_rng(1).normal(0, 0.003, len(time_s))).astype(np.float32)


@pytest.fixture(scope="session")
def shard_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard set of 24 utterances in three shards, 8 mels.

    The frames of row r are numbered: mel f of frame t is r % 4 + t / 64 + f / 512, small enough to be exact in
    float16.
    """
    folder = tmp_path_factory.mktemp("shards")
    lengths = np.random.default_rng(5).integers(30, 60, 24).tolist()
    toys = [Toy(f"u{r}", TEXTS[r % len(TEXTS)], row_features(r, n)) for r, n in enumerate(lengths)]
    write_toys(folder, toys, FrontendSpec(mels=8), "logmel", per_shard=8)
    return folder


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A web server with live media; whoever listens to it tries again soon."""
    monkeypatch.setattr(live_http, "PAUSE_S", 0.01)
    monkeypatch.setattr(live_playlist, "RELOAD_S", 0.01)
    with serve() as site:
        yield site
