"""write-shards: a manifest to a shard set of log-mel features."""

import argparse
import json
from collections import Counter
from dataclasses import asdict
from typing import NoReturn

import pyarrow as pa

from configs import cli, load
from manifests import parquet, storage
from manifests.schema import DROPPED_SCHEMA, Utterance
from pipelines import executors, identity
from pipelines.parts import PARTS, Shard, join_shard, plan_shards, rows_uri, safe_split, write_part
from pipelines.progress import progress
from shards import index
from shards.index import Moments
from shards.spec import FrontendSpec

VERSION = 1  # raise it when the same inputs give other bytes: old results are then refused, not mixed
GROUP_PARTS = 512  # parts under way before their shards are joined: bounds what lies on disk twice


def command() -> NoReturn:
    """The process that a user starts."""
    cli.leave(main())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="write-shards", description=__doc__)
    parser.add_argument("--manifest", nargs="+", required=True, metavar="URI", help="folders that prepare-corpus made")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="only these (default: all)")
    parser.add_argument("--out", required=True, help="folder or URL of the shard set")
    parser.add_argument("--frontend", default="default", metavar="NAME", help="configs/frontend/NAME.yaml, or a file")
    parser.add_argument("--shard-size", type=float, default=512, metavar="MB", help="of one shard (default 512)")
    parser.add_argument("--workers", type=int, default=executors.cores(), help="Ray workers here; 0: in this process")
    parser.add_argument("--ray-address", help="an existing cluster, for instance ray://head:10001")
    parser.add_argument("--force", action="store_true", help="replace what another run left in --out")
    cli.add_json(parser)
    return cli.run(write_shards, parser, argv)


def write_shards(args: argparse.Namespace) -> None:
    """Raises ValueError for bad options, an --out of other inputs, or when no utterance could be used."""
    if not 0 < args.shard_size < float("inf") or args.workers < 0:
        raise ValueError("--shard-size must be above 0 and finite, --workers 0 or more")
    out = storage.absolute(args.out)
    spec = load.load(FrontendSpec, args.frontend, "frontend")
    utterances = parquet.read_manifests(args.manifest, args.splits)
    if not utterances:
        raise ValueError(f"{', '.join(args.manifest)}: holds no utterance; look at its dropped.parquet for the reasons")
    rows = identity.fingerprint([asdict(u) for u in utterances])
    inputs = {"manifest": rows, "frontend": asdict(spec), "shard_size_mb": args.shard_size, "version": VERSION}
    parts = storage.join(out, PARTS, identity.fingerprint(inputs))
    shards = plan_shards(utterances, spec, round(args.shard_size * 1e6), out, parts)
    sources = [storage.absolute(uri) for uri in args.manifest]
    claim = identity.claim(out, "write-shards", inputs, args.force, sources)
    if claim.summary is not None and not _is_whole(out):
        cli.say(args, f"{out}: was finished, but files are missing or cut short; making it again")
        claim = claim.reopen()
    if claim.summary is None:
        for name in (index.INDEX, index.STATS):  # whoever reads the set before it is finished is told so
            storage.delete(storage.join(out, name))
        cli.say(args, f"{len(utterances):,} utterances, {_hours(utterances):.2f} h, to {out}")
        _run(shards, args.workers, args.ray_address)
        summary = _finish(shards, spec, claim)
    else:
        summary = claim.summary
        cli.say(args, f"{out}: already done")
    storage.delete_folder(storage.join(out, PARTS))  # also what was left when a finished run died at this very place
    storage.delete_staged(out)
    cli.summary(args, summary, _describe(summary, out))


def _is_whole(out: str) -> bool:
    """True when the index and all shards that it names are there, in their full length."""
    try:
        shards = index.open_shards(out)
        bytes_of = dict(zip(shards.column("shard"), shards.column("shard_bytes"), strict=True))
        lists = storage.exists(storage.join(out, index.URLS))
        return lists and all(storage.size_bytes(url) == size for url, size in bytes_of.items())
    except (ValueError, KeyError, OSError):
        return False


def _hours(utterances: list[Utterance]) -> float:
    return sum(u.duration_s for u in utterances) / 3600


def _run(shards: list[Shard], workers: int, address: str | None) -> None:
    """Write and join what is missing. Shards are taken in groups, so that few parts wait on disk for their joining."""
    missing = [s for s in shards if not storage.exists(rows_uri(s))]
    seconds = sum(u.duration_s for s in missing for p in s.parts for u in p.utterances)
    if not missing:
        return
    with executors.executor(workers, address) as run, progress("features", seconds, "s of audio") as advance:
        while missing:
            group: list[Shard] = []
            while missing and (not group or sum(len(s.parts) for s in group) < GROUP_PARTS):
                group.append(missing.pop(0))
            for _, written in run(write_part, [part for shard in group for part in shard.parts]):
                advance(written.audio_s)
            for _ in run(join_shard, group):
                pass


def _finish(shards: list[Shard], spec: FrontendSpec, claim: identity.Claim) -> dict:
    """Index, statistics and URL lists from the rows of the joined shards; a shard that came out empty is deleted.

    Raises ValueError, and leaves nothing in the folder, when all are empty.
    """
    out = claim.out
    rows: list[dict] = []
    dropped: list[dict] = []
    splits: dict[str, Moments] = {}
    urls: dict[str, list[str]] = {}
    for shard in shards:
        joined = json.loads(storage.read_bytes(rows_uri(shard)))
        rows += joined["rows"]
        dropped += joined["dropped"]
        if not joined["rows"]:
            storage.delete(shard.uri)
            continue
        so_far = splits.get(shard.split, Moments.zero(spec.mels))
        splits[shard.split] = so_far.add(Moments.from_json(joined["moments"]))
        urls.setdefault(shard.split, []).append(storage.name(shard.uri))
    if not rows:
        storage.delete_folder(storage.join(out, PARTS))
        storage.delete_staged(out)
        storage.delete(storage.join(out, identity.RECORD))
        first = dropped[0]
        raise ValueError(f"no utterance could be used; the first: {first['audio']}: {first['detail']}")
    parquet.write(storage.join(out, index.INDEX), pa.Table.from_pylist(rows, schema=index.SCHEMA))
    parquet.write(storage.join(out, "dropped.parquet"), pa.Table.from_pylist(dropped, schema=DROPPED_SCHEMA))
    stats = json.dumps(index.stats_json(spec, splits), indent=1)
    storage.write_text(storage.join(out, index.STATS), stats + "\n")
    for split, names in urls.items():
        storage.write_text(storage.join(out, f"urls-{safe_split(split)}.txt"), "".join(f"{n}\n" for n in names))
    storage.write_text(storage.join(out, index.URLS), "".join(f"{n}\n" for names in urls.values() for n in names))
    summary = _summary(rows, dropped, splits, urls, spec)
    claim.finish(summary)
    return summary


def _summary(rows: list[dict], dropped: list[dict], splits: dict[str, Moments], urls: dict, spec: FrontendSpec) -> dict:
    sizes = {row["shard"]: row["shard_bytes"] for row in rows}
    counts = Counter(row["split"] for row in rows)
    reasons: dict[str, dict[str, float]] = {}
    for row in dropped:
        reason = reasons.setdefault(row["reason"], {"utterances": 0, "hours": 0.0})
        reason["utterances"] += 1
        reason["hours"] += row["duration_s"] / 3600
    per_split = {
        split: {
            "utterances": counts[split],
            "hours": round(splits[split].frames * spec.frame_s / 3600, 4),
            "shards": len(urls[split]),
            "bytes": sum(sizes[name] for name in urls[split]),
        }
        for split in splits
    }
    return {"splits": per_split, "dropped": reasons, "fingerprint": spec.fingerprint}


def _describe(summary: dict, out: str) -> str:
    rows = [
        [split, f"{v['utterances']:,}", f"{v['hours']:.2f}", f"{v['shards']:,}", f"{v['bytes'] / 1e6:,.1f}"]
        for split, v in summary["splits"].items()
    ]
    lines = [cli.table(["split", "utterances", "hours", "shards", "MB"], rows)]
    for reason, v in summary["dropped"].items():
        lines.append(f"dropped: {reason}: {v['utterances']:,} utterances, {v['hours']:.2f} h (see dropped.parquet)")
    lines.append(f"shards are listed in {storage.join(out, 'urls-<split>.txt')}")
    return "\n".join(lines)
