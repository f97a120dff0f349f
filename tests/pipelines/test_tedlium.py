"""TED-LIUM's three releases, as they lie on disk and as an archive shows them."""

import argparse
import hashlib
import json
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from asr import audio
from manifests import archive, storage
from manifests.schema import Dropped
from manifests.text import normalise
from pipelines.candidates import Candidate, write_toy
from pipelines.corpora import tedlium


def arguments(root: Path, release: str, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    tedlium.add_arguments(parser)
    args = parser.parse_args(["--release", release, "--root", str(root), *more])
    return argparse.Namespace(**vars(args), workers=1, ray_address=None, json=True)


def listed(root: Path, release: str, *more: str) -> list[Candidate | Dropped]:
    return list(tedlium.candidates(arguments(root, release, *more)))


def good(found: list[Candidate | Dropped]) -> list[Candidate]:
    return [item for item in found if isinstance(item, Candidate)]


def lost(found: list[Candidate | Dropped]) -> list[Dropped]:
    return [item for item in found if isinstance(item, Dropped)]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    tedlium.tiny(tmp_path)
    return tmp_path / "TEDLIUM_release-3"


def test_each_line_becomes_a_stretch_of_its_talk_or_a_reason(toy: Path) -> None:
    found = listed(toy, "3")
    assert [(c.split, c.id, c.speaker, c.offset_s, c.duration_s, c.text_raw) for c in good(found)] == [
        ("train", "AnnaToy_2016-0000250-0001500", "AnnaToy_2016", 0.25, 1.25, "they 're the toys of a talk"),
        ("dev", "BenToy_2010-0000250-0001500", "BenToy_2010", 0.25, 1.25, "this is another one"),
        ("dev", "BenToy_2010-0001500-0002750", "BenToy_2010", 1.5, 1.25, "it 's just as short"),
    ]
    assert [(d.id, d.reason, d.duration_s) for d in lost(found)] == [
        ("AnnaToy_2016-0000000-0000250", "not scored", 0.25),
        ("AnnaToy_2016-0001500-0002750", "unknown word", 1.25),
        ("BenToy_2010-0000000-0000250", "not scored", 0.25),
    ]
    assert {c.licence for c in good(found)} == {"CC BY-NC-ND 3.0"}
    assert all(json.loads(c.extra)["use"].startswith("non-commercial") for c in good(found))
    assert [json.loads(c.extra).get("gender") for c in good(found)] == [None, None, "female"]


def test_segments_with_an_unknown_word_come_back_on_demand(toy: Path) -> None:
    texts = [c.text_raw for c in good(listed(toy, "3", "--keep-unk"))]
    assert texts[1] == "that nobody gives"


def test_training_talks_come_from_legacy_where_it_has_them_and_else_from_data(toy: Path, tmp_path: Path) -> None:
    """Unpacked, legacy/train is links into data; an archive that is not unpacked shows no links."""
    (toy / "legacy" / "train").mkdir()
    for kind in ("sph", "stm"):
        (toy / "legacy" / "train" / kind).symlink_to(toy / "data" / kind)
    (tmp_path / "packed").mkdir()
    tar = tmp_path / "packed" / "TEDLIUM_release-3.tar"
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as file:
        file.add(toy, "TEDLIUM_release-3")
    data = (tmp_path / "x.tgz").read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    archive.receive(iter([data]), str(tar), name="x.tgz", size_bytes=None, sha256=sha256, md5=None)
    from_tree, from_tar = listed(toy, "3"), listed(tar.parent, "3")
    assert [(item.id, item.split, item.text_raw) for item in from_tar] == [
        (item.id, item.split, item.text_raw) for item in from_tree
    ]
    (ours,) = (c for c in good(from_tree) if c.split == "train")
    assert "/legacy/train/" in ours.audio
    for c in good(from_tar):
        assert len(storage.read_bytes(c.audio)) == c.size_bytes and c.audio.startswith(f"{tar}#")
        assert audio.probe(c.audio).duration_s == 3.0


def test_only_links_to_the_audio_may_be_missing(toy: Path) -> None:
    """Talks whose STM is in legacy/train find their audio in data."""
    (toy / "legacy" / "train" / "stm").mkdir(parents=True)
    name = "AnnaToy_2016.stm"
    (toy / "legacy" / "train" / "stm" / name).write_bytes((toy / "data" / "stm" / name).read_bytes())
    (ours,) = (c for c in good(listed(toy, "3")) if c.split == "train")
    assert ours.audio == str(toy / "data" / "sph" / "AnnaToy_2016.sph")


def test_talks_that_lack_a_half_and_lines_that_make_no_sense_say_so(toy: Path) -> None:
    dev = toy / "legacy" / "dev"
    (dev / "sph" / "BenToy_2010.sph").rename(dev / "sph" / "EveToy_2011.sph")
    stm = toy / "data" / "stm" / "AnnaToy_2016.stm"
    stm.write_text("AnnaToy_2016 1 AnnaToy_2016 2 1 <NA> backwards\nAnnaToy_2016 1 AnnaToy_2016 1 2 <NA> fine\n")
    assert [(d.split, d.id, d.reason, d.detail) for d in lost(listed(toy, "3")) if d.reason != "not scored"] == [
        ("train", "AnnaToy_2016-line1", "bad row", "AnnaToy_2016.stm, line 1: ends at 1 s, where it starts at 2 s"),
        ("dev", "BenToy_2010-0000250-0001500", "missing file", "BenToy_2010.stm, line 3: there is no BenToy_2010.sph"),
        ("dev", "BenToy_2010-0001500-0002750", "missing file", "BenToy_2010.stm, line 4: there is no BenToy_2010.sph"),
        ("dev", "EveToy_2011", "no transcript", "no STM has the talk EveToy_2011"),
    ]


def test_another_sorting_of_the_same_talks_is_passed_over(toy: Path) -> None:
    before = listed(toy, "3")
    write_toy(str(toy / "speaker-adaptation" / "train" / "sph" / "AnnaToy_2016.sph"), 3.0)
    (toy / "speaker-adaptation" / "train" / "stm").mkdir()
    (toy / "speaker-adaptation" / "train" / "stm" / "AnnaToy_2016.stm").write_text("A 1 A 0 1 <NA> x\n")
    assert listed(toy, "3") == before


def test_the_wrong_release_is_named_not_read(toy: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no <split>/stm/.* of TED-LIUM release 1; there is release 3"):
        listed(toy.parent, "1")
    with pytest.raises(ValueError, match="no such folder"):
        listed(toy / "none", "3")


def test_a_renamed_folder_will_do(toy: Path) -> None:
    before = listed(toy, "3")
    assert [item.id for item in listed(toy.rename(toy.with_name("ted")), "3")] == [item.id for item in before]


def test_an_archive_that_is_here_is_checked_indexed_and_listed(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, root = tmp_path / "TEDLIUM_release-3.tgz", tmp_path / "root"
    with tarfile.open(packed, "w:gz") as file:
        file.add(toy, "TEDLIUM_release-3")
    args = arguments(root, "3", "--archive", str(packed))
    with pytest.raises(ValueError, match="but the published TEDLIUM_release-3 has 54320173876"):
        tedlium.fetch(args)
    data = packed.read_bytes()
    ours = replace(tedlium.RELEASES["3"].archive, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(tedlium.RELEASES, "3", replace(tedlium.RELEASES["3"], archive=ours))
    tedlium.fetch(args)
    assert [item.id for item in listed(root, "3")] == [item.id for item in listed(toy, "3")]
    tedlium.fetch(arguments(root, "3", "--download"))  # is there, so nothing is asked for


def test_the_built_talks_of_release_1(speech_data: Path) -> None:
    found = listed(speech_data / "TEDLIUM_release1", "1")
    assert Counter(c.split for c in good(found)) == {"train": 18, "test": 17}
    assert Counter(d.reason for d in lost(found)) == {"not scored": 19}
    texts = {c.id: c.text_raw for c in good(found)}
    assert texts["Reader0036_2020P-0002240-0010070"] == (
        "it 's just so hard to picture we speak out when we feel we should speak out"
    )
    assert all(set(normalise(text, "en")) <= set("abcdefghijklmnopqrstuvwxyz' ") for text in texts.values())
    assert not any(mark in text for text in texts.values() for mark in "<>{}()[]0123456789")
    for c in good(found):
        info = audio.probe(c.audio)
        assert info.sample_rate == 16000 and c.offset_s + (c.duration_s or 0) <= info.duration_s + 0.01


def test_the_built_talks_of_release_3_beside_release_1(speech_data: Path) -> None:
    found = listed(speech_data, "3")
    assert all("TEDLIUM_release-3" in item.audio for item in found)
    assert Counter(item.split for item in found) == {"train": 67}
    assert Counter(d.reason for d in lost(found)) == {"not scored": 27, "unknown word": 2}
    assert len(good(listed(speech_data, "3", "--keep-unk"))) == len(good(found)) + 2
