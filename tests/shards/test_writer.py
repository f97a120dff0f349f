"""Tar members, .npy bytes and whole utterances, as the standard library, numpy and webdataset read them."""

import io
import tarfile

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from manifests.schema import safe_id
from shards.content import NAMES, Content, dequantise, quantise
from shards.writer import BLOCK, END, HEADER_BYTES, member, member_bytes, npy, pack, packed_bytes

MEMBER_NAMES = st.text(st.characters(categories=["L", "N"], include_characters="-_."), min_size=1, max_size=25)


@given(st.lists(st.tuples(MEMBER_NAMES, st.binary(max_size=1100)), max_size=4))
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


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint8])
@given(data=st.data())
def test_numpy_loads_what_npy_wrote_and_the_numbers_start_at_a_fixed_place(dtype: type, data: st.DataObject) -> None:
    array = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9)))
    written = npy(array)
    loaded = np.load(io.BytesIO(written), allow_pickle=False)
    assert loaded.dtype == dtype and loaded.shape == array.shape
    assert loaded.tobytes() == array.tobytes() == written[HEADER_BYTES:]


def test_the_header_of_npy_has_room_for_an_hour() -> None:
    assert len(npy(np.zeros((360_000, 1), np.float16))) == HEADER_BYTES + 720_000


FEATS = np.random.default_rng(3).normal(-5, 4, (37, 8)).astype(np.float32)
ORDER = ["scale.npy", "npy", "flac", "txt"]


@pytest.mark.parametrize("name", NAMES)
@given(text=st.text(st.characters(categories=["L"]), max_size=300), audio=st.binary(min_size=1, max_size=1500))
def test_offsets_of_a_packed_utterance_lead_to_its_parts_wherever_it_stands(name: str, text: str, audio: bytes) -> None:
    content = Content.named(name)
    packed = pack("u-1", FEATS, audio, "flac", text, content)
    assert len(packed.data) == packed_bytes(content, len(FEATS), FEATS.shape[1], len(audio), len(text.encode()))
    before = member("other.txt", b"x")
    tar = before + packed.data + END
    places = packed.columns(len(before))

    def part(what: str) -> bytes:
        return tar[int(places[f"{what}_offset"]) :][: int(places[f"{what}_length"])]

    assert part("text") == text.encode()
    assert part("audio") == (audio if content.audio else b"")
    assert places["audio_format"] == ("flac" if content.audio else "")
    if content.features == "float16":
        assert part("feature") == FEATS.astype(np.float16).tobytes()
    elif content.features == "uint8":
        codes_tf, scale_2f = quantise(FEATS)
        assert part("feature")[: scale_2f.nbytes] == scale_2f.tobytes()
        assert part("feature")[-codes_tf.size :] == codes_tf.tobytes()
    else:
        assert (places["feature_offset"], places["feature_length"]) == (0, 0)


@pytest.mark.parametrize("name", NAMES)
def test_webdataset_finds_the_parts_of_an_utterance_in_their_order(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = Content.named(name)
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    utterances = [pack(f"u-{i}", FEATS, b"fLaC", "flac", f"text {i}", content) for i in range(2)]
    path.write_bytes(b"".join(u.data for u in utterances) + END)
    with tarfile.open(path) as tar:
        extensions = [n.partition(".")[2] for n in tar.getnames()]
    assert extensions == 2 * [e for e in ORDER if e in extensions]
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False).decode())
    assert [(s["__key__"], s["txt"]) for s in samples] == [("u-0", "text 0"), ("u-1", "text 1")]
    if content.features == "float16":
        np.testing.assert_array_equal(samples[1]["npy"], FEATS.astype(np.float16))
    if content.features == "uint8":
        feats_tf = dequantise(samples[1]["npy"], samples[1]["scale.npy"])
        np.testing.assert_allclose(feats_tf, FEATS, atol=0.1)


def test_the_longest_id_has_room_for_every_name() -> None:
    id = safe_id("x/" * 200)
    assert len(id.encode()) == 90
    assert len(pack(id, FEATS, b"fLaC", "flac", "text", Content.named("logmel8+audio")).data) > FEATS.size
