"""MP3 clips to 16 kHz mono, and FLAC: asr.audio against other ways, in one process on one core, each file in turn.

usage: taskset -c 0 python tests/bench/mp3.py COMMONVOICE_CLIPS LIBRISPEECH [FFMPEG]

COMMONVOICE_CLIPS is a folder with .mp3 files below it, LIBRISPEECH one with .flac files. FFMPEG is the program (else
the one on the PATH); it is started once for each file, as many recipes do. CPU time of this process and of its children
counts.
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import av
import librosa
import numpy as np
import soundfile
import soxr
from lhotse import Recording

from asr import audio
from manifests import storage

REPETITIONS = 5
Way = tuple[Callable[[str], np.ndarray], list[str]]


def soundfile_soxr(path: str) -> np.ndarray:
    samples, rate = soundfile.read(path, dtype="float32")
    return soxr.resample(samples, rate, 16000, quality="HQ")


def soundfile_alone(path: str) -> np.ndarray:
    return soundfile.read(path, dtype="float32")[0]


def librosa_load(path: str) -> np.ndarray:
    return librosa.load(path, sr=16000)[0]


def lhotse_load(path: str) -> np.ndarray:
    return Recording.from_file(path).resample(16000).load_audio()[0]


def pyav(path: str) -> np.ndarray:
    resampler = av.AudioResampler(format="flt", layout="mono", rate=16000)
    with av.open(path) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in [*frames, *resampler.resample(None)]])


def ffmpeg_process(program: str) -> Callable[[str], np.ndarray]:
    def read(path: str) -> np.ndarray:
        options = [
            "-nostdin",
            "-loglevel",
            "error",
            "-threads",
            "1",
            "-i",
            path,
            "-ac",
            "1",
            "-ar",
            "16000",
            "-f",
            "s16le",
        ]
        done = subprocess.run([program, *options, "-"], stdout=subprocess.PIPE, check=True)
        return np.frombuffer(done.stdout, np.int16).astype(np.float32) / 32768

    return read


def members(files: list[str], tar: Path) -> list[str]:
    """The URIs of the files as members of a tar, which is written."""
    with tarfile.open(tar, "w") as packed:
        for i, path in enumerate(files):
            packed.add(path, f"{i:05d}{Path(path).suffix}")
    with tarfile.open(tar) as packed:
        return [storage.member_uri(str(tar), m.offset_data, m.size, m.name) for m in packed]


def cpu_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def race(ways: dict[str, Way], audio_s: float) -> None:
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for function, files in ways.values():
        function(files[0])
    for _ in range(REPETITIONS):
        for name, (function, files) in ways.items():
            start_s = cpu_s()
            for path in files:
                function(path)
            speeds[name].append(audio_s / (cpu_s() - start_s))
    ours = statistics.median(next(iter(speeds.values())))
    for name, values in speeds.items():
        median = statistics.median(values)
        print(f"| {name} | {median:,.0f} | {min(values):,.0f} to {max(values):,.0f} | {ours / median:.2f}x |")


def main() -> None:
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    clips, flacs = (sorted(map(str, Path(sys.argv[i]).rglob(f"*.{kind}"))) for i, kind in ((1, "mp3"), (2, "flac")))
    program = sys.argv[3] if len(sys.argv) == 4 else shutil.which("ffmpeg")
    if not clips or not flacs or program is None:
        sys.exit(f"{__doc__}\n{len(clips)} .mp3 files, {len(flacs)} .flac files, ffmpeg: {program}")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for kind, files in (("MP3 to 16 kHz mono", clips), ("FLAC of 16 kHz", flacs)):
            audio_s = sum(audio.probe(path).duration_s for path in files)
            packed = members(files, Path(folder) / "packed.tar")
            print(f"\n{len(files)} files, {audio_s:.0f} s\n")
            print(f"| {kind} | x real time per core | lowest to highest | ours is |\n|---|---|---|---|")
            ways: dict[str, Way] = {
                "asr.audio.read, files": (audio.read, files),
                "asr.audio.read, members of a tar": (audio.read, packed),
                "soundfile, without resampling": (soundfile_alone, files),
                "PyAV and its resampler": (pyav, files),
            }
            if files is clips:
                ways |= {
                    "soundfile and soxr": (soundfile_soxr, files),
                    "librosa.load": (librosa_load, files),
                    "lhotse": (lhotse_load, files),
                    f"one ffmpeg process a file ({Path(program).name})": (ffmpeg_process(program), files),
                }
            race(ways, audio_s)


if __name__ == "__main__":
    main()
