"""When words were spoken, by forced alignment, and how much later a stream showed them.

The alignment is the best path of the CTC head through the reference (torchaudio's forced_align). Such a head says a
token in a frame or two, often near the token's end, and that of a streaming encoder may itself be late: delays against
one aligner compare with each other, not with those of another aligner.

Legend of shape suffixes: b batch, t encoder frames, e encoder output, v vocab, u tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torchaudio.functional import forced_align, merge_tokens

from asr.checkpoint import Bundle
from asr.ctc import Ctc, frames_needed
from asr.evaluation import scoring
from asr.evaluation.trace import Trace
from asr.frontend import Floats, logmel
from asr.tokenizer import BLANK

TOO_SHORT = "fewer encoder frames than its tokens need"


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word of the reference and when it was said, in seconds of the utterance."""

    text: str
    start_s: float
    end_s: float


class CannotAlign(Exception):
    """An utterance whose words have no times; the text says why, in a few fixed words."""


def has_ctc_head(bundle: Bundle) -> bool:
    return isinstance(bundle.model, Ctc) or bundle.model.ctc is not None


@torch.inference_mode()
def word_times(bundle: Bundle, samples_t: Floats, text: str) -> list[SpokenWord]:
    """The words of `text` in these samples, which are at the bundle's rate. Raises CannotAlign."""
    model, words = bundle.model, text.split()
    ids = bundle.tokenizer.encode(text)
    tokenizer = bundle.tokenizer
    starts = [i == 0 or tokenizer.starts_word(token) or tokenizer.ends_word(ids[i - 1]) for i, token in enumerate(ids)]
    if not words or sum(starts) != len(words):
        raise CannotAlign("its words are not those of the vocabulary's pieces")
    feats_btf = torch.from_numpy(logmel(samples_t, bundle.spec))[None]
    frames, targets_bu = feats_btf.shape[1], torch.tensor([ids])
    if not frames:
        raise CannotAlign(TOO_SHORT)
    enc_bte, lens_b = model.encode(model.normalise(feats_btf), torch.tensor([frames]))
    if int(frames_needed(targets_bu, torch.tensor([len(ids)]))) > int(lens_b):
        raise CannotAlign(TOO_SHORT)
    head = model.output if isinstance(model, Ctc) else model.ctc
    assert head is not None
    logp_btv = head(enc_bte[:, : int(lens_b)]).float().log_softmax(-1)
    path_bt, logp_bt = forced_align(logp_btv, targets_bu, blank=BLANK)
    spans = [(span.start, span.end) for span in merge_tokens(path_bt[0], logp_bt[0], blank=BLANK)]
    frame_s = model.encoder.reduction * bundle.spec.frame_s
    return of_spans(words, starts, spans, frame_s, len(samples_t) / bundle.spec.sample_rate)


def of_spans(
    words: Sequence[str], starts: Sequence[bool], spans: Sequence[tuple[int, int]], frame_s: float, audio_s: float
) -> list[SpokenWord]:
    """Words whose tokens have these spans of frames, the end not in it; no word ends after the audio does.

    `starts` says of each token whether it begins a word.
    """
    assert len(spans) == len(starts) and sum(starts) == len(words)
    first = [i for i, begins in enumerate(starts) if begins]
    last = [*(i - 1 for i in first[1:]), len(spans) - 1]
    return [
        SpokenWord(word, min(spans[i][0] * frame_s, audio_s), min(spans[j][1] * frame_s, audio_s))
        for word, i, j in zip(words, first, last, strict=True)
    ]


@dataclass(slots=True)
class Delays:
    """Of all utterances that were aligned, in seconds of audio."""

    shown_s: list[float] = field(default_factory=list)  # from a word's end to when it first stood at its place
    final_s: list[float] = field(default_factory=list)  # from a word's end to when it was final
    unseen: int = 0  # right words that only the end of a file brought out
    first_word_s: list[float] = field(default_factory=list)  # from the first word's start to the first word shown
    endpoint_s: list[float] = field(default_factory=list)  # from the last word's end to the end of its segment
    no_endpoint: int = 0  # utterances after which none came
    cut: int = 0  # endpoints between the start of the first word and the end of the last

    def add(self, spoken: Sequence[SpokenWord], heard: Sequence[str], trace: Trace) -> None:
        """An utterance: its words as they were said, as they were recognised, and what was seen of them when.

        `trace` goes on behind the end of the file, where nobody has said that it ended.
        """
        for word, place in right_words(spoken, heard):
            if (first_s := trace.first_s.get((place, word.text))) is None:
                self.unseen += 1
                continue
            self.shown_s.append(first_s - word.end_s)
            if trace.final[place : place + 1] == [word.text]:
                self.final_s.append(trace.final_s[place] - word.end_s)
        if trace.first_word_s is not None:
            self.first_word_s.append(trace.first_word_s - spoken[0].start_s)
        begin_s, end_s = spoken[0].start_s, spoken[-1].end_s
        self.cut += sum(1 for at_s, _ in trace.endpoints if begin_s < at_s < end_s)
        behind_s = [at_s - end_s for at_s, _ in trace.endpoints if at_s >= end_s]
        self.endpoint_s += behind_s[:1]
        self.no_endpoint += not behind_s


def right_words(spoken: Sequence[SpokenWord], heard: Sequence[str]) -> list[tuple[SpokenWord, int]]:
    """Words that are the same in the reference and in what was heard, each with its place in what was heard."""
    found = []
    said, place = iter(spoken), 0
    for reference, hypothesis in scoring.align([word.text for word in spoken], heard):
        word = next(said) if reference is not None else None
        if word is not None and reference == hypothesis:
            found.append((word, place))
        place += hypothesis is not None
    return found
