"""Times log-mel features of real speech, ours against the libraries people use, in one process on one thread.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 taskset -c 0 python -m tests.bench.logmel FOLDER_OF_FLACS

Every repetition runs all files through each function in turn, so that a busy machine slows all alike. Prints a
Markdown table: seconds of audio per second of CPU time, the median of REPETITIONS. Then the first call of a process,
and what one streaming step costs that yields a frame.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import scipy.fft
import scipy.sparse
import soundfile
import torch
import torchaudio
from torchaudio.compliance import kaldi

from asr import device_frontend
from asr.frontend import FLOOR, Floats, init_state, logmel, logmel_step, mel_filters, window
from shards.spec import FrontendSpec

REPETITIONS = 5
SPEC = FrontendSpec()
MEL_SPECTROGRAM = torchaudio.transforms.MelSpectrogram(
    SPEC.sample_rate, SPEC.fft_samples, SPEC.window_samples, SPEC.hop_samples, n_mels=SPEC.mels
)
WINDOW_S = window(SPEC).astype(np.float32)[:, None]
FILTERS_FK = scipy.sparse.csr_array(mel_filters(SPEC).astype(np.float32))
BLOCK_FRAMES = 192
FIRST_CALL = """
import time
import numpy as np
start_s = time.perf_counter()
from asr.frontend import logmel
from shards.spec import FrontendSpec
imported_s = time.perf_counter()
logmel(np.zeros(16000, np.float32), FrontendSpec())
print(f"import asr.frontend {1e3 * (imported_s - start_s):.0f} ms,", end=" ")
print(f"first call {1e3 * (time.perf_counter() - imported_s):.0f} ms")
"""


def ours(samples: Floats) -> None:
    logmel(samples, SPEC)


def ours_on_a_device(samples: Floats) -> None:
    device_frontend.logmel(torch.from_numpy(samples)[None], torch.tensor([len(samples)]), SPEC)


def scipy_blocks(samples: Floats) -> None:
    """The same features by arrays [position in the frame, frame] that stay in the cache."""
    frames_ts = np.lib.stride_tricks.sliding_window_view(samples, SPEC.window_samples)[:: SPEC.hop_samples]
    feats_tf = np.empty((len(frames_ts), SPEC.mels), np.float32)
    for start in range(0, len(frames_ts), BLOCK_FRAMES):
        frames_st = frames_ts[start : start + BLOCK_FRAMES].T.copy()
        frames_st -= frames_st.mean(axis=0)
        frames_st[1:] -= SPEC.preemphasis * frames_st[:-1]
        spectrum_kt = scipy.fft.rfft(frames_st * WINDOW_S, SPEC.fft_samples, axis=0)[: FILTERS_FK.shape[1]]
        energies_ft = FILTERS_FK @ (np.square(spectrum_kt.real) + np.square(spectrum_kt.imag))
        feats_tf[start : start + BLOCK_FRAMES] = np.log(np.maximum(energies_ft, FLOOR)).T


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
    "scipy.fft in blocks of frames": scipy_blocks,
    "asr.device_frontend.logmel, on CPU": ours_on_a_device,
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


def step_us(samples: Floats) -> float:
    """Microseconds of CPU time for a streaming step that yields a frame."""
    state, hop = init_state(SPEC), SPEC.hop_samples
    chunks = [samples[start : start + hop] for start in range(0, len(samples) - hop, hop)]
    start_s = time.process_time()
    for chunk in chunks:
        _feats_tf, state = logmel_step(chunk, state, SPEC)
    return 1e6 * (time.process_time() - start_s) / len(chunks)


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
        print(table(measure(files)), end="\n\n")
        print(f"a streaming step that yields a frame: {statistics.median(map(step_us, files)):.0f} µs", flush=True)
        subprocess.run([sys.executable, "-c", FIRST_CALL], check=True)


if __name__ == "__main__":
    main()
