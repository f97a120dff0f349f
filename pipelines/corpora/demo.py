"""A corpus that needs no network: English sentences of a small grammar, spoken by espeak-ng in many voices.

It lies on disk like LibriSpeech. No timbre and no sentence of one split occurs in another; every word of dev and test
occurs in train.
"""

import argparse
import io
import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.signal
import soundfile
import soxr

from manifests import storage
from manifests.schema import Dropped
from pipelines import espeak
from pipelines.candidates import Candidate
from pipelines.corpora import librispeech
from pipelines.executors import Run
from pipelines.progress import progress

HELP = "English made on the spot by the packaged speech synthesiser espeak-ng; needs no network"

SAMPLE_RATE = 16000
MIN_HOURS = 0.01  # below, train has too few words to make other sentences of
MAX_HOURS = 100.0  # above, sentences run out
CHAPTER_S = 180.0  # no chapter is planned longer: chapters are what workers share
SILENCE_S = (0.05, 0.7)  # before and after the speech
SPEECH_DBFS = (-32.0, -18.0)
SNR_DB = (22.0, 45.0)

ACCENTS = ("en", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")

# Variants of espeak-ng, (men, women): plain timbres that give the same samples each time (some others draw on rand())
TRAIN_MEN = "m1 m2 m3 m5 m6 m8 Alex Denis Diogo Gene Lee Mario boris david edward grandpa michel quincy robert victor"
VARIANTS = {
    "train": (TRAIN_MEN, "f1 f2 f4 Alicia Annie anika aunty grandma shelby steph"),
    "dev": ("m4 travis", "f5 linda"),
    "test": ("m7 Mike miguel norbert", "f3 Andrea belinda"),
}
FIRST_SPEAKER = {"train": 1001, "dev": 2001, "test": 3001}

# One sentence form a line. {slot} is replaced by one of the slot's fillers, and those may hold slots again.
FORMS = """
{who} {did} the {adjective} {thing}
{who} {did} a {thing} near the {place}
{who} {did} {number} {goods} {before}
{who} {went} to the {place} {before}
{who} lives in {city} with {name}
{who} will call you {soon}
the {vehicle} to {city} leaves at {time}
the {vehicle} from {city} was {number} minutes late
we took the {vehicle} from {city} to {city}
it will be {weather} in {city} {soon}
it was {weather} and {weather} {before}
the temperature in {city} is {number} degrees
turn {switch} the {device} in the {room}
please {handle} the {opening} in the {room}
set the alarm for {time}
call {name} at {time}
play some {mood} music in the {room}
{number} {goods} cost {number} pounds
the number is {digit} {digit} {digit} {digit}
the {adjective} {animal} is sleeping in the {room}
there are {number} {animal}s in the garden
a {animal} and a {animal} live near the {place}
where is the {adjective} {thing}
where did {who} put the {thing}
is the {place} open {soon}
how far is it from {city} to {city}
meet me at the {place} at {time}
my birthday is on the {ordinal} of {month}
the meeting is on {day} at {time}
i would like some {food} and {food}
there is no {food} in the {room}
""".strip().splitlines()

SLOTS: dict[str, list[str]] = {
    slot: fillers.split(", ")
    for slot, fillers in {
        "who": "{name}, {name}, my {relative}, the {worker}, our {worker}",
        "name": "anna, ben, clara, peter, emma, frank, grace, henry, lucy, martin, nina, oliver",
        "relative": "brother, sister, mother, father, uncle",
        "worker": "doctor, teacher, driver, farmer, captain, nurse, painter, baker",
        "did": "found, lost, bought, sold, painted, carried, dropped, cleaned, forgot",
        "went": "walked, drove, ran, went",
        "before": "yesterday, last night, last {day}, last {month}, this {part}",
        "soon": "today, tomorrow, next {day}, on {day}, this {part}",
        "thing": "lamp, letter, book, bottle, chair, key, coat, phone, camera, clock, ticket",
        "goods": "apples, lemons, bottles, books, tickets, chairs, letters",
        "adjective": "red, blue, green, yellow, small, large, old, new, heavy, beautiful",
        "mood": "quiet, loud, happy, new, old",
        "place": "station, market, library, garden, school, office, airport, bridge, beach, hotel, museum",
        "city": "london, paris, rome, dublin, boston, berlin, madrid, oslo",
        "vehicle": "train, bus, boat, plane, taxi",
        "time": "{hour} o'clock, half past {hour}, quarter past {hour}, {hour} thirty, {hour} in the {part}",
        "hour": "one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve",
        "part": "morning, afternoon, evening",
        "day": "monday, tuesday, wednesday, thursday, friday, saturday, sunday",
        "month": "january, february, march, april, june, july, august, september, october, november, december",
        "ordinal": "first, second, third, fourth, fifth, tenth",
        "digit": "zero, one, two, three, four, five, six, seven, eight, nine",
        "number": "{unit}, {unit}, {unit}, ten, eleven, twelve, fifteen, {tens}, {tens} {unit}, a hundred",
        "tens": "twenty, thirty, forty, fifty, sixty",
        "unit": "two, three, four, five, six, seven, eight, nine",
        "weather": "sunny, cloudy, windy, rainy, cold, warm, foggy",
        "switch": "on, off, up, down",
        "device": "light, radio, heating, television",
        "handle": "open, shut, lock, clean, paint",
        "opening": "door, window, gate, cupboard",
        "room": "kitchen, bedroom, garage, hall, cellar, bathroom",
        "animal": "dog, cat, horse, bird, rabbit, duck, cow",
        "food": "bread, milk, coffee, tea, soup, fish, rice, cheese",
    }.items()
}


@dataclass(frozen=True)
class Chapter:
    """Sentences that one speaker reads, and all that decides the bytes of their files. `pitch` is 0 to 100."""

    split: str
    speaker: int
    number: int
    voice: str
    wpm: int
    pitch: int
    sentences: tuple[str, ...]
    seed: int

    @property
    def folder(self) -> str:
        """Where the chapter's files lie below the root."""
        return f"LibriSpeech/{self.split}/{self.speaker}/{self.number}"

    @property
    def utterance_ids(self) -> list[str]:
        return [f"{self.speaker}-{self.number}-{index:04d}" for index in range(len(self.sentences))]

    @property
    def transcript(self) -> str:
        lines = zip(self.utterance_ids, self.sentences, strict=True)
        return "".join(f"{utterance_id} {sentence.upper()}\n" for utterance_id, sentence in lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", help="folder that the audio goes to (default: corpus in --out)")
    parser.add_argument("--hours", type=float, default=1.5, help="hours of speech to train on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another corpus (default: %(default)s)")


def voices(split: str) -> list[str]:
    """The split's voices, the n-th of them speaker FIRST_SPEAKER + n: each timbre in two accents, in train and test."""
    variants = " ".join(VARIANTS[split]).split()
    shifts = (0, 3) if split != "dev" else (0,)
    return [
        f"{ACCENTS[(i + shift) % len(ACCENTS)]}+{variant}" for shift in shifts for i, variant in enumerate(variants)
    ]


def plan_chapters(hours: float, seed: int) -> list[Chapter]:
    """Chapters with about `hours` of speech for train, and on top about 4 % of it for dev and 8 % for test.

    From half an hour on, dev and test have 60 utterances or more. Raises ValueError for hours that cannot be made.
    """
    _check_hours(hours)
    rng = random.Random(seed)
    train_s = hours * 3600
    least_s = max(15.0, 216.0 * min(1.0, hours / 0.5))
    taken: set[str] = set()
    train = _plan_split("train", train_s, rng, taken, None)
    words = {word for chapter in train for sentence in chapter.sentences for word in sentence.split()}
    dev = _plan_split("dev", max(0.04 * train_s, least_s), rng, taken, words)
    return train + dev + _plan_split("test", max(0.08 * train_s, least_s), rng, taken, words)


def _check_hours(hours: float) -> None:
    if not MIN_HOURS <= hours <= MAX_HOURS:
        raise ValueError(f"--hours {hours:g}: the demo corpus can have {MIN_HOURS:g} to {MAX_HOURS:g} hours")


def _plan_split(
    split: str, split_s: float, rng: random.Random, taken: set[str], words: set[str] | None
) -> list[Chapter]:
    """Chapters of about the same length, as many as there are voices where that leaves each a few utterances."""
    speakers = list(enumerate(voices(split), FIRST_SPEAKER[split]))
    rng.shuffle(speakers)
    count = max(math.ceil(split_s / CHAPTER_S), min(len(speakers), math.ceil(split_s / 20)))
    chapters = []
    planned_s = 0.0
    for index in range(count):
        speaker, voice = speakers[index % len(speakers)]
        wpm, pitch = rng.randint(135, 200), rng.randint(35, 65)
        sentences: list[str] = []
        while planned_s < split_s * (index + 1) / count:
            sentences.append(_new_sentence(rng, taken, words))
            planned_s += _estimate_s(sentences[-1], wpm)
        number = speaker * 100 + index // len(speakers)
        chapters.append(Chapter(split, speaker, number, voice, wpm, pitch, tuple(sentences), rng.getrandbits(32)))
    return chapters


def _estimate_s(sentence: str, wpm: int) -> float:
    """Seconds with silence; the two numbers are a fit to what espeak-ng made."""
    return 8.4 * len(sentence) / wpm + 0.15 + sum(SILENCE_S)


def _new_sentence(rng: random.Random, taken: set[str], words: set[str] | None) -> str:
    """A sentence that is not `taken` yet (it is now), of these words only if any are given."""
    for _ in range(200_000):
        sentence = draw_sentence(rng)
        if sentence not in taken and (words is None or words.issuperset(sentence.split())):
            taken.add(sentence)
            return sentence
    raise AssertionError("the grammar has no sentence left")


def draw_sentence(rng: random.Random) -> str:
    """Any sentence of the grammar in which no filler comes twice ("from rome to rome")."""
    fillers: list[str] = []

    def fill(slot: re.Match[str]) -> str:
        filler = rng.choice([filler for filler in SLOTS[slot[1]] if filler not in fillers])
        fillers.append(filler)
        return filler

    sentence = rng.choice(FORMS)
    while "{" in sentence:
        sentence = re.sub(r"\{(\w+)\}", fill, sentence)
    return sentence


def write_speakers(root: str, chapters: list[Chapter]) -> None:
    """LibriSpeech/SPEAKERS.TXT. Raises ValueError where another plan's corpus lies: call it before any chapter."""
    planned_s: dict[tuple[int, str, str], float] = {}
    for chapter in chapters:
        key = (chapter.speaker, chapter.split, chapter.voice)
        planned_s[key] = planned_s.get(key, 0.0) + sum(_estimate_s(s, chapter.wpm) for s in chapter.sentences)
    lines = [
        "; Synthetic speech by espeak-ng. The minutes are estimates.",
        ";ID  |SEX| SUBSET           |MINUTES| NAME",
    ]
    for (speaker, split, voice), seconds in sorted(planned_s.items()):
        sex = "F" if voice.partition("+")[2] in VARIANTS[split][1].split() else "M"
        lines.append(f"{speaker:<5}| {sex} | {split:<17}| {seconds / 60:<6.2f}| {voice}")
    uri, text = storage.join(root, "LibriSpeech", "SPEAKERS.TXT"), "\n".join(lines) + "\n"
    if not _is_written(uri, text):
        storage.write_text(uri, text)


def _is_written(uri: str, text: str) -> bool:
    """True when the file holds the text, False when there is no file. Raises ValueError when it holds another."""
    if not storage.exists(uri):
        return False
    if storage.read_text(uri) != text:
        raise ValueError(f"{uri}: made with another --hours or --seed; give another --root, or delete this one first")
    return True


def write_chapter(root: str, chapter: Chapter) -> float:
    """Write the chapter's FLAC files, then its transcript; returns their seconds.

    A chapter that has its transcript is finished and is only measured. Raises ValueError when it is another plan's.
    """
    folder = storage.join(root, chapter.folder)
    transcript = storage.join(folder, f"{chapter.speaker}-{chapter.number}.trans.txt")
    uris = [storage.join(folder, f"{utterance_id}.flac") for utterance_id in chapter.utterance_ids]
    if _is_written(transcript, chapter.transcript):
        return sum(soundfile.info(io.BytesIO(storage.read_bytes(uri))).frames for uri in uris) / SAMPLE_RATE
    rng = np.random.default_rng(chapter.seed)
    samples = 0
    with espeak.engine() as say:
        for uri, sentence in zip(uris, chapter.sentences, strict=True):
            wpm, pitch = chapter.wpm + int(rng.integers(-8, 9)), chapter.pitch + int(rng.integers(-5, 6))
            audio = _record(say(sentence, chapter.voice, wpm, pitch), rng)
            flac = io.BytesIO()
            soundfile.write(flac, audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
            storage.write_bytes(uri, flac.getvalue())
            samples += len(audio)
    storage.write_text(transcript, chapter.transcript)
    return samples / SAMPLE_RATE


def _record(spoken: espeak.Samples, rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """What a microphone might have had of espeak's speech: at SAMPLE_RATE, some level, silence around, noise below."""
    speech = soxr.resample(spoken, espeak.SAMPLE_RATE, SAMPLE_RATE)
    speech *= min(10 ** (rng.uniform(*SPEECH_DBFS) / 20) / _rms(speech), 0.8 / np.abs(speech).max())
    before, after = (round(rng.uniform(*SILENCE_S) * SAMPLE_RATE) for _ in range(2))
    # White noise through a one-pole low-pass: from a hiss to a rumble
    noise = scipy.signal.lfilter(
        [1.0], [1.0, -rng.uniform(0.0, 0.95)], rng.standard_normal(before + len(speech) + after)
    )
    audio = noise * (_rms(speech) * 10 ** (-rng.uniform(*SNR_DB) / 20) / _rms(noise))
    audio[before : before + len(speech)] += speech
    return np.round(audio * 32767).astype(np.int16)


def _rms(samples: espeak.Samples) -> float:
    return float(np.sqrt(np.mean(samples**2)))


def check(args: argparse.Namespace) -> None:
    """Raises ValueError for hours that cannot be made."""
    _check_hours(args.hours)


def make(args: argparse.Namespace, run: Run) -> None:
    """Write the corpus, chapters in parallel; those that are there already stay."""
    chapters = plan_chapters(args.hours, args.seed)
    root = _root(args)
    write_speakers(root, chapters)
    with progress("speaking", len(chapters), "chapters") as advance:
        for _ in run(partial(write_chapter, root), chapters):
            advance(1)


def candidates(args: argparse.Namespace) -> Iterator[Candidate | Dropped]:
    origin = librispeech.Origin("demo", "synthetic speech", "espeak-ng")
    return librispeech.list_tree(storage.join(_root(args), "LibriSpeech"), None, origin)


def _root(args: argparse.Namespace) -> str:
    return storage.absolute(args.root or storage.join(args.out, "corpus"))


def tiny(folder: Path) -> list[str]:
    """Nothing to write: the smallest corpus there is. Returns its arguments."""
    return ["--root", str(folder), "--hours", str(MIN_HOURS)]
