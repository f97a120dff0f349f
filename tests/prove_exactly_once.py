"""Proves the promise of the whole way on one machine: whatever dies, nothing is lost and nothing comes twice.

usage: python -m tests.prove_exactly_once MANIFEST --work FOLDER      (MANIFEST: what prepare-corpus made, 2 h or more)

1. Shards are written by one process to a local folder: the reference.
2. They are written to s3:// (moto's server behind a proxy that cuts connections and answers 500 and 503) by a Ray
   cluster of three nodes. A node is killed, then a worker with kill -9, then the driver; a node joins; the command is
   repeated. Every file must be the reference's, byte for byte.
3. Two ranks train from s3://; one is killed with kill -9 in the middle of the epoch; three ranks resume. From the logs
   of the ranks, each utterance must have been trained on exactly once in the epoch.

Each step prints what it did; the first thing that does not hold ends the script with exit code 1.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from manifests import storage
from shards.index import open_shards
from tests.faulty_proxy import Faults, FaultyProxy, environment, s3_server

BUCKET = "s3://speech"
LOOK_S = 0.2
PATIENCE_S = 600.0
COMMANDS = Path(sys.executable).parent
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", help="a folder that prepare-corpus made")
    parser.add_argument("--splits", nargs="+", default=["train"], metavar="SPLIT", help="of it (default: train)")
    parser.add_argument("--work", type=Path, required=True, help="an empty folder for everything that is made")
    parser.add_argument("--shard-size", default="8", help="MB; small ones leave more to kill (default 8)")
    args = parser.parse_args()
    if args.work.exists() and any(args.work.iterdir()):
        parser.error(f"{args.work}: is not empty")
    os.environ |= ONE_THREAD
    write = ["write-shards", "--manifest", args.manifest, "--splits", *args.splits]
    write += ["--shard-size", args.shard_size]
    reference = args.work / "reference"
    say("one process writes the reference")
    run([*write, "--out", str(reference), "--workers", "0"])
    with object_store() as proxy:
        write_while_things_die([*write, "--out", f"{BUCKET}/set"])
        compare(reference)
        say(f"what the proxy did while shards were written: {dict(proxy.counts)}")
        train_while_a_rank_dies(args.manifest, args.work)
        say(f"what the proxy did in all: {dict(proxy.counts)}")
    prove(reference, args.work / "run")
    os._exit(0)  # Ray's threads are not waited for


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def check(holds: bool, text: str) -> None:
    say(f"{'yes' if holds else 'NO'}: {text}")
    if not holds:
        os._exit(1)


def start(arguments: list[str], log: Path | None = None) -> subprocess.Popen:
    out = None if log is None else log.open("w")
    return subprocess.Popen([COMMANDS / arguments[0], *arguments[1:]], stdout=out, stderr=subprocess.STDOUT)


def run(arguments: list[str]) -> None:
    code = start(arguments).wait()
    check(code == 0, f"{' '.join(arguments)[:60]} … ended with exit code {code}")


def wait_for(ready: Callable[[], bool], process: subprocess.Popen, what: str) -> None:
    """Until `ready`; the process must be at work the whole time, or a kill would prove nothing."""
    begin = time.monotonic()
    while not ready():
        if process.poll() is not None or time.monotonic() - begin > PATIENCE_S:
            check(False, f"{what} (the process ended before, or took too long)")
        time.sleep(LOOK_S)
    check(process.poll() is None, f"{what}, in the middle of the work")


@contextlib.contextmanager
def object_store() -> Iterator[FaultyProxy]:
    """moto's S3 server; the environment leads to it through the proxy."""
    faults = Faults(cut_every=23, error_every=17, lost_every=41)
    with s3_server(BUCKET.removeprefix("s3://")) as direct, FaultyProxy(direct, faults) as proxy:
        os.environ |= environment(proxy.url)
        yield proxy


def finished() -> int:
    """Shards whose records are there: those that a repeated command does not write again."""
    return sum(uri.endswith(".json") for uri, _ in storage.list_files(f"{BUCKET}/set/parts"))


def write_while_things_die(write: list[str]) -> None:
    from ray.cluster_utils import Cluster

    memory = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=memory)
    doomed = cluster.add_node(**memory)
    cluster.add_node(**memory)
    write = [*write, "--ray-address", cluster.address]
    say(f"three nodes at {cluster.address}")
    driver = start(write)
    wait_for(lambda: finished() >= 2, driver, "two shards are finished; a node is killed")
    cluster.remove_node(doomed, allow_graceful=False)
    wait_for(lambda: finished() >= 5, driver, "five shards are finished; a worker is killed")
    worker = busy_workers()[0]
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: finished() >= 8, driver, "eight shards are finished; the driver is killed")
    driver.kill()
    driver.wait()
    before = finished()
    check(not storage.exists(f"{BUCKET}/set/index.parquet"), f"{before} finished shards and no index are left")
    cluster.add_node(**memory)
    say("a node joins; the command is repeated")
    run(write)
    cluster.shutdown()


def busy_workers() -> list[int]:
    """Process ids of Ray workers that run a task now: Ray shows the task in the process title."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and (folder / "cmdline").read_bytes().startswith(b"ray::call"):
                found.append(int(folder.name))
    check(bool(found), "a worker is found at work")
    return found


def compare(reference: Path) -> None:
    ours = {uri.removeprefix(f"{reference}/"): uri for uri, _ in storage.list_files(str(reference))}
    theirs = {uri.removeprefix(f"{BUCKET}/set/"): uri for uri, _ in storage.list_files(f"{BUCKET}/set")}
    check(sorted(ours) == sorted(theirs), f"the {len(ours)} files of the reference are in the object store, no other")
    differing = [name for name in ours if storage.read_bytes(ours[name]) != storage.read_bytes(theirs[name])]
    check(not differing, f"every file is the reference's, byte for byte {differing}")


def train_while_a_rank_dies(manifest: str, work: Path) -> None:
    run(["build-vocab", "--manifest", manifest, "--size", "128", "--out", str(work / "vocab")])

    def command(ranks: int) -> list[str]:
        launch = ["torchrun", "--standalone", "--nproc-per-node", str(ranks), "-m", "asr.train"]
        options = {
            "--config": "tiny", "--shards": f"{BUCKET}/set/urls.txt", "--vocab": str(work / "vocab" / "bpe-128.model"),
            "--out": str(work / "run"), "--cache": str(work / "cache"),
        }  # fmt: skip
        flat = [word for pair in options.items() for word in pair]
        settings = ["epochs=1", "shortest_first=0", "save_steps=20", "log_steps=20"]
        return [*launch, *flat, "--log-utterances", "--resume", *settings]

    def steps_logged() -> int:
        path = work / "run" / "trained-rank1.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    two = start(command(2), work / "two-ranks.log")
    wait_for(lambda: steps_logged() >= 50, two, "rank 1 has taken fifty steps; it is killed")
    os.kill(rank_process(1), signal.SIGKILL)
    check(two.wait() != 0, "the training of two ranks ended with an error")
    say("three ranks resume")
    code = start(command(3), work / "three-ranks.log").wait()
    check(code == 0, f"the training of three ranks ended with exit code {code}; see three-ranks.log")


def rank_process(rank: int) -> int:
    """The process id of a rank, which torchrun names in its environment."""
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
    check(False, f"rank {rank} is found")
    raise AssertionError


def prove(reference: Path, run_folder: Path) -> None:
    shards = open_shards(str(reference))
    steps = [json.loads(line) for path in sorted(run_folder.glob("trained-rank*.jsonl")) for line in path.open()]
    seen = Counter(id_ for step in steps for id_ in step["ids"])
    worlds = Counter(step["world"] for step in steps)
    say(f"steps in the logs of all ranks, by how many ranks there were: {dict(worlds)}")
    check(set(worlds) == {2, 3}, "both two and three ranks have trained in this epoch")
    twice = [id_ for id_, count in seen.items() if count > 1]
    check(not twice, f"no utterance was trained on twice {twice[:3]}")
    missing = set(shards.column("id")) - set(seen)
    text = (run_folder.parent / "three-ranks.log").read_text()
    said = [line for line in text.splitlines() if line.startswith("left out")]
    left_out = sum(int(line.split()[2].replace(",", "")) for line in said)
    check(len(missing) == left_out, f"{len(seen):,} of {len(shards):,} utterances were trained on once; "
          f"{len(missing)} were left out, as the training said: {said}")  # fmt: skip


if __name__ == "__main__":
    main()
