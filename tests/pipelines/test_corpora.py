"""What every module in pipelines/corpora must do, found by itself: its toy comes out as a manifest."""

import json
import re
from pathlib import Path

import pytest

from asr.audio import probe
from manifests.parquet import read_manifests
from manifests.schema import safe_id
from manifests.text import normalise
from pipelines import corpora, prepare

CORPORA = sorted(prepare.found())


@pytest.fixture(scope="module", params=CORPORA)
def toy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The command that reads a corpus's toy, run once, and the folder of its result."""
    folder = tmp_path_factory.mktemp(request.param)
    toy_arguments = prepare.found()[request.param].tiny(folder / "source")
    argv = [request.param, *toy_arguments, "--out", str(folder / "out"), "--workers", "1"]
    assert prepare.main(argv) == 0
    return argv, folder / "out"


def test_all_corpora_are_found() -> None:
    files = Path(corpora.__path__[0]).glob("*.py")
    assert sorted(file.stem for file in files if file.stem != "__init__") == CORPORA


@pytest.mark.parametrize("name", CORPORA)
def test_help_is_one_line(name: str) -> None:
    assert re.fullmatch(r"\S[^\n]*[^.\n]", prepare.found()[name].HELP)


def test_rows_say_what_the_files_hold(toy: tuple[list[str], Path]) -> None:
    _, out = toy
    rows = read_manifests([str(out)])
    assert rows
    for row in rows:
        info = probe(row.audio)
        assert row.id == safe_id(row.id)
        assert (row.sample_rate, row.channels) == (info.sample_rate, info.channels)
        assert 0 < row.duration_s <= info.duration_s - row.offset_s + 1e-6
        assert row.text == normalise(row.text_raw, row.language) != ""
        assert row.split and row.language and row.source and row.corpus


def test_the_summary_counts_the_rows(toy: tuple[list[str], Path]) -> None:
    _, out = toy
    rows = read_manifests([str(out)])
    total = json.loads((out / "step.json").read_text())["summary"]["total"]
    assert total["utterances"] == len(rows)
    assert total["hours"] == pytest.approx(sum(row.duration_s for row in rows) / 3600, abs=1e-6)
    assert total["speakers"] == len({row.speaker for row in rows} - {""})


def test_the_same_command_again_writes_nothing(toy: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    argv, out = toy
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    capsys.readouterr()
    assert prepare.main(argv) == 0
    assert "already done" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_from_nothing_the_same_bytes_come_again(toy: tuple[list[str], Path], tmp_path: Path) -> None:
    argv, out = toy
    again = [str(tmp_path) if arg == str(out) else arg for arg in argv]
    assert prepare.main(again) == 0
    for name in ("manifest.parquet", "dropped.parquet"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
