"""Where the releases of Common Voice lie below a folder: `cv-corpus-<version>/<language>/{clips/*.mp3, *.tsv}`."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from manifests import storage
from pipelines import source

FOLDER = "cv-corpus-"
CLIPS = "clips"
TABLES = ("train", "dev", "test", "validated", "other", "invalidated", "reported", "clip_durations")
_LOCALE = re.compile("[a-z]{2,3}(-[A-Za-z]+)*")


@dataclass(slots=True)
class Release:
    """One language of one version; "" for what the folders do not say.

    `tables` are the URIs of the .tsv files by name without extension, `clips` (URI, bytes) by file name.
    """

    version: str
    language: str
    tables: dict[str, str] = field(default_factory=dict)
    clips: dict[str, tuple[str, int]] = field(default_factory=dict)

    def clip(self, name: str) -> tuple[str, int] | None:
        """The first releases name clips without their extension."""
        return self.clips.get(name) or self.clips.get(name + ".mp3")


def find(root: str, languages: Sequence[str] | None, version: str | None) -> list[Release]:
    """The releases of `languages`, in their order; without languages the only one that is there.

    `root` is a folder cv-corpus-*, one around it, that of a language, or one with archives of those that were taken
    in. Raises ValueError, saying what there is, for a language or a version that is not there, and for a choice that
    is not made: of the language or between versions.
    """
    there = _list(root, languages)
    names = sorted({release.language for release in there} - {""})
    if languages is None:
        if len(names) != 1:
            choice = f"one or more of {', '.join(names)}" if names else "its locale, for instance en or zh-CN"
            raise ValueError(f"{root}: which language is to be read? Say --language with {choice}")
        languages = names
    return [_choose(root, there, language, version) for language in dict.fromkeys(languages)]


def _choose(root: str, there: list[Release], language: str, version: str | None) -> Release:
    found = [r for r in there if r.language == language]
    if not found:
        found = [Release(r.version, language, r.tables, r.clips) for r in there if not r.language]
    if not found:
        names = sorted({r.language for r in there})
        raise ValueError(f"--language {language}: not in {root}; there are {', '.join(names)}")
    versions = ", ".join(sorted(r.version or "one without a name" for r in found))
    chosen = [r for r in found if version is None or version in (r.version, r.version.partition("-")[0])]
    if not chosen:
        raise ValueError(f"--version {version}: not in {root} for {language}; there are {versions}")
    if len(chosen) > 1:
        raise ValueError(f"{root}: holds several versions of {language}: {versions}; choose one with --version")
    return chosen[0]


def _list(root: str, languages: Sequence[str] | None) -> list[Release]:
    """Every folder with tables. Clips are kept of `languages` and of a language that the folders do not say."""
    above = storage.absolute(root).split("/")
    found: dict[str, Release] = {}
    others = ""
    for file in source.files(root):
        folder, _, name = file.path.rpartition("/")
        stem, dot, extension = name.rpartition(".")
        if (dot, extension) == (".", "tsv") and stem in TABLES:
            _at(found, above, folder).tables[stem] = file.uri
        elif folder == CLIPS or folder.endswith("/" + CLIPS):
            release = _at(found, above, folder[: -len(CLIPS)].rstrip("/"))
            if languages is None or not release.language or release.language in languages:
                release.clips[name] = (file.uri, file.size_bytes)
        else:
            others = others or file.path
    there = [release for release in found.values() if release.tables]
    if not there:
        held = f", but {others}" if others else ", or no file at all"
        raise ValueError(
            f"--root {root}: holds no <language>/clips and <language>/*.tsv as Common Voice does{held}; give the "
            f"folder {FOLDER}*, or take its archive in with --archive FILE"
        )
    return there


def _at(found: dict[str, Release], above: Iterable[str], folder: str) -> Release:
    """The release in `folder`. The first versions had no folder for the language."""
    if folder not in found:
        parts = [*above, *(folder.split("/") if folder else [])]
        versions = [part.removeprefix(FOLDER) for part in parts if part.startswith(FOLDER)]
        is_locale = _LOCALE.fullmatch(parts[-1]) is not None
        found[folder] = Release(versions[-1] if versions else "", parts[-1] if is_locale else "")
    return found[folder]
