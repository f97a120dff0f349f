"""What a chunk of one stream costs in the Conformer encoders and in E6D2's LSTM: PyTorch, float32, random weights.

    OMP_NUM_THREADS=1 taskset -c 0 python -m tests.bench.conformer

All cases take turns in one process, each step going on from the state of the one before.
"""

import statistics
import time
import warnings
from collections.abc import Callable

import torch

from asr.recipe import TrainConfig
from asr.recogniser import make_encoder
from configs.load import load
from shards.spec import FrontendSpec

CHUNKS = (1, 4, 8)  # encoder frames
REPEATS = 40


def stepper(name: str, frames: int) -> tuple[Callable[[], None], float]:
    """A function that encodes the next `frames` encoder frames, and the seconds of audio in them."""
    config = load(TrainConfig, name, "train")
    spec = load(FrontendSpec, config.frontend, "frontend")
    options = config.model.encoder_options | ({"chunk": frames} if config.model.encoder == "conformer" else {})
    encoder = make_encoder(config.model.encoder, options, spec.mels)
    encoder.eval()  # type: ignore[attr-defined]
    feats_btf = torch.randn(1, frames * encoder.reduction, spec.mels)
    state = encoder.init_state(1)

    def step() -> None:
        nonlocal state
        _, state = encoder.step(feats_btf, state)

    return step, feats_btf.shape[1] * spec.frame_s


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    cases = {(name, n): stepper(name, n) for name in ("conformer-s", "conformer-m", "e6d2") for n in CHUNKS}
    times: dict[tuple[str, int, bool], list[float]] = {(*case, on): [] for case in cases for on in (False, True)}
    for i in range(REPEATS + 3):
        for (name, n, on), taken in times.items():
            with torch.backends.mkldnn.flags(enabled=on):
                start = time.process_time()
                cases[name, n][0]()
            if i > 2:
                taken.append(time.process_time() - start)
    print("| encoder | audio in a chunk, ms | oneDNN | CPU ms a chunk | audio seconds per CPU second |")
    print("|---|---|---|---|---|")
    for (name, n, on), taken in times.items():
        audio_s, quarters = cases[name, n][1], [t * 1e3 for t in statistics.quantiles(taken)]
        low, middle, high = quarters
        print(f"| {name} | {audio_s * 1e3:.0f} | {'on' if on else 'off'} | {middle:.2f} ({low:.2f}–{high:.2f}) "
              f"| {audio_s / middle * 1e3:.1f} |")  # fmt: skip


if __name__ == "__main__":
    main()
