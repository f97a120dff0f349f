"""One row of a manifest, and its Arrow schema: the record and its contract in one place."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import pyarrow as pa

VERSION = 1  # raise it with every change of the columns
ID_BYTES = 90


@dataclass(frozen=True, slots=True)
class Utterance:
    """One stretch of speech and what was said in it.

    `audio` is a path or URL; the utterance is `duration_s` long and starts `offset_s` into the decoded file.
    `sample_rate` and `channels` are the file's own. `text` is `text_raw` after manifests.text.normalise.
    """

    id: str
    corpus: str
    split: str
    language: str
    speaker: str
    audio: str
    offset_s: float
    duration_s: float
    sample_rate: int
    channels: int
    text_raw: str
    text: str
    licence: str
    source: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """An utterance that was left out, and why. `reason` is one of a few fixed words, `detail` says it in full."""

    id: str
    corpus: str
    split: str
    audio: str
    duration_s: float
    text_raw: str
    reason: str
    detail: str


_ARROW = {str: pa.string(), float: pa.float64(), int: pa.int32()}


def _schema(record: type) -> pa.Schema:
    columns = [pa.field(f.name, _ARROW[f.type], nullable=False) for f in fields(record)]  # type: ignore[index]
    return pa.schema(columns, metadata={"speechmill": f"{record.__name__} {VERSION}"})


UTTERANCE_SCHEMA = _schema(Utterance)
DROPPED_SCHEMA = _schema(Dropped)


def to_table(rows: Iterable[Utterance] | Iterable[Dropped], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)


def utterances(table: pa.Table) -> list[Utterance]:
    return [Utterance(**row) for row in table.select(UTTERANCE_SCHEMA.names).to_pylist()]


def safe_id(text: str) -> str:
    """`text` as an utterance id: letters, digits, `_` and `-` only, at most 90 bytes.

    A tar member is `<id>.npy`; WebDataset cuts the name at its first dot, a slash would make folders, and a name in a
    plain tar ends at 100 bytes. A longer text keeps its end, the most telling part of a path, behind a hash of it all.
    """
    safe = re.sub(r"[^\w-]+", "_", text).strip("_") or "_"
    if len(safe.encode()) <= ID_BYTES:
        return safe
    digest = hashlib.sha256(safe.encode()).hexdigest()[:12]
    return f"{digest}-{safe.encode()[-(ID_BYTES - 13) :].decode(errors='ignore')}"
