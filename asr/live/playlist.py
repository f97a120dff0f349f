"""Following an HLS playlist: segment after segment, through what breaks (RFC 8216, section 6.3)."""

import time
from collections.abc import Callable, Iterator

from asr.live import hls
from asr.live.feed import Feed
from asr.live.hls import Media, Part, Segment
from asr.live.http import Answer, Patience, Place, Refused, small_text
from asr.live.media import Change, Missed, Piece
from configs.wording import counted
from manifests import web

RELOAD_S = 0.2  # the least between two requests for a playlist, whatever it says of its segments
GONE_TRIES = 4  # for a segment that is listed, but not there: live ones may come late
STALE_S = 60.0  # without a new segment, after which the page is asked whether the stream goes on
BELIEVED_S = 86_400.0  # of segments that are gone; a count that jumps further is another one, of a stream begun anew
HOPS = 5  # playlists that lead to another one
RESOLVE_TRIES = 3  # failures in a row after which the page is asked for the stream's new place

Resolve = Callable[[], Place | None]  # where the stream is now; None when it has ended


class Follower:
    """A playlist that may move. Iterating gives what asr.live.media decodes.

    Raises ValueError for what is no playlist, or when nothing has come for too long.
    """

    def __init__(self, first: Answer, place: Place, feed: Feed, what: str, resolve: Resolve | None = None) -> None:
        """`first`: the playlist, just asked for."""
        self._first: Answer | None = first
        self._place, self._feed, self._what, self._resolve = place, feed, what, resolve
        self._patience = Patience(feed, what)
        self._next: int | None = None  # number of the next segment
        self._before: Segment | None = None  # the last one that was read
        self._head = b""  # of the file that goes on
        self._loaded_s = self._asked_s = time.monotonic()

    def __iter__(self) -> Iterator[Piece]:
        while (media := self._load()) is not None:
            if self._next is None:
                self._feed.live = not media.ended
            yield from self._jump(media, media.live_start() if self._next is None else self._next)
            news = media.segments[self._number(media) - media.first :]
            for segment in news:
                yield from self._segment(segment)
                self._next = self._number(media) + 1
            if media.ended:
                return
            if news:
                self._progressed()
            elif self._stale():
                return
            since_s = time.monotonic() - self._loaded_s  # RFC 8216, section 6.3.4
            self._feed.pause(max(RELOAD_S, media.target_s - since_s if news else media.target_s / 2))

    def _stale(self) -> bool:
        """Nothing new has come. True when the stream has ended. Raises ValueError when that takes too long."""
        if self._patience.at_an_end:
            raise ValueError(f"{self._what}: nothing new has come for {self._patience.lost_s:.0f} s")
        if self._resolve is None or time.monotonic() - self._asked_s < STALE_S:
            return False
        return not self._moved()

    def _moved(self) -> bool:
        """Ask the page where the stream is now. False when it has ended."""
        assert self._resolve is not None
        self._asked_s = time.monotonic()
        place = self._resolve()
        self._place = self._place if place is None else place
        return place is not None

    def _progressed(self) -> None:
        self._patience.progressed()
        self._asked_s = time.monotonic()

    def _number(self, media: Media) -> int:
        assert self._next is not None and media.first <= self._next <= media.end
        return self._next

    def _jump(self, media: Media, number: int) -> Iterator[Piece]:
        """Sets the next segment's number, to another one where that is gone."""
        missed = media.first - number
        if 0 < missed * media.usual_s <= BELIEVED_S:
            gone = counted(missed, "segment")
            yield Missed(missed * media.usual_s, f"{gone} gone from the playlist before being read")
            number = media.first
        elif not media.first <= number <= media.end:  # the stream was started again
            yield Missed(self._patience.lost_s, "the stream began anew")
            number = media.live_start()
        self._next = number

    def _load(self) -> Media | None:
        """The playlist as it is now; None when its page says that the stream has ended."""
        hops = 0
        while True:
            if hops > HOPS:
                raise ValueError(f"{self._what}: its playlists lead to one another and to no sound")
            self._loaded_s = time.monotonic()
            try:
                answer, self._first = self._first or Answer(self._place), None
                found = hls.parse(small_text(answer, hls.LIMIT_BYTES), answer.url)
                if isinstance(found, Media):
                    return found
                self._place = Place(found.url, self._place.headers)
                hops += 1
            except (web.Cut, Refused) as err:
                if isinstance(err, Refused) and self._next is None and self._resolve is None:
                    raise  # it never was there
                if not self._wait(err):
                    return None

    def _wait(self, err: web.Cut | Refused) -> bool:
        """Until the next try. False when the stream has ended."""
        text, after_s = (str(err), err.after_s) if isinstance(err, web.Cut) else (err.answer, None)
        self._patience.failed(text, after_s)
        if self._resolve is not None and (isinstance(err, Refused) or self._patience.in_a_row >= RESOLVE_TRIES):
            return self._moved()
        return True

    def _segment(self, segment: Segment) -> Iterator[Piece]:
        before, self._before = self._before, segment
        changed = before is None or segment.breaks or segment.head != before.head
        if changed:
            self._head = b""
            if segment.head is not None:
                for piece in self._part(segment.head, segment.duration_s):
                    if not isinstance(piece, bytes):
                        yield piece  # without its head the segment is of no use
                        return
                    self._head += piece
                    if len(self._head) > hls.LIMIT_BYTES:
                        raise ValueError(f"{self._what}: what begins its segments has no end")
        yield Change(not changed, self._head)
        yield from self._part(segment.data, segment.duration_s)

    def _part(self, part: Part, duration_s: float) -> Iterator[Piece]:
        """The bytes, from where they broke on; or what is missed without them."""
        position, gone = 0, 0
        while True:
            try:
                for piece in _bytes(part, position, self._place):
                    position += len(piece)
                    self._patience.progressed()
                    yield piece
                    self._patience.progressed()  # the queue may have been full for long
                return
            except web.Cut as cut:
                self._patience.failed(str(cut), cut.after_s)
            except Refused as err:
                if err.status == 416 and position:  # all of it had come when the connection broke
                    return
                gone += 1
                if gone == GONE_TRIES or err.status == 410:
                    yield Missed(duration_s, f"a segment is not there: {err.answer}")
                    return
                self._patience.failed(err.answer)


def _bytes(part: Part, position: int, place: Place) -> Iterator[bytes]:
    """From `position` within the part on. Raises web.Cut and Refused."""
    begin = part.offset + position
    end = None if part.length is None else part.offset + part.length
    answer = Answer(Place(part.url, place.headers), begin, end)
    at = answer.position
    for piece in answer:
        wanted = piece[max(0, begin - at) : None if end is None else max(0, end - at)]
        at += len(piece)
        if wanted:
            yield wanted
        if end is not None and at >= end:
            answer.close()
            return
