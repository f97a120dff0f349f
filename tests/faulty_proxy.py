"""An HTTP forwarder on loopback that fails as networks and object stores do, by a schedule that a seed fixes.

In a test:

    with FaultyProxy(server_url, Faults(cut_every=7, error_every=5)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)

From a shell, until it is killed; its URL comes on standard output, and its counts when it ends:

    python -m tests.faulty_proxy --upstream 127.0.0.1:5000 --cut-mb 8 --error-every 50

The Host header goes on as it came. A client signs for the address that it talks to, the proxy's, and moto checks no
signatures. An upload that is cut is not shown to the server at all: moto would keep the half that a real store refuses.
"""

import argparse
import contextlib
import json
import logging
import random
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Literal

BLOCK_BYTES = 256 << 10
HEAD_BYTES = 64 << 10  # of a request or an answer, at most
Kind = Literal["cut", "lost", "error", "flip", "stall"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request.

    cut: the connection ends at `part` of the longer body, the upload's or the answer's. lost: the server does what it
    was asked, and no answer comes. error: an answer of `status` in place of the server's. flip: one bit of the answer's
    body at `part` is another. stall: nothing more comes from `part` on, until the client has gone.
    """

    kind: Kind
    part: float = 0.5
    status: int = 503
    reset: bool = False  # it is cut with a reset, not with an orderly close


@dataclass(frozen=True, slots=True)
class Faults:
    """Every so-manieth request has this fault; 0: none has."""

    cut_every: int = 0
    lost_every: int = 0
    error_every: int = 0  # 500 and 503 in turn
    flip_every: int = 0
    stall_every: int = 0
    cut_mb: float = 0.0  # also, one cut in all answers' bodies together each time that so much has passed
    delay_s: float = 0.0  # before every request
    seed: int = 0

    def of(self, number: int) -> Fault | None:
        """The fault of the request of this number, from 0."""
        kinds: tuple[Kind, ...] = ("cut", "lost", "error", "flip", "stall")
        for kind in kinds:
            every = getattr(self, f"{kind}_every")
            if every and number % every == random.Random(f"{self.seed}-{kind}").randrange(every):
                draw = random.Random(f"{self.seed}-{number}")
                return Fault(kind, draw.random(), draw.choice((500, 503)), draw.random() < 0.5)
        return None


class FaultyProxy:
    """Forwards what comes to `url` to `upstream` (http://host:port), with faults.

    `queue`: faults of the next requests, before those of the schedule; None is none. `counts`: "connections",
    "requests", "bytes" (of all answers' bodies) and faults by kind, so far.
    """

    def __init__(self, upstream: str, faults: Faults | None = None, port: int = 0) -> None:
        host, _, upstream_port = upstream.removeprefix("http://").rstrip("/").partition(":")
        self.faults = faults or Faults()
        self.queue: deque[Fault | None] = deque()
        self.counts: Counter[str] = Counter()
        self.stopped = threading.Event()
        self._upstream = (host, int(upstream_port or 80))
        self._lock = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "FaultyProxy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self.stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.counts["connections"] += 1
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, EOFError):
            stream = Stream(client)
            while head := stream.head():
                if not self._answer(stream, head):
                    return

    def _next(self) -> Fault | None:
        with self._lock:
            number = self.counts["requests"]
            self.counts["requests"] += 1
            return self.queue.popleft() if self.queue else self.faults.of(number)

    def _done(self, kind: Kind) -> None:
        with self._lock:
            self.counts[kind] += 1
            self._lock.notify_all()

    def wait_for(self, kind: Kind, count: int = 1, timeout_s: float = 30.0) -> None:
        """Until so many faults of a kind have happened. Raises TimeoutError."""
        with self._lock:
            if not self._lock.wait_for(lambda: self.counts[kind] >= count, timeout_s):
                raise TimeoutError(f"{self.counts[kind]} of {count} faults of the kind {kind}")

    def _answer(self, client: "Stream", head: bytes) -> bool:
        """One request and its answer. False when the connection is not to be used again."""
        fault = self._next()
        self.stopped.wait(self.faults.delay_s)
        length = int(field(head, "content-length") or 0)
        if field(head, "expect"):
            client.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if fault and fault.kind == "cut" and length > 1000:
            client.take(int(length * fault.part))
            return self._cut(client, fault)
        body = client.take(length)
        if fault and fault.kind == "error":
            self._done("error")
            client.socket.sendall(error_answer(fault.status))
            return True
        with socket.create_connection(self._upstream) as upstream:
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            upstream.sendall(without(head, "connection", "expect")[:-2] + b"Connection: close\r\n\r\n")
            upstream.sendall(body)
            return self._relay(Stream(upstream), client, fault, has_body=not head.startswith(b"HEAD "))

    def _relay(self, server: "Stream", client: "Stream", fault: Fault | None, has_body: bool) -> bool:
        head = server.head()
        length = field(head, "content-length")
        until_close = has_body and length is None and head.split(None, 2)[1] not in (b"204", b"304")
        size = int(length or 0) if has_body else 0
        if (fault and fault.kind == "lost") or (fault and fault.kind == "cut" and not size):
            return self._cut(client, fault)
        client.socket.sendall(without(head, "connection"))
        at = int(size * fault.part) if fault and size else -1
        position = 0
        while until_close or position < size:
            block = server.some(BLOCK_BYTES if until_close else min(BLOCK_BYTES, size - position))
            if not block:
                break
            here = fault is not None and position <= at < position + len(block)
            if here and fault and fault.kind == "flip":
                self._done("flip")
                block = flipped(block, at - position)
            ends = here and fault is not None and fault.kind in ("cut", "stall")
            stop = at - position if ends else self._stop(len(block))
            self._send(client, block[:stop])
            if stop is not None:
                how = fault if ends and fault else Fault("cut", reset=bool(self.counts["cut"] % 2))
                return self._cut(client, how) if how.kind == "cut" else self._stall(client)
            position += len(block)
        return position == size and not until_close

    def _send(self, client: "Stream", block: bytes) -> None:
        with self._lock:
            self.counts["bytes"] += len(block)
        client.socket.sendall(block)

    def _stop(self, count: int) -> int | None:
        """After how many bytes of a block of an answer the connection ends by `cut_mb`; None: not in it."""
        every = int(self.faults.cut_mb * 1e6)
        left = every - self.counts["bytes"] % every if every else count + 1
        return left if left <= count else None

    def _cut(self, client: "Stream", fault: Fault) -> bool:
        self._done(fault.kind)
        if fault.reset:  # the kernel sends one when a socket that must not linger is closed
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def _stall(self, client: "Stream") -> bool:
        self._done("stall")
        client.socket.settimeout(0.05)
        while not self.stopped.is_set():
            with contextlib.suppress(TimeoutError):
                if not client.socket.recv(1):
                    break
        return False


@contextlib.contextmanager
def s3_server(bucket: str) -> Iterator[str]:
    """The address of moto's S3 server, in this process and for as long as the block, with one bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    login = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=url, **login).create_bucket(Bucket=bucket)
    try:
        yield url
    finally:
        server.stop()


def environment(url: str) -> dict[str, str]:
    """What leads obstore to such a server, or to a proxy before it."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }


class Stream:
    """A socket whose bytes are taken by the head, by count, or as they come."""

    def __init__(self, of: socket.socket) -> None:
        self.socket = of
        self._rest = b""

    def head(self) -> bytes:
        """To the empty line, with it. Nothing when the other side has closed the connection."""
        while b"\r\n\r\n" not in self._rest:
            block = self.socket.recv(BLOCK_BYTES)
            if not block or len(self._rest) > HEAD_BYTES:
                return b""
            self._rest += block
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def some(self, at_most: int) -> bytes:
        if self._rest:
            block, self._rest = self._rest[:at_most], self._rest[at_most:]
            return block
        return self.socket.recv(at_most)

    def take(self, count: int) -> bytes:
        """Raises EOFError when the other side leaves before."""
        blocks = []
        while count:
            blocks.append(self.some(min(count, BLOCK_BYTES)))
            if not blocks[-1]:
                raise EOFError
            count -= len(blocks[-1])
        return b"".join(blocks)


def until(done: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait for what another process or thread is about to do. Raises TimeoutError."""
    ends = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > ends:
            raise TimeoutError
        time.sleep(0.005)


def field(head: bytes, name: str) -> str | None:
    match = re.search(rb"(?im)^" + name.encode() + rb":[ \t]*(.*?)[ \t]*\r$", head)
    return match[1].decode("latin1") if match else None


def without(head: bytes, *names: str) -> bytes:
    for name in names:
        head = re.sub(rb"(?im)^" + name.encode() + rb":.*\r\n", b"", head)
    return head


def flipped(block: bytes, at: int) -> bytes:
    return block[:at] + bytes([block[at] ^ 1]) + block[at + 1 :]


def error_answer(status: int) -> bytes:
    code = {500: "InternalError", 503: "SlowDown"}.get(status, "Error")
    body = f"<Error><Code>{code}</Code><Message>made on purpose</Message></Error>".encode()
    return (
        f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", required=True, metavar="HOST:PORT")
    parser.add_argument("--port", type=int, default=0)
    for one in fields(Faults):
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=type(one.default), default=one.default)
    args = vars(parser.parse_args())
    upstream, port = args.pop("upstream"), args.pop("port")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with FaultyProxy(upstream, Faults(**args), port) as proxy:
        print(proxy.url, flush=True)
        try:
            proxy.stopped.wait()
        finally:
            print(json.dumps(proxy.counts), flush=True)


if __name__ == "__main__":
    main()
