"""Whose result a folder holds."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import identity

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(JSON, JSON)
def test_fingerprints_are_equal_where_the_values_are(one: object, two: object) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
    assert (identity.fingerprint(one) == identity.fingerprint(two)) == same
    assert len(identity.fingerprint(one)) == 16


def test_the_order_of_keys_does_not_count() -> None:
    assert identity.fingerprint({"a": 1, "b": 2}) == identity.fingerprint({"b": 2, "a": 1})


def test_unfinished_work_is_continued_and_finished_work_comes_back(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    claim = identity.claim(out, "bake", {"flour": 1}, False)
    assert claim.summary is None
    (tmp_path / "out" / "half").write_text("dough")
    assert identity.claim(out, "bake", {"flour": 1}, True).summary is None
    assert (tmp_path / "out" / "half").read_text() == "dough"
    claim.finish({"loaves": 3})
    assert identity.claim(out, "bake", {"flour": 1}, True).summary == {"loaves": 3}
    record = json.loads((tmp_path / "out" / identity.RECORD).read_text())
    assert record["step"] == "bake" and record["inputs"] == {"flour": 1} and record["fingerprint"] == claim.fingerprint


@pytest.mark.parametrize(
    ("step", "inputs", "message"),
    [
        ("bake", {"flour": 2, "salt": 1}, "holds the result of bake from other inputs (flour)"),
        ("bake", {"flour": 1}, "other inputs (salt)"),
        ("bake", {"flour": 2, "salt": 2, "water": 3}, "other inputs (flour, salt, water)"),
        ("cook", {"flour": 1, "salt": 1}, "holds the result of bake;"),
    ],
)
def test_another_result_is_refused_and_deleted_with_force(
    tmp_path: Path, step: str, inputs: dict[str, int], message: str
) -> None:
    out = str(tmp_path / "out")
    identity.claim(out, "bake", {"flour": 1, "salt": 1}, False).finish({})
    (tmp_path / "out" / "bread").write_text("fresh")
    with pytest.raises(ValueError, match="choose another --out, or say --force") as err:
        identity.claim(out, step, inputs, False)
    assert message in str(err.value) and str(err.value).startswith(f"{out}: ")
    assert identity.look(out, step, inputs, True).summary is None
    assert (tmp_path / "out" / "bread").exists()  # looking deletes nothing
    assert identity.claim(out, step, inputs, True).summary is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == [identity.RECORD]


def test_files_that_no_step_made_are_never_deleted(tmp_path: Path) -> None:
    out = str(tmp_path)
    (tmp_path / "thesis").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty and holds nothing that a step made"):
        identity.claim(out, "bake", {"flour": 1}, False)
    identity.claim(out, "bake", {"flour": 1}, True).finish({})
    identity.claim(out, "bake", {"flour": 2}, True)
    identity.claim(out, "cook", {}, True).finish({})
    assert identity.look(out, "cook", {}, False).summary == {}
    assert (tmp_path / "thesis").read_text() == "years of work"


def test_force_never_deletes_what_is_read(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    identity.claim(out, "bake", {"flour": 1}, False).finish({})
    for source in (out, f"{out}/flour"):
        with pytest.raises(ValueError, match=r"--force would delete .* which is read here"):
            identity.claim(out, "bake", {"flour": 2}, True, [source])
    identity.claim(out, "bake", {"flour": 2}, True, [f"{out}-other/flour"])


def test_force_never_deletes_what_is_read_through_a_link(tmp_path: Path) -> None:
    out = tmp_path / "out"
    identity.claim(str(out), "bake", {"flour": 1}, False).finish({})
    (out / "flour").mkdir()
    (tmp_path / "link").symlink_to(out)
    (tmp_path / "pantry").symlink_to(out / "flour")
    for place, source in ((str(out), f"{tmp_path}/pantry"), (f"{tmp_path}/link", f"{out}/flour")):
        with pytest.raises(ValueError, match=r"--force would delete .* which is read here"):
            identity.claim(place, "bake", {"flour": 2}, True, [source])


@pytest.mark.parametrize("text", ["{", "[]", '{"step": "bake"}'])
def test_a_record_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / identity.RECORD).write_text(text)
    with pytest.raises(ValueError, match=r"step\.json: .*choose another --out"):
        identity.look(str(tmp_path), "bake", {}, False)


def test_looking_writes_nothing(tmp_path: Path) -> None:
    assert identity.look(str(tmp_path / "out"), "bake", {}, False).summary is None
    assert not (tmp_path / "out").exists()
