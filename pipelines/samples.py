"""The samples of a WebDataset tar that was made elsewhere, found while its bytes pass by once.

A sample is the members of one key: the name up to the first dot behind its folder, as webdataset has it. Of each only
facts are kept (where its parts lie, how many frames, what its text is), so that they may stand in any order.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Literal

import numpy as np

from asr import audio
from asr.frontend import logmel
from manifests import storage
from manifests.storefaults import shown
from manifests.tarstream import Damaged, TarStream
from shards.moments import Moments
from shards.spec import FrontendSpec
from shards.writer import npy_header

PIECE_BYTES = 4 << 20
LARGEST = 1e4  # a log-mel value: those of float32 powers are below 89
Format = Literal["float16", "float32"]
AUDIO = ("flac", "wav", "mp3", "ogg", "opus", "m4a")

_FORMATS: dict[str, Format] = {"<f2": "float16", "<f4": "float32"}
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}


@dataclass(frozen=True, slots=True)
class Part:
    """A member of the tar, or of one the part that counts: the numbers of a .npy, the words of a .txt."""

    name: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Features:
    part: Part
    dtype: Format
    moments: Moments


@dataclass(frozen=True, slots=True)
class Sound:
    part: Part
    format: str
    duration_s: float
    sample_rate: int  # the file's own, as the channels
    channels: int
    moments: Moments


@dataclass(slots=True)
class Sample:
    """What was found under a key. `faults` are reasons and details of members that cannot be used."""

    key: str
    features: Features | None = None
    sound: Sound | None = None
    text: tuple[Part, str] | None = None  # of the .txt, without white space around it
    facts: dict[str, Any] = field(default_factory=dict)  # of the .json
    faults: list[tuple[str, str]] = field(default_factory=list)
    extensions: list[str] = field(default_factory=list)  # of all its members

    @property
    def kind(self) -> tuple[Format | None, bool]:
        """The number format of its features, and whether it has audio."""
        return (self.features.dtype if self.features else None), self.sound is not None


@dataclass(frozen=True, slots=True)
class Tar:
    samples: list[Sample]  # in the order of their first members
    size_bytes: int
    sha256: str
    left_out: dict[str, int]  # members that are no files, by what they are


def read_tar(url: str, spec: FrontendSpec, advance: Callable[[float], None]) -> Tar:
    """Read a tar from its start to its end. `advance` is told the bytes.

    Raises ValueError for one that is damaged, compressed or no tar, OSError for one that cannot be read.
    """
    digest = hashlib.sha256()
    tar = TarStream()
    samples: dict[str, Sample] = {}
    try:
        with storage.open_read(url) as file:
            for part, data in _members(_pieces(url, file, digest.update, advance), tar):
                if named := _NAME.fullmatch(part.name):
                    sample = samples.setdefault(named[1], Sample(named[1]))
                    take(sample, named[2].lower(), part, data, spec)
    except Damaged as err:
        raise Damaged(f"{shown(url)}: {err}") from None
    return Tar(list(samples.values()), tar.position, digest.hexdigest(), dict(tar.left_out))


def _pieces(
    url: str, file: IO[bytes], hashed: Callable[[bytes], None], advance: Callable[[float], None]
) -> Iterator[bytes]:
    first = True
    while piece := file.read(PIECE_BYTES):
        for magic, command in _COMPRESSED.items():
            if first and piece.startswith(magic):
                raise ValueError(f"{shown(url)}: is compressed, so no utterance in it can be found by its place; "
                                 f"unpack it first, for instance: {command} {storage.name(url)}")  # fmt: skip
        first = False
        hashed(piece)
        yield piece
        advance(len(piece))


def _members(pieces: Iterator[bytes], tar: TarStream) -> Iterator[tuple[Part, bytes]]:
    """The files in a tar with their bytes, of which no more are held than one member and a piece need."""
    window = bytearray()
    begin = done = 0
    for piece in pieces:
        window += piece
        tar.feed(memoryview(piece))
        while done < len(tar.names) and tar.offsets[done] + tar.lengths[done] <= tar.position:
            part = Part(tar.names[done], tar.offsets[done], tar.lengths[done])
            yield part, bytes(window[part.offset - begin : part.offset + part.length - begin])
            done += 1
        kept = min(tar.position, tar.offsets[done] if done < len(tar.names) else tar.position)
        del window[: kept - begin]
        begin = kept
    tar.finish()
    if not tar.ended:  # a tar that was cut between two members looks well otherwise
        raise Damaged("it was cut short: it has no end mark")
    if linked := len(tar.names) - done:
        tar.left_out["link to a file of the archive"] += linked


def take(sample: Sample, extension: str, part: Part, data: bytes, spec: FrontendSpec) -> None:
    """Look at a member of the sample; what cannot be used of it becomes a fault."""
    sample.extensions.append(extension)
    try:
        if extension == "npy":
            sample.features = _features(part, data, spec)
        elif extension in AUDIO and sample.sound is None:
            sample.sound = _sound(part, extension, data, spec)
        elif extension == "txt":
            text = data.decode("utf-8-sig")
            start = data.find(text.strip().encode())
            sample.text = Part(part.name, part.offset + start, len(text.strip().encode())), text.strip()
        elif extension == "json":
            facts = json.loads(data)
            if not isinstance(facts, dict):
                raise ValueError("is no JSON object")
            json.dumps(facts, ensure_ascii=False).encode()  # half of a surrogate pair is JSON, but no text
            sample.facts |= facts
    except audio.AudioError as err:
        sample.faults.append(("undecodable", str(err)))
    except _Unusable as err:
        sample.faults.append(("wrong features", f"{part.name}: {err}"))
    except (ValueError, RecursionError) as err:  # not UTF-8, not JSON
        sample.faults.append(("unreadable text", f"{part.name}: {err}"))


class _Unusable(Exception):
    """Features that are not what they are to be."""


def _features(part: Part, data: bytes, spec: FrontendSpec) -> Features:
    header = npy_header(data)
    if header is None:
        raise _Unusable("is no .npy file of a plain array")
    if header.dtype not in _FORMATS:
        raise _Unusable(f"holds {header.dtype}; features are float16 ('<f2') or float32 ('<f4')")
    shape, start, format = list(header.shape), header.start, _FORMATS[header.dtype]
    if header.by_columns or len(shape) != 2 or shape[1] != spec.mels or not shape[0]:
        order = " in Fortran order" if header.by_columns else ""
        raise _Unusable(f"has the shape {shape}{order}; features are [frames, {spec.mels}]")
    if len(data) - start != shape[0] * shape[1] * np.dtype(format).itemsize:
        raise _Unusable(f"has {len(data) - start} bytes of numbers for the shape {shape}")
    feats_tf = np.frombuffer(data, format, offset=start).reshape(shape).astype(np.float32)
    if not -LARGEST <= feats_tf.min() <= feats_tf.max() <= LARGEST:  # also where one is no number
        raise _Unusable(f"holds values that are infinite or not a number, or beyond {LARGEST:g} and no logarithms")
    return Features(Part(part.name, part.offset + start, len(data) - start), format, Moments.of(feats_tf))


def _sound(part: Part, format: str, data: bytes, spec: FrontendSpec) -> Sound:
    samples = audio.read(part.name, spec.sample_rate, data=data)
    feats_tf = logmel(samples, spec)
    own = audio.probe(part.name, data)
    return Sound(part, format, len(samples) / spec.sample_rate, own.sample_rate, own.channels, Moments.of(feats_tf))
