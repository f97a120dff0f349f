"""One row of a manifest, and its Arrow schema: the record and its contract in one place."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa

VERSION = 2  # raise it with every change of the columns
ID_BYTES = 90
_HELD_OUT = ("dev", "test", "eval", "validation")
MIX = -1  # as Utterance.channel: the average of all channels


@dataclass(frozen=True, slots=True)
class Utterance:
    """One stretch of speech and what was said in it.

    `audio` is a path or URL, or a member of a tar (manifests.storage.member_uri); the utterance is `duration_s` long
    and starts `offset_s` into the decoded file. `sample_rate` and `channels` are the file's own. `text_raw` is what the
    corpus says, without its markup, and `text` that after manifests.text.normalise.

    Whoever reads the samples takes `channel` (MIX: the average of all), subtracts `dc_offset` and amplifies by
    `gain_db`; `notes` says in words what was decided so. Loudness (EBU R 128), peak and the share of clipped samples
    are those of the stretch before that; None where the audio was not listened to. `extra` is a JSON object of what
    else the corpus knows: accent, gender, video, ...; or "".
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
    channel: int = MIX
    dc_offset: float = 0.0
    gain_db: float = 0.0
    loudness_lufs: float | None = None
    peak_dbfs: float | None = None
    clipped_share: float | None = None
    notes: str = ""
    extra: str = ""


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


_ARROW: dict[Any, pa.DataType] = {str: pa.string(), float: pa.float64(), int: pa.int32()}


def _schema(record: type) -> pa.Schema:
    columns = []
    for field in fields(record):
        optional = field.type == float | None
        columns.append(pa.field(field.name, _ARROW[float if optional else field.type], nullable=optional))
    return pa.schema(columns, metadata={"speechmill": f"{record.__name__} {VERSION}"})


UTTERANCE_SCHEMA = _schema(Utterance)
DROPPED_SCHEMA = _schema(Dropped)


def to_table(rows: Sequence[Utterance] | Sequence[Dropped], schema: pa.Schema) -> pa.Table:
    # column by column: from_pylist with a dict for each row takes six times as long
    return pa.Table.from_pydict({name: [getattr(row, name) for row in rows] for name in schema.names}, schema=schema)


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


def is_held_out(split: str) -> bool:
    """True of dev, test, eval and validation, whatever follows, and of val and valid; "validated" is trained on."""
    return split.lower().startswith(_HELD_OUT) or split.lower() in ("val", "valid")
