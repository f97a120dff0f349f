"""inspect-shards: what is in a shard set, one utterance of it to hear or see, and whether every byte is as it was."""

import argparse
import difflib
import json
from collections import Counter
from typing import Any

import numpy as np
import pyarrow.compute as pc

from configs import cli
from configs.wording import counted
from manifests import storage
from manifests.storefaults import shown
from pipelines import dump_utterance, identity, progress, verify_shards
from shards import index
from shards.index import ShardSet

SEARCHED = 20_000  # ids that are compared with one that is not there; of more those that begin alike


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="inspect-shards", description=__doc__)
    parser.add_argument(
        "source", metavar="SOURCE", help="shard folder, index.parquet, .tar or list of shards; or a URL"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="a line for each shard")
    what.add_argument("--utterance", metavar="ID", help="the row of one utterance")
    what.add_argument("--verify", action="store_true", help="read every byte, and tell all that is not as it should be")
    parser.add_argument("--to", metavar="FILE", help="write the utterance there, also over a file: "
                        f"{', '.join(dump_utterance.FORMS)}")  # fmt: skip
    cli.add_json(parser)
    return cli.run(inspect_shards, parser, argv)


def inspect_shards(args: argparse.Namespace) -> None:
    """Raises ValueError for what is no shard set, for an unknown utterance, and for damage that was found."""
    if args.to is not None and args.utterance is None:
        raise ValueError(f"--to {args.to}: which utterance? Say --utterance ID")
    shards = index.open_shards(args.source)
    if args.utterance is not None:
        _utterance(args, shards)
    elif args.verify:
        _verify(args, shards)
    elif args.list:
        files = per_shard(shards)
        cli.summary(args, {"shards": files}, _list(files))
    else:
        values = totals(shards)
        cli.summary(args, values, _describe(values))


def totals(shards: ShardSet) -> dict[str, Any]:
    """Everything that is said of a set as a whole, as plain values."""
    frames, own_bytes = shards.frames.astype(np.int64), _row_bytes(shards)
    copies = np.array(shards.column("copy"), np.int32)
    groups: dict[str, Any] = {}
    for name in ("split", "corpus", "language"):
        codes = shards.table([name]).column(0).dictionary_encode().combine_chunks()
        groups[name] = _grouped(codes, frames, own_bytes, shards.spec.frame_s)
    speakers = {(row["corpus"], row["speaker"]) for row in _pairs(shards) if row["speaker"]}
    return {
        "utterances": len(shards),
        "hours": round(shards.hours, 4),
        "bytes": sum(file.size_bytes for file in shards.files),
        "shards": len(shards.files),
        "content": shards.content.name,
        "features": {"mels": shards.spec.mels, "frame_ms": 1000 * shards.spec.frame_s,
                     "sample_rate": shards.spec.sample_rate, "fingerprint": shards.spec.fingerprint},
        "fingerprint": shards.fingerprint,
        "splits": groups["split"],
        "corpora": groups["corpus"],
        "languages": groups["language"],
        "speakers": len(speakers),
        "originals": int((copies == 0).sum()),
        "copies": int((copies > 0).sum()),
        "copies_hours": round(float(frames[copies > 0].sum()) * shards.spec.frame_s / 3600, 4),
        "augmentation": _augmentation(shards, copies),
        "longest": _extreme(shards, int(frames.argmax())),
        "shortest": _extreme(shards, int(frames.argmin())),
    }  # fmt: skip


def _row_bytes(shards: ShardSet) -> np.ndarray:
    """A row's share of its shard's size, in proportion to its parts: headers and padding are shared out."""
    parts = (shards.feature_length + shards.audio_length + shards.text_length).astype(np.float64)
    sizes = np.array([file.size_bytes for file in shards.files], np.float64)
    return parts * (sizes / np.bincount(shards.shard, parts, len(shards.files)))[shards.shard]


def _grouped(codes: Any, frames: np.ndarray, own_bytes: np.ndarray, frame_s: float) -> dict[str, dict[str, Any]]:
    names, places = codes.dictionary.to_pylist(), codes.indices.to_numpy()
    counts, lengths, sizes = (np.bincount(places, weights, len(names)) for weights in (None, frames, own_bytes))
    return {
        names[i]: {
            "utterances": int(counts[i]),
            "hours": round(float(lengths[i]) * frame_s / 3600, 4),
            "bytes": round(float(sizes[i])),
        }
        for i in sorted(range(len(names)), key=names.__getitem__)
    }


def _pairs(shards: ShardSet) -> list[dict[str, str]]:
    return shards.table(["corpus", "speaker"]).group_by(["corpus", "speaker"]).aggregate([]).to_pylist()


def _augmentation(shards: ShardSet, copies: np.ndarray) -> dict[str, int]:
    """How many utterances each transform was applied to."""
    if not copies.any():
        return {}
    applied: Counter[str] = Counter()
    for text in shards.column("augmentation"):
        if text:
            applied.update({what["name"] for what in json.loads(text)})
    return dict(applied.most_common())


def _extreme(shards: ShardSet, row: int) -> dict[str, Any]:
    id = shards.table(["id"]).column(0)[row].as_py()
    return {"id": id, "seconds": round(float(shards.frames[row]) * shards.spec.frame_s, 2)}


def _describe(values: dict[str, Any]) -> str:
    made = values["features"]
    lines = [
        f"{values['content']}: {made['mels']} mels, frames of {made['frame_ms']:g} ms, {made['sample_rate']:,} Hz "
        f"(features {made['fingerprint']}, this set {values['fingerprint']})",
        f"{counted(values['utterances'], 'utterance')}, {values['hours']:.2f} h, "
        f"{counted(values['speakers'], 'speaker')}, in {counted(values['shards'], 'shard')} of "
        f"{progress.size(values['bytes'])} together",
    ]
    for title, key in (("split", "splits"), ("corpus", "corpora"), ("language", "languages")):
        rows = [
            [name or "(none)", f"{v['utterances']:,}", f"{v['hours']:.2f}", f"{v['bytes'] / 1e6:,.1f}"]
            for name, v in values[key].items()
        ]
        lines += ["", cli.table([title, "utterances", "hours", "MB"], rows)]
    longest, shortest = values["longest"], values["shortest"]
    lines += ["", f"longest: {longest['id']}, {longest['seconds']} s; shortest: {shortest['id']}, "
              f"{shortest['seconds']} s"]  # fmt: skip
    if values["copies"]:
        done = ", ".join(f"{name} {count:,}" for name, count in values["augmentation"].items())
        lines.append(f"{values['copies']:,} of them, {values['copies_hours']:.2f} h, are augmented copies ({done})")
    each = "no copies"
    if values["copies"]:
        each = f"{counted(values['originals'], 'original')} and {counted(values['copies'], 'copy', 'copies')}"
    lines.append(f"an epoch is each of the {values['utterances']:,} once ({each}): {values['hours']:.2f} h")
    return "\n".join(lines)


def per_shard(shards: ShardSet) -> list[dict[str, Any]]:
    """What is in each shard, in the order of the index."""
    counts = np.bincount(shards.shard, minlength=len(shards.files))
    frames = np.bincount(shards.shard, shards.frames, len(shards.files))
    return [
        {
            "url": shown(file.url), "utterances": int(counts[i]), "bytes": file.size_bytes,
            "hours": round(float(frames[i]) * shards.spec.frame_s / 3600, 4), "sha256": file.sha256,
        }
        for i, file in enumerate(shards.files)
    ]  # fmt: skip


def _list(files: list[dict[str, Any]]) -> str:
    rows = [
        [file["url"], f"{file['utterances']:,}", f"{file['hours']:.2f}", f"{file['bytes'] / 1e6:,.1f}"]
        for file in files
    ]
    return cli.table(["shard", "utterances", "hours", "MB"], rows)


def _utterance(args: argparse.Namespace, shards: ShardSet) -> None:
    row = _row_of(shards, args.utterance)
    facts = {name: shards.table([name]).column(0)[row].as_py() for name in index.SCHEMA.names}
    facts |= {name: shown(facts[name]) for name in ("shard", "audio", "source")}
    if args.to is not None:
        cli.say(args, dump_utterance.dump(shards, row, facts, args.to))
    width = max(map(len, facts))
    lines = [f"{name.ljust(width)}  {value}" for name, value in facts.items() if value not in ("", None)]
    cli.summary(args, facts, "\n".join(lines))


def _row_of(shards: ShardSet, id: str) -> int:
    """Raises ValueError that names the ids most like one that is not there."""
    ids = shards.table(["id"]).column(0)
    row = pc.index(ids, id).as_py()
    if row >= 0:
        return int(row)
    pool, length = ids, len(id)
    while len(ids) > SEARCHED and length:
        pool = ids.filter(pc.starts_with(ids, id[:length]))
        if len(pool):
            break
        length -= 1
    near = difflib.get_close_matches(id, pool[:SEARCHED].to_pylist(), n=3, cutoff=0.5)
    hint = f"; the nearest are {', '.join(near)}" if near else f"; ids are like {ids[0].as_py()}"
    raise ValueError(f"no utterance {id} among {len(ids):,}{hint}")


def _verify(args: argparse.Namespace, shards: ShardSet) -> None:
    total = sum(file.size_bytes for file in shards.files)
    bad: dict[str, list[str]] = {}
    good = Counter[str]()
    with progress.progress("verifying", total, "bytes") as advance:
        for verdict in verify_shards.verify(shards, advance):
            if verdict.faults:
                bad[shown(verdict.url)] = list(verdict.faults)
            else:
                good.update({"shards": 1, "utterances": verdict.utterances, "frames": verdict.frames})
    beside = verify_shards.set_faults(shards)
    hours = good["frames"] * shards.spec.frame_s / 3600
    values = {
        "shards": len(shards.files), "bytes": total, "bad": bad, "beside": beside, "good": good["shards"],
        "good_utterances": good["utterances"], "good_hours": round(hours, 4),
    }  # fmt: skip
    lines = [f"{url}: {fault}" for url, faults in bad.items() for fault in faults] + beside
    are = "is" if len(shards.files) == 1 else "are"
    well = f"{good['shards']:,} of {counted(len(shards.files), 'shard')} {are} as the index says"
    lines.append(f"{well}: {counted(good['utterances'], 'utterance')}, {hours:.2f} h")
    cli.summary(args, values, "\n".join(lines))
    if bad or beside:
        raise ValueError(_mend(shards, list(bad)))


def _mend(shards: ShardSet, bad: list[str]) -> str:
    """What to do, in one line."""
    folder = storage.parent(shards.parts[0].uri)
    record = storage.join(folder, identity.RECORD)
    step = json.loads(storage.read_bytes(record))["step"] if storage.exists(record) else "index-shards"
    if step == "write-shards":
        named = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
        first = f"delete {named or storage.join(folder, index.INDEX)}"
        return f"damage was found; to mend it {first}, then repeat the same write-shards command, which makes it anew"
    return "damage was found; to mend it get these tars again from where they came; if they are right, index them again"
