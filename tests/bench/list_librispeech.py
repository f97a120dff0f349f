"""A tree of LibriSpeech's size: `prepare-corpus librispeech --headers-only` against lhotse's prepare_librispeech.

usage: python tests/bench/list_librispeech.py LIBRISPEECH     (pip install lhotse first; pin it to one core)

LIBRISPEECH is a folder in LibriSpeech layout. Hard links to its utterances make a tree with as many chapters and
utterances as train-clean-100. Both sides list it, read the header of every file and write their manifests, in turn in
one process; imports are done before the clock starts.
"""

import contextlib
import io
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lhotse.recipes.librispeech import prepare_librispeech

from pipelines import prepare

UTTERANCES, CHAPTERS, SPEAKERS = 28539, 585, 251  # of train-clean-100
ROUNDS = 5


def grow(source: Path, tree: Path) -> None:
    """`tree`/train-clean-100 with the utterances of `source` over and over, each under ids of its own."""
    texts = {}
    for transcript in source.rglob("*.trans.txt"):
        texts.update(line.split(" ", 1) for line in transcript.read_text().splitlines())
    files = itertools.cycle(sorted(source.rglob("*.flac")))
    for chapter in range(CHAPTERS):
        stem = f"{1000 + chapter % SPEAKERS}-{100000 + chapter}"
        folder = tree / "train-clean-100" / stem.replace("-", "/")
        folder.mkdir(parents=True)
        lines = []
        for index in range(UTTERANCES * chapter // CHAPTERS, UTTERANCES * (chapter + 1) // CHAPTERS):
            name = f"{stem}-{index:05d}"
            file = next(files)
            os.link(file, folder / f"{name}.flac")
            lines.append(f"{name} {texts[file.stem]}\n")
        (folder / f"{stem}.trans.txt").write_text("".join(lines))


def ours(tree: Path, out: Path) -> tuple[int, float]:
    argv = ["librispeech", "--root", str(tree), "--out", str(out), "--headers-only", "--workers", "1", "--json"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert prepare.main(argv) == 0
    total = json.loads(said.getvalue())["total"]
    return total["utterances"], total["hours"]


def lhotse(tree: Path, out: Path) -> tuple[int, float]:
    recordings = prepare_librispeech(tree, output_dir=out)["train-clean-100"]["recordings"]
    return len(recordings), sum(recording.duration for recording in recordings) / 3600


def main() -> None:
    sides: dict[str, Callable[[Path, Path], tuple[int, float]]] = {"lhotse": lhotse, "ours": ours}
    cpu_s: dict[str, list[float]] = {name: [] for name in sides}
    elapsed_s: dict[str, list[float]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "LibriSpeech"
        grow(Path(sys.argv[1]), tree)
        for turn in range(ROUNDS + 1):
            found = {}
            for name, side in sides.items():
                start_cpu_s, start_s = time.process_time(), time.perf_counter()
                with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
                    found[name] = side(tree, Path(folder) / f"{name}-{turn}")
                if turn:  # the first turn warms caches and imports
                    cpu_s[name].append(time.process_time() - start_cpu_s)
                    elapsed_s[name].append(time.perf_counter() - start_s)
            assert found["ours"][0] == found["lhotse"][0] == UTTERANCES, found
            assert abs(found["ours"][1] - found["lhotse"][1]) < 1e-3, found
    for name in sides:
        print(
            f"{name:7} CPU {statistics.median(cpu_s[name]):6.2f} s ({min(cpu_s[name]):.2f} to {max(cpu_s[name]):.2f}), "
            f"elapsed {statistics.median(elapsed_s[name]):6.2f} s"
        )
    print(f"CPU time: {statistics.median(cpu_s['lhotse']) / statistics.median(cpu_s['ours']):.1f} times less")


if __name__ == "__main__":
    main()
