"""Times augmentation in training: of audio in batches against one utterance after the other, and of features.

    OMP_NUM_THREADS=1 PYTHONPATH=. taskset -c 0 python tests/bench/augment.py SPEECH_DATA

Audio: LibriSpeech's utterances as asr.waveform changes each of them when shards are written, and as asr.device_waveform
changes batches of 25 s and 240 s, padded, on a CPU. Every example is changed, but by `rooms`, which is configs/augment/
rooms.yaml with its shares. Noise and response files are made here; reading them counts on both sides.
Features: of the same utterances, in batches of 25 s, what the tiny config does on the loader's threads and on the
device, and a training step of that config with its masks, without the optimiser.
All sides take turns in one process. CPU time, medians and ranges; x is seconds of audio for one of CPU time.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch

from asr import augment, device_waveform, frontend, waveform, waveform_recordings
from asr.data import _augmented, _padded
from asr.device_waveform import WaveformAugment
from asr.models import make_model
from asr.recipe import TrainConfig
from asr.waveform_config import Level, Noise, Reverberation, WaveformConfig, load_config
from configs import load
from shards.spec import FrontendSpec

REPETITIONS = 7
RATE = 16000
SPEC = FrontendSpec()
WARP_S = 0.4
VOCAB, TOKENS_A_SECOND = 512, 4


def times_s(sides: list[Callable[[int], object]]) -> list[list[float]]:
    """CPU seconds, of each side in each repetition. A first one warms up."""
    runs = []
    for repetition in range(REPETITIONS + 1):
        run = []
        for side in sides:
            start = time.process_time()
            side(repetition)
            run.append(time.process_time() - start)
        runs.append(run)
    return [list(side) for side in zip(*runs[1:], strict=True)]


def shown(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def batched(utterances: list[np.ndarray], batch_s: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of like lengths, up to `batch_s` with padding."""
    batches: list[list[np.ndarray]] = [[]]
    for samples_t in sorted(utterances, key=len):
        if batches[-1] and len(samples_t) * (len(batches[-1]) + 1) > batch_s * RATE:
            batches.append([])
        batches[-1].append(samples_t)
    return [_padded([[samples_t] for samples_t in batch], False) for batch in batches]


def audio_table(utterances: list[np.ndarray], folder: Path) -> None:
    total_s = sum(map(len, utterances)) / RATE
    print(f"{len(utterances)} utterances, {total_s:.0f} s\n")
    print(
        "| | each utterance, x | batches of 25 s, x | ratio | batches of 240 s, x | ratio |\n|---|---|---|---|---|---|"
    )
    small, large = batched(utterances, 25), batched(utterances, 240)
    for name, config in configs(folder).items():
        sides = [by_utterance(utterances, config), by_batch(small, config), by_batch(large, config)]
        each, in_small, in_large = ([total_s / t for t in side] for side in times_s(sides))
        cells = [shown(each, ",.0f")]
        for ours in (in_small, in_large):
            ratio = statistics.median(a / b for a, b in zip(ours, each, strict=True))
            cells += [shown(ours, ",.0f"), f"{ratio:.1f}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def configs(folder: Path) -> dict[str, WaveformConfig]:
    rng = np.random.default_rng(0)
    for i in range(20):
        soundfile.write(folder / f"noise{i}.wav", rng.normal(0, 0.1, 20 * RATE), RATE)
        response = rng.normal(0, 0.1, RATE // 2) * np.exp(-np.arange(RATE // 2) / 1000)
        response[0] = 1
        soundfile.write(folder / f"hall{i}.wav", response, RATE)
    files = [tuple(sorted(map(str, folder.glob(f"{kind}*.wav")))) for kind in ("noise", "hall")]
    return {
        "level": WaveformConfig(level=Level(1.0, (-20, 6))),
        "noise": WaveformConfig(noise=Noise(1.0, (5, 30))),
        "noise, files": WaveformConfig(noise=Noise(1.0, (5, 30), files=files[0])),
        "rooms, made up": WaveformConfig(reverberation=Reverberation(1.0)),
        "rooms, files": WaveformConfig(reverberation=Reverberation(1.0, files=files[1])),
        "`rooms`": load_config("rooms"),
    }


def by_utterance(utterances: list[np.ndarray], config: WaveformConfig) -> Callable[[int], object]:
    def run(repetition: int) -> None:
        for i, samples_t in enumerate(utterances):
            waveform.augment(samples_t, RATE, config, 1000 * repetition + i)

    return run


def by_batch(batches: list[tuple[torch.Tensor, torch.Tensor]], config: WaveformConfig) -> Callable[[int], object]:
    part = WaveformAugment(config.reverberation, config.noise, config.level)

    def run(repetition: int) -> None:
        for i, (samples_bn, lens_b) in enumerate(batches):
            seed = 1000 * repetition + i
            recordings = waveform_recordings.read(part, lens_b.tolist(), RATE, [seed])
            device_waveform.change(samples_bn, lens_b, RATE, part, seed, recordings)

    return run


def features_table(utterances: list[np.ndarray]) -> None:
    config = load.load(TrainConfig, "tiny", "train")
    feats = [frontend.logmel(samples_t, SPEC) for samples_t in utterances]
    total_s = sum(map(len, feats)) * SPEC.frame_s
    order = sorted(range(len(feats)), key=lambda i: len(feats[i]))
    groups = [order[start : start + 3] for start in range(0, len(order), 3)]  # 25 s or less
    batches = [_padded([[feats[i]] for i in group], False) for group in groups]
    model = make_model(config.model, SPEC.mels, VOCAB)
    every_frame = torch.from_numpy(np.concatenate(feats))
    model.set_normalisation(every_frame.mean(0), every_frame.var(0))
    warping = replace(config.augment, time_warp_s=WARP_S)
    louder = replace(config.augment, noise_db=20.0, gain_db=20.0)

    def utterance(settings: augment.AugmentConfig) -> Callable[[int], object]:
        rng = np.random.default_rng(0)
        return lambda _: [_augmented([feats_tf], settings, SPEC, rng) for feats_tf in feats]

    def device(settings: augment.AugmentConfig) -> Callable[[int], object]:
        generator = torch.Generator().manual_seed(0)
        return lambda _: [augment.spec_augment(*batch, settings, SPEC.frame_s, generator) for batch in batches]

    def step(repetition: int) -> None:
        generator = torch.Generator().manual_seed(repetition)
        for feats_btf, lens_b in batches:
            inputs = augment.spec_augment(model.normalise(feats_btf), lens_b, config.augment, SPEC.frame_s, generator)
            tokens_b = (lens_b * SPEC.frame_s * TOKENS_A_SECOND).long()
            targets_bu = torch.randint(1, VOCAB, (len(lens_b), int(tokens_b.max())), generator=generator)
            model.zero_grad()
            model(inputs, lens_b, targets_bu, tokens_b, config.loss, "bf16", 1000).total.backward()

    names = (
        "tiny's speed, vocal tract and gaps, a thread of the loader",
        "the same with noise and level",
        "masks, on the device",
        f"masks and a time warp of {WARP_S} s, on the device",
        "a step with masks",
    )
    found = times_s([utterance(config.augment), utterance(louder), device(config.augment), device(warping), step])
    print("\n| | x | share of a step |\n|---|---|---|")
    for name, taken_s in zip(names, found, strict=True):
        share = statistics.median(t / s for t, s in zip(taken_s, found[-1], strict=True))
        print(f"| {name} | {shown([total_s / t for t in taken_s], ',.0f')} | {share:.2%} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    paths = sorted(Path(sys.argv[1]).glob("LibriSpeech/**/*.flac"))
    readings = [soundfile.read(path, dtype="float32")[0] for path in paths]
    with tempfile.TemporaryDirectory() as made:
        audio_table(readings, Path(made))
    features_table(readings)
