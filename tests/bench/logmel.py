"""Times log-mel features of real speech, ours against the libraries people use, in one process on one thread.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python -m tests.bench.logmel FOLDER_OF_FLACS

Every repetition runs all files through each function in turn, so that a busy machine slows all alike. Prints a
Markdown table: seconds of audio per second of CPU time, the median of REPETITIONS.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
import torchaudio
from torchaudio.compliance import kaldi

from asr.frontend import Floats, logmel
from shards.spec import FrontendSpec

REPETITIONS = 5
SPEC = FrontendSpec()
MEL_SPECTROGRAM = torchaudio.transforms.MelSpectrogram(
    SPEC.sample_rate, SPEC.fft_samples, SPEC.window_samples, SPEC.hop_samples, n_mels=SPEC.mels
)


def ours(samples: Floats) -> None:
    logmel(samples, SPEC)


def torchaudio_kaldi(samples: Floats) -> None:
    kaldi.fbank(torch.from_numpy(samples)[None], num_mel_bins=SPEC.mels, dither=0.0)


def torchaudio_mel_spectrogram(samples: Floats) -> None:
    MEL_SPECTROGRAM(torch.from_numpy(samples)).clamp_(min=1e-10).log_()


def librosa_melspectrogram(samples: Floats) -> None:
    mels_ft = librosa.feature.melspectrogram(
        y=samples,
        sr=SPEC.sample_rate,
        n_fft=SPEC.fft_samples,
        win_length=SPEC.window_samples,
        hop_length=SPEC.hop_samples,
        n_mels=SPEC.mels,
    )
    np.log(np.maximum(mels_ft, 1e-10))


RIVALS: dict[str, Callable[[Floats], None]] = {
    "asr.frontend.logmel": ours,
    "torchaudio.compliance.kaldi.fbank": torchaudio_kaldi,
    "torchaudio.transforms.MelSpectrogram + log": torchaudio_mel_spectrogram,
    "librosa.feature.melspectrogram + log": librosa_melspectrogram,
}


def cpu_s(function: Callable[[Floats], None], files: list[Floats]) -> float:
    """CPU seconds that the function takes for all files."""
    start_s = time.process_time()
    for samples in files:
        function(samples)
    return time.process_time() - start_s


def measure(files: list[Floats]) -> dict[str, list[float]]:
    """Times real time of every rival, one value per repetition, after one unmeasured file each."""
    audio_s = sum(map(len, files)) / SPEC.sample_rate
    for function in RIVALS.values():
        function(files[0])
    speeds: dict[str, list[float]] = {name: [] for name in RIVALS}
    for _ in range(REPETITIONS):
        for name, function in RIVALS.items():
            speeds[name].append(audio_s / cpu_s(function, files))
    return speeds


def table(speeds: dict[str, list[float]]) -> str:
    first = statistics.median(next(iter(speeds.values())))
    rows = ["| log-mel, 80 bins, 25/10 ms | x real time per core | lowest to highest | ours is |", "|---|---|---|---|"]
    for name, values in speeds.items():
        median = statistics.median(values)
        rows.append(f"| {name} | {median:,.0f} | {min(values):,.0f}–{max(values):,.0f} | {first / median:.2f}x |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help=f"a folder of FLAC files of {SPEC.sample_rate} Hz, one channel")
    folder: Path = parser.parse_args().folder
    torch.set_num_threads(1)
    with torch.inference_mode():
        files = [soundfile.read(path, dtype="float32")[0] for path in sorted(folder.rglob("*.flac"))]
        if not files:
            parser.error(f"{folder}: no .flac file in it; give a folder such as LibriSpeech/dev-clean")
        print(f"{len(files)} files, {sum(map(len, files)) / SPEC.sample_rate:.0f} s of audio\n")
        print(table(measure(files)))


if __name__ == "__main__":
    main()
