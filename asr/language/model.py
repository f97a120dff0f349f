"""The language model in torch, for its training; asr/lm.py runs what comes of it.

Shape letters: b batch, u tokens, e embedding, h hidden size, v vocab.
"""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional

from asr import folders, lm
from asr.language.config import LmConfig
from asr.tokenizer import Tokenizer


class LstmLm(nn.Module):
    """An LSTM whose output weights are its embeddings (Press and Wolf 2017); a text begins with blank.

    Its names are those of the weights in a bundle.
    """

    def __init__(self, config: LmConfig, vocab: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocab, config.embedding)
        nn.init.normal_(self.embedding.weight, std=config.embedding**-0.5)  # as output weights 1 would be far too loud
        between = config.dropout if config.layers > 1 else 0.0
        self.lstm = nn.LSTM(config.embedding, config.hidden, config.layers, batch_first=True, dropout=between)
        self.projection = nn.Linear(config.hidden, config.embedding)
        self.bias = nn.Parameter(torch.zeros(vocab - 1))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens_bu: Tensor) -> Tensor:
        """Logits [b, u, v - 1] of the token after each, of all ids but blank's."""
        out_buh, _ = self.lstm(self.dropout(self.embedding(tokens_bu)))
        return functional.linear(self.projection(self.dropout(out_buh)), self.embedding.weight[1:], self.bias)

    def loss(self, inputs_bu: Tensor, targets_bu: Tensor) -> Tensor:
        """Negative log-probability of the targets in nats, summed; a target of blank is padding."""
        return functional.cross_entropy(
            self(inputs_bu).flatten(0, 1), targets_bu.flatten() - 1, ignore_index=-1, reduction="sum"
        )


def save(folder: str, model: LstmLm, tokenizer: Tokenizer, known: dict[str, Any]) -> None:
    """Write a bundle, see asr/lm.py; `known` is what else is known of the model: perplexities, its training."""
    weights = save_tensors({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    facts = {
        "version": lm.VERSION,
        "model": asdict(model.config),
        "vocab": {"size": tokenizer.size, "fingerprint": tokenizer.fingerprint},
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    } | known
    text = json.dumps(facts, indent=1) + "\n"
    folders.replace(folder, {lm.WEIGHTS: weights, lm.VOCAB: tokenizer.model_bytes, lm.FACTS: text.encode()})
