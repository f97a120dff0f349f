"""What a shard holds of an utterance: its audio read, featurised and encoded, and changed copies beside it.

Or the reason why there is nothing: what cannot be decoded is dropped; what could not be read, or killed the process
that read it, is quarantined, for a repeat may find it well.
"""

import functools
import hashlib
import io
import json
import multiprocessing
import os
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np
import soundfile as sf

from asr import audio
from asr.formats.flac import HEAD_BYTES, parse_head
from asr.frontend import logmel
from manifests import storage
from manifests.schema import Dropped, Utterance
from pipelines.shard_plan import Recipe, copy_id

UNDECODABLE, TOO_SHORT, QUARANTINED = "undecodable", "too short", "quarantined"
PAUSES_S = (1.0, 5.0)  # before the second and the third try to read what a network or a store did not give
LIVES = 2  # processes that may die over an utterance: one may be killed for what another did
READERS = 8  # files of a store that are asked for at once: the answer to one takes longer than to featurise it

READER_NAME = "audio"  # of their threads

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Example:
    """An utterance, or a changed copy of one, ready for its shard."""

    id: str
    copy: int
    augmentation: str  # JSON of what was applied, "" where nothing was to be
    duration_s: float
    feats_tf: np.ndarray  # float32 log-mel, whatever the content: mean and variance are always of it
    flac: bytes | None


Found = list[Example | Dropped]
Make = Callable[[Utterance, Recipe, bytes | None], Found]


def examples(utterances: Sequence[Utterance], recipe: Recipe, make: Make) -> Iterator[tuple[int, Example | Dropped]]:
    """For each utterance, by its position, what `make` gives, or why it could not.

    Raises ValueError when this machine cannot see the folder that a file should be in.
    """
    for position, (utterance, fetched) in enumerate(zip(utterances, _fetched(utterances), strict=True)):
        try:
            found = make(utterance, recipe, fetched())
        except (audio.AudioError, FileNotFoundError) as err:
            _check_seen(utterance.audio)
            found = [_dropped(utterance, UNDECODABLE, str(err))]
        except OSError as err:
            found = [_dropped(utterance, QUARANTINED, str(err))]
        yield from ((position, example) for example in found)


def make(utterance: Utterance, recipe: Recipe, data: bytes | None) -> Found:
    """The utterance and its copies; `data` is its file's content where that is at hand.

    Raises AudioError for what cannot be decoded, OSError for what cannot be read, also when asked again and again.
    """
    return _patiently(lambda: _make(utterance, recipe, data))


def _make(utterance: Utterance, recipe: Recipe, data: bytes | None) -> Found:
    u, rate = utterance, recipe.spec.sample_rate
    samples_t = audio.read(u.audio, rate, u.offset_s, u.duration_s, channel=u.channel, data=data)
    own = _own_flac(u, rate, len(samples_t), data) if recipe.content.audio else None
    if u.dc_offset or u.gain_db:
        samples_t = (samples_t - np.float32(u.dc_offset)) * np.float32(10 ** (u.gain_db / 20))
    found = [_example(u, 0, samples_t, "", recipe, own)]
    for copy in range(1, recipe.copies_of(u.split) + 1):
        changed_t, applied = _changed(u, copy, samples_t, recipe)
        found.append(_example(u, copy, changed_t, applied, recipe, None))
    return found


def _example(
    u: Utterance, copy: int, samples_t: np.ndarray, applied: str, recipe: Recipe, flac: bytes | None
) -> Example | Dropped:
    rate = recipe.spec.sample_rate
    duration_s = len(samples_t) / rate if copy else u.duration_s
    feats_tf = logmel(samples_t, recipe.spec)
    if not len(feats_tf):
        return _dropped(u, TOO_SHORT, f"{duration_s:g} s hold no frame of {recipe.spec.window_samples} samples", copy)
    if recipe.content.audio and flac is None:
        flac = encode(samples_t, rate)
    return Example(copy_id(u.id, copy), copy, applied, duration_s, feats_tf, flac)


def _changed(u: Utterance, copy: int, samples_t: np.ndarray, recipe: Recipe) -> tuple[np.ndarray, str]:
    """A copy's samples, and what was applied to them. Chance comes from the id, the number and the config alone."""
    from asr import waveform  # loads torch

    assert recipe.augment is not None
    of = json.dumps([u.id, copy, asdict(recipe.augment)], sort_keys=True)
    seed = int.from_bytes(hashlib.sha256(of.encode()).digest()[:8])
    try:
        changed_t, applied = waveform.augment(samples_t, recipe.spec.sample_rate, recipe.augment, seed)
    except audio.AudioError as err:
        raise ValueError(str(err)) from None  # a file of noise is at fault, and with it all utterances
    return changed_t, json.dumps(applied)


def encode(samples_t: np.ndarray, rate: int) -> bytes:
    """A FLAC file of 16 bits; what came from 16 bits comes back the same."""
    pcm_t = np.clip(np.rint(samples_t * np.float32(32768)), -32768, 32767).astype(np.int16)
    file = io.BytesIO()
    sf.write(file, pcm_t, rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _own_flac(u: Utterance, rate: int, samples: int, data: bytes | None) -> bytes | None:
    """The utterance's own file, when that is just what `encode` would be asked to make."""
    if u.offset_s or u.dc_offset or u.gain_db or (data is None and not u.audio.lower().endswith(".flac")):
        return None
    head = data[:HEAD_BYTES] if data is not None else storage.read_range(u.audio, 0, HEAD_BYTES)
    if parse_head(head) != (samples, rate, 1, 16):
        return None
    return data if data is not None else storage.read_bytes(u.audio)


def _dropped(u: Utterance, reason: str, detail: str, copy: int = 0) -> Dropped:
    return Dropped(copy_id(u.id, copy), u.corpus, u.split, u.audio, u.duration_s, u.text_raw, reason, detail)


def _check_seen(uri: str) -> None:
    """Raises ValueError when not even the folder of a local file that is not there is seen from here."""
    inside = storage.member(uri)
    path = inside.tar if inside else uri
    if storage.is_local(path) and not storage.exists(path) and not storage.exists(storage.parent(path)):
        raise unseen(storage.parent(path))


def unseen(folder: str) -> ValueError:
    return ValueError(
        f"the machine {platform.node()} does not see {folder}; give a URL, or a folder that all machines share"
    )


def _fetched(utterances: Sequence[Utterance]) -> Iterator[Callable[[], bytes | None]]:
    """For each utterance a function that gives its file's bytes, as audio.fetch does; those of a store, read ahead."""
    if all(storage.is_local(u.audio) for u in utterances):
        yield from (functools.partial(_patiently, functools.partial(audio.fetch, u.audio)) for u in utterances)
        return
    calls = (functools.partial(_patiently, functools.partial(_fetch_remote, u)) for u in utterances)
    pool = ThreadPoolExecutor(READERS, READER_NAME)
    ahead: deque[Future[bytes | None]] = deque()
    try:
        for call in calls:
            ahead.append(pool.submit(call))
            if len(ahead) == 2 * READERS:
                yield ahead.popleft().result
        while ahead:
            yield ahead.popleft().result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _fetch_remote(u: Utterance) -> bytes | None:
    """At once as well what may be little more than the utterance in 24 bits: each range of a file is a wait."""
    return audio.fetch(u.audio, max(audio.SMALL_BYTES, int(u.duration_s * u.sample_rate) * u.channels * 3))


def _patiently(work: Callable[[], _Result]) -> _Result:
    """What `work` gives; after an OSError it is asked again, after growing pauses. What is not there stays so."""
    for pause_s in PAUSES_S:
        try:
            return work()
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(pause_s)
    return work()


class Child:
    """Makes examples in a process of its own, which may die over one: that one is quarantined, the next gets another.

    Close it in the end.
    """

    def __init__(self, make: Make) -> None:
        self._make = make
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, utterance: Utterance, recipe: Recipe, data: bytes | None) -> Found:
        for _ in range(LIVES):
            if self._pool is None:
                self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _die_with_parent)
            try:
                return self._pool.submit(self._make, utterance, recipe, data).result()
            except BrokenProcessPool:
                self.close()
        return [_dropped(utterance, QUARANTINED, f"{utterance.audio}: {LIVES} processes died over it")]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def _die_with_parent() -> None:
    """In a child: it would wait for work for ever when its parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
