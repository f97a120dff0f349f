"""write-shards end to end against lhotse's prepare + fbank to NumpyFiles, same corpus, same process, in turn.

usage: python tests/bench/write_shards.py LIBRISPEECH [COPIES]     (pip install lhotse first; pin it to one core)

LIBRISPEECH is a folder in LibriSpeech layout. Its `test-other` is listed COPIES times (hard links under other speaker
numbers), so that start-up does not decide. Both sides list the tree, read the FLAC files, compute 80 log-mels and write
them: lhotse float32 in one .npy per utterance, we float16 in tars with an index, statistics and hashes. Imports are
done before the clock starts; CPU time of this process and its children counts.
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
from lhotse import CutSet, Fbank, FbankConfig, NumpyFilesWriter
from lhotse.recipes import prepare_librispeech

from pipelines import featurize, prepare

REPETITIONS = 5
PART = "test-other"


def main() -> None:
    torch.set_num_threads(1)
    source, copies = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 12
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "LibriSpeech"
        audio_s = link_copies(source / PART, root / PART, copies)
        sides: dict[str, Callable[[Path], None]] = {
            "lhotse: prepare_librispeech, Fbank, NumpyFilesWriter": lambda out: with_lhotse(root, out),
            "prepare-corpus --headers-only, write-shards": lambda out: with_ours(root, out, "--headers-only"),
            "prepare-corpus, which listens and looks for leaks, write-shards": lambda out: with_ours(root, out),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for repetition in range(REPETITIONS + 1):
            for name, run in sides.items():
                out = Path(folder) / "out"
                start = cpu_s()
                run(out)
                if repetition:  # the first round warms the page cache and every lazy import
                    seconds[name].append(cpu_s() - start)
                shutil.rmtree(out)
    print_table(audio_s, seconds)


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


def with_lhotse(root: Path, out: Path) -> None:
    found = prepare_librispeech(root, dataset_parts=[PART], output_dir=out, num_jobs=1)[PART]
    cuts = CutSet.from_manifests(recordings=found["recordings"], supervisions=found["supervisions"])
    cuts = cuts.trim_to_supervisions(keep_overlapping=False).to_eager()
    extractor = Fbank(FbankConfig(num_mel_bins=80))
    cuts = cuts.compute_and_store_features(extractor, out / "feats", storage_type=NumpyFilesWriter, num_jobs=1)
    cuts.to_eager().to_file(out / "cuts.jsonl.gz")


def with_ours(root: Path, out: Path, *options: str) -> None:
    manifest, shards = str(out / "manifest"), str(out / "shards")
    with contextlib.redirect_stdout(io.StringIO()):
        argv = ["librispeech", "--root", str(root), "--out", manifest, "--workers", "1", "--keep-leaks", "audio"]
        assert prepare.main([*argv, *options]) == 0
        assert featurize.main(["--manifest", manifest, "--out", shards, "--workers", "0"]) == 0


def cpu_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def print_table(audio_s: float, seconds: dict[str, list[float]]) -> None:
    print(f"{audio_s / 3600:.2f} h of FLAC, {REPETITIONS} repetitions in turn\n")
    print("| side | audio-s per CPU-s, median | min to max |\n|---|---|---|")
    rates = {name: sorted(audio_s / s for s in found) for name, found in seconds.items()}
    for name, found in rates.items():
        print(f"| {name} | {statistics.median(found):,.0f} | {found[0]:,.0f} to {found[-1]:,.0f} |")
    (_, theirs), *others = seconds.items()
    for name, ours in others:
        ratios = [t / o for t, o in zip(theirs, ours, strict=True)]
        print(f"\n{name}: {statistics.median(ratios):.2f} x, {min(ratios):.2f} to {max(ratios):.2f}, pair by pair")


if __name__ == "__main__":
    main()
