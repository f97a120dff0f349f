"""Bundles: a folder with everything that recognition starts from, and beside it what training goes on from.

A bundle holds weights.safetensors (the normalisation is among the weights), vocab.model (sentencepiece) and
bundle.json (model, feature spec, vocabulary's fingerprint, hash of the weights, what is known of the training).
`last` has also training.safetensors and training.json. No pickle anywhere.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from asr.model_config import ModelConfig
from asr.models import Model, make_model
from asr.tokenizer import Tokenizer
from configs.load import build
from manifests import storage
from shards.spec import FrontendSpec

WEIGHTS, VOCAB, FACTS = "weights.safetensors", "vocab.model", "bundle.json"
TRAINING_TENSORS, TRAINING_FACTS = "training.safetensors", "training.json"
VERSION = 1


@dataclass
class Bundle:
    model: Model
    tokenizer: Tokenizer
    spec: FrontendSpec
    facts: dict[str, Any]  # of its training: step, epoch, dev WER, the resolved config


def save(folder: str, bundle: Bundle, training: tuple[dict[str, Tensor], dict[str, Any]] | None = None) -> None:
    """Write a bundle whole and put it in the place of an older one.

    A folder cannot be replaced in one step: between the two renames the older one is `<folder>.previous`, where
    `settle` finds it after a kill.
    """
    staged = Path(storage.parent(folder)) / f"{storage.STAGING}{storage.name(folder)}"
    shutil.rmtree(staged, ignore_errors=True)
    weights = save_tensors({k: v.contiguous() for k, v in bundle.model.state_dict().items()})
    facts = {
        "version": VERSION,
        "model": asdict(bundle.model.config),
        "frontend": asdict(bundle.spec),
        "vocab": {"size": bundle.tokenizer.size, "fingerprint": bundle.tokenizer.fingerprint},
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "training": bundle.facts,
    }
    storage.write_bytes(str(staged / WEIGHTS), weights)
    storage.write_bytes(str(staged / VOCAB), bundle.tokenizer.model_bytes)
    storage.write_text(str(staged / FACTS), json.dumps(facts, indent=1) + "\n")
    if training is not None:
        storage.write_bytes(str(staged / TRAINING_TENSORS), save_tensors(training[0]))
        storage.write_text(str(staged / TRAINING_FACTS), json.dumps(training[1], indent=1) + "\n")
    previous = Path(f"{folder}.previous")
    shutil.rmtree(previous, ignore_errors=True)
    if os.path.isdir(folder):
        os.rename(folder, previous)
    os.rename(staged, folder)
    shutil.rmtree(previous, ignore_errors=True)


def settle(folder: str) -> None:
    """Finish or undo what a killed `save` left."""
    shutil.rmtree(Path(storage.parent(folder)) / f"{storage.STAGING}{storage.name(folder)}", ignore_errors=True)
    previous = f"{folder}.previous"
    if os.path.isdir(previous) and not os.path.isdir(folder):
        os.rename(previous, folder)
    shutil.rmtree(previous, ignore_errors=True)


def load(uri: str) -> Bundle:
    """Read a bundle, its model in evaluation mode. Raises ValueError when it is not whole or not what it says."""
    uri = storage.absolute(uri)
    facts = _facts(uri)
    weights = storage.read_bytes(storage.join(uri, WEIGHTS))
    if hashlib.sha256(weights).hexdigest() != facts["weights_sha256"]:
        raise ValueError(f"{uri}/{WEIGHTS}: was cut short or altered since it was written; get the bundle again")
    tokenizer = Tokenizer.load(storage.join(uri, VOCAB))
    if tokenizer.fingerprint != facts["vocab"]["fingerprint"]:
        raise ValueError(f"{uri}/{VOCAB}: is not the vocabulary that this model was trained with")
    spec = build(FrontendSpec, facts["frontend"], f"{uri}/{FACTS}: frontend")
    config = build(ModelConfig, facts["model"], f"{uri}/{FACTS}: model")
    model = make_model(config, spec.mels, tokenizer.size)
    try:
        model.load_state_dict(load_tensors(weights))
    except (RuntimeError, SafetensorError) as err:
        raise ValueError(f"{uri}/{WEIGHTS}: does not fit the model in {FACTS}: {' '.join(str(err).split())}") from None
    return Bundle(model.eval(), tokenizer, spec, facts["training"])


def weights_sha256(uri: str) -> str:
    """The hash that `load` holds a bundle's weights to. Raises ValueError when it is not whole."""
    found: str = _facts(storage.absolute(uri))["weights_sha256"]
    return found


def _facts(uri: str) -> dict[str, Any]:
    for name in (FACTS, WEIGHTS, VOCAB):
        if not storage.exists(storage.join(uri, name)):
            raise ValueError(
                f"{uri}: is not a bundle (no {name}); train-asr leaves them as runs/<name>/best and …/last"
            )
    try:
        facts = json.loads(storage.read_bytes(storage.join(uri, FACTS)))
        if not isinstance(facts, dict) or "version" not in facts:
            raise ValueError("it says no version")
    except ValueError as err:
        raise ValueError(f"{uri}/{FACTS}: is damaged ({err}); get the bundle again") from None
    if facts["version"] != VERSION:
        raise ValueError(f"{uri}: is a bundle of version {facts['version']}, this program reads {VERSION}")
    if lacking := [key for key in ("weights_sha256", "vocab", "frontend", "model", "training") if key not in facts]:
        raise ValueError(f"{uri}/{FACTS}: is damaged (it says no {', no '.join(lacking)}); get the bundle again")
    return facts


def load_training(folder: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Raises ValueError for a folder that was not left by a training, or is damaged."""
    for name in (TRAINING_TENSORS, TRAINING_FACTS):
        if not storage.exists(storage.join(folder, name)):
            raise ValueError(f"{folder}: has no {name}, so no training can go on from it; say --force to start over")
    try:
        tensors = load_tensors(storage.read_bytes(storage.join(folder, TRAINING_TENSORS)))
        facts = json.loads(storage.read_bytes(storage.join(folder, TRAINING_FACTS)))
        if not isinstance(facts, dict):
            raise ValueError(f"{TRAINING_FACTS} says nothing")
        return tensors, facts
    except (ValueError, SafetensorError) as err:
        raise ValueError(f"{folder}: is damaged ({err}); say --force in place of --resume to start over") from None
