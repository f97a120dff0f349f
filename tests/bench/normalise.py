"""Times the normaliser on real sentences against the transformations of jiwer, in one process on one core.

    taskset -c 0 python -m tests.bench.normalise SPEECH_DATA

jiwer does less: lower case, punctuation, spaces. Every repetition runs all texts of a language through each in turn.
Prints a Markdown table: texts per second of CPU time, the median of REPETITIONS and its range, and the median ratio.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jiwer

from manifests.text import normalise

REPETITIONS = 7
TEXTS = 5_000  # of each language in one repetition
WITH_NUMBERS = ["In 1984, 5 men paid $20 for the 1st time.", "It was 3.5% of 1,200 at 10:30 in the ’60s."]
JIWER = jiwer.Compose([jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.RemoveMultipleSpaces(), jiwer.Strip()])


def by_jiwer(text: str, language: str) -> object:
    return JIWER(text)


def texts_of(root: Path) -> dict[tuple[str, str], list[str]]:
    """Sentences by corpus and language."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted(root.glob("LibriSpeech/*/*/*/*.trans.txt")):
        sentences = [line.split(" ", 1)[1] for line in path.read_text().splitlines()]
        found.setdefault(("LibriSpeech", "en"), []).extend(sentences)
    for path in sorted(root.glob("CommonVoice/*/*/validated.tsv")):
        sentences = [line.split("\t")[2] for line in path.read_text().rstrip("\n").split("\n")[1:]]
        found.setdefault(("Common Voice", path.parent.name), []).extend(sentences)
    return found | {("made up, with numbers", "en"): WITH_NUMBERS}


def cpu_s(function: Callable[[str, str], object], texts: list[str], language: str) -> float:
    start = time.process_time()
    for text in texts:
        function(text, language)
    return time.process_time() - start


def row(corpus: str, language: str, sentences: list[str]) -> str:
    texts = (sentences * (TEXTS // len(sentences) + 1))[:TEXTS]
    sides: list[Callable[[str, str], object]] = [normalise, by_jiwer]
    for function in sides:
        cpu_s(function, texts, language)
    runs = [[cpu_s(function, texts, language) for function in sides] for _ in range(REPETITIONS)]
    cells = []
    for times in zip(*runs, strict=True):
        rates = sorted(len(texts) / t for t in times)
        cells.append(f"{statistics.median(rates):,.0f} ({rates[0]:,.0f} to {rates[-1]:,.0f})")
    ratio = statistics.median(theirs / ours for ours, theirs in runs)
    return f"| {corpus} | {language} | {statistics.mean(map(len, texts)):.0f} | {' | '.join(cells)} | {ratio:.1f} |"


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("speech_data", type=Path)
corpora = texts_of(parser.parse_args().speech_data)
print("| corpus | language | characters | normalise, texts/s | jiwer, texts/s | ratio |\n|---|---|---|---|---|---|")
for (corpus, language), sentences in corpora.items():
    print(row(corpus, language, sentences), flush=True)
