"""Files recognised one after the other as they would stream, each whole, and many together as `transcribe --batch`.

    OMP_NUM_THREADS=1 PYTHONPATH=. taskset -c 0 python tests/bench/batch.py BUNDLE FOLDER [FILES]

The first FILES (96) FLAC files of FOLDER, without endpoints. All ways take turns in one process; processor time with
decoding and features, medians of three rounds, and how many files have other words than the first way found.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from asr import audio, runtimes, stream
from asr.stream import Listener
from asr.transcribing import batch

PIECE_S = 0.32
WHOLE_S = 3600.0
ROUNDS = 3


def one_by_one(listener: Listener, files: Sequence[str], piece_s: float) -> list[str]:
    rate, texts = listener.spec.sample_rate, []
    for file in files:
        state, words = stream.start(listener), []
        for samples in audio.stream(file, rate, round(piece_s * rate)):
            update, state = stream.step(listener, samples, state)
            words += update.final
        words += stream.finish(listener, state).final
        texts.append(" ".join(word.text for word in words))
    return texts


def together(listener: Listener, files: Sequence[str], streams: int) -> list[str]:
    results = sorted(batch.recognise(listener, files, streams=streams), key=lambda result: result.number)
    return [" ".join(word.text for word in result.words) for result in results]


def main(bundle: str, folder: str, limit: int = 96) -> None:
    listener = runtimes.open_listener(bundle)
    files = [str(path) for path in sorted(Path(folder).rglob("*.flac"))[:limit]]
    heard_s = sum(audio.probe(file).duration_s for file in files)
    ways: dict[str, Callable[[], list[str]]] = {
        f"one by one, {PIECE_S * 1000:g} ms at a time": lambda: one_by_one(listener, files, PIECE_S),
        "one by one, whole": lambda: one_by_one(listener, files, WHOLE_S),
    }
    for streams in (1, 8, 16, 32, 64):
        ways[f"{streams} together"] = lambda streams=streams: together(listener, files, streams)  # type: ignore[misc]
    spent: dict[str, list[float]] = {name: [] for name in ways}
    texts = {}
    for _ in range(ROUNDS):
        for name, recognise in ways.items():
            start = time.process_time()
            texts[name] = recognise()
            spent[name].append(time.process_time() - start)
    first, *_ = ways
    print(f"{len(files)} files, {heard_s:.0f} s of audio\n")
    print("| way | CPU s | audio s / s | times the first | other words |\n|---|---|---|---|---|")
    for name, seconds in spent.items():
        median, ratio = statistics.median(seconds), statistics.median(
            before / after for before, after in zip(spent[first], seconds, strict=True)
        )  # fmt: skip
        others = sum(text != before for text, before in zip(texts[name], texts[first], strict=True))
        print(f"| {name} | {median:.2f} | {heard_s / median:.0f} | {ratio:.2f} | {others} |")


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
