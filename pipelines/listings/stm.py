"""STM, NIST's format of time-marked segments: `talk channel speaker start end <label> words` on each line.

Described with the scoring toolkit SCTK, doc/infmts.htm. Lines that begin with ;; are comments; labels may be missing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.listings.lists import LATEST_S

GAP = "inter_segment_gap"  # as the speaker
NOT_SCORED = "ignore_time_segment_in_scoring"  # as the words

GENDERS = {"male": "male", "m": "male", "female": "female", "f": "female"}  # the end of a label

# <o,f0,male> <NA> <F0_M>; but <s>, <sil> and <unk> are part of the words
_LABEL = re.compile(r"<(NA|[^<>\s,]*,[^<>]*|[A-Za-z]\d_[A-Za-z])>\s*")


@dataclass(frozen=True, slots=True)
class Segment:
    """One line, counted from 1. `label` is without its brackets or "", `fault` why the line makes no sense or ""."""

    line: int
    talk: str = ""
    speaker: str = ""
    start_s: float = 0.0
    end_s: float = 0.0
    label: str = ""
    words: str = ""
    fault: str = ""

    @property
    def scored(self) -> bool:
        """False for a stretch that the corpus says nothing about."""
        return self.speaker != GAP and self.words.lower() != NOT_SCORED

    @property
    def gender(self) -> str:
        """male, female or nothing."""
        return GENDERS.get(re.split("[,_]", self.label)[-1].lower(), "")


def read(text: str) -> Iterator[Segment]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.lstrip().startswith(";;"):
            yield _segment(number, line)


def _segment(number: int, line: str) -> Segment:
    fields = line.split(maxsplit=5)
    if len(fields) < 5:
        fault = f"{len(fields)} fields, where talk, channel, speaker, start and end are needed"
        return Segment(number, fields[0], words=line.strip(), fault=fault)
    talk, _, speaker, start, end = fields[:5]
    words = fields[5].strip() if len(fields) == 6 else ""
    label = _LABEL.match(words)
    label_text, words = (label[1], words[label.end() :]) if label else ("", words)
    try:
        start_s, end_s = float(start), float(end)
    except ValueError:
        return Segment(number, talk, speaker, words=words, fault=f"{start} and {end} are not both numbers of seconds")
    if not (0 <= start_s < end_s <= LATEST_S):
        fault = f"ends at {end} s, where it starts at {start} s"
        return Segment(number, talk, speaker, label=label_text, words=words, fault=fault)
    return Segment(number, talk, speaker, start_s, end_s, label_text, words)
