"""Segments of a long SPHERE talk: asr.audio against other ways, in one process on one core, in turn.

usage: taskset -c 0 python tests/bench/talks.py LIBRISPEECH

A talk of 15 minutes (16 kHz, 16-bit PCM, one channel, as TED-LIUM's) is made of the .flac files below LIBRISPEECH, and
cut into 100 segments of 8 s, each read for itself, as when shards are written. CPU time counts.
"""

import functools
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
import soundfile
from lhotse import Recording

from asr import audio
from manifests import storage

REPETITIONS = 15
recording = functools.cache(Recording.from_file)  # read from a manifest, in lhotse's own way
RATE, TALK_S, SEGMENT_S = 16000, 900, 8.0
SEGMENTS_S = [8.97 * i for i in range(100)]
Way = Callable[[str, float], np.ndarray]


def ours(uri: str, offset_s: float) -> np.ndarray:
    return audio.read(uri, RATE, offset_s, SEGMENT_S)


def soundfile_seek(path: str, offset_s: float) -> np.ndarray:
    with soundfile.SoundFile(path) as sound:
        sound.seek(round(offset_s * RATE))
        return sound.read(round(SEGMENT_S * RATE), dtype="float32")


def whole_file(path: str, offset_s: float) -> np.ndarray:
    first = round(offset_s * RATE)
    return soundfile.read(path, dtype="float32")[0][first : first + round(SEGMENT_S * RATE)]


def memory_map(path: str, offset_s: float) -> np.ndarray:
    first = round(offset_s * RATE)
    samples = np.memmap(path, "<i2", "r", offset=1024)[first : first + round(SEGMENT_S * RATE)]
    return samples.astype(np.float32) / 32768


def lhotse(path: str, offset_s: float) -> np.ndarray:
    return recording(path).load_audio(offset=offset_s, duration=SEGMENT_S)[0]


def main() -> None:
    files = sorted(map(str, Path(sys.argv[1]).rglob("*.flac"))) if len(sys.argv) == 2 else []
    if not files:
        sys.exit(__doc__)
    samples = np.resize(np.concatenate([soundfile.read(path, dtype="int16")[0] for path in files]), TALK_S * RATE)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        talk, wav = f"{folder}/talk.sph", f"{folder}/talk.wav"
        soundfile.write(talk, samples, RATE, subtype="PCM_16", format="NIST")
        soundfile.write(wav, samples, RATE, subtype="PCM_16")  # lhotse needs an external program for SPHERE
        with tarfile.open(f"{folder}/talks.tar", "w") as tar:
            tar.add(talk, "talk.sph")
        with tarfile.open(f"{folder}/talks.tar") as tar:
            member = storage.member_uri(
                f"{folder}/talks.tar", tar.members[0].offset_data, tar.members[0].size, "talk.sph"
            )
        ways: dict[str, tuple[Way, str, int]] = {
            "asr.audio.read, a file": (ours, talk, 1),
            "asr.audio.read, a member of a tar": (ours, member, 1),
            "soundfile: open, seek, read": (soundfile_seek, talk, 1),
            "numpy.memmap and astype": (memory_map, talk, 1),
            "lhotse, of the talk as WAV": (lhotse, wav, 1),
            "soundfile: the whole talk for each segment": (whole_file, talk, 20),
        }
        race(ways)


def race(ways: dict[str, tuple[Way, str, int]]) -> None:
    """`ways` also say of how many segments only one is read, for what is slow."""
    expected = soundfile_seek(ways["soundfile: open, seek, read"][1], SEGMENTS_S[7])
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for name, (function, uri, _) in ways.items():
        assert np.array_equal(function(uri, SEGMENTS_S[7]), expected), name
    for _ in range(REPETITIONS):
        for name, (function, uri, step) in ways.items():
            start_s = time.process_time()
            for offset_s in SEGMENTS_S[::step]:
                function(uri, offset_s)
            speeds[name].append(len(SEGMENTS_S[::step]) * SEGMENT_S / (time.process_time() - start_s))
    ours_x = statistics.median(next(iter(speeds.values())))
    print(
        "| segments of 8 s out of 15 minutes | x real time per core | lowest to highest | ours is |\n|---|---|---|---|"
    )
    for name, values in speeds.items():
        median = statistics.median(values)
        print(f"| {name} | {median:,.0f} | {min(values):,.0f} to {max(values):,.0f} | {ours_x / median:,.2f}x |")


if __name__ == "__main__":
    main()
