"""What a manifest holds and what was left out, in figures: for the end of a command and for programs."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs import cli
from manifests.filters import numbers


def summarise(table: pa.Table, dropped: pa.Table) -> dict[str, Any]:
    """Utterances, hours and speakers by split and in all; utterances and hours lost by reason."""
    splits = sorted(pc.unique(table["split"]).to_pylist())
    reasons = sorted(pc.unique(dropped["reason"]).to_pylist())
    return {
        "splits": {split: _counts(table.filter(pc.equal(table["split"], split))) for split in splits},
        "total": _counts(table),
        "dropped": {reason: _lost(dropped.filter(pc.equal(dropped["reason"], reason))) for reason in reasons},
    }


def _counts(table: pa.Table) -> dict[str, Any]:
    """Speakers are counted by corpus: the same number in two corpora is two people."""
    named = table.filter(pc.not_equal(table["speaker"], ""))
    speakers = len(named.group_by(["corpus", "speaker"]).aggregate([])) if len(named) else 0
    return _lost(table) | {"speakers": speakers}


def _lost(table: pa.Table) -> dict[str, Any]:
    return {"utterances": len(table), "hours": round(float(np.sum(numbers(table, "duration_s"))) / 3600, 6)}


def as_text(summary: dict[str, Any], files: dict[str, str]) -> str:
    """Tables of it, and where the files are."""
    rows = [
        [split, f"{c['utterances']:,}", f"{c['hours']:.3f}", f"{c['speakers']:,}" if c["speakers"] else "unknown"]
        for split, c in [*summary["splits"].items(), ("total", summary["total"])]
    ]
    blocks = [cli.table(["split", "utterances", "hours", "speakers"], rows)]
    if summary["dropped"]:
        lost = [[reason, f"{c['utterances']:,}", f"{c['hours']:.3f}"] for reason, c in summary["dropped"].items()]
        blocks.append(cli.table(["dropped", "utterances", "hours"], lost))
    if remarks := summary.get("remarks"):
        blocks.append("\n".join(remarks))
    blocks.append("\n".join(f"{what}: {uri}" for what, uri in files.items()))
    return "\n\n".join(blocks)
