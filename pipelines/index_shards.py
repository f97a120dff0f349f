"""index-shards: an index for WebDataset tars that were made elsewhere, of features or audio with their texts."""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from configs import cli, load
from manifests import parquet, storage
from manifests import text as manifest_text
from manifests.schema import DROPPED_SCHEMA, to_table
from manifests.storefaults import shown
from pipelines import identity, shard_index
from pipelines.progress import progress
from pipelines.sample_rows import TEXT, Rows, Said
from pipelines.samples import read_tar
from pipelines.shard_index import Split
from shards import index
from shards.lists import listed
from shards.spec import FrontendSpec

STEP = "index-shards"
VERSION = 1  # raise it when the same tars give another index


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=STEP, description=__doc__)
    parser.add_argument("urls", nargs="+", metavar="URLS", help="tars, or text files with a tar in each line")
    parser.add_argument("--out", required=True, help="folder or URL of the index; the tars stay where they are")
    parser.add_argument("--frontend", required=True, metavar="NAME", help="configs/frontend/NAME.yaml, or a file")
    parser.add_argument("--language", default="en", help="of samples that do not say theirs (default: %(default)s)")
    parser.add_argument("--corpus", help="name of the corpus (default: that of the folder --out)")
    parser.add_argument("--split", default="train", help="that all belong to (default: %(default)s)")
    parser.add_argument("--licence", default="", help="of samples that do not say theirs")
    parser.add_argument("--text-field", metavar="FIELD", help="of the .json, that has the text (default: .txt, else "
                        f"{', '.join(TEXT)} of the .json)")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace what another run left in --out")
    cli.add_json(parser)
    return cli.run(index_shards, parser, argv)


def index_shards(args: argparse.Namespace) -> None:
    """Raises ValueError for a tar that is damaged or compressed, an --out of other inputs, or no usable sample."""
    out = storage.absolute(args.out)
    spec = load.load(FrontendSpec, args.frontend, "frontend")
    sizes = {url: storage.size_bytes(url) for url in _tars(args.urls)}
    corpus = storage.name(out) if args.corpus is None else args.corpus
    said = Said(corpus, args.split, args.language, args.licence, args.text_field)
    versions = {"version": VERSION, "text_version": manifest_text.VERSION, "index_version": index.VERSION}
    inputs = {"shards": sizes, "frontend": spec.values()} | asdict(said) | versions
    claim = identity.claim(out, STEP, inputs, args.force, list(sizes))
    if claim.summary is not None and not shard_index.is_whole(out):
        cli.say(args, f"{out}: was finished, but files are missing or cut short; making it again")
        claim = claim.reopen()
    if claim.summary is None:
        for name in (index.INDEX, index.STATS):  # whoever reads the set before it is finished is told so
            storage.delete(storage.join(out, name))
        rows, left_out = Rows(out, spec, said), Counter[str]()
        with progress("indexing", sum(sizes.values()), "bytes") as advance:
            for url in sizes:
                try:
                    tar = read_tar(url, spec, advance)
                except ValueError:
                    _leave(out)
                    raise
                rows.add(url, tar)
                left_out.update(tar.left_out)
        summary = _finish(rows, left_out, spec, claim)
    else:
        summary = claim.summary
        cli.say(args, f"{out}: already done")
    storage.delete_staged(out)
    cli.summary(args, summary, _describe(summary, out))


def _tars(sources: Sequence[str]) -> list[str]:
    """The tars that are named or listed. Raises ValueError for one that comes twice, or has a secret in its URL."""
    urls: list[str] = []
    for source in map(storage.absolute, sources):
        named = storage.name(shown(source)).endswith((".tgz", ".tar")) or ".tar." in storage.name(shown(source))
        urls += [source] if named else listed(source)
    for url in urls:
        if shown(url) != url:
            raise ValueError(f"{shown(url)}: its login or signature would be kept in the index; download the tar, or "
                             "give a URL without, such as s3://bucket/name.tar")  # fmt: skip
    twice = [url for url, count in Counter(urls).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]}: is given twice")
    return urls


def _leave(out: str) -> None:
    """Nothing is made, so the next command may have other inputs."""
    storage.delete_staged(out)
    storage.delete(storage.join(out, identity.RECORD))


def _finish(rows: Rows, left_out: Counter[str], spec: FrontendSpec, claim: identity.Claim) -> dict[str, Any]:
    """Write index, statistics and lists. Raises ValueError, and leaves nothing, when there is no row."""
    out, split = claim.out, claim.inputs["split"]
    if rows.content is None or not rows.tables:
        _leave(out)
        first = f"; the first: {rows.dropped[0].reason}: {rows.dropped[0].detail}" if rows.dropped else ""
        raise ValueError(f"no sample could be used of {len(rows.dropped)}{first}")
    parquet.write(storage.join(out, index.INDEX), pa.concat_tables(rows.tables))
    splits = {split: Split(rows.moments, sum(map(len, rows.tables)), sum(rows.tars.values()), list(rows.tars))}
    dropped = [to_table(rows.dropped, DROPPED_SCHEMA)]
    shard_index.write_beside(out, splits, dropped, spec, rows.content)
    summary = shard_index.summary(splits, dropped, spec, rows.content) | {"left_out": dict(left_out)}
    claim.finish(summary)
    return summary


def _describe(summary: dict[str, Any], out: str) -> str:
    lines = shard_index.describe(summary, "sample")
    for what, count in summary["left_out"].items():
        lines.append(f"left out: {what}: {count:,}")
    lines.append(f"content: {summary['content']}; read the set as {out}")
    return "\n".join(lines)
