"""Archives become a plain tar and an index in one pass, or nothing at all."""

import gzip
import hashlib
import io
import os
import random
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import archive, parquet, storage
from manifests.archive import Received
from manifests.tarstream import Damaged

FILES = {
    "Corpus/README.TXT": b"a corpus\n",
    "Corpus/train/1/1-1-0000.flac": random.Random(1).randbytes(70_001),
    "Corpus/train/1/empty.txt": b"",
    "Corpus/train/1/block.bin": bytes(range(256)) * 2,
}

Entry = tuple[str, bytes] | tarfile.TarInfo


def make_tar(*entries: Entry, format: int = tarfile.GNU_FORMAT, pax: dict[str, str] | None = None) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=format, pax_headers=pax) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry, io.BytesIO(bytes(entry.size)) if entry.isreg() else None)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                tar.addfile(info, io.BytesIO(entry[1]))
    return packed.getvalue()


def special(name: str, kind: bytes, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


def in_chunks(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def receive(
    data: bytes, tar: Path, chunk: int = 4096, size_bytes: int | None = None,
    sha256: str | None = None, md5: str | None = None,
) -> Received:  # fmt: skip
    chunks = in_chunks(data, chunk)
    return archive.receive(chunks, str(tar), name="corpus.tgz", size_bytes=size_bytes, sha256=sha256, md5=md5)


def held(tar: Path) -> dict[str, bytes]:
    """Every member as a reader gets it: through its URI."""
    rows = archive.members(str(tar)).to_pylist()
    uris = {row["name"]: storage.member_uri(str(tar), row["offset"], row["length"], row["name"]) for row in rows}
    return {name: storage.read_bytes(uri) for name, uri in uris.items()}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gzip", "plain"])
def test_an_archive_becomes_a_tar_and_its_index(tmp_path: Path, format: int, pack: Callable[[bytes], bytes]) -> None:
    plain = make_tar(*FILES.items(), format=format)
    packed = pack(plain)
    digest = hashlib.sha256(packed).hexdigest()
    received = receive(packed, tmp_path / "c.tar", size_bytes=len(packed), sha256=digest.upper())
    assert received == Received(len(FILES), len(packed), digest, len(plain), {})
    assert (tmp_path / "c.tar").read_bytes() == plain
    assert held(tmp_path / "c.tar") == FILES
    assert archive.find(str(tmp_path)) == [str(tmp_path / "c.tar")]
    metadata = archive.members(str(tmp_path / "c.tar")).schema.metadata
    assert (metadata[b"archive_sha256"].decode(), int(metadata[b"archive_bytes"])) == (digest, len(packed))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_index_is_what_tarfile_reads_however_the_bytes_come(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    letters = st.text(st.characters(codec="utf-8", exclude_characters="/\0\ud800"), min_size=1, max_size=70)
    part = letters.filter(lambda name: name not in (".", ".."))
    names = data.draw(st.lists(st.lists(part, min_size=1, max_size=5).map("/".join), unique=True, max_size=5))
    files = [(name, data.draw(st.binary(max_size=1500))) for name in names]
    plain = make_tar(*files, format=data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])))
    packed = gzip.compress(plain, compresslevel=data.draw(st.sampled_from([0, 6])))
    tar = tmp_path_factory.mktemp("any") / "a.tar"
    receive(packed, tar, chunk=data.draw(st.sampled_from([1, 7, 511, 513, 100_000])))
    with tarfile.open(tar) as reference:
        expected = [(m.name, m.offset_data, m.size) for m in reference]
    assert [tuple(row.values()) for row in archive.members(str(tar)).to_pylist()] == expected


def test_gzips_in_a_row_are_one_as_pigz_and_bgzf_write_them(tmp_path: Path) -> None:
    plain = make_tar(*FILES.items())
    packed = b"".join(gzip.compress(piece) for piece in in_chunks(plain, 9000)) + gzip.compress(b"") + bytes(100)
    receive(packed, tmp_path / "c.tar", chunk=777)
    assert held(tmp_path / "c.tar") == FILES


def test_what_other_tars_write_is_read(tmp_path: Path) -> None:
    long = "/".join(["folder-with-a-name"] * 12) + "/ö.flac"
    old = bytearray(make_tar(("old/", b""), ("old/a", b"1"), format=tarfile.USTAR_FORMAT))
    for start in (0, 512):  # as the tar of Unix 7 wrote it: no magic, no type
        old[start + 156 : start + 157], old[start + 257 : start + 265] = b"\0", bytes(8)
        old[start + 148 : start + 156] = b"%06o\0 " % (
            sum(old[start : start + 512]) - sum(old[start + 148 : start + 156]) + 256
        )
    assert held_of(tmp_path, bytes(old)) == {"old/a": b"1"}
    large = special("large.bin", tarfile.REGTYPE, size=3)
    large.uid = 1 << 40  # written in binary by GNU tar
    assert held_of(tmp_path, make_tar((long, b"x"), large)) == {long: b"x", "large.bin": bytes(3)}
    assert held_of(tmp_path, make_tar((f"./{long}", b"x"), pax={"comment": "c"}, format=tarfile.PAX_FORMAT)) == {
        long: b"x"
    }
    latin = make_tar((long, b""), ("grün", b"y")).replace("grün".encode(), b"gr\xfcn\0")
    fixed = bytearray(latin)
    start = fixed.index(b"gr\xfcn\0")
    fixed[start + 148 : start + 156] = b"%06o\0 " % (
        sum(fixed[start : start + 512]) - sum(fixed[start + 148 : start + 156]) + 256
    )
    assert held_of(tmp_path, bytes(fixed)) == {long: b"", r"gr\xfcn": b"y"}


@pytest.mark.parametrize("is_signed", [False, True])
def test_the_sum_of_a_header_may_be_large_or_of_signed_bytes(tmp_path: Path, is_signed: bool) -> None:
    link = special("語" * 51 + "/" + "語" * 33, tarfile.SYMTYPE, "語" * 33)
    link.uname = link.gname = "語" * 10
    plain = bytearray(make_tar(special("語", tarfile.SYMTYPE) if is_signed else link, format=tarfile.USTAR_FORMAT))
    rest = plain[:148] + plain[156:512]
    total = sum(rest) + 256
    assert is_signed or total > 1 << 16
    if is_signed:
        total -= 256 * sum(byte > 127 for byte in rest)
    plain[148:156] = b"%06o\0 " % total
    assert held_of(tmp_path, bytes(plain)) == {}
    plain[148:156] = b"%06o\0 " % (total - 1)
    with pytest.raises(Damaged, match="it is no tar"):
        held_of(tmp_path, bytes(plain))


def held_of(folder: Path, plain: bytes) -> dict[str, bytes]:
    receive(gzip.compress(plain), folder / "held.tar")
    return held(folder / "held.tar")


def test_real_tar_and_sparse_real_files(tmp_path: Path) -> None:
    """What the system's own tar and gzip write, folders, links and all."""
    tree = tmp_path / "tree"
    for name, content in FILES.items():
        storage.write_bytes(str(tree / name), content)
    (tree / "Corpus/link").symlink_to("README.TXT")
    os.link(tree / "Corpus/README.TXT", tree / "Corpus/same")
    subprocess.run(["tar", "-C", tree, "-czf", tmp_path / "c.tgz", "."], check=True)
    receive((tmp_path / "c.tgz").read_bytes(), tmp_path / "c.tar")
    more = {"Corpus/link": FILES["Corpus/README.TXT"], "Corpus/same": FILES["Corpus/README.TXT"]}
    assert held(tmp_path / "c.tar") == FILES | more


def test_a_link_to_what_the_archive_holds_is_another_name_of_it(tmp_path: Path) -> None:
    """TED-LIUM 3 keeps its talks in data/ and gives them to legacy/ by links."""
    plain = make_tar(
        ("data/sph/a.sph", b"A"), ("data/sph/b.sph", b"B"), ("data/sphinx", b"not inside"),
        special("legacy/test/sph", tarfile.SYMTYPE, "../../data/sph"),
        special("legacy/dev/a.sph", tarfile.SYMTYPE, "../../data/sph/a.sph"),
        special("legacy/dev/b.sph", tarfile.SYMTYPE, "../test/sph/b.sph"),
        special("hard.sph", tarfile.LNKTYPE, "data/sph/b.sph"),
        special("data/sphinx", tarfile.LNKTYPE, "data/sphinx"),
    )  # fmt: skip
    assert held_of(tmp_path, plain) == {
        "data/sph/a.sph": b"A", "data/sph/b.sph": b"B", "data/sphinx": b"not inside",
        "legacy/test/sph/a.sph": b"A", "legacy/test/sph/b.sph": b"B",
        "legacy/dev/a.sph": b"A", "legacy/dev/b.sph": b"B", "hard.sph": b"B",
    }  # fmt: skip


def test_what_is_no_file_is_left_out_and_counted(tmp_path: Path) -> None:
    plain = make_tar(
        ("a", b"A"), special("dir", tarfile.DIRTYPE), special("pipe", tarfile.FIFOTYPE),
        special("tty", tarfile.CHRTYPE), special("disk", tarfile.BLKTYPE),
        special("passwd", tarfile.SYMTYPE, "/etc/passwd"),
        special("up", tarfile.SYMTYPE, "../../etc/passwd"), special("hard", tarfile.LNKTYPE, "../secret"),
        special("gone", tarfile.SYMTYPE, "nowhere"), special("round", tarfile.SYMTYPE, "round"),
        special("odd", b"Z"), ("z", b"Z"),
    )  # fmt: skip
    received = receive(gzip.compress(plain), tmp_path / "c.tar")
    assert received.left_out == {
        "named pipe": 1, "character device": 1, "block device": 1, "link to outside the archive": 4,
        "link to nothing in the archive": 1, "member of unknown type 'Z'": 1,
    }  # fmt: skip
    assert held(tmp_path / "c.tar") == {"a": b"A", "z": b"Z"}


def numbered(count: int) -> list[Entry]:
    return [(f"f/{i}", b"") for i in range(count)]


def sized(header: bytes, field: bytes) -> bytes:
    """The tar with another size in its first header, and the sum that fits."""
    changed = bytearray(header)
    changed[124:136] = field
    changed[148:156] = b"%06o\0 " % (sum(changed[:512]) - sum(changed[148:156]) + 256)
    return bytes(changed)


TAR = make_tar(*FILES.items())
BINARY = b"\x80" + (1 << 61).to_bytes(11, "big")
HOSTILE: dict[str, tuple[bytes, str]] = {
    "parent": (make_tar(("a/../../b", b"x")), r"'a/\.\./\.\./b', a path that leads out"),
    "absolute": (make_tar(("/etc/passwd", b"x")), "'/etc/passwd', a path that leads out"),
    "folder up": (make_tar(special("../up", tarfile.DIRTYPE)), "a path that leads out"),
    "link up": (make_tar(special("../up", tarfile.SYMTYPE, "a")), "a path that leads out"),
    "pax path": (make_tar(special("x" * 120 + "/../y", tarfile.REGTYPE), format=tarfile.PAX_FORMAT), "leads out"),
    "twice": (make_tar(("a/b", b"x"), ("a/./b", b"y")), "holds 'a/b' twice"),
    "link over file": (make_tar(("a", b"x"), ("b", b"y"), special("b", tarfile.SYMTYPE, "a")), "holds 'b' twice"),
    "two links": (make_tar(("a", b"x"), *[special("b", tarfile.SYMTYPE, "a")] * 2), "holds 'b' twice"),
    "no name": (make_tar(("", b"x")), "a member without a name"),
    "sparse": (make_tar(special("holes", tarfile.GNUTYPE_SPARSE, size=4)), "holds a sparse file"),
    "pax sparse": (make_tar(("a", b"x"), pax={"GNU.sparse.size": "9"}, format=tarfile.PAX_FORMAT), "a sparse file"),
    "pax for all": (make_tar(("a", b"x"), pax={"path": "/etc/passwd"}, format=tarfile.PAX_FORMAT), "sets path="),
    "volume": (make_tar(special("rest", b"M")), "began in another volume"),
    "links in folders": (
        make_tar(*numbered(300), *[special(f"l{i}", tarfile.SYMTYPE, "f") for i in range(20)]),
        "more than 3400 other names",
    ),
    "header garbage": (TAR[:1024] + b"\xff" * 512 + TAR[1536:], "header at byte 1024 is damaged"),
    "sum": (TAR[:1024] + b"X" + TAR[1025:], "header at byte 1024 is damaged"),
    "no tar": (b"once upon a time " * 100, "it is no tar"),
    "size": (sized(TAR, b"0000000000z\0"), "it is no tar"),
    "negative size": (sized(TAR, b"\xff" * 12), "it is no tar"),
    "no size": (sized(TAR, b"\x80" + b"\xff" * 11), "speaks of"),
    "second tar": (TAR + TAR, "data follows its end mark"),
    "huge pax": (make_tar(special("h", tarfile.XHDTYPE, size=1 << 21)), "extended header at byte 0 has 2097152"),
    "bad pax": (make_tar(special("h", tarfile.XHDTYPE, size=512))[:512] + b"99 a=b\n".ljust(512, b"x"), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_tar_is_refused_and_nothing_stays(tmp_path: Path, case: str) -> None:
    data, message = HOSTILE[case]
    with pytest.raises(Damaged, match=rf"^corpus\.tgz: .*{message}") as err:
        receive(gzip.compress(data), tmp_path / "c.tar")
    assert "\n" not in str(err.value) and list(tmp_path.iterdir()) == []


def test_a_bomb_is_refused_long_before_it_is_full(tmp_path: Path) -> None:
    packed = gzip.compress(make_tar(special("zeros", tarfile.REGTYPE, size=300 << 20)), compresslevel=9)
    with pytest.raises(Damaged, match="more than 100 times its own size: a trap"):
        receive(packed, tmp_path / "c.tar")
    with pytest.raises(Damaged, match="a trap"):  # by what its header says, before a byte of it
        receive(packed, tmp_path / "c.tar", size_bytes=len(packed))
    assert list(tmp_path.iterdir()) == []


def test_a_member_larger_than_the_disk_or_the_archive_is_refused_at_its_header(tmp_path: Path) -> None:
    huge = sized(TAR, BINARY)
    with pytest.raises(OSError, match="No space left"):
        receive(huge, tmp_path / "c.tar")
    with pytest.raises(Damaged, match="more than it has bytes"):
        receive(huge, tmp_path / "c.tar", size_bytes=len(huge))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_gzip", [True, False])
@pytest.mark.parametrize("kept", [1, 5, 300, 600, 1500, 40_000, -1030, -520, -9, -1])
def test_a_cut_archive_is_no_archive(tmp_path: Path, is_gzip: bool, kept: int) -> None:
    whole = TAR.rstrip(b"\0")
    whole += bytes(-len(whole) % 512 + 512)  # the first block of the end mark, and no more
    packed = gzip.compress(whole) if is_gzip else whole
    with pytest.raises(Damaged, match=r"cut short|no tar"):
        receive(packed[:kept], tmp_path / "c.tar")
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(gzip.compress(TAR, mtime=0)) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, at: int, flip: int) -> None:
    """By gzip's own sum where it is in the data, by the hash wherever it is."""
    folder = tmp_path_factory.mktemp("flip")
    packed = bytearray(gzip.compress(TAR, mtime=0))
    digest = hashlib.md5(packed).hexdigest()
    packed[at] ^= flip
    with pytest.raises(Damaged, match=r"md5 is .*was published|damaged|cut short|no tar|its own size"):
        receive(bytes(packed), folder / "c.tar", md5=digest)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "head", [b"BZh91AY&SY", b"\xfd7zXZ\x00", b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"<html>", b"<!DOCTYPE html>"]
)
def test_what_is_no_gzip_is_called_by_its_name(tmp_path: Path, head: bytes) -> None:
    with pytest.raises(Damaged, match=r"it is (bzip2|xz|zip|zstd|a web page), neither"):
        receive(head + bytes(1000), tmp_path / "c.tar")
    with pytest.raises(Damaged, match="cut short"):
        receive(b"", tmp_path / "c.tar")


def test_wrong_hash_or_size_shows_both_and_an_old_result_is_gone(tmp_path: Path) -> None:
    packed = gzip.compress(TAR)
    receive(packed, tmp_path / "c.tar")
    for published, message in (
        ({"sha256": "0" * 64}, rf"sha256 is {hashlib.sha256(packed).hexdigest()}, but {'0' * 64} was published"),
        ({"md5": "0" * 32}, rf"md5 is {hashlib.md5(packed).hexdigest()}, but {'0' * 32} was published"),
        ({"size_bytes": 7}, r"more than 100 times|it has \d+ bytes, but the published one has 7"),
    ):
        with pytest.raises(Damaged, match=message):
            receive(packed, tmp_path / "c.tar", **published)  # type: ignore[arg-type]
        assert archive.find(str(tmp_path)) == []


def test_what_the_source_raises_comes_through(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield gzip.compress(TAR)[:5000]
        raise ValueError("the source is at fault")

    with pytest.raises(ValueError, match=r"^the source is at fault$"):
        archive.receive(broken(), str(tmp_path / "c.tar"), name="c", size_bytes=None, sha256=None, md5=None)
    assert list(tmp_path.iterdir()) == []


def test_a_tar_without_its_index_or_of_another_length_is_not_there(tmp_path: Path) -> None:
    tar = tmp_path / "c.tar"
    tar.write_bytes(TAR)
    assert archive.find(str(tmp_path)) == [] and not archive.is_there(str(tar))
    with pytest.raises(ValueError, match=r"has no index beside it; --archive"):
        archive.members(str(tar))
    receive(gzip.compress(TAR), tar)
    (tmp_path / "below").mkdir()
    receive(gzip.compress(TAR), tmp_path / "below" / "d.tar")
    assert archive.find(str(tmp_path)) == [str(tar)] and archive.is_there(str(tar))
    tar.write_bytes(TAR + bytes(512))
    with pytest.raises(ValueError, match="when it was indexed"):
        archive.members(str(tar))
    Path(archive.index_uri(str(tar))).write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="is no index of a tar"):
        archive.members(str(tar))


def test_an_index_that_was_changed_is_told(tmp_path: Path) -> None:
    tar = tmp_path / "c.tar"
    receive(gzip.compress(TAR), tar)
    index = Path(archive.index_uri(str(tar)))
    whole, table = index.read_bytes(), archive.members(str(tar))
    parquet.write(str(index), table.select(["name"]))
    with pytest.raises(ValueError, match="is no index of a tar"):
        archive.members(str(tar))
    damaged = bytearray(whole)
    damaged[4:60] = bytes(byte ^ 0x55 for byte in damaged[4:60])  # the header of the first page
    index.write_bytes(damaged)
    with pytest.raises(ValueError, match="is no index of a tar"):
        archive.members(str(tar))


def test_files_of_our_own_are_told_from_the_corpus() -> None:
    own = ["/r/c.tar.index.parquet", "/r/.fetching-c-1f/000.part", "/r/c.rejected/server.json"]
    theirs = ["/r/c.tar", "/r/index.parquet", "/r/rejected/a.flac", "/r/c/a.tar"]
    assert [archive.is_our_own(uri) for uri in own + theirs] == [True] * 3 + [False] * 4
