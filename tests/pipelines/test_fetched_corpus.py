"""A part of LibriSpeech, packed, served by a server that fails, and prepared: the manifest is that of the tree."""

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests import storage
from pipelines import http, prepare
from tests.pipelines.httpd import Fault, serve

Out = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def packed(speech_data: Path) -> bytes:
    """dev-clean, test-clean and train-clean-100 as one .tar.gz in LibriSpeech's own layout, 2 MB."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz", compresslevel=1) as tar:
        for part in ("dev-clean", "test-clean", "train-clean-100"):
            tar.add(speech_data / "LibriSpeech" / part, f"LibriSpeech/{part}")
    return data.getvalue()


def prepared(root: str, out: Path, *options: str) -> pa.Table:
    assert prepare.main(["librispeech", "--root", root, "--out", str(out), "--workers", "1", *options]) == 0
    return pq.read_table(out / "manifest.parquet")


def test_an_archive_from_a_failing_server_gives_the_manifest_of_the_tree(
    packed: bytes, speech_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "BACK_OFF_S", 0.0)
    parts = ("dev-clean", "test-clean", "train-clean-100")
    tree = prepared(str(speech_data / "LibriSpeech"), tmp_path / "tree", "--splits", *parts)
    third = len(packed) // 3
    with serve() as site:
        site.files["/part.tar.gz"] = packed
        site.faults = [Fault(status=503), Fault(cut_at=third), Fault(status=429), Fault(cut_at=1, reset=True), Fault()]
        url = f"{site.url}/part.tar.gz"
        fetched = prepared(str(tmp_path / "root"), tmp_path / "out", "--archive", url)
        assert site.sent == len(packed), "only what was missing was asked for again"
    assert fetched.drop_columns(["audio"]).equals(tree.drop_columns(["audio"]))
    for ours, theirs in zip(fetched["audio"].to_pylist(), tree["audio"].to_pylist(), strict=True):
        assert storage.member(ours) is not None
        assert storage.read_bytes(ours) == storage.read_bytes(theirs)
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == ["part.tar", "part.tar.index.parquet"]


def test_a_published_part_with_other_bytes_is_kept_aside_and_never_used(
    packed: bytes, tmp_path: Path, capsys: Out
) -> None:
    with serve() as site:
        site.files["/dev-clean-2.tar.gz"] = packed
        argv = ["librispeech", "--root", f"{tmp_path}/root", "--out", f"{tmp_path}/out", "--workers", "1"]
        assert prepare.main([*argv, "--download", "--splits", "dev-clean-2", "--mirror", site.url]) == 1
    error = capsys.readouterr().err
    assert "dev-clean-2" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists() and not list((tmp_path / "root").glob("*.tar"))
