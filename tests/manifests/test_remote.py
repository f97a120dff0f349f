"""Object stores and web servers through the one door: real ones on loopback, and what they do wrong."""

import base64
import contextlib
import itertools
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from manifests import remote, storage, storefaults
from manifests.remote import UPLOAD_BYTES
from tests.faulty_proxy import Fault, Faults, FaultyProxy, environment, s3_server, until

ROOT = Path(__file__).resolve().parents[2]
DATA = random.Random(1).randbytes(storage.SMALL_REMOTE_BYTES * 2 + 12345)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server("faulty") as url:
        yield url


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """s3://faulty is reached through it; pauses are short."""
    monkeypatch.setattr(storefaults, "PAUSE_S", 0.001)
    monkeypatch.setattr(remote, "UPLOAD_BYTES", PART_BYTES)
    with FaultyProxy(server) as proxy:
        for name, value in environment(proxy.url).items():
            monkeypatch.setenv(name, value)
        yield proxy


@dataclass
class Web:
    """A plain web server. `heads`, `ranges`: whether it knows these requests; `lengths`: whether it tells a length.

    `statuses`: what it answers next, in place of files. `seen`: method, path with query, and login of each request.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    heads: bool = True
    ranges: bool = True
    lengths: bool = True
    statuses: list[int] = field(default_factory=list)
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        web = self.web
        web.seen.append((self.command, self.path, self.headers.get("Authorization", "")))
        data = web.files.get(self.path.partition("?")[0])
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if web.ranges else None
        if web.statuses or data is None or (self.command == "HEAD" and not web.heads):
            self.answer(web.statuses.pop(0) if web.statuses else 404 if data is None else 405, b"")
        elif span and int(span[1]) >= len(data):
            self.answer(416, b"")
        elif span:
            begin = int(span[1])
            part = data[begin : int(span[2]) + 1 if span[2] else None]
            self.answer(206, part, f"bytes {begin}-{begin + len(part) - 1}/{len(data)}")
        else:
            self.answer(200, data)

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Last-Modified", "Wed, 25 Nov 2026 12:00:00 GMT")
        self.send_header("ETag", '"1"')
        if content_range:
            self.send_header("Content-Range", content_range)
        if self.web.lengths:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.close_connection = True
        self.end_headers()
        if self.command == "GET":
            with contextlib.suppress(OSError):  # who wanted the beginning only has left
                self.wfile.write(body)


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"web": web}))
    server.daemon_threads = True
    web.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield web
    server.shutdown()
    server.server_close()


def said(call: Callable[[str], object], url: str) -> str:
    """The one line of the error that a call raises."""
    with pytest.raises((OSError, ValueError)) as err:
        call(url)
    assert "\n" not in str(err.value)
    return str(err.value)


READING = [storage.exists, storage.size_bytes, storage.read_bytes, storage.open_read]


@pytest.mark.parametrize(
    "call", [*READING, lambda url: storage.write_bytes(url, b"x"), lambda url: [*storage.list_files(url)]]
)
def test_what_a_store_refuses_is_one_line_that_says_what_to_do(
    proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, call: Callable[[str], object]
) -> None:
    url = "s3://faulty/a"
    for status, text in (
        (403, "s3://faulty/a: the server answers 403.*AWS_ACCESS_KEY_ID"),
        (301, "s3://faulty/a: the bucket is in another region than us-east-1; set AWS_REGION to its own"),
        (418, "s3://faulty/a: the server answers 418"),
    ):
        proxy.queue.append(Fault("error", status=status))
        assert re.match(text, said(call, url))
    monkeypatch.setattr(storefaults, "TRIES", 2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    if call in READING:
        text = "s3://faulty/a: no connection at http://127.0.0.1:1 (AWS_ENDPOINT_URL); gave up after 2 tries"
        assert said(call, url) == text


def test_a_bucket_that_is_not_there_is_named(proxy: FaultyProxy) -> None:
    at = f"there is no bucket nowhere at {proxy.url} (AWS_ENDPOINT_URL)"
    assert said(storage.read_bytes, "s3://nowhere/a") == f"s3://nowhere/a: {at}"
    assert said(lambda url: storage.write_bytes(url, b"x"), "s3://nowhere/a") == f"s3://nowhere/a: {at}"
    assert said(lambda url: [*storage.list_files(url)], "s3://nowhere/a") == f"s3://nowhere/a: {at}"
    assert not storage.exists("s3://nowhere/a")


@pytest.mark.parametrize(
    ("url", "variables"),
    [
        ("s3://faulty/a", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("gs://faulty/a", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("az://faulty/a", "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"),
    ],
)
def test_missing_credentials_are_asked_for(monkeypatch: pytest.MonkeyPatch, url: str, variables: str) -> None:
    for name in os.environ:
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(remote, "CONNECT_S", 0.5)  # to 169.254.169.254, where clouds would give some
    monkeypatch.setattr(storefaults, "TRIES", 1)
    assert said(storage.read_bytes, url).startswith(f"{url}: no credentials; set {variables}")


@pytest.mark.parametrize("forgotten", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_half_of_the_credentials_is_none(monkeypatch: pytest.MonkeyPatch, bucket: str, forgotten: str) -> None:
    monkeypatch.delenv(forgotten)
    assert said(storage.read_bytes, f"{bucket}/a").startswith(f"{bucket}/a: no credentials; set AWS_ACCESS_KEY_ID and")


@pytest.mark.parametrize(
    ("scheme", "settings", "path"),
    [
        ("gs", {"GOOGLE_BASE_URL": "{}", "GOOGLE_SKIP_SIGNATURE": "true"}, "/speech/deep%2Fa%2Etar"),
        (
            "az",
            {
                "AZURE_STORAGE_ENDPOINT": "{}/account",
                "AZURE_STORAGE_ACCOUNT_NAME": "account",
                "AZURE_SKIP_SIGNATURE": "1",
            },
            "/account/speech/deep/a.tar",
        ),
    ],
)
def test_the_environment_leads_to_google_s_and_azure_s_stores(
    web: Web, monkeypatch: pytest.MonkeyPatch, scheme: str, settings: dict[str, str], path: str
) -> None:
    """As far as a plain web server can tell: their addresses and their reading, not their signatures."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value.format(web.url))
    web.files[path] = DATA
    url = f"{scheme}://speech/deep/a.tar"
    assert storage.read_bytes(url) == DATA
    assert storage.read_range(url, 1000, 100) == DATA[1000:1100]


def test_a_proxy_of_the_environment_is_used(proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_text("s3://faulty/b", "b")
    monkeypatch.setattr(storefaults, "TRIES", 1)
    monkeypatch.setenv("AWS_PROXY_URL", "http://127.0.0.1:1")
    assert "no connection" in said(storage.read_bytes, "s3://faulty/b")
    monkeypatch.setenv("AWS_PROXY_EXCLUDES", "127.0.0.1")
    assert storage.read_bytes("s3://faulty/b") == b"b"


@pytest.mark.parametrize("key", ["a%20b", "a b", "ü+&", "100%", "what?v=1", "a#2"])
def test_a_key_is_what_it_is(proxy: FaultyProxy, tmp_path: Path, key: str) -> None:
    uri = f"s3://faulty/{tmp_path.name}/{key}"
    storage.write_text(uri, key)
    assert list(storage.list_files(storage.parent(uri))) == [(uri, len(key.encode()))]
    assert storage.read_text(uri) == key and storage.exists(uri)
    storage.delete(uri)
    assert not storage.exists(uri)
    assert said(storage.read_bytes, "s3://faulty/a//b") == "s3://faulty/a//b: Could not parse path: " + (
        'Path "a//b" contained empty path segment'
    )


def test_a_bucket_is_listed_and_one_connection_serves_many_requests(proxy: FaultyProxy) -> None:
    for uri, _ in list(storage.list_files("s3://faulty")):
        storage.delete(uri)
    storage.write_text("s3://faulty/b", "b")
    storage.write_text("s3://faulty/c/d", "d")
    assert list(storage.list_files("s3://faulty", deep=False)) == [("s3://faulty/b", 1)]
    assert list(storage.list_files("s3://faulty/")) == [("s3://faulty/b", 1), ("s3://faulty/c/d", 1)]
    proxy.counts.clear()
    for _ in range(20):
        with storage.open_read("s3://faulty/b") as file:
            assert file.read() == b"b"
    assert proxy.counts["requests"] == 20 and proxy.counts["connections"] <= 3


def test_a_large_file_is_read_with_few_requests(proxy: FaultyProxy) -> None:
    storage.write_bytes("s3://faulty/large", DATA)
    proxy.counts.clear()
    with storage.open_read("s3://faulty/large") as file:
        assert file.read() == DATA
    assert proxy.counts["requests"] == 2 and proxy.counts["bytes"] < 1.4 * len(DATA)


PART_BYTES = 5 << 20  # the smallest that S3 takes
UPLOAD = random.Random(2).randbytes(PART_BYTES * 2 + 12345)  # three parts


@pytest.mark.parametrize("data", [UPLOAD, UPLOAD[:100_000], b""])
def test_an_upload_through_faults_is_whole(proxy: FaultyProxy, data: bytes) -> None:
    proxy.faults = Faults(cut_every=5, error_every=4, lost_every=7)
    for seed in range(3):
        proxy.faults = replace(proxy.faults, seed=seed)
        uri = f"s3://faulty/up-{len(data)}-{seed}"
        try:
            storage.write_bytes(uri, data)
        except OSError:  # an answer that broke in the middle is not asked for again
            assert not storage.exists(uri) or storage.read_bytes(uri) == data
        else:
            assert storage.read_bytes(uri) == data


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        *itertools.product([Fault("cut"), Fault("cut", reset=True), Fault("error"), Fault("lost")], [1, 3]),
        *itertools.product([Fault("error"), Fault("lost")], [4]),
    ],
)
def test_an_upload_whose_part_breaks_is_repeated(proxy: FaultyProxy, tmp_path: Path, fault: Fault, part: int) -> None:
    """Requests: the upload is begun (0), three parts, it is completed (4)."""
    proxy.queue.extend([*[None] * part, fault])
    storage.write_bytes(f"s3://faulty/{tmp_path.name}/a", UPLOAD)
    assert proxy.counts[fault.kind] == 1
    assert storage.read_bytes(f"s3://faulty/{tmp_path.name}/a") == UPLOAD


def test_an_upload_that_fails_leaves_what_was_there(proxy: FaultyProxy, tmp_path: Path) -> None:
    uri = f"s3://faulty/{tmp_path.name}/a"
    storage.write_bytes(uri, b"old")
    with pytest.raises(RuntimeError), storage.atomic_write(uri) as file:
        file.write(UPLOAD)
        raise RuntimeError
    assert storage.read_bytes(uri) == b"old"
    proxy.queue.extend([None, None, Fault("error", status=403)])
    assert "the server answers 403" in said(lambda uri: storage.write_bytes(uri, UPLOAD), uri)
    assert storage.read_bytes(uri) == b"old"


WRITES = """
import sys
from manifests import storage
with storage.atomic_write(sys.argv[1]) as file:
    file.write(bytes({}))
    print(flush=True)
    sys.stdin.read()
"""


def test_an_upload_of_a_killed_process_is_never_seen(proxy: FaultyProxy, tmp_path: Path) -> None:
    uri = f"s3://faulty/{tmp_path.name}/a"
    code = WRITES.format(3 * UPLOAD_BYTES)
    with subprocess.Popen(
        [sys.executable, "-c", code, uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as p:
        assert p.stdout and p.stdout.readline()
        until(lambda: proxy.counts["requests"] >= 3)  # a part is at the store
        p.kill()
    assert not storage.exists(uri)
    storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"new"


def test_a_forked_process_is_told_so_and_does_not_hang(proxy: FaultyProxy) -> None:
    """obstore's threads are not in it."""
    storage.write_text("s3://faulty/b", "b")
    code = """
import multiprocessing, sys
from manifests import storage
def read():
    try:
        storage.read_bytes("s3://faulty/b")
    except OSError as err:
        print(err, flush=True)
assert storage.read_bytes("s3://faulty/b") == b"b"
process = multiprocessing.get_context("fork").Process(target=read)
process.start()
process.join(20)
sys.exit(process.exitcode)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("s3://faulty/b: is not read in a process that was forked") and "spawn" in done.stdout


@pytest.mark.parametrize(("heads", "ranges"), [(True, True), (False, True), (True, False), (False, False)])
@pytest.mark.parametrize("query", ["", "?X-Amz-Signature=SECRET&a=b%2Fc"])
def test_a_web_server_s_file_is_read(web: Web, heads: bool, ranges: bool, query: str) -> None:
    web.heads, web.ranges = heads, ranges
    web.files |= {"/deep/a%20b.tar": DATA, "/empty": b""}
    url = f"{web.url}/deep/a%20b.tar{query}"
    assert storage.exists(url) and storage.is_file(url) and storage.size_bytes(url) == len(DATA)
    assert not storage.exists(f"{web.url}/none{query}") and not storage.is_folder(url)
    assert storage.read_bytes(url) == DATA and storage.read_bytes(f"{web.url}/empty{query}") == b""
    assert storage.read_range(url, 1000, 100) == DATA[1000:1100]
    with pytest.raises(EOFError, match=r"a%20b\.tar: ends 1 bytes before"):
        storage.read_range(url, len(DATA) - 9, 10)
    with storage.open_read(url) as file:
        file.seek(-7, os.SEEK_END)
        assert file.read() == DATA[-7:]
        file.seek(5)
        assert file.read(5) == DATA[5:10]
    with storage.open_read(f"{web.url}/empty{query}") as file:
        assert file.read() == b""
    assert all(path.endswith(query) for _, path, _ in web.seen)


@pytest.mark.parametrize(("name", "url"), [("AWS_ENDPOINT_URL", "s3://bucket/a"), ("GOOGLE_BASE_URL", "gs://bucket/a")])
@pytest.mark.parametrize("value", ["", "127.0.0.1:9000", "https://"])
def test_an_endpoint_that_is_no_url_is_named(monkeypatch: pytest.MonkeyPatch, name: str, url: str, value: str) -> None:
    """obstore ends the process's thread with a trace of its own at the first request."""
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    monkeypatch.setenv(name, value)
    assert said(storage.exists, url) == (
        f"{url}: {name} is {value!r}; write a URL, such as http://127.0.0.1:9000, or unset it"
    )


def test_a_member_of_a_tar_on_a_web_server_is_shown_with_its_name() -> None:
    assert storefaults.shown("http://me:S@host/a.tar#512+9/b c.flac") == "http://host/a.tar#512+9/b c.flac"
    assert storefaults.shown("http://host/a.tar?S#512+9/b.flac") == storefaults.shown("http://host/a.tar#S?S")


def test_a_web_server_is_neither_listed_nor_written(web: Web) -> None:
    url = f"{web.url}/deep?SECRET"
    for call in (lambda url: [*storage.list_files(url)], lambda url: storage.write_bytes(url, b""), storage.delete):
        text = said(call, url)
        assert text.startswith(f"{web.url}/deep: files of web servers are only read, not ")
    web.lengths = False
    web.files["/a"] = b"a"
    assert "does not say how long the file is; download it" in said(storage.read_bytes, f"{web.url}/a")


def test_what_is_secret_in_a_url_is_used_and_never_shown(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storefaults, "TRIES", 2)
    monkeypatch.setattr(storefaults, "PAUSE_S", 0.001)
    url = f"{web.url.replace('//', '//user:PASSWORD@')}/a?X-Amz-Signature=SECRET"
    gone = "http://user:PASSWORD@127.0.0.1:1/a?X-Amz-Signature=SECRET"
    for status in (400, 401, 403, 404, 500):
        web.statuses = [status] * 4
        for call in (storage.read_bytes, storage.open_read, storage.size_bytes):
            text = said(call, url)
            assert text.startswith(f"{web.url}/a: ") and "SECRET" not in text and "PASSWORD" not in text
    for call in (storage.exists, storage.read_bytes):
        text = said(call, gone)
        assert text.startswith("http://127.0.0.1:1/a: no connection") and "SECRET" not in text
    web.statuses = []
    web.files["/a"] = b"a"
    assert storage.read_bytes(url) == b"a"
    assert base64.b64decode(web.seen[-1][2].removeprefix("Basic ")) == b"user:PASSWORD"
