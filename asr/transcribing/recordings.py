"""Which recordings a command was given, and what the transcript of each is called."""

from collections.abc import Sequence
from dataclasses import dataclass

from asr.waveform_config import AUDIO_FILES
from manifests import storage
from manifests.storefaults import shown

# in a folder; a file that is named itself may be called anything
SUFFIXES = (
    *AUDIO_FILES, ".3gp", ".aifc", ".amr", ".avi", ".caf", ".flv", ".m4b", ".mka", ".mkv", ".mov", ".mp2", ".mp4",
    ".mpeg", ".mpg", ".oga", ".ts", ".w64", ".wma", ".wmv",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recording:
    uri: str
    name: str  # of its transcript, without a suffix; of a file in a folder with its path below that


def find(inputs: Sequence[str]) -> tuple[list[Recording], int]:
    """The recordings in their order, those of a folder by path; and how many files in folders are none.

    Raises ValueError for a folder without any.
    """
    found: list[Recording] = []
    others = 0
    for uri in inputs:
        if not storage.is_folder(uri):
            found.append(Recording(uri, _stem(storage.name(shown(uri).rstrip("/")))))
            continue
        inside = [path for path, _ in storage.list_files(uri)]
        audio = [path for path in inside if path.lower().endswith(SUFFIXES)]
        if not audio:
            raise ValueError(f"{shown(uri)}: no audio file is in this folder ({', '.join(SUFFIXES)})")
        others += len(inside) - len(audio)
        start = len(storage.absolute(uri)) + 1
        found += [Recording(path, _stem(path[start:])) for path in audio]
    return found, others


def outputs(recordings: Sequence[Recording], folder: str, suffix: str) -> list[str]:
    """Where the transcript of each goes. Raises ValueError when two would have the same name."""
    taken: dict[str, str] = {}
    for recording in recordings:
        path = storage.join(folder, f"{recording.name}.{suffix}")
        if path in taken:
            raise ValueError(
                f"{shown(taken[path])} and {shown(recording.uri)}: the transcripts of both would be {path}; rename "
                "one, or write them to two folders"
            )
        taken[path] = recording.uri
    return list(taken)


def failure(uri: str, err: Exception) -> str:
    """Why a recording cannot be read, with its name, which an operating system's error may lack."""
    return f"{shown(uri)}: {err.strerror}" if isinstance(err, OSError) and err.strerror else str(err)


def _stem(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name or "recording")
