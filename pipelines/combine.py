"""combine-manifests: several manifests become one, with the limits and the search for leaks over all of them."""

import argparse
import functools
import hashlib
import sys

import numpy as np
import pyarrow as pa

from asr.tokenizer import Tokenizer
from configs import cli
from configs.wording import counted
from manifests import filters, parquet, schema, storage
from manifests.schema import DROPPED_SCHEMA
from pipelines import fingerprint, http, identity, manifest
from pipelines.manifest import JUDGED, Draft, carry_out, of_rows

STEP = "combine-manifests"
VERSION = 1  # raise it when the same inputs give other rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=STEP, description="Make one manifest of several: filtered, without duplicates, nothing of the tests in it."
    )
    parser.add_argument("--manifest", nargs="+", required=True, metavar="URI", help="folders that prepare-corpus made")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="only these (default: all)")
    parser.add_argument("--out", required=True, help="folder or URL of the new manifest")
    parser.add_argument("--vocab", metavar="MODEL", help="a vocab, whose pieces a second can then be limited")
    manifest.add_arguments(parser)
    cli.add_json(parser)
    return cli.run(functools.partial(combine, argv=argv), parser, argv)


def combine(args: argparse.Namespace, argv: list[str] | None = None) -> None:
    """Raises ValueError for what cannot be read, an --out of other inputs, and when no row is left."""
    pa.set_memory_pool(pa.system_memory_pool())  # with a million rows Arrow's own kept 0.4 GB of what was freed
    args.out = storage.absolute(args.out)
    limits = filters.from_arguments(args)
    if np.isfinite(limits.max_pieces_per_s) and not args.vocab:
        raise ValueError("--max-pieces-per-s: pieces of which vocab? Say --vocab MODEL")
    vocab = Tokenizer.load(args.vocab) if args.vocab else None
    rows = parquet.read_tables(args.manifest, args.splits, JUDGED)
    inputs = manifest.inputs(args) | {
        "manifests": [_content(uri) for uri in args.manifest],
        "splits": sorted(args.splits or []),
        "vocab": vocab.fingerprint if vocab else "",
        "schema_version": schema.VERSION,
        "version": VERSION,
    }
    sources = [storage.absolute(uri) for uri in [*args.manifest, *([args.vocab] if args.vocab else [])]]
    summary = identity.look(args.out, STEP, inputs, args.force, sources).summary
    if summary is not None and manifest.is_whole(args.out):
        cli.say(args, f"{args.out}: already done")
    else:
        cli.say(args, f"{counted(len(rows), 'utterance')} of {counted(len(args.manifest), 'manifest')}")
        pieces = _pieces(vocab, rows) if vocab else None
        verdict = manifest.judge(rows, lambda: _fingerprints(args.manifest), limits, args.keep_leaks, pieces)
        # All columns are read only now, and nothing is held longer than needed: a million rows are to fit into 2 GB
        del rows
        table = parquet.read_tables(args.manifest, args.splits)
        table, dropped = carry_out(table, DROPPED_SCHEMA.empty_table(), verdict)
        draft = Draft(table, dropped, of_rows(_fingerprints(args.manifest), table))
        claim = identity.claim(args.out, STEP, inputs, args.force, sources)
        command = http.shown_command([STEP, *(sys.argv[1:] if argv is None else argv)])
        title = " + ".join(sorted(draft.rows["corpus"].unique().to_pylist()))
        summary = manifest.write_or_remove(claim, draft, verdict.leaks, title, command, [])
    cli.summary(args, summary | {"out": args.out}, manifest.text(args.out, summary))


def _content(uri: str) -> str:
    """A hash of the manifest's bytes: where it lies does not matter."""
    return hashlib.sha256(storage.read_bytes(_beside(uri, parquet.MANIFEST))).hexdigest()[:16]


def _beside(uri: str, name: str) -> str:
    if uri.endswith(".parquet"):
        return uri if name == parquet.MANIFEST else storage.join(storage.parent(uri), name)
    return storage.join(uri, name)


def _fingerprints(uris: list[str]) -> pa.Table:
    """Those of all manifests that have some: a corpus prepared with --headers-only has none."""
    files = [uri for uri in (_beside(uri, manifest.FINGERPRINTS) for uri in uris) if storage.exists(uri)]
    return pa.concat_tables([fingerprint.SCHEMA.empty_table(), *map(_read_fingerprints, files)])


def _read_fingerprints(uri: str) -> pa.Table:
    try:
        table = parquet.read(uri)
        if table.schema == fingerprint.SCHEMA:
            return table
    except pa.ArrowInvalid:
        pass
    raise ValueError(f"{uri}: holds no fingerprints of this version; prepare the corpus again with --force")


def _pieces(vocab: Tokenizer, rows: pa.Table) -> np.ndarray:
    counts = [len(ids) for batch in rows.to_batches(65536) for ids in vocab.encode_batch(batch["text"].to_pylist())]
    return np.array(counts)
