"""The Mozilla Data Collective, played by a server on loopback: what it may answer, and that secrets stay secret."""

import argparse
import gzip
import hashlib
import json
import tarfile
import threading
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from pipelines import prepare
from pipelines.commonvoice import datacollective
from pipelines.corpora import commonvoice

KEY = "mdc_0123456789secret"
NAME = "cmj8u3p1w0075nxxbe8bedl00"

Answer = tuple[int, dict[str, str], bytes]


def said(status: int, words: str, **headers: str) -> Answer:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, headers, json.dumps({"error": words}).encode()


class Collective(ThreadingHTTPServer):
    """POST /api/datasets/NAME/download: first what `answers` holds, then an address that is signed anew each time.

    An address is good for `lives` requests; the first request is cut in the middle when `cuts` is set.
    """

    def __init__(self, archive: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.archive = archive
        self.answers: list[Answer] = []
        self.lives = 100
        self.cuts = False
        self.posts: list[str] = []
        self.signed: dict[str, int] = {}
        self.ranges: list[str] = []
        self.offer: dict[str, object] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Collective
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.server
        server.posts.append(self.path)
        if server.answers:
            self.answer(*server.answers.pop(0))
        elif self.headers.get("Authorization") != f"Bearer {KEY}":
            self.answer(*said(401, "Authentication required"))
        elif self.path != f"/api/datasets/{NAME}/download":
            self.answer(*said(404, "Dataset not found"))
        else:
            signature = f"signature{len(server.posts)}"
            server.signed[signature] = server.lives
            offer = {
                "downloadUrl": f"{server.url}/storage/cv.tar.gz?X-Amz-Signature={signature}",
                "filename": "cv.tar.gz",
                "sizeBytes": str(len(server.archive)),
                "checksum": hashlib.sha256(server.archive).hexdigest(),
            }
            self.answer(200, {}, json.dumps(offer | server.offer).encode())

    def do_GET(self) -> None:
        server = self.server
        assert "Authorization" not in self.headers, "the key is for the API alone"
        signature = parse_qs(urlsplit(self.path).query).get("X-Amz-Signature", [""])[0]
        if server.signed.get(signature, 0) <= 0:
            self.answer(403, {}, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")
            return
        server.signed[signature] -= 1
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        server.ranges.append(self.headers.get("Range", ""))
        self.send_response(206 if begin else 200)
        size = len(server.archive)
        self.send_header("Content-Length", str(size - begin))
        self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        self.end_headers()
        if server.cuts:
            server.cuts = False
            self.wfile.write(server.archive[begin : size // 2])
            self.close_connection = True
        else:
            self.wfile.write(server.archive[begin:])

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collective]:
    commonvoice.tiny(tmp_path / "tree")
    with tarfile.open(tmp_path / "cv.tar", "w") as file:
        file.add(tmp_path / "tree", ".")
    server = Collective(gzip.compress((tmp_path / "cv.tar").read_bytes(), 1))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("MDC_API_KEY", KEY)
    monkeypatch.setenv("MDC_API_URL", f"{server.url}/api/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def run(tmp_path: Path) -> int:
    where = ["--root", str(tmp_path / "root"), "--out", str(tmp_path / "out")]
    return prepare.main(["commonvoice", "--download", "--dataset", NAME, *where, "--workers", "1"])


def test_an_offer_has_what_the_server_says_and_hides_the_address(server: Collective) -> None:
    offer = datacollective.request(NAME)
    assert (offer.size_bytes, offer.sha256) == (len(server.archive), hashlib.sha256(server.archive).hexdigest())
    assert offer.url.startswith(f"{server.url}/storage/cv.tar.gz?X-Amz-Signature=")
    assert "signature" not in repr(offer).lower() and "storage" not in repr(offer)
    assert server.posts == [f"/api/datasets/{NAME}/download"]


@pytest.mark.parametrize("checksum", [None, "", "sha256:" + "AB" * 32, "ab" * 32])
def test_checksums_come_in_several_forms_or_not_at_all(server: Collective, checksum: str | None) -> None:
    server.offer = {"checksum": checksum, "sizeBytes": 12}
    offer = datacollective.request(NAME)
    assert (offer.sha256, offer.size_bytes) == ("ab" * 32 if checksum else None, 12)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (said(401, "Authentication required"), r"does not accept the key in MDC_API_KEY \(Authentication required\); "
         "make a new one at https://mozilladatacollective.com/profile/credentials"),
        (said(403, "You must agree to the terms of use before downloading this dataset"),
         rf"refuses {NAME} \(You must agree .*\); open http://127.0.0.1:\d+/datasets/{NAME}, accept its terms"),
        (said(404, "Dataset not found"), rf"--dataset {NAME}: 127.0.0.1:\d+ has no such data set \(Dataset not found"),
        (said(429, "Daily download limit reached", Retry_After="7200"),
         r"allows no more downloads for now \(Daily download limit reached\); the server asks to come back in 120 min"),
        (said(418, f"no {KEY}"), r"answers 418 \(no \(the key\)\); repeat it later, or .* say --archive FILE"),
        ((308, {"Location": "https://elsewhere.example/api/x?token=1"}, b""),
         "sends on to https://elsewhere.example; set MDC_API_URL if that is right"),
        ((200, {}, b"<html>"), "something else than JSON"),
        ((200, {}, b'{"downloadUrl": "ftp://h/secret", "sizeBytes": "x", "checksum": "y"}'),
         "no usable downloadUrl, sizeBytes, checksum; the protocol may have changed"),
    ],
)  # fmt: skip
def test_every_refusal_is_one_line_that_says_what_to_do(server: Collective, answer: Answer, says: str) -> None:
    server.answers = [answer]
    with pytest.raises(ValueError, match=says) as error:
        datacollective.request(NAME)
    text = str(error.value)
    assert KEY not in text and "secret" not in text and "token" not in text and "\n" not in text


@pytest.mark.parametrize("wait", ["0", "1", formatdate(usegmt=True)])
def test_a_limit_that_ends_soon_and_a_busy_server_are_waited_for(
    server: Collective, wait: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [said(429, "Too many requests", Retry_After=wait), said(503, "Deploying", Retry_After="0")]
    assert datacollective.request(NAME).size_bytes == len(server.archive)
    assert len(server.posts) == 3
    told = capsys.readouterr().err
    assert "allows no more downloads for now (Too many requests); trying again in" in told
    assert "answers 503 (Deploying); trying again in 0 s" in told


def test_a_key_that_is_missing_or_was_copied_wrongly_asks_for_one(
    server: Collective, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, says in ((" ", "is not set; make a key at https://"), ("a\nb", "no key has"), ("ключ", "no key has")):
        monkeypatch.setenv("MDC_API_KEY", key)
        with pytest.raises(ValueError, match=f"MDC_API_KEY .*{says}"):
            datacollective.request(NAME)
    monkeypatch.delenv("MDC_API_KEY")
    with pytest.raises(ValueError, match="MDC_API_KEY is not set"):
        datacollective.request(NAME)
    assert server.posts == []


def test_the_key_never_leaves_in_the_open(server: Collective, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDC_API_URL", "http://mozilladatacollective.com/api")
    with pytest.raises(ValueError, match=r"MDC_API_URL http://.*: must begin with https://"):
        datacollective.request(NAME)


def test_a_dataset_may_be_named_by_its_page() -> None:
    assert datacollective.dataset_name(f"https://mozilladatacollective.com/datasets/{NAME}/") == NAME
    assert datacollective.dataset_name("mcv-el-v22.0") == "mcv-el-v22.0"
    for wrong in ("", "/", "a b", "x?y=1"):
        with pytest.raises(ValueError, match="--dataset"):
            datacollective.dataset_name(wrong)


def test_the_command_downloads_verifies_and_prepares(
    server: Collective, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The address ends while the archive arrives: another is asked for, and the rest fetched with it."""
    server.cuts, server.lives = True, 1
    assert run(tmp_path) == 0
    half = len(server.archive) // 2
    assert server.ranges == ["", f"bytes={half}-"]
    assert len(server.posts) == 2
    printed = capsys.readouterr()
    assert "the address that was given for it has ended; asking for another one" in printed.out
    assert "its hash is the published one" in printed.out
    assert_no_secret(tmp_path, printed.out + printed.err)
    # what is there is not asked for again: a request counts as a download of the day
    assert run(tmp_path) == 0
    assert len(server.posts) == 2
    assert "already done" in capsys.readouterr().out


def assert_no_secret(tmp_path: Path, printed: str) -> None:
    written = [path for name in ("root", "out") for path in (tmp_path / name).rglob("*") if path.is_file()]
    assert len(written) >= 5
    for text in [printed.encode(), *(str(path).encode() for path in written), *(p.read_bytes() for p in written)]:
        assert KEY.encode() not in text and b"Signature" not in text and b"signature1" not in text


def test_an_archive_that_is_not_what_was_promised_is_never_used(
    server: Collective, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.offer = {"checksum": "0" * 64}
    assert run(tmp_path) == 1
    printed = capsys.readouterr()
    assert "its sha256 is" in printed.err and "0000 was published" in printed.err
    assert not list((tmp_path / "root").glob("*.tar"))
    assert b"ignature" not in (printed.out + printed.err).encode()


def test_a_new_address_that_does_not_work_is_not_asked_for_again(
    server: Collective, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.lives = 0
    assert run(tmp_path) == 1
    assert "/storage/cv.tar.gz: the server answers 403 Forbidden" in capsys.readouterr().err
    assert len(server.posts) == 1


def test_download_and_dataset_belong_together() -> None:
    parser = argparse.ArgumentParser()
    commonvoice.add_arguments(parser)
    for more in (["--download"], ["--dataset", NAME]):
        with pytest.raises(ValueError, match="--download and --dataset ID belong together"):
            commonvoice.fetch(parser.parse_args(["--root", "nowhere", *more]))
