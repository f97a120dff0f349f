"""A corpus is the same whether it was unpacked or is still in its archives."""

import tarfile
from pathlib import Path

import pytest

from manifests import archive, storage
from pipelines import source


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("Corpus/README", "Corpus/a/one.txt", "Corpus/a/deep/two.txt"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"this is {name}")
    return tmp_path / "tree"


def take_in(tree: Path, tar: Path) -> None:
    packed = tar.with_suffix(".tgz")
    with tarfile.open(packed, "w:gz") as file:
        file.add(tree, ".")
    archive.receive(iter([packed.read_bytes()]), str(tar), name=packed.name, size_bytes=None, sha256=None, md5=None)
    packed.unlink()


def listing(root: Path) -> dict[str, tuple[int, bytes]]:
    return {file.path: (file.size_bytes, storage.read_bytes(file.uri)) for file in source.files(str(root))}


def test_a_tree_and_its_archive_hold_the_same_files(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    take_in(tree, tmp_path / "packed" / "corpus.tar")
    assert len(listing(tree)) == 3
    assert listing(tmp_path / "packed") == listing(tree) == listing(tmp_path / "packed" / "corpus.tar")


def test_unfinished_work_beside_a_corpus_is_no_part_of_it(tree: Path) -> None:
    take_in(tree / "Corpus" / "a", tree / "more.tar")
    (tree / "more.tar.index.parquet").rename(tree / "x")
    before = set(listing(tree))
    (tree / "x").rename(tree / "more.tar.index.parquet")
    assert set(listing(tree)) - before == {"one.txt", "deep/two.txt"}


def test_an_archive_that_was_not_taken_in_says_how(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dev-clean.tar.gz: is an archive; say --archive .*dev-clean.tar.gz and let"):
        list(source.files(f"{tmp_path}/dev-clean.tar.gz"))
    with pytest.raises(ValueError, match="no such folder"):
        list(source.files(f"{tmp_path}/none"))
