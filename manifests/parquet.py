"""Manifests as Parquet files: written whole, and read only when they are exactly what this version writes."""

from collections.abc import Iterable, Sequence

import numpy as np
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
    return table.take(order(table))


def order(table: pa.Table) -> np.ndarray:
    """The rows in that order."""
    keys = [name for name in ("split", "id", "reason", "detail") if name in table.column_names]
    return pc.sort_indices(table, [(name, "ascending") for name in keys]).to_numpy()


def read_manifests(uris: Sequence[str], splits: Sequence[str] | None = None) -> list[Utterance]:
    """The utterances of several prepared folders (or `.parquet` files), of all splits or of those named.

    Raises ValueError for a missing manifest, one of another schema, a split that none of them has, or an id that
    occurs twice.
    """
    return utterances(read_tables(uris, splits))


def read_tables(uris: Sequence[str], splits: Sequence[str] | None = None, columns: list[str] | None = None) -> pa.Table:
    """What `read_manifests` reads, as one table, of all columns or of those named (id and split among them).

    It raises the same.
    """
    tables = [(uri, _read(uri, columns)) for uri in uris]
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


def read(uri: str, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file with all its columns, or only those named. Raises ArrowInvalid for anything else.

    Without Arrow's threads: a process with torch in it that ended soon after read_table() had started them was aborted
    (exit code 134) in about one of three runs.
    """
    with storage.open_read(uri) as file:
        try:
            return pq.ParquetFile(pa.PythonFile(file, mode="r")).read(columns, use_threads=False)
        except OSError as err:
            if err.errno is not None or not storage.is_local(uri):
                raise
            raise pa.ArrowInvalid(str(err).strip()) from None  # what Arrow raises for a damaged page


def _read(uri: str, columns: list[str] | None) -> pa.Table:
    file_uri = uri if uri.endswith(".parquet") else storage.join(uri, MANIFEST)
    if not storage.exists(file_uri):
        folder = storage.parent(uri) if uri.endswith(".parquet") else uri
        raise ValueError(f"{file_uri}: no such manifest; `prepare-corpus ... --out {folder or '.'}` makes one")
    try:
        schema = _schema(file_uri)
        if schema.equals(UTTERANCE_SCHEMA, check_metadata=True):
            return read(file_uri, columns)
    except pa.ArrowInvalid as err:
        raise ValueError(f"{file_uri}: not a readable Parquet file ({err})") from None
    raise ValueError(
        f"{file_uri}: not a manifest of this version; prepare the corpus again with --force.\n"
        f"It has:\n{schema.to_string()}\nThis version reads:\n{UTTERANCE_SCHEMA.to_string()}"
    )


def _schema(uri: str) -> pa.Schema:
    with storage.open_read(uri) as file:
        return pq.read_schema(pa.PythonFile(file, mode="r"))


def _check_splits(tables: list[tuple[str, pa.Table]], splits: Sequence[str]) -> None:
    there = sorted({split for _, table in tables for split in pc.unique(table["split"]).to_pylist()})
    unknown = [split for split in splits if split not in there]
    if unknown:
        uris = ", ".join(uri for uri, _ in tables)
        raise ValueError(f"{uris}: no split {', '.join(unknown)}; there are {', '.join(there)}")
