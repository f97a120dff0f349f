"""Tar members and .npy bytes, as the standard library and numpy read them."""

import io
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shards.writer import BLOCK, END, HEADER_BYTES, member, member_bytes, npy

NAMES = st.text(st.characters(categories=["L", "N"], include_characters="-_."), min_size=1, max_size=25)


@given(st.lists(st.tuples(NAMES, st.binary(max_size=1100)), max_size=4))
def test_tarfile_reads_names_and_data_in_order(files: list[tuple[str, bytes]]) -> None:
    data = b"".join(member(name, content) for name, content in files) + END
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        found = tar.getmembers()
        assert [m.name for m in found] == [name for name, _ in files]
        for info, (_, content) in zip(found, files, strict=True):
            extracted = tar.extractfile(info)
            assert extracted is not None and extracted.read() == content
            assert (info.isreg(), info.mode, info.uid, info.gid, info.mtime, info.uname) == (True, 0o644, 0, 0, 0, "")


@given(st.binary(max_size=1100))
def test_a_member_takes_the_bytes_that_are_planned_for_it(content: bytes) -> None:
    written = member("a.txt", content)
    assert len(written) == member_bytes(len(content)) and len(written) % BLOCK == 0
    assert written[BLOCK : BLOCK + len(content)] == content


def test_a_name_may_have_100_bytes() -> None:
    with tarfile.open(fileobj=io.BytesIO(member("é" * 50, b"x") + END)) as tar:
        assert tar.getnames() == ["é" * 50]
    with pytest.raises(ValueError, match="may be 100 bytes long, this one has 101"):
        member("é" * 50 + "a", b"x")


@given(hnp.arrays(np.float16, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9)))
def test_numpy_loads_what_npy_wrote_and_the_numbers_start_at_a_fixed_place(array: np.ndarray) -> None:
    data = npy(array)
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    assert loaded.dtype == np.float16 and loaded.shape == array.shape
    assert loaded.tobytes() == array.tobytes() == data[HEADER_BYTES:]


def test_the_header_of_npy_has_room_for_an_hour() -> None:
    assert len(npy(np.zeros((360_000, 1), np.float16))) == HEADER_BYTES + 720_000
