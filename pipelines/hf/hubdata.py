"""The rows of a Hugging Face data set: a local folder or one from the hub, streamed or not. No code of it is ever run.

Everything is read in the form in which it is stored (Arrow, nothing decoded): what `datasets` 4 and later decodes with,
torch and torchcodec, is not needed. It is imported only when it is needed, as that takes a second.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from manifests import storage

if TYPE_CHECKING:
    import datasets

BATCH_ROWS = 64  # read at once; some hold a whole recording each
SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves, for several splits and for one
TEXTS = ("text", "sentence", "transcription", "transcript", "normalized_text", "raw_transcription", "raw_text")


@dataclass(frozen=True, slots=True)
class Row:
    """A row, counted from 0 in its split. `cells` are its columns that have a single value.

    Its audio is the file that `path` names ("": none), or one with these bytes (`data`).
    """

    number: int
    cells: dict[str, str | int | float | bool | None]
    path: str
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Split:
    """A split: of a local data set in `folder`, or ("") of one on the hub from `files`, named with their revision."""

    name: str
    folder: str
    files: tuple[str, ...]
    data: "datasets.Dataset | datasets.IterableDataset"


def _datasets() -> Any:
    """The package, without torch: with it, a data set that is streamed would import it to be a subclass of its own."""
    before = os.environ.get("USE_TORCH")
    os.environ["USE_TORCH"] = "0"
    try:
        import datasets
    finally:
        if before is None:
            del os.environ["USE_TORCH"]
        else:
            os.environ["USE_TORCH"] = before
    return datasets


def load(dataset: str, config: str | None, streaming: bool) -> list[Split]:
    """All splits of a data set.

    Tables on the hub are copied to the cache of `datasets` first, or, with `streaming`, read as they arrive. So are
    other files on the hub in any case. A local folder is read where it is.

    Raises ValueError of one line for whatever keeps it from being read.
    """
    module = _datasets()
    try:
        if not os.path.isdir(dataset):
            return _from_hub(module, dataset, config, streaming)
        folder = storage.absolute(dataset)
        if any(os.path.exists(storage.join(folder, name)) for name in SAVED):
            loaded = module.load_from_disk(folder)
        else:
            loaded = module.load_dataset_builder(folder, config).as_streaming_dataset()
    except Exception as err:  # of datasets, huggingface_hub, fsspec and httpx, which do not say what they may raise
        raise ValueError(f"--dataset {dataset}: {_one_line(err)}") from None
    if not isinstance(loaded, dict):
        loaded = {str(loaded.split or "train"): loaded}
    return [Split(str(name), folder, (), data) for name, data in loaded.items()]


def _from_hub(module: Any, dataset: str, config: str | None, streaming: bool) -> list[Split]:
    if not dataset:
        raise ValueError("is empty; give a folder, or a name on the hub")
    here = os.path.isdir(dataset.partition("/")[0])  # data/nosuch beside a folder data: no name on the hub
    if here or dataset.count("/") > 1 or "://" in dataset or dataset.startswith((".", "~", "/")):
        raise ValueError("no such folder, and no name on the hub either (those look like owner/name)")
    builder = module.load_dataset_builder(dataset, config)
    if hasattr(builder.config, "decode_num_threads"):
        builder.config.decode_num_threads = 0  # else files on the hub are decoded in advance
    if streaming or not isinstance(builder, module.ArrowBasedBuilder):  # a copy of loose files asks for torchcodec
        loaded = builder.as_streaming_dataset()
    else:
        builder.download_and_prepare()
        loaded = builder.as_dataset()
    files = {str(split): tuple(map(str, found)) for split, found in builder.config.data_files.items()}
    return [Split(str(name), "", files.get(str(name), ()), data) for name, data in loaded.items()]


def _one_line(err: BaseException) -> str:
    """The message, of the cause where `datasets` only says that something went wrong."""
    while isinstance(err, _datasets().exceptions.DatasetGenerationError) and err.__cause__ is not None:
        err = err.__cause__
    return " ".join(str(err).split())[:300] or type(err).__name__


def state(split: Split, without: tuple[str, ...]) -> list[list[str]]:
    """What changes when the data set's files do: their names and, of local ones, sizes and times.

    Files below the folders of `without` are no part of it.
    """
    if not split.folder:
        return [list(split.files)]
    return [
        [uri, str(size), str(os.stat(uri).st_mtime_ns)]
        for uri, size in storage.list_files(split.folder)
        if not uri.startswith(tuple(f"{folder}/" for folder in without))
    ]


def read(split: Split, audio: str, others: Mapping[str, str], start: int = 0) -> Iterator[Row]:
    """The rows from `start` on, whose audio is in the column `audio`.

    `others` are columns that must be there too, by the options that name them. A column inside another is named with
    a dot: json.text. Raises ValueError, saying which columns there are, for one that is missing or of no use, and for
    data that cannot be read.
    """
    checked = False
    number = start
    for table in _tables(split, start):
        if not checked:
            _check(split.name, table.schema, audio, others)
            checked = True
        columns = {
            field.name: _values(split, table, field.name)
            for field in table.schema
            if _is_single(field.type) and field.name not in (audio, f"{audio}.path")
        }
        for index, (path, data) in enumerate(_sounds(table, audio)):
            yield Row(number + index, {name: values[index] for name, values in columns.items()}, path, data)
        number += len(table)


def _tables(split: Split, start: int) -> Iterator[pa.Table]:
    """Batches without nested columns. Raises ValueError for data that cannot be read."""
    number = start
    data = split.data.skip(start) if start else split.data
    # of WebDataset's tars the last row has its columns in another order, which cannot be joined to the rows before
    rows = 1 if "__key__" in (data.features or {}) else BATCH_ROWS
    try:
        for table in data.with_format("arrow").iter(batch_size=rows):
            while any(pa.types.is_struct(kind) for kind in table.schema.types):
                table = table.flatten()
            yield table
            number += len(table)
    except Exception as err:  # as in `load`
        raise ValueError(f"split {split.name}, after row {number}: {_one_line(err)}") from None


def _values(split: Split, table: pa.Table, name: str) -> list[Any]:
    """A column; class labels, which are stored as numbers, by their names."""
    values = table.column(name).to_pylist()
    names = getattr((split.data.features or {}).get(name), "names", None)
    if names is None:
        return values
    return [names[value] if isinstance(value, int) and 0 <= value < len(names) else value for value in values]


def _sounds(table: pa.Table, audio: str) -> list[tuple[str, bytes | None]]:
    """(path, bytes) of each row."""
    nothing = [None] * len(table)
    if audio in table.schema.names:
        values = table.column(audio).to_pylist()
        is_path = not _is_bytes(table.schema.field(audio).type)
        paths, data = (values, nothing) if is_path else (nothing, values)
    else:
        paths, data = (
            table.column(name).to_pylist() if name in table.schema.names else nothing
            for name in (f"{audio}.path", f"{audio}.bytes")
        )
    return [(path or "", value) for path, value in zip(paths, data, strict=True)]


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)


def _is_single(kind: pa.DataType) -> bool:
    """True for a column that has one text, number or truth a row."""
    return _is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _check(split: str, schema: pa.Schema, audio: str, others: Mapping[str, str]) -> None:
    """Raises ValueError for columns that are missing or of no use."""
    names = [n.removesuffix(".bytes") for n in schema.names if f"{n.removesuffix('.path')}.bytes" not in schema.names]
    there = f"split {split} has the columns {', '.join(names)}"
    sounds = [n.removesuffix(".bytes") for n in schema.names if n.endswith(".bytes")]
    if f"{audio}.array" in schema.names or (audio in schema.names and pa.types.is_list(schema.field(audio).type)):
        raise ValueError(
            f"--audio-column {audio}: holds samples and not audio files, which is not read; store the data set again "
            "with this column cast to datasets.Audio()"
        )
    if audio in schema.names:
        kind = schema.field(audio).type
        if not (_is_text(kind) or _is_bytes(kind)):
            raise ValueError(f"--audio-column {audio}: holds {kind}, neither audio files nor their names; {there}")
    elif not {f"{audio}.bytes", f"{audio}.path"} & set(schema.names):
        raise ValueError(f"--audio-column {audio}: no such column; {there}{_proposal('--audio-column', sounds)}")
    texts = [n for n in TEXTS if n in schema.names] or [f.name for f in schema if _is_text(f.type) and f.name in names]
    for option, column in others.items():
        if column not in schema.names:
            likely = texts if option == "--text-column" else []
            raise ValueError(f"{option} {column}: no such column; {there}{_proposal(option, likely)}")
        if not _is_single(schema.field(column).type):
            raise ValueError(f"{option} {column}: holds {schema.field(column).type}, not one value a row; {there}")


def _proposal(option: str, likely: list[str]) -> str:
    return f"; is it {' or '.join(f'{option} {name}' for name in likely[:3])}?" if likely else ""


def content(row: Row) -> bytes | None:
    """The bytes of a row's audio file, wherever it is; None when there is none."""
    if row.data is not None or not row.path:
        return row.data
    try:
        if "://" not in row.path:
            return storage.read_bytes(row.path)
        from fsspec.core import url_to_fs  # knows the hub, and files inside a .zip

        system, path = url_to_fs(row.path)
        return bytes(system.cat_file(path))
    except FileNotFoundError:
        return None
