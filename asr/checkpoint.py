"""Bundles: a folder with everything that recognition starts from, and beside it what training goes on from.

A bundle holds weights.safetensors (the normalisation is among the weights), vocab.model (sentencepiece) and
bundle.json (model, feature spec, vocabulary's fingerprint, hash of the weights, what is known of the training).
`last` has also training.safetensors and training.json, which has the hash of the first. No pickle anywhere.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from asr import bundle as bundles
from asr import folders
from asr.model_config import ModelConfig
from asr.models import Model, make_model
from asr.tokenizer import Tokenizer
from configs.load import build
from manifests import storage
from shards.spec import FrontendSpec

WEIGHTS, VOCAB, FACTS = bundles.WEIGHTS, bundles.VOCAB, bundles.FACTS
TRAINING_TENSORS, TRAINING_FACTS = "training.safetensors", "training.json"
TENSORS_SHA256 = "tensors_sha256"  # in TRAINING_FACTS, beside what training itself writes there


@dataclass
class Bundle:
    model: Model
    tokenizer: Tokenizer
    spec: FrontendSpec
    facts: dict[str, Any]  # of its training: step, epoch, dev WER, the resolved config


def save(
    folder: str, bundle: Bundle, training: tuple[dict[str, Tensor], dict[str, Any]] | None = None,
    beside: Mapping[str, bytes] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Write a bundle whole, with other files `beside` it, and put it in the place of an older one, see asr.folders."""
    weights = save_tensors({k: v.contiguous() for k, v in bundle.model.state_dict().items()})
    facts = {
        "version": bundles.VERSION,
        "model": asdict(bundle.model.config),
        "frontend": bundle.spec.values(),
        "vocab": {"size": bundle.tokenizer.size, "fingerprint": bundle.tokenizer.fingerprint},
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "training": bundle.facts,
    }
    files = {WEIGHTS: weights, VOCAB: bundle.tokenizer.model_bytes, FACTS: _json(facts)}
    if training is not None:
        tensors = save_tensors(training[0])
        known = training[1] | {TENSORS_SHA256: hashlib.sha256(tensors).hexdigest()}
        files |= {TRAINING_TENSORS: tensors, TRAINING_FACTS: _json(known)}
    folders.replace(folder, files | dict(beside))


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=1) + "\n").encode()


settle = folders.settle  # what a killed `save` left


def load(uri: str) -> Bundle:
    """Read a bundle, its model in evaluation mode. Raises ValueError when it is not whole or not what it says."""
    folder = bundles.locate(uri)
    facts = bundles.read_facts(folder)
    weights = bundles.read_weights(folder, facts)
    tokenizer, spec = bundles.read_tokenizer(folder, facts), bundles.read_spec(folder, facts)
    config = build(ModelConfig, facts["model"], f"{folder}/{FACTS}: model")
    try:
        model = make_model(config, spec.mels, tokenizer.size)
        model.load_state_dict(load_tensors(weights))
    except (RuntimeError, SafetensorError) as err:  # the first for want of memory, too
        misfit = " ".join(str(err).split())
        raise ValueError(f"{folder}/{WEIGHTS}: does not fit the model in {FACTS}: {misfit}") from None
    return Bundle(model.eval(), tokenizer, spec, facts["training"])


def weights_sha256(uri: str) -> str:
    """The hash that `load` holds a bundle's weights to. Raises ValueError when it is not whole."""
    found: str = bundles.read_facts(bundles.locate(uri))["weights_sha256"]
    return found


def load_training(folder: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Raises ValueError for a folder that was not left by a training, or is damaged."""
    for name in (TRAINING_TENSORS, TRAINING_FACTS):
        if not storage.exists(storage.join(folder, name)):
            raise ValueError(f"{folder}: has no {name}, so no training can go on from it; say --force to start over")
    try:
        facts = json.loads(storage.read_bytes(storage.join(folder, TRAINING_FACTS)))
        if not isinstance(facts, dict):
            raise ValueError(f"{TRAINING_FACTS} says nothing")
        data = storage.read_bytes(storage.join(folder, TRAINING_TENSORS))
        written = facts.pop(TENSORS_SHA256, None)  # None: by an earlier version
        if written not in (None, hashlib.sha256(data).hexdigest()):
            raise ValueError(f"{TRAINING_TENSORS} was cut short or altered since it was written")
        return load_tensors(data), facts
    except (ValueError, SafetensorError) as err:
        raise ValueError(f"{folder}: is damaged ({err}); say --force in place of --resume to start over") from None
