"""What a server counts, as Prometheus reads it (text format 0.0.4)."""

import bisect
from collections import Counter
from collections.abc import Iterator, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0, 2.0, 5.0)


class Metrics:
    """Counted in the event loop alone, so without a lock."""

    def __init__(self) -> None:
        self.started: Counter[str] = Counter()  # streams, by kind
        self.refusals: Counter[str] = Counter()  # by reason
        self.errors = 0  # ours
        self.audio_s = 0.0  # recognised
        self.rounds = 0
        self.pieces = 0
        self._late = [0] * (len(BUCKETS_S) + 1)  # results by latency; the last ones above all buckets
        self._late_s = 0.0

    def late(self, seconds: float) -> None:
        """A result was sent so many seconds after the last of the audio that it rests on had come."""
        self._late[bisect.bisect_left(BUCKETS_S, seconds)] += 1
        self._late_s += seconds

    def text(self, streams: int, most: int, queued_s: float) -> str:
        return "\n".join(self._lines(streams, most, queued_s)) + "\n"

    def _lines(self, streams: int, most: int, queued_s: float) -> Iterator[str]:
        yield from _metric("streams", "gauge", "Streams and uploads at work.", {"": streams})
        yield from _metric("streams_limit", "gauge", "Streams that are served at once.", {"": most})
        started = {f'{{kind="{kind}"}}': self.started[kind] for kind in ("websocket", "upload")}
        yield from _metric("streams_started_total", "counter", "Streams begun.", started)
        yield from _metric("audio_seconds_total", "counter", "Audio recognised.", {"": round(self.audio_s, 3)})
        yield from _metric("queued_audio_seconds", "gauge", "Audio that waits for the model.", {"": round(queued_s, 3)})
        refusals = {f'{{reason="{reason}"}}': count for reason, count in sorted(self.refusals.items())}
        yield from _metric("refusals_total", "counter", "Clients refused or cut off.", refusals)
        yield from _metric("errors_total", "counter", "Streams that failed inside the server.", {"": self.errors})
        yield from _metric("rounds_total", "counter", "Runs of the model.", {"": self.rounds})
        yield from _metric("pieces_total", "counter", "Pieces of streams in them.", {"": self.pieces})
        yield from _metric("result_latency_seconds", "histogram", "From the end of a chunk to its result.", {})
        total = 0
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), self._late, strict=True):
            total += count
            yield f'speechmill_result_latency_seconds_bucket{{le="{bound}"}} {total}'
        yield f"speechmill_result_latency_seconds_sum {self._late_s:.6f}"
        yield f"speechmill_result_latency_seconds_count {total}"


def _metric(name: str, kind: str, text: str, values: Mapping[str, float]) -> Iterator[str]:
    yield f"# HELP speechmill_{name} {text}"
    yield f"# TYPE speechmill_{name} {kind}"
    for labels, value in values.items():
        yield f"speechmill_{name}{labels} {value}"
