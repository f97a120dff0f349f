"""The corpus that CONTRIBUTING.md shows how to add is one."""

import re
import sys
import textwrap
from pathlib import Path

import pytest

from manifests.parquet import read_manifests
from pipelines import corpora, prepare

GUIDE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"


def test_the_example_corpus_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r'^(    """Example Corpus.*?)^\S', GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "example.py").write_text(textwrap.dedent(example))
    monkeypatch.setattr(corpora, "__path__", [*corpora.__path__, f"{tmp_path}/modules"])
    monkeypatch.delitem(sys.modules, "pipelines.corpora.example", raising=False)
    toy = prepare.found()["example"].tiny(tmp_path / "source")
    assert prepare.main(["example", *toy, "--out", f"{tmp_path}/out", "--workers", "1"]) == 0
    (row,) = read_manifests([f"{tmp_path}/out"])
    assert (row.id, row.text, row.extra) == ("anna_1", "god morgon", '{"dialect": "scania"}')
    monkeypatch.delitem(sys.modules, "pipelines.corpora.example")
