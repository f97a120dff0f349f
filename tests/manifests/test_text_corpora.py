"""Every sentence of the real corpora comes out in its language's alphabet, but for a few that are named here."""

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from manifests.text import alphabet, normalise

Read = Callable[[Path], Iterator[tuple[str, str]]]

# notes of how a recording was made; two speakers at once, with their times
REFUSED = {"<VOCNOISE>": "< > [ ]", "1089@0.0-": "@ |"}


def common_voice(root: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(root.glob("CommonVoice/cv-corpus-*/*/validated.tsv")):
        header, *lines = path.read_text().rstrip("\n").split("\n")
        column = header.split("\t").index("sentence")
        yield from ((path.parent.name, line.split("\t")[column]) for line in lines)


def kaldi(root: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(root.glob("speechocean762/*/text")):
        yield from (("en", re.split(r"\s", line, maxsplit=1)[1]) for line in path.read_text().splitlines())


def an4(root: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(root.glob("an4/etc/*.transcription")):
        yield from (("en", re.sub(r"</?s>|\(\S+\)$", "", line)) for line in path.read_text().splitlines())


def tedlium(root: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(root.glob("TEDLIUM_release*/**/*.stm")):
        for line in path.read_text().splitlines():
            if not line.startswith(";;") and "ignore_time_segment_in_scoring" not in line:
                yield "en", re.sub(r"<[^>]*>|\{[A-Z]*\}|\([^)]*\)", "", line.split(" ", 6)[6])


def librispeech(root: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(root.glob("LibriSpeech/*/*/*/*.trans.txt")):
        yield from (("en", line.split(" ", 1)[1]) for line in path.read_text().splitlines())


def other(root: Path) -> Iterator[tuple[str, str]]:
    for line in (root / "other" / "manifest.tsv").read_text().splitlines()[1:]:
        _, text, language = line.split("\t")[:3]
        if text:
            yield language, text


@pytest.mark.parametrize(
    ("read", "count", "refused"),
    [(common_voice, 362, 0), (kaldi, 2860, 0), (an4, 60, 0), (tedlium, 75, 0), (librispeech, 86, 0), (other, 116, 5)],
)
def test_every_sentence(read: Read, count: int, refused: int, speech_data: Path) -> None:
    reasons = []
    sentences = list(read(speech_data))
    for language, sentence in sentences:
        try:
            text = normalise(sentence, language)
        except ValueError as err:
            (reason,) = [shown for part, shown in REFUSED.items() if part in sentence]
            assert str(err).endswith(reason), sentence
            reasons.append(reason)
            continue
        assert text and set(text) <= _allowed(language), sentence
        assert normalise(text, language) == text
        assert len(re.sub("[ ']", "", text)) == sum(
            c.isalpha() or "\u0b82" <= c <= "\u0bcd" for c in _letters(sentence)
        )
    assert (len(sentences), len(reasons)) == (count, refused)


@cache
def _allowed(language: str) -> frozenset[str]:
    return frozenset(f"{alphabet(language)} '")


def _letters(sentence: str) -> str:
    """What the sentence has of letters: without the vowel signs of Arabic, and a colon that is none."""
    return re.sub("[\u064b-\u0652ː]", "", sentence)


def test_transcripts_in_capitals_only_change_their_case(speech_data: Path) -> None:
    for _, text in (*librispeech(speech_data), *kaldi(speech_data), *an4(speech_data)):
        assert normalise(text, "en") == " ".join(text.lower().split())
