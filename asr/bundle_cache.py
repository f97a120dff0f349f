"""Bundles of stores, web servers and the Hugging Face hub as folders on this machine, checked by their hashes.

    <cache>/bundles/<sha256 of bundle.json, export.json or lm.json>/    a whole one: that file has the others' hashes
    <cache>/bundles/<sha256>.part/                                      one that is coming; a cut fetch goes on there
    <cache>/hub/                                                        what huggingface_hub keeps

<cache> is $SPEECHMILL_CACHE, else ~/.cache/speechmill. Any number of processes may ask for a bundle at once.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from manifests import storage, transfer
from manifests.remote import is_web
from manifests.storefaults import shown
from shards import cache

WEIGHTS, VOCAB, FACTS, EXPORT, LM_FACTS = "weights.safetensors", "vocab.model", "bundle.json", "export.json", "lm.json"
HUB = "hf://"
ALTERED = "was cut short or altered since it was written; get it from where it is whole"

_REPOSITORY = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.+))?")
_DIGITS = re.compile("[0-9a-f]{12,64}")
NAME = re.compile(r"\w[\w.-]*")

Files = dict[str, str]  # the SHA-256 of each file, or the digits that it begins with


@dataclass(frozen=True, slots=True)
class Kind:
    """What is wanted; one of `facts` is in its folder, and says what the other files are."""

    name: str
    facts: tuple[str, ...]


BUNDLE, LM = Kind("a bundle", (FACTS, EXPORT)), Kind("a language model", (LM_FACTS,))


def locate(uri: str, kind: Kind) -> str:
    """The folder on this machine: a path as it is, or a copy of what a URL names.

    URLs are https://…, s3://…, gs://…, az://… and hf://owner/name[@revision][/folder]. Raises ValueError for a URL of
    what is none, and OSError for what cannot be had, or not as its hashes say; of one line.
    """
    if uri.startswith(HUB):
        return _from_hub(uri, kind)
    uri = storage.absolute(uri)
    return uri if storage.is_local(uri) else _fetch(uri, kind)


def fingerprint(folder: str, kind: Kind) -> str:
    """12 hex digits of all that is in the folder of one. Raises FileNotFoundError."""
    name = next((name for name in kind.facts if storage.exists(storage.join(folder, name))), kind.facts[0])
    return hashlib.sha256(storage.read_bytes(storage.join(folder, name))).hexdigest()[:12]


def _fetch(url: str, kind: Kind) -> str:
    """From a store or a web server, where it is not here yet."""
    if is_web(url) and "?" in url:
        raise ValueError(f"{shown(url)}: a URL with a query names one file; {kind.name} is a folder of several")
    name, data = _facts_of(url, kind)
    files = _files(data, f"{shown(url)}/{name}")
    folder = storage.join(cache.default_folder(), "bundles", hashlib.sha256(data).hexdigest())
    if _is_whole(folder, files):  # also where the cache cannot be written to
        return folder
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with storage.open_locked(f"{folder}.lock"):
        if not _is_whole(folder, files):
            shutil.rmtree(folder, ignore_errors=True)  # damaged since it came
            _bring(url, files, f"{folder}.part")
            storage.write_bytes(storage.join(f"{folder}.part", name), data)
            os.rename(f"{folder}.part", folder)
    return folder


def _is_whole(folder: str, files: Files) -> bool:
    return all(_fits(storage.join(folder, name), start) for name, start in files.items())


def _facts_of(url: str, kind: Kind) -> tuple[str, bytes]:
    """The file that says what the others are: its name and content."""
    for name in kind.facts:
        try:
            return name, storage.read_bytes(storage.join(url, name))
        except FileNotFoundError:
            continue
    raise _not_of(kind, shown(url))


def _not_of(kind: Kind, shown_url: str) -> ValueError:
    lacking = ", ".join(f"no {name}" for name in kind.facts)
    return ValueError(f"{shown_url}: is not {kind.name} ({lacking}); give the URL of the folder in which that is")


def _files(data: bytes, where: str) -> Files:
    """The other files. Raises ValueError."""
    try:
        facts = json.loads(data)
        files = dict(facts["files"]) if where.endswith(EXPORT) else {WEIGHTS: facts["weights_sha256"]}
        files.setdefault(VOCAB, facts["vocab"]["fingerprint"])
        wrong = [n for n, start in files.items() if not (NAME.fullmatch(n) and _DIGITS.fullmatch(start))]
        if wrong:
            raise ValueError(f"it has no hash of a file {wrong[0]!r}")
    except (KeyError, TypeError, ValueError) as err:
        raise ValueError(
            f"{where}: is damaged ({' '.join(str(err).split())}); it should say what the other files are"
        ) from None
    return files


def _bring(url: str, files: Files, folder: str) -> None:
    urls = {name: storage.join(url, name) for name in files}
    size_mb = sum(map(storage.size_bytes, urls.values())) / 1e6
    _say(f"fetching {shown(url)} ({size_mb:.1f} MB) to {os.path.dirname(folder)}")
    for name, start in files.items():
        path = storage.join(folder, name)
        if len(start) == 64:
            transfer.fetch(urls[name], path, None, start, lambda reason: _say(f"{reason}; trying again"))
        elif not _fits(path, start):  # a vocabulary: small, and known by a few digits
            data = storage.read_bytes(urls[name])
            if not hashlib.sha256(data).hexdigest().startswith(start):
                raise ValueError(f"{shown(urls[name])}: {ALTERED}")
            storage.write_bytes(path, data)


def _fits(path: str, start: str) -> bool:
    """Whether a local file is there, and has the hash that begins with these digits."""
    digest = hashlib.sha256()
    try:
        with storage.open_read(path) as file:
            while piece := file.read(transfer.READ_BYTES):
                digest.update(piece)
    except FileNotFoundError:
        return False
    return digest.hexdigest().startswith(start)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _from_hub(uri: str, kind: Kind) -> str:
    """From a Hugging Face repository: hf://owner/name[@revision][/folder].

    huggingface_hub does the transfer: it resumes, keeps files by content, knows HF_ENDPOINT and HF_TOKEN, and takes the
    copy of last time where the hub is not to be reached. Raises ValueError of one line.
    """
    match = _REPOSITORY.fullmatch(uri.rstrip("/"))
    if match is None:
        raise ValueError(f"{uri}: a repository is written hf://owner/name, hf://owner/name@revision or "
                         "hf://owner/name/folder")  # fmt: skip
    repository, revision, folder = match[1], unquote(match[2] or "main"), match[3]
    download = _downloader(uri, repository, folder)
    name, path = next(((n, p) for n in kind.facts if (p := download(n, revision, False))), (None, None))
    if name is None or path is None:
        raise _not_of(kind, uri)
    local = os.path.dirname(path)
    # …/snapshots/<commit>/<folder>: all files are of this commit, also when the branch moves meanwhile
    commit = local.removesuffix(f"/{folder}").rpartition("/")[2]
    for other, start in _files(storage.read_bytes(path), f"{uri}/{name}").items():
        for again in (False, True):  # a damaged copy is brought once more
            found = download(other, commit, again)
            if found is None:
                raise ValueError(f"{uri}: is not whole (no {other})")
            if _fits(found, start):
                break
        else:
            raise ValueError(f"{uri}/{other}: {ALTERED}")
    return local


def _downloader(uri: str, repository: str, folder: str | None) -> Callable[[str, str, bool], str | None]:
    """A function of a file's name, a revision, and whether it is to be brought anew; None: there is no such file."""
    import huggingface_hub  # takes half a second
    from huggingface_hub.errors import RemoteEntryNotFoundError

    options: dict[str, Any] = {
        "cache_dir": storage.join(cache.default_folder(), "hub"),
        "endpoint": os.environ.get("HF_ENDPOINT"),
    }

    def download(name: str, revision: str, again: bool) -> str | None:
        try:
            return huggingface_hub.hf_hub_download(
                repository, name, subfolder=folder, revision=revision, force_download=again, **options
            )
        except RemoteEntryNotFoundError:
            return None
        except Exception as err:  # of huggingface_hub and its HTTP client, which do not say what they may raise
            raise ValueError(f"{uri}: {' '.join(str(err).split())[:300] or type(err).__name__}") from None

    return download
