"""HTTP servers on loopback, each in a thread of its own; what they answer is their handlers'."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that was killed


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler], **facts: Any) -> Iterator[Server]:
    """A server at work. `facts` become attributes of the handler's class."""
    server = Server(("127.0.0.1", 0), type("Handler", (handler,), facts))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
