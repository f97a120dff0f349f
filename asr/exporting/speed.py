"""What a step of each part of a model takes, in one runtime."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from asr.engine import Engine

TOKENS_S = 4.0  # of English speech with some thousand pieces, in a second
SECONDS = 0.1  # about how long each part is measured


@dataclass(frozen=True)
class Speed:
    """Processor time of one stream."""

    step_s: float  # audio in a step
    encoder_ms: float
    predictor_ms: float
    joiner_ms: float
    frames: int  # encoder frames in a step

    @property
    def audio_s_per_s(self) -> float:
        """With greedy search: the joiner once for each frame and each token, the predictor once for each token."""
        tokens = TOKENS_S * self.step_s
        used_ms = self.encoder_ms + tokens * self.predictor_ms + (self.frames + tokens) * self.joiner_ms
        return 1000 * self.step_s / used_ms

    def to_json(self) -> dict[str, Any]:
        return {key: round(value, 4) for key, value in asdict(self).items()} | {
            "audio_s_per_s": round(self.audio_s_per_s, 2)
        }


def measure(engine: Engine, step_frames: int, frame_s: float, seconds: float = SECONDS) -> Speed:
    """Steps of `step_frames` feature frames. Of a CTC model predictor and joiner take nothing."""
    noise_btf = np.random.default_rng(0).normal(size=(1, step_frames, len(engine.mean_f)))
    feats_btf = (engine.mean_f + noise_btf).astype(np.float32)
    state = engine.encoder_start(1)
    encoder_ms = _median_ms(lambda: engine.encode(feats_btf, state), seconds)
    frames = step_frames // engine.traits.reduction
    if engine.traits.kind == "ctc":
        return Speed(step_frames * frame_s, encoder_ms, 0.0, 0.0, frames)
    enc_bj = engine.encode(feats_btf, state)[0][:, 0]
    pred_bj, predictor = engine.predictor_start(1)
    tokens_b = np.ones(1, np.int64)
    predictor_ms = _median_ms(lambda: engine.predict(tokens_b, predictor), seconds)
    joiner_ms = _median_ms(lambda: engine.join(enc_bj, pred_bj), seconds)
    return Speed(step_frames * frame_s, encoder_ms, predictor_ms, joiner_ms, frames)


def _median_ms(body: Callable[[], object], seconds: float) -> float:
    times: list[float] = []
    body()
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.process_time()
        body()
        times.append(1000 * (time.process_time() - start))
    return float(np.median(times))
