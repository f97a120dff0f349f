"""LibriSpeech as it comes: from a tree or from its archives, whole or with pieces missing."""

import argparse
import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from manifests import archive, storage
from manifests.schema import Dropped
from pipelines.candidates import Candidate
from pipelines.corpora import librispeech
from pipelines.download import Archive


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    librispeech.tiny(tmp_path / "tree")
    return tmp_path / "tree" / "LibriSpeech"


def arguments(root: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    librispeech.add_arguments(parser)
    args = parser.parse_args(["--root", str(root), *more])
    return argparse.Namespace(**vars(args), workers=1, ray_address=None, json=True)


def listed(root: Path, *more: str) -> list[Candidate | Dropped]:
    return list(librispeech.candidates(arguments(root, *more)))


def rows(found: list[Candidate | Dropped]) -> Iterator[tuple[str, ...]]:
    """What must not depend on where the bytes lie, and the bytes."""
    for item in found:
        assert isinstance(item, Candidate)
        data = storage.read_bytes(item.audio)
        assert len(data) == item.size_bytes
        yield (item.id, item.split, item.speaker, item.text_raw, item.extra, data.hex())


def reasons(found: list[Candidate | Dropped]) -> list[tuple[str, str, str]]:
    return [(item.id, item.reason, item.detail) for item in found if isinstance(item, Dropped)]


def pack(tree: Path, names: list[str], packed: Path) -> bytes:
    """Each archive of LibriSpeech has its split and copies of the files on top, in no order of names."""
    packed.parent.mkdir(exist_ok=True)
    with tarfile.open(packed, "w:gz") as file:
        for path in sorted((path for name in names for path in [tree / name, *(tree / name).rglob("*")]), reverse=True):
            file.add(path, f"LibriSpeech/{path.relative_to(tree)}", recursive=False)
    return packed.read_bytes()


def take_in(tree: Path, names: list[str], tar: Path) -> None:
    packed = tar.with_suffix(".tar.gz")
    data = pack(tree, names, packed)
    sha256 = hashlib.sha256(data).hexdigest()
    archive.receive(iter([data]), str(tar), name=packed.name, size_bytes=len(data), sha256=sha256, md5=None)
    packed.unlink()


def test_archives_list_the_same_as_the_tree_they_hold(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "packed"
    for split in ("dev-clean", "train-clean-100"):
        take_in(tree, ["SPEAKERS.TXT", split], root / f"{split}.tar")
    assert list(rows(listed(root))) == list(rows(listed(tree))) == list(rows(listed(tree.parent)))
    assert len(listed(root, "--splits", "train-clean-100")) == 4


def test_speakers_are_told_by_the_list_of_speakers(tree: Path) -> None:
    about = {
        item.speaker: item.extra and json.loads(item.extra) for item in listed(tree) if isinstance(item, Candidate)
    }
    assert about == {
        "84": {"gender": "male", "name": "|CBW|Simon"},
        "19": {"gender": "female", "name": "Kara"},
        "103": "",
    }
    (tree / "SPEAKERS.TXT").unlink()
    assert [getattr(item, "extra", None) for item in listed(tree)] == [""] * 6


def test_a_name_in_another_encoding_does_not_stop_anything(tree: Path) -> None:
    (tree / "SPEAKERS.TXT").write_bytes(b"19 | F | train-clean-100 | 25.19 | J\xfcrgen\n")
    extras = {item.extra for item in listed(tree) if isinstance(item, Candidate)}
    assert extras == {"", '{"gender": "female", "name": "J\ufffdrgen"}'}


def test_what_lacks_its_other_half_says_so(tree: Path) -> None:
    chapter = tree / "train-clean-100" / "19" / "7"
    (chapter / "19-7-0001.flac").rename(chapter / "19-7-0002.flac")
    (tree / "dev-clean" / "84" / "7" / "84-7.trans.txt").unlink()
    assert reasons(listed(tree)) == [
        ("84-7-0000", "no transcript", "there is no 84-7.trans.txt"),
        ("84-7-0001", "no transcript", "there is no 84-7.trans.txt"),
        ("19-7-0001", "missing file", "19-7.trans.txt names it, but 19-7-0001.flac is not beside it"),
        ("19-7-0002", "no transcript", "not in 19-7.trans.txt"),
    ]


def test_an_archive_that_was_unpacked_beside_itself_counts_once(tree: Path) -> None:
    take_in(tree, ["dev-clean"], tree.parent / "dev-clean.tar")
    found = listed(tree.parent)
    assert sorted(item.id for item in found if isinstance(item, Candidate)) == sorted({item.id for item in found})
    assert [(name, reason) for name, reason, _ in reasons(found)] == [
        ("84-7-0000", "duplicate id"),
        ("84-7-0001", "duplicate id"),
    ]


def test_two_lines_for_one_utterance_are_both_seen(tree: Path) -> None:
    transcript = tree / "dev-clean" / "84" / "7" / "84-7.trans.txt"
    transcript.write_text(transcript.read_text() + "84-7-0001 SOMETHING ELSE\n\n")
    texts = [item.text_raw for item in listed(tree, "--splits", "dev-clean") if item.id == "84-7-0001"]
    assert texts == ["IT HASN'T ANY GOOD WORDS", "SOMETHING ELSE"]


def test_a_folder_of_something_else_is_told_apart(tmp_path: Path) -> None:
    for name in ("a/b/c.flac", "README"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(
        ValueError, match=r"holds no <split>/<speaker>/<chapter>/\*.flac as LibriSpeech does, but README, a"
    ):
        listed(tmp_path)


def test_an_archive_that_is_here_is_checked_indexed_and_listed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, root = tmp_path / "here" / "dev-clean.tar.gz", tmp_path / "root"
    data = pack(tree, ["dev-clean", "SPEAKERS.TXT"], packed)
    args = arguments(root, "--archive", str(packed))
    with pytest.raises(ValueError, match=f"has {len(data)} bytes, but the published dev-clean has 337926286"):
        librispeech.fetch(args)
    ours = Archive("dev-clean", "https://x/dev-clean.tar.gz", len(data), hashlib.sha256(data).hexdigest(), None)
    monkeypatch.setitem(librispeech.PARTS, "dev-clean", librispeech.Part(ours, 2))
    librispeech.fetch(args)
    assert list(rows(listed(root))) == list(rows(listed(tree, "--splits", "dev-clean")))
    librispeech.fetch(arguments(root, "--download", "--splits", "dev-clean"))  # is there, so nothing is asked for


def test_what_to_download_must_be_said_and_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"with --splits what to fetch: dev-clean, .*train-other-500, dev-clean-2"):
        librispeech.fetch(arguments(tmp_path, "--download"))
    with pytest.raises(ValueError, match="no train-clean is published; there are dev-clean, "):
        librispeech.fetch(arguments(tmp_path, "--download", "--splits", "dev-clean", "train-clean"))


def test_published_parts_are_those_of_the_paper() -> None:
    known = librispeech.published(argparse.Namespace())
    assert sum(known[split] for split in known if split.startswith("train")) == 281241
    assert librispeech.PARTS["train-clean-5"].archive.url == "https://www.openslr.org/resources/31/train-clean-5.tar.gz"
    assert all(len(bytes.fromhex(part.archive.sha256 or "")) == 32 for part in librispeech.PARTS.values())


def test_real_librispeech(speech_data: Path) -> None:
    found = listed(speech_data / "LibriSpeech")
    assert len(found) == 86 and reasons(found) == []
    first = next(item for item in found if item.id == "61-70968-0000")
    assert isinstance(first, Candidate) and first.text_raw.startswith("HE BEGAN A CONFUSED COMPLAINT")
    assert (first.split, first.speaker, first.language) == ("test-clean", "61", "en")
