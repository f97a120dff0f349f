"""Bundles by URL: what comes is whole and what was written, comes once, and goes on after a cut."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch

from asr import bundle as bundles
from asr import checkpoint
from asr.bundle import FACTS, VOCAB, WEIGHTS, locate
from asr.checkpoint import Bundle
from manifests import storage
from tests.pipelines.httpd import Fault, Site, serve
from tests.webserver import serving

COMMIT = "5" * 40
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPEECHMILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def files(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Of a bundle, by name."""
    folder = tmp_path_factory.mktemp("made") / "best"
    checkpoint.save(str(folder), bundle)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def site(files: dict[str, bytes]) -> Iterator[Site]:
    """A web server with the bundle at /b."""
    with serve() as found:
        found.files = {f"/b/{name}": data for name, data in files.items()}
        yield found


def refused(uri: str) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        locate(uri)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def asked(site: Site, name: str) -> list[str]:
    """The ranges in which a file was asked for."""
    return [seen.range for seen in site.seen if seen.path.endswith(name) and seen.status in (200, 206)]


def in_cache(cache: Path) -> list[str]:
    """Bundles that others would find."""
    return [path.name for path in (cache / "bundles").glob("*") if len(path.name) == 64]


def in_process(code: str, *argv: str) -> subprocess.Popen[str]:
    """Without torch: whoever streams an exported bundle has none."""
    blocked = "import sys; sys.modules['torch'] = None; from asr.bundle import *; "
    return subprocess.Popen([sys.executable, "-c", blocked + code, *argv], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_path_stays_as_it_is(tmp_path: Path) -> None:
    assert locate(str(tmp_path)) == locate(f"file://{tmp_path}") == str(tmp_path)


def test_a_bundle_of_a_web_server_comes_once_and_is_said(
    site: Site, bundle: Bundle, files: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = locate(f"{site.url}/b")
    assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == files
    megabytes = sum(len(data) for name, data in files.items() if name != FACTS) / 1e6
    assert f"fetching {site.url}/b ({megabytes:.1f} MB)" in capsys.readouterr().err
    back = checkpoint.load(f"{site.url}/b/")
    assert all(torch.equal(back.model.state_dict()[key], value) for key, value in bundle.model.state_dict().items())
    assert checkpoint.weights_sha256(f"{site.url}/b") == json.loads(files[FACTS])["weights_sha256"]
    assert len([r for r in asked(site, WEIGHTS) if not r]) <= 2  # one for its size
    assert capsys.readouterr().err == ""


def test_another_bundle_at_the_same_url_is_fetched(site: Site, files: dict[str, bytes]) -> None:
    first = locate(f"{site.url}/b")
    facts = json.loads(files[FACTS])
    site.files[f"/b/{FACTS}"] = json.dumps(facts | {"training": {"step": 9}}).encode()
    second = locate(f"{site.url}/b")
    assert first != second and bundles.read_facts(second)["training"] == {"step": 9}
    assert bundles.read_facts(first) == facts


def test_transfers_that_are_cut_go_on(site: Site) -> None:
    site.faults = [Fault(), Fault(), Fault(), Fault(cut_at=1000), Fault(cut_at=500, reset=True), Fault(status=503)]
    checkpoint.load(f"{site.url}/b")
    assert site.faults == [] and any(span.startswith("bytes=1000-") for span in asked(site, WEIGHTS))


def test_a_fetch_that_was_killed_goes_on(site: Site, cache: Path) -> None:
    site.faults = [Fault(), Fault(), Fault(), Fault(hold_at=2000)]
    process = in_process("locate(sys.argv[1])", f"{site.url}/b")
    assert site.held.wait(60)
    (part,) = cache.glob(f"bundles/*.part/{WEIGHTS}.part")
    while part.stat().st_size < 2000:  # on its way through the loopback device
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert in_cache(cache) == []
    checkpoint.load(f"{site.url}/b")
    assert asked(site, WEIGHTS)[-1].startswith("bytes=2000-")
    assert sorted(path.name for path in (cache / "bundles").iterdir()) == in_cache(cache)


def test_many_processes_fetch_it_once(site: Site, files: dict[str, bytes]) -> None:
    code = (
        "f = locate(sys.argv[1]); facts = read_facts(f); print(read_tokenizer(f, facts).size, read_spec(f, facts).mels)"
    )
    processes = [in_process(code, f"{site.url}/b") for _ in range(3)]
    found = {process.communicate()[0] for process in processes}
    assert found == {f"{json.loads(files[FACTS])['vocab']['size']} 16\n"}
    assert sum(seen.sent for seen in site.seen if seen.path.endswith(WEIGHTS)) <= 2 * len(files[WEIGHTS])


def test_a_bundle_that_is_there_needs_no_cache_to_write_to(site: Site) -> None:
    """A folder in the place of the lock file: nobody can take the lock, as on a read-only disk."""
    folder = locate(f"{site.url}/b")
    lock = Path(f"{folder}.lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()
    assert locate(f"{site.url}/b") == folder


@pytest.mark.parametrize("name", [WEIGHTS, VOCAB])
@pytest.mark.parametrize("change", [lambda data: data[:-3], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_a_bundle_cut_short_or_altered_is_refused(site: Site, cache: Path, name: str, change: Any) -> None:
    whole = site.files[f"/b/{name}"]
    site.files[f"/b/{name}"] = change(whole)
    message = refused(f"{site.url}/b")
    assert f"{site.url}/b/{name}: " in message and ("SHA-256" in message or "altered" in message)
    assert in_cache(cache) == []
    site.files[f"/b/{name}"] = whole
    checkpoint.load(f"{site.url}/b")


def test_a_copy_that_was_damaged_is_fetched_again(site: Site) -> None:
    path = Path(locate(f"{site.url}/b")) / WEIGHTS
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    checkpoint.load(f"{site.url}/b")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html>Welcome</html>", "/b/bundle.json: is damaged"),
        (b"{}", "is damaged"),
        (b"[1]", "is damaged"),
        (
            b'{"weights_sha256": "", "vocab": {"fingerprint": "012345678901"}}',
            "no hash of a file 'weights.safetensors'",
        ),
    ],
)
def test_what_is_no_bundle_is_refused(site: Site, cache: Path, data: bytes, message: str) -> None:
    site.files[f"/b/{FACTS}"] = data
    assert message in refused(f"{site.url}/b")
    assert "is not a bundle (no bundle.json, no export.json)" in refused(f"{site.url}/elsewhere")
    assert "names one file" in refused(f"{site.url}/b?signature=secret") and "secret" not in refused(
        f"{site.url}/b?k=secret"
    )
    assert in_cache(cache) == []


def exported(names: list[str]) -> dict[str, bytes]:
    made = {name: name.encode() * 50 for name in names}
    facts = {"files": {name: hashlib.sha256(data).hexdigest() for name, data in made.items()},
             "vocab": {"fingerprint": hashlib.sha256(b"vocab").hexdigest()[:12]}}  # fmt: skip
    return made | {"export.json": json.dumps(facts).encode(), VOCAB: b"vocab"}


def test_an_exported_bundle_comes_with_all_that_it_names(site: Site) -> None:
    made = exported(["encoder.onnx", "joiner.onnx"])
    site.files = {f"/x/{name}": data for name, data in made.items()}
    folder = Path(locate(f"{site.url}/x"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made
    site.files["/x/joiner.onnx"] = b"other"
    assert folder == Path(locate(f"{site.url}/x"))  # which is whole


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", ".hidden", "a/b", ""])
def test_a_file_outside_the_folder_is_refused(site: Site, name: str) -> None:
    site.files = {"/x/export.json": exported([name])["export.json"]}
    assert "no hash of a file" in refused(f"{site.url}/x")


def test_a_bundle_of_a_bucket(bucket: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        storage.write_bytes(f"{bucket}/models/b/{name}", data)
    assert checkpoint.load(f"{bucket}/models/b").facts["step"] == 7
    other = json.loads(files[FACTS]) | {"training": {}}
    storage.write_text(f"{bucket}/models/c/{FACTS}", json.dumps(other))
    assert f"{bucket}/models/c/{WEIGHTS}: there is no such file" in refused(f"{bucket}/models/c")
    assert "is not a bundle" in refused(f"{bucket}/models/none")


@pytest.mark.parametrize("uri", ["{path}", "http://127.0.0.1:9/x.pt", "hf://own/er/pytorch_model.bin", "{path}.PTH"])
def test_a_model_file_is_never_unpickled(uri: str, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"model": {}}, path)
    assert "import-bundle" in refused(uri.format(path=path)) and "unpickled" in refused(uri.format(path=path))
    path.unlink()
    path.mkdir()
    assert locate(str(path)) == str(path)  # a folder may be called anything


class Hub(BaseHTTPRequestHandler):
    """What the hub answers for the model own/er, whose files at revision COMMIT are `server.files`."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        self.server.seen.append((self.command, self.path, self.headers.get("Authorization")))
        path = unquote(urlsplit(self.path).path)
        _, _, name = path.partition("/resolve/")
        revision, _, name = name.partition("/")
        data = self.server.files.get(name)
        if not path.startswith("/own/er/"):
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", "v1", COMMIT):
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif data is None:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            etag = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
            cut = self.server.cuts.pop(name, None) if self.command == "GET" else None
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            if start:
                etag["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._answer(206 if start else 200, data[start:], etag, cut)

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
            self.close_connection = cut is not None

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import huggingface_hub.constants

    with serving(Hub) as started:
        server: Any = started
        server.files = {f"en/small/{name}": data for name, data in files.items()} | files
        server.seen, server.cuts = [], {}
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


def test_a_repository_of_the_hub(
    hub: Any, bundle: Bundle, cache: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    hub.cuts = {f"en/small/{WEIGHTS}": 1000}
    for uri in ("hf://own/er/en/small", "hf://own/er", "hf://own/er@v1", f"hf://own/er@{COMMIT}/en/small/"):
        assert checkpoint.load(uri).spec == bundle.spec
    gets = [path for command, path, _ in hub.seen if command == "GET" and path.endswith(WEIGHTS)]
    assert len(gets) == 2  # that of the other folder is the same file
    assert {token for _, _, token in hub.seen} == {"Bearer hf_secret"}
    said = "".join(capfd.readouterr()) + caplog.text
    assert "hf_secret" not in said
    assert all(b"hf_secret" not in path.read_bytes() for path in cache.rglob("*") if path.is_file())


def test_a_hub_that_is_away_leaves_the_last_copy(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = locate("hf://own/er")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert locate("hf://own/er") == folder


def test_what_is_wrong_at_the_hub_is_one_line(hub: Any, files: dict[str, bytes]) -> None:
    assert "hf://no/body" in refused("hf://no/body")
    assert "Revision" in refused("hf://own/er@v2") or "revision" in refused("hf://own/er@v2")
    assert "is not a bundle (no bundle.json, no export.json)" in refused("hf://own/er/de")
    assert "a repository is written hf://owner/name" in refused("hf://own")
    hub.files[WEIGHTS] = files[WEIGHTS][:-1] + b"x"
    assert refused("hf://own/er").startswith(f"hf://own/er/{WEIGHTS}: was cut short or altered")
    del hub.files[VOCAB], hub.files[WEIGHTS]
    assert "is not whole (no " in refused(f"hf://own/er@{COMMIT}/") or "altered" in refused("hf://own/er")


def test_a_damaged_copy_of_the_hubs_is_fetched_again(hub: Any) -> None:
    path = Path(locate("hf://own/er")) / WEIGHTS
    target = Path(os.path.realpath(path))
    target.write_bytes(target.read_bytes()[:-1] + b"x")
    checkpoint.load("hf://own/er")
