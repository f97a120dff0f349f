"""Where an evaluation is kept, and whose is there: another's is never replaced without being asked."""

import argparse
import hashlib
import json
from typing import Any

from asr import bundle_cache
from manifests import storage
from manifests.storefaults import shown

FIGURES, PAGE = "wer.json", "wer.html"
KINDS = {"bundle": bundle_cache.BUNDLE, "aligner": bundle_cache.BUNDLE, "lm": bundle_cache.LM}
INPUTS = "inputs"  # the part of FIGURES that says what decided all of it


def inputs(args: argparse.Namespace, speech: str, options: dict[str, Any]) -> dict[str, Any]:
    """What decides an evaluation: the models by their hashes, `speech` by a fingerprint, and how it is recognised."""
    models = {
        name: bundle_cache.fingerprint(bundle_cache.locate(getattr(args, name), kind), kind)
        for name, kind in KINDS.items()
        if getattr(args, name)
    }
    return options | models | {"speech": speech}


def fingerprint(values: Any) -> str:
    """12 hex digits of what can be JSON."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]


def choose(args: argparse.Namespace, ours: dict[str, Any]) -> str:
    """The folder for an evaluation of these inputs. Nothing is made yet.

    Raises ValueError where there is an evaluation of other inputs and nobody says --force, and OSError where nothing
    can be written, before the work that would be lost.
    """
    out: str = args.out or _beside(args)
    storage.check_writable(storage.absolute(out))
    if not args.force and (differing := _differing(storage.join(out, FIGURES), ours)):
        raise ValueError(f"{out}: holds an evaluation of other inputs ({', '.join(differing)}); choose another --out, "
                         "or say --force to replace it")  # fmt: skip
    return out


def write(out: str, values: dict[str, Any], page: str) -> None:
    """The figures come last: where they are, there is the page."""
    storage.write_text(storage.join(out, PAGE), page)
    storage.write_text(storage.join(out, FIGURES), json.dumps(values, ensure_ascii=False, indent=1) + "\n")


def _beside(args: argparse.Namespace) -> str:
    """evaluation/<bundle>-<speech> in the folder of the bundle's folder, with the number of drawn utterances."""
    if not storage.is_local(args.bundle):
        raise ValueError(f"--out: say in which folder to write; there is none beside {shown(args.bundle)}")
    uri = storage.absolute(args.bundle)
    parts = [storage.name(uri), *_speech_names(args), *(["streamed"] if args.streaming else [])]
    parts += [str(args.utterances)] if args.utterances else []
    return storage.join(storage.parent(uri), "evaluation", "-".join(parts))


def _speech_names(args: argparse.Namespace) -> list[str]:
    """Of shards/demo/urls-test.txt demo and test; of manifests/demo demo, and the splits that are asked for."""
    uri = storage.absolute(args.shards or args.manifest or args.files)
    if storage.is_local(uri) and storage.is_folder(uri):
        names = [storage.name(uri)]
    else:
        stem = storage.name(shown(uri)).rpartition(".")[0] or storage.name(shown(uri))
        named = stem.removeprefix("urls").removeprefix("-")
        names = [storage.name(storage.parent(uri)), named if named not in ("index", "manifest") else ""]
    return [name for name in (*names, *(args.splits or [])) if name]


def _differing(uri: str, ours: dict[str, Any]) -> list[str]:
    """The names of inputs in which the evaluation there differs from ours."""
    if not storage.exists(uri):
        return []
    try:
        theirs = json.loads(storage.read_bytes(uri))[INPUTS]
        return sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    except (AttributeError, KeyError, TypeError, ValueError):  # of an earlier version, or not ours
        return ["it does not say which"]
