"""A URL that is listened to: media on a web server, a radio station, HLS, or a page on which yt-dlp finds one of these.

It is read in a thread of its own, as it arrives. What breaks is tried again; what is missed is told in seconds.
"""

import threading
import time
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from asr import audio
from asr.live import page as live_page
from asr.live.feed import Feed
from asr.live.http import Answer, Patience, Place, Refused, check_url
from asr.live.media import Change, Missed, Piece, deliver
from asr.live.playlist import Follower
from manifests import web
from manifests.storefaults import shown

FIRST_TRIES = 3  # before anything was heard: a wrong name should not take minutes to be told
GONE_TRIES = 5  # for a station that is not there any more, for 15 s: one that is started again comes back
FILE_CHUNK_S = 1.0  # of a file on a web server, which is read as any other file


def start(url: str, feed: Feed) -> threading.Thread:
    """Begin to listen. Errors come out of the feed. Raises ValueError for another scheme than http(s)."""
    check_url(url)
    thread = threading.Thread(target=_listen, args=(url, feed), name="live audio", daemon=True)
    thread.start()
    return thread


def name(url: str) -> str:
    """What a recording of it may be called: the last part of its path, or its host."""
    parts = urlsplit(url)
    last = unquote(parts.path).rstrip("/").rpartition("/")[2].rpartition(".")
    return (last[0] or last[2] or parts.hostname or "live").replace("/", "_")


def _listen(url: str, feed: Feed) -> None:
    with feed.source():
        place = Place(url, {})
        answer = _first_answer(place, feed)
        if answer.is_page:
            answer.close()
            _page(url, feed)
        elif answer.is_playlist:
            deliver(iter(Follower(answer, place, feed, shown(url))), feed, shown(url))
        elif answer.size_bytes is not None:
            answer.close()
            feed.live = False
            for samples in audio.stream(url, feed.sample_rate, round(FILE_CHUNK_S * feed.sample_rate)):
                feed.put(samples)
        else:
            deliver(_endless(answer, place, feed, shown(url)), feed, shown(url))


def _first_answer(place: Place, feed: Feed) -> Answer:
    """Raises ValueError for a URL that leads nowhere."""
    patience = Patience(feed, shown(place.url))
    while True:
        try:
            return Answer(place)
        except web.Cut as cut:
            if patience.in_a_row == FIRST_TRIES:
                raise ValueError(f"{shown(place.url)}: {cut}") from None
            patience.failed(str(cut), cut.after_s)


def _page(url: str, feed: Feed) -> None:
    found = live_page.find(url)
    if found is None:
        raise ValueError(f"{shown(url)}: its live stream has not begun, or has ended")
    answer = _first_answer(found.place, feed)
    if answer.is_playlist:

        def again() -> Place | None:
            try:
                now = live_page.find(url)
            except live_page.NotFound as err:
                if not err.again:
                    raise
                feed.note(str(err))
                return found.place
            return now.place if now is not None and now.live else None

        follower = Follower(answer, found.place, feed, shown(url), again if found.live else None)
        deliver(iter(follower), feed, shown(url))
    elif answer.is_page:
        answer.close()
        raise ValueError(f"{shown(url)}: is a web page, and so is what yt-dlp takes for its audio")
    else:
        deliver(_endless(answer, found.place, feed, shown(url)), feed, shown(url))


def _endless(first: Answer, place: Place, feed: Feed, what: str) -> Iterator[Piece]:
    """The bytes of an answer, and of those after it where it breaks: from the same byte on, or from what is live then.

    A stream that its server has no more after a break has ended.
    """
    patience = Patience(feed, what)
    feed.live = first.size_bytes is None
    answer, position, skip = first, 0, 0  # `skip`: bytes that come again
    while True:
        try:
            for piece in answer:
                patience.progressed()
                wanted, skip = piece[skip:], max(0, skip - len(piece))
                if wanted:
                    position += len(wanted)
                    yield wanted
                    patience.progressed()  # the queue may have been full for long
                    yield Change(soft=True)
            if not first.is_radio:
                return
            raise web.Cut("the stream broke off")
        except web.Cut as cut:
            broken_s = time.monotonic()
            patience.failed(str(cut), cut.after_s)
        after = _next_answer(place, 0 if first.is_radio else position, patience)
        if after is None:
            feed.note(f"{what}: is no more there, so it has ended")
            return
        answer = after
        if first.size_bytes is not None:
            skip = position - answer.position
        elif answer.position != position:
            yield Missed(time.monotonic() - broken_s, "the connection was lost")
            position = 0


def _next_answer(place: Place, position: int, patience: Patience) -> Answer | None:
    """None when the server has it no more. Raises as Patience does, and Refused."""
    gone = 0
    while True:
        try:
            return Answer(place, position)
        except web.Cut as cut:
            patience.failed(str(cut), cut.after_s)
        except Refused as err:
            if err.status == 416:  # all of it had come
                return None
            gone += 1
            if err.status not in (404, 410):
                raise
            if gone == GONE_TRIES:
                return None
            patience.failed(err.answer)
