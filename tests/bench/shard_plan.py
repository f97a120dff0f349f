"""write-shards without the audio, at a million utterances: what planning and the index cost.

usage: python -m tests.bench.shard_plan [ROWS]

A made-up manifest, like LibriSpeech's in its strings, is read, hashed, planned and cut into tasks; the tasks then run
with a decoder that gives one frame of silence, and the index is made from what they leave. Prints CPU seconds of each
stage and the peak of memory so far.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import soundfile

from manifests import parquet, storage
from manifests.schema import UTTERANCE_SCHEMA, Utterance
from pipelines import shard_index
from pipelines.shard_example import Example, Found
from pipelines.shard_plan import Place, Recipe, Tasks, content_hash, plan_shards
from pipelines.shard_task import write_shard
from shards.content import Content
from shards.index import open_shards
from shards.spec import FrontendSpec

RECIPE = Recipe(FrontendSpec(), Content.named("logmel"))
SILENCE_TF = np.full((1, 80), -15.9, np.float32)
Result = TypeVar("Result")


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        manifest, out = f"{folder}/manifest", f"{folder}/out"
        maker = multiprocessing.get_context("spawn").Process(target=write_manifest, args=(manifest, rows))
        maker.start()  # in a process of its own, for its memory is not to count
        maker.join()
        print(f"{rows:,} utterances\n\n| stage | CPU s | peak MB so far |\n|---|---|---|")
        table = timed("read the manifest", lambda: parquet.read_tables([manifest]))
        timed("hash its content", lambda: content_hash(table))
        shards = timed("plan", lambda: plan_shards(table, RECIPE))
        planned = [(shard, Place(shard.name, out, f"{out}/parts")) for shard in shards]
        tasks = Tasks(table, planned, RECIPE, 10)
        timed(f"make {len(tasks)} tasks", lambda: sum(len(task.rows) for task in tasks))
        storage.write_text(f"{out}/step.json", "{}")
        timed("run them, without audio", lambda: [write_shard(task, silence) for task in tasks])
        totals = timed("add up", lambda: shard_index.total(planned, RECIPE))
        timed("write the index", lambda: shard_index.write_index(out, totals, RECIPE))
        assert len(timed("open it", lambda: open_shards(out))) == rows


def write_manifest(folder: str, rows: int) -> None:
    """Some thousands of strings, drawn again and again; the one audio file is of a tenth of a second."""
    Path(folder).mkdir()
    soundfile.write(f"{folder}/a.flac", np.zeros(1600), 16000)
    rng = np.random.default_rng(0)
    texts = [" ".join(f"word{n}" for n in rng.integers(0, 999, length)) for length in rng.integers(5, 45, 5000)]
    text = pa.array(texts).take(pa.array(rng.integers(0, len(texts), rows)))
    same = Utterance("", "librispeech", "train", "en", "", f"{folder}/a.flac", 0.0, 0.0, 16000, 1, "", "", "CC BY 4.0",
                     "openslr.org/12", loudness_lufs=-23.0, peak_dbfs=-3.0, clipped_share=0.0)  # fmt: skip
    values = {name: pa.array([getattr(same, name)] * rows, UTTERANCE_SCHEMA.field(name).type)
              for name in UTTERANCE_SCHEMA.names}  # fmt: skip
    values |= {
        "id": pa.array([f"{i % 5000:05d}-{i // 5000:06d}-{i:08d}" for i in range(rows)]), "text": text,
        "speaker": pa.array([f"{i % 5000:05d}" for i in range(rows)]), "text_raw": text,
        "duration_s": pa.array(rng.uniform(1, 17, rows).round(3)),
    }  # fmt: skip
    parquet.write(f"{folder}/{parquet.MANIFEST}", pa.table(values, schema=UTTERANCE_SCHEMA))


def silence(utterance: Utterance, recipe: Recipe, data: bytes | None) -> Found:
    return [Example(utterance.id, 0, "", utterance.duration_s, SILENCE_TF, None)]


def timed(what: str, work: Callable[[], Result]) -> Result:
    start_s = time.process_time()
    result = work()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"| {what} | {time.process_time() - start_s:.2f} | {peak_mb:,.0f} |", flush=True)
    return result


if __name__ == "__main__":
    main()
