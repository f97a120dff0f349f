"""Manifests as Parquet files: written whole, and read only when they are exactly what this version writes."""

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests import storage
from manifests.schema import UTTERANCE_SCHEMA, Utterance, to_table, utterances

MANIFEST = "manifest.parquet"
DROPPED = "dropped.parquet"


def write(uri: str, table: pa.Table) -> None:
    """The same table gives the same bytes."""
    with storage.atomic_write(uri) as file:
        pq.write_table(table, file, compression="zstd")


def write_utterances(uri: str, rows: Iterable[Utterance]) -> None:
    """Write a manifest, in the order of split and id."""
    write(uri, in_order(to_table(list(rows), UTTERANCE_SCHEMA)))


def in_order(table: pa.Table) -> pa.Table:
    """Utterances by split and id; what was dropped by split, id, reason and detail."""
    keys = [name for name in ("split", "id", "reason", "detail") if name in table.column_names]
    return table.take(pc.sort_indices(table, [(name, "ascending") for name in keys]))


def read_manifests(uris: Sequence[str], splits: Sequence[str] | None = None) -> list[Utterance]:
    """The utterances of several prepared folders (or `.parquet` files), of all splits or of those named.

    Raises ValueError for a missing manifest, one of another schema, a split that none of them has, or an id that
    occurs twice.
    """
    return utterances(read_tables(uris, splits))


def read_tables(uris: Sequence[str], splits: Sequence[str] | None = None) -> pa.Table:
    """What `read_manifests` reads, as one table; it raises the same."""
    tables = [(uri, _read(uri)) for uri in uris]
    if splits is not None:
        _check_splits(tables, splits)
        tables = [(uri, table.filter(pc.is_in(table["split"], pa.array(splits)))) for uri, table in tables]
    joined = pa.concat_tables([table for _, table in tables])
    if len(pc.unique(joined["id"])) < len(joined):
        _refuse_twice(tables)
    return joined


def _refuse_twice(tables: list[tuple[str, pa.Table]]) -> None:
    owner: dict[str, str] = {}
    for uri, table in tables:
        for id_ in table["id"].to_pylist():
            if id_ in owner:
                raise ValueError(f"utterance {id_} is in {owner[id_]} and again in {uri}; leave one of them out")
            owner[id_] = uri


def read(uri: str) -> pa.Table:
    """A Parquet file, whatever its columns. Raises ArrowInvalid for anything else.

    Without Arrow's threads: a process with torch in it that ended soon after read_table() had started them was aborted
    (exit code 134) in about one of three runs.
    """
    with storage.open_read(uri) as file:
        return pq.ParquetFile(pa.PythonFile(file, mode="r")).read(use_threads=False)


def _read(uri: str) -> pa.Table:
    file_uri = uri if uri.endswith(".parquet") else storage.join(uri, MANIFEST)
    if not storage.exists(file_uri):
        folder = storage.parent(uri) if uri.endswith(".parquet") else uri
        raise ValueError(f"{file_uri}: no such manifest; `prepare-corpus ... --out {folder or '.'}` makes one")
    try:
        table = read(file_uri)
    except pa.ArrowInvalid as err:
        raise ValueError(f"{file_uri}: not a readable Parquet file ({err})") from None
    if not table.schema.equals(UTTERANCE_SCHEMA, check_metadata=True):
        raise ValueError(
            f"{file_uri}: not a manifest of this version; prepare the corpus again with --force.\n"
            f"It has:\n{table.schema.to_string()}\nThis version reads:\n{UTTERANCE_SCHEMA.to_string()}"
        )
    return table


def _check_splits(tables: list[tuple[str, pa.Table]], splits: Sequence[str]) -> None:
    there = sorted({split for _, table in tables for split in pc.unique(table["split"]).to_pylist()})
    unknown = [split for split in splits if split not in there]
    if unknown:
        uris = ", ".join(uri for uri, _ in tables)
        raise ValueError(f"{uris}: no split {', '.join(unknown)}; there are {', '.join(there)}")
