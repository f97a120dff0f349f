"""What a bundle says of itself, without torch: a folder, its bundle.json, its vocabulary and its feature spec."""

import hashlib
import json
from typing import Any

from asr import bundle_cache
from asr.tokenizer import Tokenizer
from configs.load import build
from manifests import storage
from manifests.storefaults import shown
from shards.spec import FrontendSpec

WEIGHTS, VOCAB, FACTS = bundle_cache.WEIGHTS, bundle_cache.VOCAB, bundle_cache.FACTS
EXPORT = bundle_cache.EXPORT  # what an exported folder has in the place of FACTS
NAME = bundle_cache.NAME  # what a file of a bundle may be called
VERSION = 1
PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".pkl")  # names of files that are never read as bundles


def locate(uri: str) -> str:
    """The bundle's folder on this machine, see asr.bundle_cache. Raises ValueError and OSError of one line."""
    if uri.lower().endswith(PICKLED) and not (storage.is_local(uri) and storage.is_folder(uri)):
        raise ValueError(f"{shown(uri)}: is no bundle but a checkpoint, which may run any code when it is unpickled; "
                         "import-bundle reads its weights alone and makes a bundle of them")  # fmt: skip
    return bundle_cache.locate(uri, bundle_cache.BUNDLE)


def _instead(folder: str) -> str:
    if storage.exists(storage.join(folder, EXPORT)):
        return "but an export, for transcribe, serve-asr and evaluate-asr --streaming; give what it was made of"
    if storage.exists(storage.join(folder, bundle_cache.LM_FACTS)):
        return "but a language model, for --lm"
    return "train-asr leaves them as runs/<name>/best and …/last"


def read_facts(folder: str) -> dict[str, Any]:
    """bundle.json. The hash of the weights in it is not compared here, see `read_weights`. Raises ValueError."""
    for name in (FACTS, WEIGHTS, VOCAB):
        if not storage.exists(storage.join(folder, name)):
            raise ValueError(f"{folder}: is not a bundle (no {name}); {_instead(folder)}")
    try:
        facts = json.loads(storage.read_bytes(storage.join(folder, FACTS)))
        if not isinstance(facts, dict) or "version" not in facts:
            raise ValueError("it says no version")
    except (ValueError, RecursionError) as err:
        raise ValueError(f"{folder}/{FACTS}: is damaged ({err}); get the bundle again") from None
    if facts["version"] != VERSION:
        raise ValueError(f"{folder}: is a bundle of version {facts['version']}, this program reads {VERSION}")
    if lacking := [key for key in ("weights_sha256", "vocab", "frontend", "model", "training") if key not in facts]:
        raise ValueError(f"{folder}/{FACTS}: is damaged (it says no {', no '.join(lacking)}); get the bundle again")
    if not is_vocab(facts["vocab"]):
        raise ValueError(f"{folder}/{FACTS}: is damaged (it does not say which vocabulary); get the bundle again")
    return facts


def is_vocab(known: Any) -> bool:
    """Whether this names a vocabulary, as bundle.json and export.json do."""
    return isinstance(known, dict) and isinstance(known.get("size"), int) and isinstance(known.get("fingerprint"), str)


def read_weights(folder: str, facts: dict[str, Any]) -> bytes:
    """The safetensors file. Raises ValueError when it is not the one that bundle.json was written with."""
    weights = storage.read_bytes(storage.join(folder, WEIGHTS))
    if hashlib.sha256(weights).hexdigest() != facts["weights_sha256"]:
        raise ValueError(f"{folder}/{WEIGHTS}: was cut short or altered since it was written; get the bundle again")
    return weights


def read_tokenizer(folder: str, facts: dict[str, Any]) -> Tokenizer:
    """The vocabulary. Raises ValueError when it is not the one that the facts name (of bundle.json or export.json)."""
    tokenizer = Tokenizer.load(storage.join(folder, VOCAB))
    if (tokenizer.size, tokenizer.fingerprint) != (facts["vocab"]["size"], facts["vocab"]["fingerprint"]):
        raise ValueError(f"{folder}/{VOCAB}: is not the vocabulary that this model was trained with")
    return tokenizer


def read_spec(folder: str, facts: dict[str, Any]) -> FrontendSpec:
    """The feature spec in the facts (of bundle.json or export.json). Raises ValueError for one that makes no sense."""
    try:
        return build(FrontendSpec, facts["frontend"], "frontend")
    except ValueError as err:
        raise ValueError(f"{folder}: {err}") from None
