"""write-shards: a manifest to a shard set of log-mel features, or audio, or both."""

import argparse
import math
from typing import Any

import pyarrow as pa

from asr.waveform_config import load_config
from configs import cli, load
from configs.wording import counted
from manifests import parquet, storage
from pipelines import executors, identity, shard_index
from pipelines.progress import progress
from pipelines.shard_example import QUARANTINED
from pipelines.shard_index import Planned
from pipelines.shard_plan import (
    AIM_SHARDS,
    LEAST_BYTES,
    MOST_BYTES,
    Place,
    Recipe,
    Tasks,
    check_copy_ids,
    content_hash,
    plan_shards,
)
from pipelines.shard_task import (
    TooManyQuarantined,
    finished,
    too_many,
    write_shard,
    write_shard_carefully,
    written,
)
from shards import index
from shards.content import NAMES, Content
from shards.spec import FrontendSpec

VERSION = 2  # raise it when the same inputs give other bytes: old results are then refused, not mixed
PARTS = "parts"  # of unfinished work inside the shard set; below it a folder for each set of inputs


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="write-shards", description=__doc__)
    parser.add_argument("--manifest", nargs="+", required=True, metavar="URI", help="folders that prepare-corpus made")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="only these (default: all)")
    parser.add_argument("--out", required=True, help="folder or URL of the shard set")
    parser.add_argument("--content", choices=NAMES, default="logmel",
                        help="log-mel in float16, or in 8 bits (logmel8) at half the size; FLAC; or both")  # fmt: skip
    parser.add_argument("--frontend", default="default", metavar="NAME", help="configs/frontend/NAME.yaml, or a file")
    parser.add_argument("--augment", metavar="NAME", help="configs/augment/NAME.yaml, or a file: add changed copies of "
                                                          "every utterance that is not held out")  # fmt: skip
    parser.add_argument("--copies", type=int, metavar="N", help="how many of them (default 1)")
    parser.add_argument("--shard-size", type=float, metavar="MB",
                        help=f"of one shard (default: about {AIM_SHARDS} shards, each of {LEAST_BYTES // 10**6} to "
                             f"{MOST_BYTES // 10**6} MB)")  # fmt: skip
    parser.add_argument("--max-quarantined", type=int, metavar="N",
                        help="utterances that may fail to be read (default: one in 1,000, at least 10)")  # fmt: skip
    parser.add_argument("--workers", type=int, default=executors.cores(), help="Ray workers here; 0: in this process")
    parser.add_argument("--ray-address", help="an existing cluster, for instance ray://head:10001")
    parser.add_argument("--force", action="store_true", help="replace what another run left in --out")
    cli.add_json(parser)
    return cli.run(write_shards, parser, argv, continues=True)


def write_shards(args: argparse.Namespace) -> None:
    """Raises ValueError for bad options, an --out of other inputs, or when no utterance could be used."""
    recipe = _recipe(args)
    out = storage.absolute(args.out)
    table = parquet.read_tables(args.manifest, args.splits)
    if not len(table):
        raise ValueError(f"{', '.join(args.manifest)}: holds no utterance; look at its dropped.parquet for the reasons")
    check_copy_ids(table, recipe)
    manifest = {"manifest": content_hash(table), "shard_size_mb": args.shard_size, "version": VERSION}
    inputs = manifest | recipe.inputs()
    parts = storage.join(out, PARTS, identity.fingerprint(inputs))
    shards = plan_shards(table, recipe, round(args.shard_size * 1e6) if args.shard_size else None)
    planned = [(shard, Place(shard.name, out, parts)) for shard in shards]
    sources = [storage.absolute(uri) for uri in args.manifest]
    claim = identity.claim(out, "write-shards", inputs, args.force, sources)
    if claim.summary is not None and not shard_index.is_whole(out):
        cli.say(args, f"{out}: was finished, but files are missing or cut short; making it again")
        claim = claim.reopen()
    if claim.summary is not None and args.force and QUARANTINED in claim.summary["dropped"]:
        cli.say(args, f"{out}: was finished without what could not be read; making it again")
        claim = claim.reopen()
    if claim.summary is None:
        for name in (index.INDEX, index.STATS):  # whoever reads the set before it is finished is told so
            storage.delete(storage.join(out, name))
        what = f"{counted(len(table), 'utterance')}, {_hours(table):.2f} h"
        cli.say(args, f"{what}, to {counted(len(shards), 'shard')} in {out}")
        _run(table, planned, recipe, args)
        summary = _finish(planned, recipe, claim)
    else:
        summary = claim.summary
        cli.say(args, f"{out}: already done")
    storage.delete_folder(storage.join(out, PARTS))  # also what was left when a finished run died at this very place
    storage.delete_staged(out)
    lists = f"shards are listed in {storage.join(out, 'urls-<split>.txt')}"
    cli.summary(args, summary, "\n".join([*shard_index.describe(summary, "utterance"), lists]))


def _recipe(args: argparse.Namespace) -> Recipe:
    if args.workers < 0 or (args.shard_size is not None and not 0 < args.shard_size < float("inf")):
        raise ValueError("--shard-size must be above 0 and finite, --workers 0 or more")
    if args.max_quarantined is not None and args.max_quarantined < 0:
        raise ValueError("--max-quarantined must be 0 or more")
    if args.copies is not None and (args.copies < 1 or args.augment is None):
        raise ValueError("--copies must be 1 or more, and needs --augment NAME, which says how they are changed")
    spec, content = load.load(FrontendSpec, args.frontend, "frontend"), Content.named(args.content)
    if args.augment is None:
        return Recipe(spec, content)
    return Recipe(spec, content, load_config(args.augment), args.copies or 1)


def _hours(table: pa.Table) -> float:
    return float(table["duration_s"].to_numpy().sum()) / 3600


def _run(table: pa.Table, planned: Planned, recipe: Recipe, args: argparse.Namespace) -> None:
    """Write the shards that are missing.

    Raises TooManyQuarantined when more utterances could not be read than may be; a repeat tries those again.
    """
    limit = args.max_quarantined if args.max_quarantined is not None else max(10, math.ceil(len(table) / 1000))
    left = _finished(planned)
    quarantined = {place: left[place] for place in left if left[place]}
    if sum(quarantined.values()) > limit:
        _forget(quarantined)
        left = {place: count for place, count in left.items() if not count}
        quarantined = {}
    missing = [(shard, place) for shard, place in planned if place not in left]
    if not missing:
        return
    durations_s = table["duration_s"].to_numpy()
    hours = float(sum(durations_s[shard.rows].sum() for shard, _ in missing)) / 3600
    tasks = Tasks(table, missing, recipe, limit)
    try:
        with (
            executors.executor(args.workers, args.ray_address) as run,
            progress("shards", hours, "h of audio") as advance,
        ):
            for position, done in run(write_shard, tasks, fallback=write_shard_carefully):
                advance(done.audio_s / 3600, failures=done.dropped)
                if done.quarantined:
                    quarantined[missing[position][1]] = done.quarantined
                    _check(quarantined, limit)
    except TooManyQuarantined:
        _forget(quarantined)
        raise


def _forget(quarantined: dict[Place, int]) -> None:
    """Have these shards written again."""
    for place in quarantined:
        storage.delete(place.record_uri)


def _finished(planned: Planned) -> dict[Place, int]:
    """The finished shards, and how many of their utterances are quarantined."""
    there = {uri for uri, _ in storage.list_files(planned[0][1].parts)}
    places = [place for _, place in planned if place.record_uri in there]
    records = zip(places, shard_index.in_turn(finished, places), strict=True)
    return {place: written(record).quarantined for place, record in records if record is not None}


def _check(quarantined: dict[Place, int], limit: int) -> None:
    """Raises TooManyQuarantined."""
    count = sum(quarantined.values())
    if count > limit:
        record = finished(next(iter(quarantined)))
        assert record is not None
        first = next(row for row in record["dropped"] if row["reason"] == QUARANTINED)
        raise too_many(count, limit, first["audio"], first["detail"])


def _finish(planned: Planned, recipe: Recipe, claim: identity.Claim) -> dict[str, Any]:
    """Everything beside the tars. Raises ValueError, and leaves nothing in the folder, when all shards are empty."""
    out = claim.out
    totals = shard_index.total(planned, recipe)
    if not totals.splits:
        storage.delete_folder(storage.join(out, PARTS))
        storage.delete_staged(out)
        storage.delete(storage.join(out, identity.RECORD))
        first = totals.dropped[0].slice(0, 1).to_pylist()[0]
        raise ValueError(f"no utterance could be used; the first: {first['audio']}: {first['detail']}")
    shard_index.write_index(out, totals, recipe)
    summary = shard_index.summary(totals.splits, totals.dropped, recipe.spec, recipe.content)
    claim.finish(summary)
    return summary
