"""What a server grants its clients. What is above these is refused or cut off, with a reason."""

from dataclasses import dataclass

from asr.searching.hotwords import MAX_CHARACTERS

CONNECTIONS = 512  # open at once, of any kind; what comes above is cut off (a process may have 1,024 files as a rule)
HEAD_S = 10.0  # that the head of a request may take
UNREAD_S = 30.0  # that a client may leave the answer to a request unread
MESSAGE_BYTES = 1 << 20  # a WebSocket message: 32 s of PCM16 at 16 kHz
QUEUE_S = 4.0  # audio of a stream that waits for the model; a faster client's socket is not read until there is room
UNSENT = 32  # results of a stream that wait for its client; then it is not recognised further
BATCH = 16  # streams that go through the model together
DRAIN_S = 10.0  # that streams have for their last words when the server stops
LOWEST_RATE, HIGHEST_RATE = 8_000, 192_000  # of PCM16
HOTWORDS, HOTWORD_CHARACTERS = 200, MAX_CHARACTERS  # of a stream; of one of them


@dataclass(frozen=True, slots=True)
class Limits:
    streams: int = 16  # at once, of either kind
    minutes: float = 240.0  # of audio in a stream or an upload
    upload_mb: float = 512.0
    idle_s: float = 30.0  # that a client may send nothing, or not read what it is sent
    origins: tuple[str, ...] = ()  # pages that may use the server, beside its own

    @property
    def longest_s(self) -> float:
        """That a stream or an upload may take, however slowly it comes."""
        return 2 * 60 * self.minutes

    def __post_init__(self) -> None:
        if self.streams < 1:
            raise ValueError(f"--max-streams {self.streams}: must be 1 or more")
        for option, value in (
            ("--max-minutes", self.minutes),
            ("--max-upload-mb", self.upload_mb),
            ("--idle-s", self.idle_s),
        ):
            if not value > 0:
                raise ValueError(f"{option} {value:g}: must be above 0")
        for origin in self.origins:
            scheme, _, host = origin.partition("://")
            if scheme not in ("http", "https") or not host or "/" in host:
                raise ValueError(
                    f"--allow-origin {origin}: must be a scheme and a host, as in https://example.org:8443"
                )


class Refused(Exception):
    """A client cannot be served, or not any further.

    `kind` is what metrics call it, `code` what closes its WebSocket (RFC 6455, section 7.4), `status` that of HTTP.
    """

    def __init__(self, kind: str, text: str, code: int, status: int) -> None:
        super().__init__(text)
        self.kind, self.text, self.code, self.status = kind, text, code, status


def full(streams: int) -> Refused:
    return Refused("full", f"no room: {streams} of {streams} streams are in use; try again later", 1013, 503)


def stopping() -> Refused:
    return Refused("stopping", "the server is stopping", 1001, 503)


def too_long(minutes: float) -> Refused:
    return Refused("too long", f"a stream may have {minutes:g} minutes of audio; start another", 1008, 413)


def too_slow(seconds: float) -> Refused:
    return Refused("too long", f"a stream may take {seconds / 60:g} minutes; start another", 1008, 408)


def idle(seconds: float) -> Refused:
    return Refused("silent", f"nothing came for {seconds:g} s", 1008, 408)


def bad(text: str) -> Refused:
    text = text.encode(errors="backslashreplace").decode()  # half of a surrogate pair, which JSON can bring, is no text
    return Refused("malformed", text, 1007, 422)


def failed() -> Refused:
    return Refused("error", "recognition has failed; the server's log says why", 1011, 500)
