"""Whose result a folder holds: `step.json` names the step, all that decided its content, and whether it is done."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from manifests import storage

RECORD = "step.json"


def fingerprint(value: Any) -> str:
    """16 hex digits of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Claim:
    """A folder that a step may write to. `inputs` is everything that decides the content of the result."""

    out: str
    step: str
    inputs: dict[str, Any]
    summary: dict[str, Any] | None  # of the finished result; None while there is work to do
    beside_others: bool = False  # the folder also holds files that no step made

    @property
    def fingerprint(self) -> str:
        return fingerprint([self.step, self.inputs])

    def reopen(self) -> "Claim":
        """The claim of a finished result that turned out to be damaged, as one of work to do."""
        _write(self, None)
        return replace(self, summary=None)

    def finish(self, summary: dict[str, Any]) -> None:
        """Declare the result complete. Call it last."""
        _write(self, summary)


def look(out: str, step: str, inputs: dict[str, Any], force: bool, sources: Sequence[str] = ()) -> Claim:
    """What `claim` would return or raise, with nothing written or deleted yet."""
    if storage.is_local(out) and storage.exists(out) and not storage.is_folder(out):
        raise ValueError(f"{out}: is a file; --out is a folder")
    record = _read(out)
    ours = Claim(out, step, inputs, None)
    if record is not None and record["fingerprint"] == ours.fingerprint:
        return replace(ours, summary=record["summary"], beside_others=record["beside_others"])
    strange = record is None and next(iter(storage.list_files(out)), None) is not None
    if (record is not None or strange) and not force:
        raise ValueError(f"{out}: {_difference(record, ours)}; choose another --out, or say --force to replace it")
    ours = replace(ours, beside_others=strange or (record is not None and record["beside_others"]))
    inside = [uri for uri in sources if f"{_real(uri)}/".startswith(f"{_real(out)}/")]
    if record is not None and inside and not ours.beside_others:
        raise ValueError(f"{out}: --force would delete {inside[0]}, which is read here; choose another --out")
    return ours


def claim(out: str, step: str, inputs: dict[str, Any], force: bool, sources: Sequence[str] = ()) -> Claim:
    """Take `out` for this step and these inputs.

    A finished result of the same inputs comes back with its summary; an unfinished one is to be continued. Raises
    ValueError when the folder holds anything else, which `force` deletes instead. Files that no step made stay: a
    folder that held some is never deleted, neither now nor by a later `force`; nor is one that holds any of `sources`,
    the absolute URIs that the step reads.
    """
    ours = look(out, step, inputs, force, sources)
    if ours.summary is not None:
        return ours
    record = _read(out)
    if record is not None and record["fingerprint"] != ours.fingerprint and not ours.beside_others:
        storage.delete_folder(out)
    _write(ours, None)
    return ours


def _real(uri: str) -> str:
    """Where a path leads through the links in it."""
    return os.path.realpath(uri) if storage.is_local(uri) else uri


def _read(out: str) -> dict[str, Any] | None:
    uri = storage.join(out, RECORD)
    if not storage.exists(uri):
        return None
    try:
        record = json.loads(storage.read_bytes(uri))
    except ValueError as err:
        raise ValueError(f"{uri}: is damaged ({err}); delete it, or choose another --out") from None
    if not isinstance(record, dict) or not record.keys() >= {"step", "fingerprint", "inputs", "summary"}:
        raise ValueError(f"{uri}: was not written by this program; choose another --out")
    return {"beside_others": True} | record


def _write(claim: Claim, summary: dict[str, Any] | None) -> None:
    record = {
        "step": claim.step,
        "fingerprint": claim.fingerprint,
        "inputs": claim.inputs,
        "summary": summary,
        "beside_others": claim.beside_others,
    }
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False)
    storage.write_text(storage.join(claim.out, RECORD), text + "\n")


def _difference(record: dict[str, Any] | None, ours: Claim) -> str:
    if record is None:
        return "is not empty and holds nothing that a step made"
    if record["step"] != ours.step:
        return f"holds the result of {record['step']}"
    theirs, mine = record["inputs"], ours.inputs
    names = [k for k in sorted(theirs.keys() | mine.keys()) if theirs.get(k) != mine.get(k)]
    return f"holds the result of {ours.step} from other inputs ({', '.join(names)})"
