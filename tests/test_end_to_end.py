"""The whole way on real speech: LibriSpeech files to the words that are printed. Minutes long, so `make test-slow`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asr.evaluation.scoring import count_edits
from manifests import parquet

MEMORISE = [
    "epochs=90", "shortest_first=1", "dev_epochs=90", "data.batch_s=24", "data.max_s=24", "augment.share=0",
    "augment.gap_s=0", "augment.time_masks=0", "augment.mel_masks=0", "model.predictor_dropout=0",
    "optim.warmup_steps=200",
]  # fmt: skip


def command(module: str, *arguments: object) -> str:
    """Standard output of one of our commands in a process of its own."""
    code = f"import sys; from {module} import main; sys.exit(main())"
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_machine_learns_86_real_utterances_by_heart(speech_data: Path, tmp_path: Path) -> None:
    """Trained long enough on so little, the model must give the words back, streamed and at once alike."""
    manifest, vocab, shards, run = (tmp_path / name for name in ("manifest", "vocab", "shards", "run"))
    command("pipelines.prepare", "librispeech", "--root", speech_data / "LibriSpeech", "--out", manifest)
    splits = ["train-clean-100", "dev-clean", "test-clean", "test-other"]
    command("pipelines.vocab", "--manifest", manifest, "--size", 128, "--splits", *splits, "--out", vocab)
    command("pipelines.featurize", "--manifest", manifest, "--workers", 0, "--out", shards)
    command("asr.train", "--config", "tiny", "--shards", shards / "urls.txt", "--vocab", vocab / "bpe-128.model",
            "--out", run, *MEMORISE)  # fmt: skip
    rows = parquet.read_manifests([str(manifest)])
    assert len(rows) == 86
    files = [row.audio for row in rows]
    streamed, at_once = (
        command("asr.transcribe", *files, "--bundle", run / "last", "--chunk-ms", chunk_ms, "--format", "json")
        for chunk_ms in (200, 0)
    )
    assert streamed == at_once
    texts = [json.loads(line)["text"] for line in streamed.splitlines()]
    edits = [count_edits(row.text, text) for row, text in zip(rows, texts, strict=True)]
    errors, words = sum(e.errors for e in edits), sum(e.reference_length for e in edits)
    print(f"{errors} errors in {words} words: {errors / words:.2%}")
    assert errors <= 0.05 * words
