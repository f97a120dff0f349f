"""Batches of padded float32 features with token ids and utterance ids: lhotse, webdataset and asr.data, in turn.

usage: python tests/bench/loader.py MANIFEST FOLDER [HOURS]     (pip install lhotse first; pin it to one core)

MANIFEST is what prepare-corpus made, of whole files and at least two hours; FOLDER keeps what is prepared of it: our
shards, which webdataset reads too, lhotse's Shar with features in float32 (as its own commands write them, stored as
numpy arrays, which it reads faster than lilcom), and a vocabulary of 1,000. All read the corpus as often as makes HOURS
(default 40) in one epoch: webdataset its list of tars so many times over, lhotse by `repeat`, we by `Lengths.times`.
Batches hold up to 600 s, padding included. Texts are tokenised by the same call on all sides.

Each case runs in a process of its own, so that the first batch and the peak of memory are its own; what it imports and
opens is outside of the clock but for `first batch`, which counts from after the imports. CPU time, of all its threads.
"""

import bisect
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
import torch

from asr.tokenizer import Tokenizer

REPETITIONS = 3
BATCH_S = 600
BUCKETS = 30
CASES = ("lhotse Shar, DynamicBucketingSampler", "webdataset, bucketing", "asr.data", "asr.data, two loader threads")
Examples = tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]  # features, frames, tokens, ids


@dataclass
class Figures:
    hours: float
    utterances: int
    batches: int
    padding: float
    cpu_s: float
    wall_s: float
    first_s: float
    peak_mb: float


def main() -> None:
    manifest, folder = Path(sys.argv[1]), Path(sys.argv[2])
    hours = float(sys.argv[3]) if len(sys.argv) > 3 else 40.0
    prepare(manifest, folder)
    found: dict[str, list[Figures]] = {case: [] for case in CASES}
    for _ in range(REPETITIONS):
        for case in CASES:
            command = [sys.executable, __file__, "--case", case, str(folder), str(hours)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[case].append(Figures(**json.loads(done.stdout.splitlines()[-1])))
    print_table(found)


def prepare(manifest: Path, folder: Path) -> None:
    """What is not there yet."""
    from pipelines import featurize, vocab

    if not (folder / "ours" / "index.parquet").exists():
        arguments = ["--manifest", str(manifest), "--out", str(folder / "ours"), "--workers", "0", "--shard-size", "64"]
        assert featurize.main(arguments) == 0
    if not (folder / "vocab").exists():
        splits = ["--splits", *sorted(p.name[5:-4] for p in (folder / "ours").glob("urls-*.txt"))]
        assert vocab.main(["--manifest", str(manifest), *splits, "--size", "1000", "--out", str(folder / "vocab")]) == 0
    if not (folder / "shar").exists():
        prepare_lhotse(manifest, folder)


def prepare_lhotse(manifest: Path, folder: Path) -> None:
    from lhotse import CutSet, Fbank, FbankConfig, NumpyFilesWriter, Recording, SupervisionSegment

    from manifests import parquet

    cuts = []
    for row in parquet.read_manifests([str(manifest)], None):
        cut = Recording.from_file(row.audio, recording_id=row.id).to_cut()
        cut.id = row.id
        cut.supervisions = [SupervisionSegment(row.id, row.id, 0.0, cut.duration, text=row.text)]
        cuts.append(cut)
    extractor = Fbank(FbankConfig(sampling_rate=16000, num_mel_bins=80))
    with_features = CutSet.from_cuts(cuts).compute_and_store_features(
        extractor, folder / "lhotse-features", storage_type=NumpyFilesWriter
    )
    staged = folder / "shar.writing"
    staged.mkdir(parents=True, exist_ok=True)
    with_features.to_shar(staged, fields={"features": "numpy"}, shard_size=1000)
    staged.rename(folder / "shar")


def run_case(case: str, folder: Path, hours: float) -> Figures:
    torch.set_num_threads(1)
    tokenizer = Tokenizer.load(str(next((folder / "vocab").glob("*.model"))))
    modules = {"lhotse": ["lhotse.dataset"], "webdataset": ["webdataset"]}
    # pyarrow loads pandas at its first use, 0.4 s
    for module in modules.get(case.partition(",")[0].split()[0], ["asr.data", "pandas", "pyarrow.compute"]):
        importlib.import_module(module)
    stats = json.loads((folder / "ours" / "stats.json").read_text())
    times = round(hours / stats["hours"])
    start_cpu_s, start_s, first_s = time.process_time(), time.perf_counter(), 0.0
    if case.startswith("lhotse"):
        batches = with_lhotse(folder, times, tokenizer)
    elif case.startswith("webdataset"):
        batches = with_webdataset(folder, times, tokenizer)
    else:
        batches = with_ours(folder, times, tokenizer, threads=2 if "two" in case else 1)
    utterances = frames = padded = count = 0
    for feats_btf, lens_b, targets_bu, ids in batches:
        first_s = first_s or time.perf_counter() - start_s
        assert feats_btf.dtype == torch.float32 and len(feats_btf) == len(targets_bu) == len(ids)
        utterances, count = utterances + len(ids), count + 1
        frames, padded = frames + int(lens_b.sum()), padded + feats_btf.shape[0] * feats_btf.shape[1]
    cpu_s, wall_s = time.process_time() - start_cpu_s, time.perf_counter() - start_s
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Figures(frames / 360_000, utterances, count, 1 - frames / padded, cpu_s, wall_s, first_s, peak_mb)


def targets(texts: list[str], tokenizer: Tokenizer) -> torch.Tensor:
    tokens = tokenizer.encode_batch(texts)
    targets_bu = np.zeros((len(tokens), max(map(len, tokens))), np.int64)
    for row, ids in zip(targets_bu, tokens, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(targets_bu)


def with_lhotse(folder: Path, times: int, tokenizer: Tokenizer) -> Iterator[Examples]:
    from lhotse import CutSet
    from lhotse.dataset import DynamicBucketingSampler, IterableDatasetWrapper, K2SpeechRecognitionDataset
    from lhotse.dataset.input_strategies import PrecomputedFeatures

    fields = {name: sorted(map(str, (folder / "shar").glob(f"{name}.*"))) for name in ("cuts", "features")}
    cuts = CutSet.from_shar(fields=fields, shuffle_shards=True, stateful_shuffle=True, seed=0).repeat(times)
    sampler = DynamicBucketingSampler(cuts, max_duration=BATCH_S, num_buckets=BUCKETS, shuffle=True, drop_last=False)
    dataset = K2SpeechRecognitionDataset(input_strategy=PrecomputedFeatures(), return_cuts=True)
    loader = torch.utils.data.DataLoader(IterableDatasetWrapper(dataset, sampler), batch_size=None, num_workers=0)
    for batch in loader:
        about = batch["supervisions"]
        yield batch["inputs"], about["num_frames"], targets(about["text"], tokenizer), [cut.id for cut in about["cut"]]


def with_webdataset(folder: Path, times: int, tokenizer: Tokenizer) -> Iterator[Examples]:
    """Our tars, shuffled as webdataset does, into buckets by quantiles of length as lhotse has them."""
    import webdataset

    from shards.index import open_shards

    lengths = np.sort(open_shards(str(folder / "ours")).frames)
    edges = lengths[[len(lengths) * i // BUCKETS for i in range(1, BUCKETS)]].tolist()
    tars = sorted(map(str, (folder / "ours").glob("*.tar"))) * times
    samples = webdataset.WebDataset(tars, shardshuffle=100, empty_check=False).shuffle(1000).decode()
    buckets: list[list[tuple]] = [[] for _ in range(BUCKETS)]
    for sample in samples.to_tuple("__key__", "npy", "txt"):
        bucket = buckets[bisect.bisect_right(edges, len(sample[1]))]
        if (len(bucket) + 1) * max(len(sample[1]), *(len(f) for _, f, _ in bucket), 0) > BATCH_S * 100:
            yield collate(bucket, tokenizer)
            bucket.clear()
        bucket.append(sample)
    yield from (collate(bucket, tokenizer) for bucket in buckets if bucket)


def collate(bucket: list[tuple], tokenizer: Tokenizer) -> Examples:
    """As asr.data does it, which is the fastest way we know."""
    ids, feats, texts = zip(*bucket, strict=True)
    lens = [len(f) for f in feats]
    padded = torch.empty((len(feats), max(lens), feats[0].shape[1]), dtype=torch.float16)
    for row, f in zip(padded.numpy(), feats, strict=True):
        row[: len(f)] = f
        row[len(f) :] = 0
    return padded.float(), torch.tensor(lens), targets(list(texts), tokenizer), list(ids)


def with_ours(folder: Path, times: int, tokenizer: Tokenizer, threads: int) -> Iterator[Examples]:
    from asr.corpus import Corpus
    from asr.data import Feed, batches
    from asr.missing import Missing
    from shards.index import open_shards
    from shards.plan import Budget, Lengths, plan_epoch

    shards = open_shards(str(folder / "ours"))
    corpus, missing, rows = Corpus(shards, tokenizer), Missing(shards.files), np.arange(len(shards))
    missing.look(0)
    lengths = Lengths(shards.frames, np.ones(len(rows), np.int32), shards.shard, np.full(len(rows), times, np.int32))
    plan = plan_epoch(lengths, Budget(BATCH_S * 100, 1 << 30), seed=0, epoch=0)
    feed = Feed(corpus, rows, plan, 0, None, (0, 0), missing)
    device = torch.device("cpu")
    for batch in batches(feed, 0, threads):
        yield *batch.features(device, corpus.spec), batch.targets_bu, corpus.ids(np.concatenate(batch.rows))


def print_table(found: dict[str, list[Figures]]) -> None:
    print("| case | hours | audio-hours per core-s, median | min to max | padding | first batch, s | peak, MB |")
    print("|---|---|---|---|---|---|---|")
    for case, figures in found.items():
        rates = [f.hours / f.cpu_s for f in figures]
        first, peak = (statistics.median(getattr(f, name) for f in figures) for name in ("first_s", "peak_mb"))
        print(f"| {case} | {figures[0].hours:.1f} | {statistics.median(rates):.1f} | {min(rates):.1f} to "
              f"{max(rates):.1f} | {figures[0].padding:.2%} | {first:.2f} | {peak:,.0f} |")  # fmt: skip
    ours = [f.hours / f.cpu_s for f in found["asr.data"]]
    for case in CASES[:2]:
        theirs = [f.hours / f.cpu_s for f in found[case]]
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        print(f"asr.data against {case}: {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    if sys.argv[1] == "--case":
        print(json.dumps(asdict(run_case(sys.argv[2], Path(sys.argv[3]), float(sys.argv[4])))))
    else:
        main()
