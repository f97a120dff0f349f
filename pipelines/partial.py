"""An archive that is arriving: its bytes pass by once and are kept in parts, so that a killed run loses little.

A part is a file of about 64 MiB named by the byte it begins at. The folder also says which version of the server's file
the parts are of. A run that is repeated reads the parts again and asks the server for the rest.
"""

import contextlib
import json
import re
from collections.abc import Callable, Generator
from dataclasses import asdict

from manifests import storage
from manifests.storefaults import shown
from pipelines import http
from pipelines.http import Patience, Version

PART_BYTES = 64 << 20
READ_BYTES = 1 << 20
STATE = "server.json"

Check = Callable[[Version], None]

_PART = re.compile(r"(\d{15})\.part")


def arriving(
    url: str, folder: str, size_bytes: int | None, is_known_by_hash: bool, patience: Patience, check: Check
) -> Generator[bytes, None, None]:
    """The bytes of the archive from its first one on: those that `folder` has, then those from the server.

    `size_bytes` is the published size. `is_known_by_hash`: parts from another address, a mirror, are then as good.
    Raises as http.follow does, and what `check` raises, which is told what the server says of the file.
    """
    storage.delete_abandoned(folder)
    version = _version(url, folder, is_known_by_hash)
    position = 0
    for uri in _parts(folder) if version else []:
        part = storage.read_bytes(uri)
        for start in range(0, len(part), READ_BYTES):
            yield part[start : start + READ_BYTES]
        position += len(part)
    patience.reached(position)

    def learned(version: Version) -> None:
        check(version)
        _remember(url, folder, version)

    writer = _Writer(folder, position)
    with contextlib.closing(http.follow(url, position, version, size_bytes, patience, learned)) as chunks:
        try:
            for chunk in chunks:
                writer.write(chunk)
                yield chunk
        finally:
            writer.commit()


def arrived_bytes(folder: str) -> int:
    """How much of an archive is there; on a local disk the part that is being written counts as well."""
    whole = sum(size_bytes for uri, size_bytes in storage.list_files(folder) if _PART.fullmatch(storage.name(uri)))
    return whole + storage.staged_bytes(folder)


def _parts(folder: str) -> list[str]:
    """The parts that follow each other from byte 0 on; what does not, two runs at once may leave it, is deleted."""
    whole: list[str] = []
    end = 0
    for uri, size_bytes in storage.list_files(folder):
        match = _PART.fullmatch(storage.name(uri))
        if match and int(match[1]) == end:
            whole.append(uri)
            end += size_bytes
        elif match:
            storage.delete(uri)
    return whole


def _version(url: str, folder: str, is_known_by_hash: bool) -> Version | None:
    """What was known of the file when the parts came. None, and no parts, when they are of no use for this `url`."""
    uri = storage.join(folder, STATE)
    if storage.exists(uri):
        state = json.loads(storage.read_bytes(uri))
        if state.pop("url") == shown(url):
            return Version(**state)
        if is_known_by_hash:
            return Version(state["size_bytes"], "", "")
    storage.delete_folder(folder)
    return None


def _remember(url: str, folder: str, version: Version) -> None:
    state = {"url": shown(url)} | asdict(version)
    storage.write_text(storage.join(folder, STATE), json.dumps(state) + "\n")


class _Writer:
    """Writes what comes into parts, each of which appears whole."""

    def __init__(self, folder: str, position: int) -> None:
        self._folder = folder
        self._position = position  # bytes before the part that is being written
        self._size = 0
        self._open = contextlib.ExitStack()

    def write(self, chunk: bytes) -> None:
        if not self._size:
            uri = storage.join(self._folder, f"{self._position:015d}.part")
            self._file = self._open.enter_context(storage.atomic_write(uri))
        try:
            self._file.write(chunk)
        except BaseException:
            self._size = 0
            with self._open:  # atomic_write sees the error: nothing of the part stays
                raise
        self._size += len(chunk)
        if self._size >= PART_BYTES:
            self.commit()

    def commit(self) -> None:
        """Finish the part, short as it may be."""
        self._position += self._size
        self._size = 0
        self._open.close()
