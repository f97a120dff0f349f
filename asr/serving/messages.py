"""The messages of a WebSocket stream, both ways, as JSON.

A client says {"type": "start", "format": "pcm16", "sample_rate": 16000, "hotwords": ["…"]}, then sends audio as binary
messages, and {"type": "end"}. The server says "started", "update" as often as there is something new, and "last", and
closes. What is wrong is an "error" with the reason, before "last" where a stream has begun and can still be recognised.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from asr.serving.hub import Result
from asr.serving.limits import HIGHEST_RATE, HOTWORD_CHARACTERS, HOTWORDS, LOWEST_RATE, bad
from asr.words import Word

FORMATS = ("pcm16", "opus")


@dataclass(frozen=True, slots=True)
class Start:
    """What a client says of its stream. Opus says its rate itself, so `sample_rate` is 0."""

    format: str
    sample_rate: int
    hotwords: tuple[str, ...]


def kind(text: str) -> tuple[str, dict[str, Any]]:
    """The type of a message, and what else it says. Raises Refused."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise bad("a text message that is no JSON in UTF-8; audio goes into binary messages") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise bad('a message that is no JSON object with a "type"')
    return message.pop("type"), message


def start(fields: dict[str, Any]) -> Start:
    """Raises Refused, with the field that is wrong."""
    form, rate = fields.pop("format", "pcm16"), fields.pop("sample_rate", None)
    words = fields.pop("hotwords", [])
    if fields:
        raise bad(f"start has {_short(min(fields))}; it may have format, sample_rate and hotwords")
    if form not in FORMATS:
        raise bad(f"format {_short(form)} is not known; it can be {' or '.join(FORMATS)}")
    if form == "opus" and rate is not None:
        raise bad("opus takes no sample_rate: its container has it")
    if form == "pcm16" and (type(rate) is not int or not LOWEST_RATE <= rate <= HIGHEST_RATE):
        raise bad(f"sample_rate {_short(rate)} must be a whole number from {LOWEST_RATE} to {HIGHEST_RATE}")
    return Start(form, rate or 0, hotwords(words))


def hotwords(words: Any) -> tuple[str, ...]:
    """Raises Refused for what is no list of few and short phrases."""
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise bad("hotwords must be a list of texts")
    if any("\ud800" <= character <= "\udfff" for word in words for character in word):
        raise bad("a hotword has half of a surrogate pair, which is no text")
    if len(words) > HOTWORDS or any(len(word) > HOTWORD_CHARACTERS for word in words):
        raise bad(f"at most {HOTWORDS} hotwords of {HOTWORD_CHARACTERS} characters each")
    return tuple(words)


def result(found: Result) -> str:
    return _json(
        type="last" if found.last else "update",
        final=words(found.update.final),
        partial=words(found.update.partial),
        endpoint=found.update.endpoint,
        audio_s=round(found.audio_s, 3),
    )


def words(of: Iterable[Word]) -> list[dict[str, Any]]:
    return [
        {
            "word": word.text,
            "start_s": round(word.start_s, 3),
            "end_s": round(word.end_s, 3),
            "confidence": round(word.confidence, 3),
            "segment": word.segment,
        }
        for word in of
    ]


def started(sample_rate: int) -> str:
    return _json(type="started", sample_rate=sample_rate)


def error(text: str) -> str:
    return _json(type="error", message=text)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:40] + "…"


def _json(**fields: Any) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
