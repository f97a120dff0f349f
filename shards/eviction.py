"""Room in a cache's folder: what was used least recently goes first, and nothing that somebody is fetching.

A file that is deleted while a reader has it mapped keeps its bytes until that reader closes it.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from manifests import storage, transfer

LOCK = "lock"  # a file in the folder, held by who makes room

_SHARDS = re.compile("[0-9a-f]{2}")
_PART = re.compile(rf".*\.(\d+)\{transfer.PART}")


@dataclass(frozen=True, slots=True)
class _Entry:
    path: str
    size_bytes: int
    used_ns: int
    is_part: bool


def make_room(folder: str, own_part: str, needed_bytes: int, limit_bytes: int, at_least_bytes: int = 0) -> int:
    """Delete files until `needed_bytes` more are within the limit, and no less than `at_least_bytes`.

    Parts that others are fetching count in full. `own_part` is the caller's, and held by its lock. Returns the bytes
    that were deleted.
    """
    with storage.open_locked(storage.join(folder, LOCK)):
        entries = list(_entries(folder, own_part))
        there = sum(entry.size_bytes for entry in entries)
        excess = max(at_least_bytes, there + needed_bytes - limit_bytes)
        deleted = 0
        for entry in sorted(entries, key=lambda entry: entry.used_ns):
            if deleted >= excess:
                break
            if _delete(entry):
                deleted += entry.size_bytes
        return deleted


def _entries(folder: str, own_part: str) -> Iterator[_Entry]:
    for below in os.scandir(folder):
        if not _SHARDS.fullmatch(below.name) or not below.is_dir():  # bundles are kept there as well
            continue
        for entry in os.scandir(below.path):
            try:
                facts = entry.stat()
            except FileNotFoundError:  # it has just become whole
                continue
            part = _PART.fullmatch(entry.name)
            if entry.path != own_part:
                size_bytes = int(part[1]) if part and _is_coming(entry.path) else facts.st_size
                yield _Entry(entry.path, size_bytes, facts.st_mtime_ns, part is not None)


def _is_coming(part_path: str) -> bool:
    """False for what a killed process left."""
    try:
        with storage.open_locked(part_path, wait=False):
            return False
    except BlockingIOError:
        return True


def _delete(entry: _Entry) -> bool:
    if not entry.is_part:
        Path(entry.path).unlink(missing_ok=True)
        return True
    try:
        with storage.open_locked(entry.path, wait=False):
            os.unlink(entry.path)
        return True
    except BlockingIOError:
        return False
