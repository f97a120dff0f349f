"""From the samples of tars made elsewhere to the rows of an index, or to the reasons why there are none."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from manifests import storage
from manifests.schema import Dropped, Utterance, safe_id
from manifests.text import normalise
from pipelines.candidates import extra
from pipelines.samples import Sample, Tar
from shards import index
from shards.content import Content
from shards.moments import Moments
from shards.spec import FrontendSpec

# fields of a sample's .json, the first that is there
TEXT = ("text", "sentence", "transcript", "transcription")
LANGUAGE = ("language", "lang")
SPEAKER = ("speaker", "speaker_id", "spk_id", "client_id")
LICENCE = ("licence", "license")

Fault = tuple[str, str]  # reason and detail of a Dropped


@dataclass(frozen=True, slots=True)
class Said:
    """What the command line says; `language` and `licence` are those of samples that do not say theirs."""

    corpus: str
    split: str
    language: str
    licence: str
    text_field: str | None


class Rows:
    """The rows of an index, tar by tar; `out` is the folder that it will lie in."""

    def __init__(self, out: str, spec: FrontendSpec, said: Said) -> None:
        self.content: Content | None = None  # of all rows: what most samples of the first tar have
        self.tables: list[pa.Table] = []  # shards.index.SCHEMA
        self.dropped: list[Dropped] = []
        self.tars: dict[str, int] = {}  # those with rows, named as in the index: their bytes
        self.moments = Moments.zero(spec.mels)
        self._out, self._spec, self._said = out, spec, said
        self._ids: set[str] = set()

    def add(self, url: str, tar: Tar) -> None:
        """Judge the samples of a tar."""
        kinds = Counter(sample.kind for sample in tar.samples if sample.kind != (None, False))
        if self.content is None and kinds:
            self.content = Content(*kinds.most_common(1)[0][0])
        judged = [self._judge(sample, url) for sample in tar.samples]
        self.dropped += [result for result in judged if isinstance(result, Dropped)]
        rows = [result for result in judged if not isinstance(result, Dropped)]
        if rows:
            name = storage.name(url) if storage.parent(url) == self._out else url
            whole = {"shard": name, "shard_bytes": tar.size_bytes, "shard_sha256": tar.sha256}
            columns = {key: [(row | whole)[key] for row in rows] for key in index.SCHEMA.names}
            self.tables.append(pa.table(columns, schema=index.SCHEMA))
            self.tars[name] = tar.size_bytes

    def _judge(self, sample: Sample, url: str) -> dict[str, Any] | Dropped:
        """The row without what is said of its shard."""
        said, sound = self._said, sample.sound
        id = safe_id(sample.key)
        if id in self._ids:  # many sets number the samples of each tar from 0 on
            id = safe_id(f"{storage.name(url).removesuffix('.tar')}/{sample.key}")
        text_raw = _text(sample, said.text_field)
        language = _field(sample.facts, LANGUAGE) or said.language
        text, fault = "", _content_fault(sample, self.content, self._spec)
        if fault is None:
            text, fault = _normalised(text_raw, language, said.text_field)
        if fault is None and id in self._ids:
            fault = "duplicate id", f"another sample has the id {id} too"
        uri = storage.member_uri(url, sound.part.offset, sound.part.length, sound.part.name) if sound else ""
        if fault is not None:
            duration_s = sound.duration_s if sound else 0.0
            detail = f"{sample.key}: {fault[1]}"
            return Dropped(id, said.corpus, said.split, uri or url, duration_s, text_raw, fault[0], detail)
        assert self.content
        self._ids.add(id)
        found = sample.features if self.content.features else sound
        assert found
        self.moments = self.moments.add(found.moments)
        covered = self._spec.least_samples(found.moments.frames)
        utterance = Utterance(
            id=id, corpus=said.corpus, split=said.split, language=language, speaker=_field(sample.facts, SPEAKER),
            audio=uri, offset_s=0.0, duration_s=sound.duration_s if sound else covered / self._spec.sample_rate,
            sample_rate=sound.sample_rate if sound else self._spec.sample_rate, channels=sound.channels if sound else 1,
            text_raw=text_raw, text=text, licence=_field(sample.facts, LICENCE) or said.licence, source=url,
            extra=_rest(sample.facts, said.text_field),
        )  # fmt: skip
        row = asdict(utterance) | {"frames": found.moments.frames, "copy": 0, "augmentation": ""}
        return row | _places(sample, self.content, text)


def _content_fault(sample: Sample, content: Content | None, spec: FrontendSpec) -> Fault | None:
    """Why a sample has not what the set has of each."""
    if sample.faults:
        return sample.faults[0]
    features, sound = sample.features, sample.sound
    if content is None or not (features or sound):
        return "no features or audio", f"it has {', '.join(sample.extensions)}"
    if content.features and (features is None or features.dtype != content.features):
        return "other content", f"it has {features.dtype if features else 'no'} features, the set {content.features}"
    if content.audio and sound is None:
        return "other content", "it has no audio, the set has"
    if sound and not sound.moments.frames:
        return "too short", f"{sound.duration_s:g} s hold no frame of {spec.window_samples} samples"
    if features and sound and content.features and content.audio:
        frames = features.moments.frames, sound.moments.frames
        if abs(frames[0] - frames[1]) > 1:  # a resampler may round the last samples away
            return "wrong features", f"it has {frames[0]} frames, but its audio gives {frames[1]} with this frontend"
    return None


def _text(sample: Sample, text_field: str | None) -> str:
    """What a sample says, "" where it says nothing."""
    if text_field is not None:
        return _field(sample.facts, [text_field])
    return sample.text[1] if sample.text else _field(sample.facts, TEXT)


def _field(facts: dict[str, Any], names: Sequence[str]) -> str:
    for name in names:
        value = facts.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if isinstance(value, int) and not isinstance(value, bool):  # speakers have numbers
            return str(value)
    return ""


def _rest(facts: dict[str, Any], text_field: str | None) -> str:
    """The column `extra`: what else the .json says in a word or a number."""
    taken = {*TEXT, *LANGUAGE, *SPEAKER, *LICENCE, text_field}
    return extra(**{k: str(v) for k, v in facts.items() if k not in taken and isinstance(v, str | int | float)})


def _normalised(text_raw: str, language: str, text_field: str | None) -> tuple[str, Fault | None]:
    if not text_raw:
        what = f"{text_field} in its .json" if text_field else f".txt, nor {', '.join(TEXT)} in its .json"
        return "", ("no text", f"it has no {what}")
    try:
        text = normalise(text_raw, language)
    except ValueError as err:
        return "", ("unknown characters", str(err).removeprefix("unknown characters: "))
    return text, None if text else ("empty text", f"no word in {text_raw[:40]!r}")


def _places(sample: Sample, content: Content, text: str) -> dict[str, int | str]:
    features = sample.features if content.features else None
    sound = sample.sound if content.audio else None
    words = sample.text[0] if sample.text and sample.text[1] == text else None
    return {
        "feature_offset": features.part.offset if features else 0,
        "feature_length": features.part.length if features else 0,
        "audio_offset": sound.part.offset if sound else 0,
        "audio_length": sound.part.length if sound else 0,
        "audio_format": sound.format if sound else "",
        "text_offset": words.offset if words else 0,
        "text_length": words.length if words else 0,
    }
