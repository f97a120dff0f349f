"""Objects in stores, over obstore: s3://, gs:// and az:// as the environment sets them up, and files of web servers.

obstore repeats what fails by itself, unseen, and not all of it: an answer that breaks in the middle is not repeated
where it has no ETag. Reading is therefore repeated here, at the byte where it broke, and counted; obstore's own
repetition is left to what writes, lists and deletes. A store is made once for each bucket: a new one takes 4 ms of CPU
time, and a new connection for its first request.
"""

import base64
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import lru_cache, partial
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from manifests.storefaults import Broken, Tries, check_endpoint, os_errors, shown

STALL_S = 30.0  # a read that brings nothing for so long is broken
CONNECT_S = 10.0
REQUEST_S = 120.0  # for one that writes or lists; of an upload that is a part of 16 MiB
UPLOAD_BYTES = 16 << 20  # of one part of an upload; S3 takes 10,000 of them, so an object may have 160 GB
STORES = 64  # kept, for as many buckets, web servers and signed URLs

_ENVIRONMENT = ("AWS_", "AZURE_", "GOOGLE_")
# Of a connection, as in AWS_PROXY_URL: obstore reads them from the environment only where it is given none at all.
_CLIENT = ("allow_invalid_certificates", "root_certificate", "proxy_url", "proxy_ca_certificate", "proxy_excludes")
_T = TypeVar("_T")

_lock = threading.Lock()
_retries = 0
_first_pid: int | None = None


class Changed(OSError):
    """The object is another one than when its reading began."""


def retries() -> int:
    """How often reading was repeated in this process so far."""
    return _retries


def is_web(url: str) -> bool:
    """True for what lies on a web server: it is only read, and cannot be listed."""
    return url.startswith(("http://", "https://"))


def check_store(url: str, what: str) -> None:
    """Raises ValueError for a web server's URL; `what` is what cannot be done there."""
    if is_web(url):
        raise ValueError(f"{shown(url)}: files of web servers are only read, not {what}; name an s3:// URL or a folder")


def exists(url: str) -> bool:
    try:
        size_bytes(url)
    except FileNotFoundError:
        return False
    return True


def size_bytes(url: str) -> int:
    """Raises FileNotFoundError."""
    import obstore

    store, key = _store(url, reads=True)
    if is_web(url):
        return _tried(url, lambda: _web_size_bytes(store, key))
    return _tried(url, lambda: int(obstore.head(store, key)["size"]))


def _web_size_bytes(store: Any, key: str) -> int:
    """Without HEAD, which some servers lack and URLs that are signed for GET refuse, a GET that is not read further."""
    import obstore
    from obstore.exceptions import BaseError

    try:
        return int(obstore.head(store, key)["size"])
    except (BaseError, FileNotFoundError) as err:  # a 405 is a FileNotFoundError as well
        if "404 Not Found" in str(err) or "410 Gone" in str(err):
            raise
        return int(obstore.get(store, key).meta["size"])


class Reading:
    """The bytes of an object from `start` to `end` (None: its end), in pieces as they come, through broken connections.

    They end early where the object does. `size_bytes`: of the whole object; `ranges`: False when the server sends whole
    files only, whose first bytes are then thrown away; both are known from the first piece on. `on_retry` is told of
    each try that broke. Raises FileNotFoundError, Changed, and OSError when too many in a row have brought nothing.
    """

    def __init__(
        self, url: str, start: int = 0, end: int | None = None, on_retry: Callable[[str], None] | None = None
    ) -> None:
        assert end is None or start < end, "no range of HTTP is empty"
        self.size_bytes = 0
        self.ranges = True
        self._url = url
        self._position = start
        self._end = end
        self._on_retry = on_retry
        self._version: tuple | None = None

    def __iter__(self) -> Iterator[bytes]:
        tries = _tries(self._url, self._on_retry)
        while True:
            try:
                with os_errors(self._url):
                    for piece in self._pieces():
                        self._position += len(piece)
                        tries.progressed(len(piece))
                        yield piece
                if self._end is None or self._position >= min(self._end, self.size_bytes):
                    return
                raise Broken(f"{shown(self._url)}: the connection was cut")
            except Broken as broken:
                tries.failed(broken)

    def _pieces(self) -> Iterator[bytes]:
        """One answer's. All of what came before it broke is there: pieces are not gathered to be of some size."""
        answer = self._answer()
        if answer is None:
            self._end = self._position
            return
        meta = answer.meta
        version = (meta["size"], meta["e_tag"], meta["last_modified"])
        if self._version not in (None, version):
            raise Changed(f"{shown(self._url)}: was replaced by another file while it was read")
        self._version, self.size_bytes = version, meta["size"]
        self._end = self.size_bytes if self._end is None else self._end
        skip = self._position - answer.range[0]
        wanted = min(self._end, self.size_bytes) - self._position
        for piece in answer.stream(min_chunk_size=1):
            piece, skip = piece[skip:], max(0, skip - len(piece))
            if len(piece) >= wanted:
                yield piece[:wanted]
                return
            wanted -= len(piece)
            if piece:
                yield piece

    def _answer(self) -> Any:
        """None when the object ends before the position."""
        import obstore
        from obstore.exceptions import BaseError, NotSupportedError

        store, key = _store(self._url, reads=True)
        span: Any = {"offset": self._position} if self._end is None else (self._position, self._end)
        if not self._position and self._end is None:
            return obstore.get(store, key)
        try:
            return obstore.get(store, key, options={"range": span})
        except NotSupportedError:
            self.ranges = False
            return obstore.get(store, key)
        except BaseError as err:
            if self._version is None and ("416 Range Not Satisfiable" in str(err) or "Wanted range" in str(err)):
                return None
            raise


def read(url: str, start: int = 0, end: int | None = None) -> bytes:
    """The bytes from `start` to `end`, or to the object's end where that comes before."""
    return b"".join(Reading(url, start, end))


def find(url: str) -> list[tuple[str, int]]:
    """(URL, bytes) of all objects whose names begin with that of `url` and a slash, in name order."""
    import obstore

    check_store(url, "listed")
    store, key = _store(url)
    root = url[: len(url) - len(key)].rstrip("/") + "/"
    found = _tried(url, lambda: [m for chunk in obstore.list(store, prefix=key or None) for m in chunk])
    return sorted((root + meta["path"], int(meta["size"])) for meta in found)


def is_prefix(url: str) -> bool:
    """True when there is an object whose name begins with that of `url` and a slash."""
    import obstore

    check_store(url, "listed")
    store, key = _store(url)
    return _tried(url, lambda: any(obstore.list(store, prefix=key or None)))


def writer(url: str) -> Any:
    """An obstore writer: a multipart upload that its close completes, and that is never seen without it."""
    import obstore

    check_store(url, "written")
    store, key = _store(url)
    with os_errors(url, writes=True):
        return obstore.open_writer(store, key, buffer_size=UPLOAD_BYTES, max_concurrency=4)


def delete(url: str) -> None:
    """One that is not there is fine."""
    import obstore

    check_store(url, "deleted")
    store, key = _store(url)
    with contextlib.suppress(FileNotFoundError):
        _tried(url, lambda: obstore.delete(store, key))


def delete_below(url: str) -> None:
    """Delete all objects whose names begin with that of `url` and a slash."""
    import obstore

    check_store(url, "deleted")
    store, key = _store(url)
    found = _tried(url, lambda: [[meta["path"] for meta in chunk] for chunk in obstore.list(store, prefix=key or None)])
    for keys in found:
        _tried(url, partial(obstore.delete, store, keys))


def move(url: str, to: str) -> None:
    """Give an object another name in its bucket."""
    import obstore

    check_store(url, "moved")
    (store, key), (_, new_key) = _store(url), _store(to)
    _tried(url, lambda: obstore.copy(store, key, new_key))
    delete(url)


def _tried(url: str, work: Callable[[], _T]) -> _T:
    """What `work` gives, which may be done twice without harm."""
    tries = _tries(url, None)
    while True:
        try:
            with os_errors(url):
                return work()
        except Broken as broken:
            tries.failed(broken)


def _tries(url: str, on_retry: Callable[[str], None] | None) -> Tries:
    def count(reason: str) -> None:
        global _retries
        with _lock:
            _retries += 1
        if on_retry:
            on_retry(reason)

    return Tries(shown(url), count)


def _store(url: str, reads: bool = False) -> tuple[Any, str]:
    """The store that a URL is in, and the key in it. `reads`: one that repeats nothing and gives up what stalls.

    A process that was forked off one that has used a store would wait for ever: obstore's threads are not in it.
    """
    global _first_pid
    if _first_pid not in (None, os.getpid()):
        raise OSError(
            f"{shown(url)}: is not read in a process that was forked off one that read from a store before; start "
            'processes with multiprocessing\'s "spawn"'
        )
    _first_pid = os.getpid()
    parts = urlsplit(url)
    # In a key, unlike in a web server's URL, "%", "?" and "#" mean themselves.
    place, key = f"{parts.scheme}://{parts.netloc}", url.partition("://")[2].partition("/")[2]
    if is_web(url):
        # The query belongs to the file: it is a store of its own, whose key is empty.
        place, key = (url.partition("#")[0], "") if parts.query else (place, unquote(parts.path.lstrip("/")))
    environment = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith(_ENVIRONMENT)))
    with os_errors(url):
        return _make(place, environment, STALL_S if reads else None), key


@lru_cache(maxsize=STORES)
def _make(place: str, environment: tuple[tuple[str, str], ...], stall_s: float | None) -> Any:
    """A store. obstore reads the environment itself: here it tells stores apart, and says how to connect."""
    from obstore.store import HTTPStore, from_url

    # With the default of 30 s for a whole answer, no shard of 100 MB comes through 27 Mbit/s. A limit on pauses alone
    # is for answers only: an upload waits in silence until all of its part is sent.
    client: Any = {"connect_timeout": timedelta(seconds=CONNECT_S), "allow_http": True}
    retry: Any = {"max_retries": 0}
    settings = {name.partition("_")[2].lower(): value for name, value in environment}
    client |= {name: settings[name] for name in _CLIENT if name in settings and not is_web(place)}
    if stall_s is not None:
        client |= {"timeout": timedelta(days=7), "read_timeout": timedelta(seconds=stall_s)}
    else:
        client |= {"timeout": timedelta(seconds=REQUEST_S)}
        retry = {"max_retries": 10, "retry_timeout": timedelta(seconds=2 * REQUEST_S)}
    if not is_web(place):
        check_endpoint(place)
        return from_url(place, client_options=client, retry_config=retry)
    scheme, _, rest = place.partition("://")
    login, at, _host = rest.partition("/")[0].rpartition("@")
    if at:
        token = base64.b64encode(unquote(login).encode()).decode()
        client["default_headers"] = {"authorization": f"Basic {token}"}
        place = f"{scheme}://{rest[len(login) + 1 :]}"
    # not from_url, which takes https://bucket.s3.amazonaws.com/key?signature for a bucket, and wants credentials
    return HTTPStore(place, client_options=client, retry_config=retry)
