"""A whole file in one HTTP request: POST /transcribe, with the file's bytes as the body.

The bytes go to a file without a name, which is gone with the request, whatever happens to the server.
"""

import asyncio
import contextlib
import json
import tempfile
import time
from typing import IO, Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from asr import audio
from asr.serving import messages
from asr.serving.hub import Gone, Hub, Stream
from asr.serving.limits import Refused, bad, idle, stopping, too_long, too_slow
from asr.transcribing import transcript
from asr.words import Word

_CHUNK_S = 1.0
_NAMES = ("format", "hotword")
_FORMATS = {"json": "application/json", "text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt",
            "ctm": "text/plain"}  # fmt: skip


async def serve(request: Request, hub: Hub) -> Response:
    try:
        form, hotwords = _asked(request, hub)
        with hub.slot(), tempfile.TemporaryFile(prefix="speechmill-") as file:
            await _receive(request, file, hub)
            hub.metrics.started["upload"] += 1
            words, duration_s = await _recognise(request, f"/dev/fd/{file.fileno()}", hotwords, hub)
    except Refused as refused:
        if refused.kind != "error":
            hub.metrics.refusals[refused.kind] += 1
        # what is left of the body is not read, so the connection cannot be used again
        return _json({"error": refused.text}, refused.status, {"Connection": "close"})
    except ClientDisconnect:
        return Response(status_code=499)  # nobody reads it
    return _answer(form, words, duration_s)


def _asked(request: Request, hub: Hub) -> tuple[str, tuple[str, ...]]:
    """The format of the answer and the hotwords. Raises Refused for a request that cannot be."""
    for name in request.query_params:
        if name not in _NAMES:
            raise bad(f"{name[:40]} is not known; the address may have {' and '.join(_NAMES)}")
    form = request.query_params.get("format", "json")
    if form not in _FORMATS:
        raise bad(f"format {form[:40]} is not known; it can be {', '.join(_FORMATS)}")
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise Refused("malformed", "the body must be the file itself, as curl --data-binary @FILE sends it", 1007, 415)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > hub.limits.upload_mb * 1e6:
        raise _too_large(hub)
    return form, messages.hotwords(request.query_params.getlist("hotword"))


async def _receive(request: Request, file: IO[bytes], hub: Hub) -> None:
    """Raises Refused when it is too large, or stops coming; ClientDisconnect."""
    size, until = 0, time.monotonic() + hub.limits.longest_s
    parts = request.stream()
    while True:
        try:
            async with asyncio.timeout(hub.limits.idle_s):
                part = await anext(parts, None)
        except TimeoutError:
            raise idle(hub.limits.idle_s) from None
        if part is None:
            break
        size += len(part)
        if size > hub.limits.upload_mb * 1e6:
            raise _too_large(hub)
        if time.monotonic() > until:
            raise too_slow(hub.limits.longest_s)
        file.write(part)
    if not size:
        raise bad("the body is empty; it must be the file itself")
    file.flush()


async def _recognise(
    request: Request, path: str, hotwords: tuple[str, ...], hub: Hub
) -> tuple[tuple[Word, ...], float]:
    """All words, and the seconds of audio. Raises Refused, ClientDisconnect."""
    try:
        async with hub.begin(hotwords) as stream:
            collecting = asyncio.create_task(_collect(hub, stream))
            try:
                with contextlib.suppress(Gone):  # it has failed, which `collecting` says
                    await _feed(request, path, stream, hub)
                    hub.end(stream)
                return await collecting
            finally:
                collecting.cancel()
                await asyncio.gather(collecting, return_exceptions=True)
    except audio.AudioError as err:
        raise bad(str(err).removeprefix(f"{path}: ")) from None


async def _feed(request: Request, path: str, stream: Stream, hub: Hub) -> None:
    chunks = audio.stream(path, hub.rate, round(_CHUNK_S * hub.rate))
    while (chunk_t := await asyncio.to_thread(next, chunks, None)) is not None:
        if stream.taken + len(chunk_t) > hub.limits.minutes * 60 * hub.rate:
            raise too_long(hub.limits.minutes)
        if hub.closing.is_set():
            raise stopping()
        if await request.is_disconnected():
            raise ClientDisconnect
        await hub.feed(stream, chunk_t)


async def _collect(hub: Hub, stream: Stream) -> tuple[tuple[Word, ...], float]:
    words: list[Word] = []
    while True:
        result = await hub.next(stream)
        words += result.update.final
        hub.sent(stream)
        if result.last:
            return tuple(words), result.audio_s


def _too_large(hub: Hub) -> Refused:
    return Refused("oversized", f"a file may have {hub.limits.upload_mb:g} MB", 1009, 413)


def _answer(form: str, words: tuple[Word, ...], duration_s: float) -> Response:
    if form == "json":
        facts = {"text": transcript.text(words), "duration_s": round(duration_s, 3), "words": messages.words(words)}
        return _json(facts)
    written = transcript.FORMS[form]("")
    return PlainTextResponse(written.more(words) + written.end(), media_type=_FORMATS[form])


def _json(facts: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """With the end of its line, for who reads it in a terminal."""
    text = json.dumps(facts, ensure_ascii=False, separators=(",", ":")) + "\n"
    return Response(text, status, headers, _FORMATS["json"])
