"""Columns of index.parquet, for all rows or for those of chosen shards; each is read when it is asked for.

An index of 30 million utterances has 10 GB of strings, of which a training run needs few. Numbers are read in batches
into arrays of their final size, so that nothing but them is held.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests import storage

BATCH_ROWS = 1 << 16
REPEATED = ["shard", "shard_sha256", "split"]  # few values in many rows: read as numbers into a dictionary


@dataclass(frozen=True, slots=True, eq=False)
class IndexRows:
    """Rows of the index at `uri`, in its order: all, or those that `keep` [rows of the index] says."""

    uri: str
    keep: np.ndarray | None  # bool

    def table(self, names: Sequence[str]) -> pa.Table:
        """These columns."""
        with open_index(self.uri) as file:
            table = file.read(list(names), use_threads=False)
        return table if self.keep is None else table.filter(pa.array(self.keep))

    def batches(self, name: str) -> Iterator[pa.Array]:
        """One column, up to BATCH_ROWS at a time."""
        position = 0
        with open_index(self.uri) as file:
            for batch in _batches(file, [name]):
                end = position + len(batch)
                column = batch.column(0)
                yield column if self.keep is None else column.filter(pa.array(self.keep[position:end]))
                position = end


@contextlib.contextmanager
def open_index(uri: str, dictionaries: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """The Parquet file, with these columns as dictionaries. Raises ArrowInvalid for anything else.

    To be read without Arrow's threads, see manifests.parquet.read.
    """
    with storage.open_read(uri) as file:
        try:
            yield pq.ParquetFile(pa.PythonFile(file, mode="r"), read_dictionary=list(dictionaries))
        except OSError as err:
            if err.errno is not None or not storage.is_local(uri):
                raise
            raise pa.ArrowInvalid(str(err).strip()) from None  # what Arrow raises for a damaged page


def _batches(file: pq.ParquetFile, names: list[str]) -> Iterator[pa.RecordBatch]:
    """Row group by row group: asked for all at once, Arrow keeps what it has read (0.5 GB for 30 million rows)."""
    for group in range(file.metadata.num_row_groups):
        yield from file.iter_batches(BATCH_ROWS, row_groups=[group], columns=names, use_threads=False)


def _numpy(array: pa.Array) -> np.ndarray:
    """Whole numbers without a gap as they are in memory. Arrow's own to_numpy imports pandas: 0.4 s and 50 MB."""
    dtype = np.dtype(array.type.to_pandas_dtype())
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


class Numbers:
    """The numeric columns of one or more indexes, and the shards that their rows lie in."""

    def __init__(self, rows: int, dtypes: Mapping[str, type]) -> None:
        """`rows` is how many there can be at most, `dtypes` says which columns are wanted, `shard` not among them."""
        self.files: dict[str, tuple[int, str]] = {}  # whole URL: bytes and sha256, in the order of their first rows
        self._arrays: dict[str, np.ndarray] = {name: np.empty(rows, dtype) for name, dtype in dtypes.items()}
        self._shard = np.empty(rows, np.int32)
        self._positions: dict[str, int] = {}
        self._count = 0

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns, each [rows]; `shard` is a position in `files`."""
        everything = {"shard": self._shard} | self._arrays
        if self._count == len(self._shard):
            return everything
        return {name: array[: self._count].copy() for name, array in everything.items()}

    def add(self, index: pq.ParquetFile, folder: str, chosen: set[str] | None) -> tuple[np.ndarray | None, set[str]]:
        """Append the rows of the chosen shards (whole URLs; None: all) of an index that lies in `folder`.

        Gives which rows of it those are (None: all) and the splits that occur in them.
        """
        keeps: list[np.ndarray] = []
        splits: set[str] = set()
        columns = [*REPEATED, "shard_bytes", *self._arrays]
        for batch in _batches(index, columns):
            positions = self._shards(batch, folder, chosen)
            keep = positions >= 0
            end = self._count + int(keep.sum())
            self._shard[self._count : end] = positions[keep]
            for name, array in self._arrays.items():
                values = _numpy(batch[name])
                array[self._count : end] = values if chosen is None else values[keep]
            names = batch["split"].dictionary.to_pylist()
            splits.update(names[i] for i in np.flatnonzero(np.bincount(_numpy(batch["split"].indices)[keep])))
            if chosen is not None:
                keeps.append(keep)
            self._count = end
        return (None if chosen is None else np.concatenate([np.zeros(0, bool), *keeps])), splits

    def _shards(self, batch: pa.RecordBatch, folder: str, chosen: set[str] | None) -> np.ndarray:
        """The position in `files` of each row's shard, -1 for one that is not chosen. New shards are added."""
        names = batch["shard"].dictionary.to_pylist()
        numbers = _numpy(batch["shard"].indices)
        first_rows = np.full(len(names), -1)
        first_rows[numbers[::-1]] = np.arange(len(numbers))[::-1]  # of equal places the last assignment stays
        positions = np.full(len(names), -1, np.int32)
        for number in sorted(np.flatnonzero(first_rows >= 0).tolist(), key=first_rows.__getitem__):
            url = whole_url(folder, names[number])
            if chosen is None or url in chosen:
                if url not in self.files:
                    row = int(first_rows[number])
                    self._positions[url] = len(self.files)
                    self.files[url] = batch["shard_bytes"][row].as_py(), batch["shard_sha256"][row].as_py()
                positions[number] = self._positions[url]
        return positions[numbers]


def whole_url(folder: str, shard: str) -> str:
    """Where a shard is that an index in `folder` names so."""
    return shard if "://" in shard else storage.join(folder, shard)
