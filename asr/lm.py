"""Language models over a recogniser's vocabulary, for shallow fusion: numpy only, states in and states out.

Such a model says how likely each token is after the tokens before it, and nothing of where a text ends: its
probabilities sum to one over all ids but blank's, whose log-probability is -inf. A recogniser's segment ends at a
pause, often not where a sentence does; a model that kept a share for the end would make every word after a likely end
dearer. A segment begins with `start`, as texts do.

Every token costs some log-probability, and blank costs none: added as it is, a language model makes a recogniser say
less. So it knows what a token costs on average, `mean_logp`, which a search may take off each.

A bundle is a folder with weights.safetensors, vocab.model and lm.json, made by train-lm.

Shape letters: b hypotheses, l layers, h hidden size, e embedding, v vocab.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from asr import bundle_cache
from asr.engine import Floats, Ids, State
from asr.language.config import LmConfig
from asr.tokenizer import BLANK, Tokenizer
from configs.load import build
from manifests import storage

WEIGHTS, VOCAB, FACTS = bundle_cache.WEIGHTS, bundle_cache.VOCAB, bundle_cache.LM_FACTS
VERSION = 1


class LanguageModel:
    """`vocab` is the number of ids, blank's among them; `vocab_fingerprint` must be that of the recogniser's.

    `mean_logp` is the mean log-probability of the tokens of texts that it was not trained on.
    """

    def __init__(
        self, config: LmConfig, vocab: int, vocab_fingerprint: str, mean_logp: float, tensors: Mapping[str, Floats]
    ) -> None:
        """`tensors` are named as in asr.language.model. Raises ValueError for other shapes."""
        _check_shapes(config, vocab, tensors)
        self.vocab = vocab
        self.vocab_fingerprint = vocab_fingerprint
        self.mean_logp = mean_logp
        self._embedding_ve = tensors["embedding.weight"]
        self._output_ev = _across(self._embedding_ve[1:])
        self._layers = [
            (
                _across(tensors[f"lstm.weight_ih_l{i}"], tensors[f"lstm.weight_hh_l{i}"]),
                tensors[f"lstm.bias_ih_l{i}"] + tensors[f"lstm.bias_hh_l{i}"],
            )
            for i in range(config.layers)
        ]
        self._projection_he = _across(tensors["projection.weight"])
        self._projection_e = tensors["projection.bias"]
        self._bias_v = tensors["bias"]
        nothing = np.zeros((1, config.layers, config.hidden), np.float32)
        self._start = self.advance(np.array([BLANK]), (nothing, nothing))

    def start(self, batch: int) -> tuple[Floats, State]:
        """Log-probabilities [b, v] of the first token of an utterance, and the state before it."""
        logp_bv, state = self._start
        return np.repeat(logp_bv, batch, 0), tuple(np.repeat(part, batch, 0) for part in state)

    def advance(self, tokens_b: Ids, state: State) -> tuple[Floats, State]:
        """Log-probabilities [b, v] of what follows one token more in each row, and the state after it.

        The state is h and c of the LSTM, float32 [b, l, h] each; it is not changed.
        """
        h_blh, c_blh = (np.empty_like(part) for part in state)
        x = self._embedding_ve[tokens_b]
        for layer, (weight, bias) in enumerate(self._layers):
            gates = np.concatenate([x, state[0][:, layer]], 1) @ weight
            gates += bias
            enter, forget, new, out = np.split(gates, 4, 1)
            c_blh[:, layer] = _sigmoid(forget) * state[1][:, layer] + _sigmoid(enter) * np.tanh(new)
            x = h_blh[:, layer] = _sigmoid(out) * np.tanh(c_blh[:, layer])
        logits = (x @ self._projection_he + self._projection_e) @ self._output_ev
        logits += self._bias_v
        logits -= logits.max(1, keepdims=True)
        logp_bv = np.full((len(x), self.vocab), -np.inf, np.float32)
        logp_bv[:, 1:] = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return logp_bv, (h_blh, c_blh)


def _across(*weights: Floats) -> Floats:
    """As one matrix, inputs first: with outputs first a few rows took OpenBLAS 1.5 times as long, and up to 8 times."""
    return np.ascontiguousarray(np.concatenate(weights, 1).T)


def _sigmoid(x: Floats) -> Floats:
    return 0.5 + 0.5 * np.tanh(0.5 * x)  # overflows nowhere


def load(uri: str) -> LanguageModel:
    """The language model in a folder or below a URL, of which a copy is kept. Raises ValueError when it is not whole or
    not what it says, and OSError when it cannot be had."""
    uri = bundle_cache.locate(uri, bundle_cache.LM)
    facts = _facts(uri)
    tokenizer = Tokenizer.load(storage.join(uri, VOCAB))
    known = facts["vocab"]
    if (tokenizer.size, tokenizer.fingerprint) != (known["size"], known["fingerprint"]):
        raise ValueError(f"{uri}/{VOCAB}: is not the vocabulary that this language model was trained with")
    weights = storage.read_bytes(storage.join(uri, WEIGHTS))
    if hashlib.sha256(weights).hexdigest() != facts["weights_sha256"]:
        raise ValueError(
            f"{uri}/{WEIGHTS}: was cut short or altered since it was written; get the language model again"
        )
    config = build(LmConfig, facts["model"], f"{uri}/{FACTS}: model")
    mean_logp = -math.log(facts["perplexity"]["token"])
    try:
        return LanguageModel(config, tokenizer.size, tokenizer.fingerprint, mean_logp, load_tensors(weights))
    except (ValueError, SafetensorError) as err:
        raise ValueError(f"{uri}/{WEIGHTS}: does not fit the model in {FACTS}: {err}") from None


def _facts(uri: str) -> dict[str, Any]:
    for name in (FACTS, WEIGHTS, VOCAB):
        if not storage.exists(storage.join(uri, name)):
            raise ValueError(f"{uri}: is not a language model (no {name}); train-lm leaves one as runs/<name>/best")
    try:
        facts = json.loads(storage.read_bytes(storage.join(uri, FACTS)))
        if not isinstance(facts, dict) or "version" not in facts:
            raise ValueError("it says no version")
    except ValueError as err:
        raise ValueError(f"{uri}/{FACTS}: is damaged ({err}); get the language model again") from None
    if facts["version"] != VERSION:
        raise ValueError(f"{uri}: is a language model of version {facts['version']}, this program reads {VERSION}")
    if not _is_whole(facts):
        raise ValueError(f"{uri}/{FACTS}: is damaged (of model, vocab, perplexity and weights_sha256 it lacks some); "
                         "get the language model again")  # fmt: skip
    return facts


def _is_whole(facts: dict[str, Any]) -> bool:
    vocab, perplexity = facts.get("vocab"), facts.get("perplexity")
    if not isinstance(vocab, dict) or not isinstance(perplexity, dict):
        return False
    token = perplexity.get("token")
    known = {"size", "fingerprint"} <= vocab.keys() and {"model", "weights_sha256"} <= facts.keys()
    return known and isinstance(token, int | float) and 1 <= token < math.inf


def _check_shapes(config: LmConfig, vocab: int, tensors: Mapping[str, Floats]) -> None:
    gates, hidden, embedding = 4 * config.hidden, config.hidden, config.embedding
    expected: dict[str, tuple[int, ...]] = {
        "embedding.weight": (vocab, embedding),
        "projection.weight": (embedding, hidden),
        "projection.bias": (embedding,),
        "bias": (vocab - 1,),
    }
    for i in range(config.layers):
        expected[f"lstm.weight_ih_l{i}"] = (gates, hidden if i else embedding)
        expected[f"lstm.weight_hh_l{i}"] = (gates, hidden)
        expected[f"lstm.bias_ih_l{i}"] = expected[f"lstm.bias_hh_l{i}"] = (gates,)
    found = {name: tensor.shape for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            raise ValueError(f"{name} is {found.get(name, 'missing')}, not {expected.get(name, 'anything')}")
