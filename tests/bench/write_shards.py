"""write-shards end to end against lhotse, same corpus, same process, in turn.

usage: python -m tests.bench.write_shards LIBRISPEECH [COPIES]     (pip install lhotse first; pin it to one core)

LIBRISPEECH is a folder in LibriSpeech layout. Its `test-other` is listed COPIES times under other speaker numbers, so
that start-up does not decide. Both sides list the tree, read the FLAC files, compute 80 log-mels and write them.
lhotse: prepare_librispeech and Fbank, to float32 in one .npy per utterance or to its Lilcom store, and from each on to
Shar. We: prepare-corpus and write-shards, to tars with an index, statistics and hashes, all in this process. CPU time
of this process and its children counts; imports are done before. `dr_flac` is the FLAC decoder of the package
miniaudio, which stands in for libsndfile's where it is installed.
"""

import contextlib
import io
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import soundfile
import torch
from lhotse import CutSet, Fbank, FbankConfig, LilcomChunkyWriter, NumpyFilesWriter
from lhotse.recipes import prepare_librispeech

import asr.formats.flac
from pipelines import featurize, prepare

REPETITIONS = 3
PART = "test-other"
OURS = "prepare-corpus --headers-only, write-shards"
NUMPY, LILCOM = "lhotse: prepare, Fbank, NumpyFiles", "lhotse: prepare, Fbank, LilcomChunky"
AIMS = {NUMPY: 3, LILCOM: 4, f"{NUMPY}, Shar": 5, f"{LILCOM}, Shar": 5}
Seconds = dict[str, float]


def main() -> None:
    torch.set_num_threads(1)
    source, copies = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 12
    sides: list[Callable[[Path, Path], Seconds]] = [
        lambda root, out: with_lhotse(root, out, NUMPY, NumpyFilesWriter, "numpy"),
        lambda root, out: with_lhotse(root, out, LILCOM, LilcomChunkyWriter, "lilcom"),
        lambda root, out: with_ours(root, out, OURS),
        lambda root, out: with_ours(root, out, f"{OURS} --content logmel8", content="logmel8"),
        lambda root, out: with_ours(root, out, f"{OURS} --content audio", content="audio"),
        lambda root, out: without_dr_flac(lambda: with_ours(root, out, f"{OURS}, without dr_flac")),
        lambda root, out: with_ours(root, out, f"{OURS.replace(' --headers-only', ', which listens')}", listen=True),
    ]
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small" / "LibriSpeech", Path(folder) / "large" / "LibriSpeech"
        link_copies(source / PART, small / PART, 1)
        audio_s = link_copies(source / PART, large / PART, copies)
        for repetition in range(REPETITIONS + 1):
            for side in sides:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    found = side(large if repetition else small, Path(folder) / "out")
                shutil.rmtree(Path(folder) / "out")
                for name, spent_s in found.items() if repetition else ():  # the first round makes every lazy import
                    seconds.setdefault(name, []).append(spent_s)
            print_table(audio_s, seconds)  # so far, for those who cannot wait


def link_copies(source: Path, target: Path, copies: int) -> float:
    """Chapters under new speaker numbers; returns seconds of audio."""
    audio_s = 0.0
    for copy in range(copies):
        for chapter in sorted(source.glob("*/*")):
            speaker, number = f"{copy + 1:02}{chapter.parent.name}", chapter.name
            old, new = f"{chapter.parent.name}-{number}", f"{speaker}-{number}"
            there = target / speaker / number
            there.mkdir(parents=True)
            text = (chapter / f"{old}.trans.txt").read_text()
            (there / f"{new}.trans.txt").write_text(text.replace(f"{old}-", f"{new}-"))
            for flac in chapter.glob("*.flac"):
                shutil.copyfile(flac, there / flac.name.replace(old, new))
                audio_s += soundfile.info(flac).duration
    return audio_s


def with_lhotse(root: Path, out: Path, name: str, writer: type, shar: str) -> Seconds:
    start_s = cpu_s()
    found = prepare_librispeech(root, dataset_parts=[PART], output_dir=out, num_jobs=1)[PART]
    cuts = CutSet.from_manifests(recordings=found["recordings"], supervisions=found["supervisions"])
    cuts = cuts.trim_to_supervisions(keep_overlapping=False).to_eager()
    extractor = Fbank(FbankConfig(num_mel_bins=80))
    cuts = cuts.compute_and_store_features(extractor, out / "feats", storage_type=writer, num_jobs=1).to_eager()
    cuts.to_file(out / "cuts.jsonl.gz")
    stored_s = cpu_s()
    (out / "shar").mkdir()
    cuts.to_shar(out / "shar", fields={"features": shar}, shard_size=200, num_jobs=1)
    return {name: stored_s - start_s, f"{name}, Shar": cpu_s() - start_s}


def with_ours(root: Path, out: Path, name: str, content: str = "logmel", listen: bool = False) -> Seconds:
    manifest, shards = str(out / "manifest"), str(out / "shards")
    start_s = cpu_s()
    argv = ["librispeech", "--root", str(root), "--out", manifest, "--workers", "1", "--keep-leaks", "audio"]
    assert prepare.main(argv if listen else [*argv, "--headers-only"]) == 0
    prepared_s = cpu_s()
    assert featurize.main(["--manifest", manifest, "--out", shards, "--workers", "0", "--content", content]) == 0
    found = {name: cpu_s() - start_s}
    return found | ({"write-shards alone": cpu_s() - prepared_s} if name == OURS else {})


def without_dr_flac(run: Callable[[], Seconds]) -> Seconds:
    installed, asr.formats.flac.dr_flac = asr.formats.flac.dr_flac, None
    try:
        return run()
    finally:
        asr.formats.flac.dr_flac = installed


def cpu_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def print_table(audio_s: float, seconds: dict[str, list[float]]) -> None:
    print(f"\n{audio_s / 3600:.2f} h of FLAC, {max(map(len, seconds.values()), default=0)} repetitions in turn\n")
    print("| side | audio-s per CPU-s, median | min to max |\n|---|---|---|")
    for name, found in seconds.items():
        rates = sorted(audio_s / s for s in found)
        print(f"| {name} | {statistics.median(rates):,.0f} | {rates[0]:,.0f} to {rates[-1]:,.0f} |")
    print("\n| against | ours is faster by, pair by pair | aim |\n|---|---|---|")
    for name, aim in AIMS.items():
        ratios = sorted(
            theirs / ours for theirs, ours in zip(seconds.get(name, []), seconds.get(OURS, []), strict=True)
        )
        if ratios:
            print(f"| {name} | {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | {aim} |")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
