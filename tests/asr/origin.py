"""Checkpoints as online-speech-recognition wrote them, with random weights, and its model in float64 numpy."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

Arrays = dict[str, np.ndarray]

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
MERGES = [("t", "h"), ("th", "e</w>"), ("c", "a"), ("ca", "t</w>"), ("a", "t</w>"), ("o", "n</w>"), ("d", "o"),
          ("m", "at</w>"), ("s", "at</w>"), ("h", "e</w>")]  # fmt: skip
PIECES = ["<blank>", "<pad>", "<bos>", "<unk>", *LETTERS, *(f"{c}</w>" for c in LETTERS),
          *(left + right for left, right in MERGES)]  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """How large its model is. `reduce_after` counts layers from 1."""

    cell: str = "lstm"
    layers: int = 3
    hidden: int = 20
    projection: int = 12
    reduce_after: tuple[int, ...] = (2,)
    embedding: int = 6
    predictor_layers: int = 2
    predictor_hidden: int = 10
    predictor_projection: int = 8
    joint: int = 14
    mels: int = 80
    window: int = 400
    hop: int = 320


def config_text(shape: Shape, folder: Path) -> str:
    """This project's train config of such a model; its frontend beside it."""
    (folder / "f.yaml").write_text(
        f"{{window_samples: {shape.window}, hop_samples: {shape.hop}, mels: {shape.mels}, window: hann}}"
    )
    return f"""
frontend: {folder}/f.yaml
epochs: 1
model:
  encoder: lstm
  encoder_options: {{layers: {shape.layers}, hidden: {shape.hidden}, projection: {shape.projection},
                    cell: {shape.cell}, reduce_after: {list(shape.reduce_after)}}}
  embedding: {shape.embedding}
  predictor_layers: {shape.predictor_layers}
  predictor_hidden: {shape.predictor_hidden}
  predictor_projection: {shape.predictor_projection}
  joint: {shape.joint}
data: {{batch_s: 8, batch_examples: 2}}
optim: {{warmup_steps: 4}}
"""


def state_dict(shape: Shape, seed: int = 0, vocab: int = len(PIECES)) -> Arrays:
    """Weights by the names of that system, large enough for the model to say something; exact in float32."""
    rng = np.random.default_rng(seed)
    gates = {"lstm": 4, "gru": 3}

    def weight(*size: int, scale: float = 1.0) -> np.ndarray:
        return rng.normal(0, scale / np.sqrt(size[-1]), size).astype(np.float32).astype(np.float64)

    def norm(name: str, size: int) -> Arrays:
        return {
            f"{name}.weight": (1 + weight(size)).astype(np.float32).astype(np.float64),
            f"{name}.bias": weight(size),
        }

    def linear(name: str, outputs: int, inputs: int, scale: float = 1.0) -> Arrays:
        return {f"{name}.weight": weight(outputs, inputs, scale=scale), f"{name}.bias": weight(outputs)}

    def recurrent(name: str, layer: int, cell: str, inputs: int, hidden: int) -> Arrays:
        rows = gates[cell] * hidden
        return {
            f"{name}.weight_ih_l{layer}": weight(rows, inputs, scale=2.0), f"{name}.bias_ih_l{layer}": weight(rows),
            f"{name}.weight_hh_l{layer}": weight(rows, hidden), f"{name}.bias_hh_l{layer}": weight(rows),
        }  # fmt: skip

    found = norm("encoder.norm", 3 * shape.mels)
    for i in range(shape.layers):
        inputs = shape.hidden if i else 3 * shape.mels
        found |= recurrent(f"encoder.lstm.lstms.{i}", 0, shape.cell, inputs, shape.hidden)
        found |= norm(f"encoder.lstm.projs.{i}.0", shape.hidden)
    found |= linear("encoder.proj", shape.projection, shape.hidden)
    found |= {"decoder.embed.weight": weight(vocab, shape.embedding, scale=4.0)}
    for k in range(shape.predictor_layers):
        inputs = shape.predictor_hidden if k else shape.embedding
        found |= recurrent("decoder.lstm", k, "lstm", inputs, shape.predictor_hidden)
    found |= linear("decoder.proj", shape.predictor_projection, shape.predictor_hidden, scale=4.0)
    found |= linear("joint.joint.0", shape.joint, shape.projection + shape.predictor_projection, scale=3.0)
    found |= linear("joint.joint.2", vocab, shape.joint, scale=3.0)
    return found


def save(path: Path, weights: Arrays, form: str = "model") -> None:
    """As that system did (`model`), as Lightning did (`lightning`), or by PyTorch before 1.6 (`old`)."""
    tensors = {key: torch.from_numpy(value.astype(np.float32)) for key, value in weights.items()}
    values: dict[str, Any] = {"model": tensors, "optim": {"state": {}, "param_groups": [{"lr": 1e-3}]}}
    if form == "lightning":
        values = {"state_dict": {f"model.{key}": value for key, value in tensors.items()}, "epoch": 3}
    torch.save(values, path, _use_new_zipfile_serialization=form != "old")


def write_inputs(folder: Path, shape: Shape, form: str = "model", seed: int = 0) -> Arrays:
    """origin.ckpt, config.yaml, v-vocab.json and v-merges.txt; returns the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = state_dict(shape, seed)
    save(folder / "origin.ckpt", weights, form)
    (folder / "config.yaml").write_text(config_text(shape, folder))
    (folder / "v-vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(PIECES)}))
    lines = "".join(f"{left} {right}\n" for left, right in MERGES)
    (folder / "v-merges.txt").write_text(f"#version: 0.2 - Trained by `huggingface/tokenizers`\n{lines}")
    return weights


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def layer_norm(x: np.ndarray, weights: Arrays, name: str) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: np.ndarray, weights: Arrays, name: str) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def recurrent(x_tn: np.ndarray, weights: Arrays, name: str, layer: int, cell: str) -> np.ndarray:
    """Gates as PyTorch's documentation has them: i, f, g, o of an LSTM, r, z, n of a GRU."""
    w_ih, w_hh, b_ih, b_hh = (weights[f"{name}.{w}_l{layer}"] for w in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    hidden = w_hh.shape[1]
    h, c, outputs = np.zeros(hidden), np.zeros(hidden), []
    for x in x_tn:
        new, old = w_ih @ x + b_ih, w_hh @ h + b_hh
        if cell == "lstm":
            i, f, g, o = np.split(new + old, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            (r, z, n), (old_r, old_z, old_n) = np.split(new, 3), np.split(old, 3)
            update = sigmoid(z + old_z)
            h = (1 - update) * np.tanh(n + sigmoid(r + old_r) * old_n) + update * h
        outputs.append(h)
    return np.array(outputs)


def encode(feats_tf: np.ndarray, weights: Arrays, shape: Shape) -> np.ndarray:
    """Log-mel [t, f] to encoder frames [n, e]; frames are stacked and averaged with zeros behind the end."""
    reduction = 3 * 2 ** len(shape.reduce_after)
    padded_tf = np.pad(feats_tf.astype(np.float64), ((0, -len(feats_tf) % reduction), (0, 0)))
    x = layer_norm(padded_tf.reshape(-1, 3 * shape.mels), weights, "encoder.norm")
    for i in range(shape.layers):
        y = recurrent(x, weights, f"encoder.lstm.lstms.{i}", 0, shape.cell)
        x = layer_norm(x + y if i else y, weights, f"encoder.lstm.projs.{i}.0")
        if i + 1 in shape.reduce_after:
            x = (x[0::2] + x[1::2]) / 2
    return linear(x, weights, "encoder.proj")


def predict(tokens: Sequence[int], weights: Arrays, shape: Shape) -> np.ndarray:
    """The predictor's outputs [1 + u, p]: before the first token, and behind each."""
    x = weights["decoder.embed.weight"][[2, *tokens]]
    for k in range(shape.predictor_layers):
        x = recurrent(x, weights, "decoder.lstm", k, "lstm")
    return linear(x, weights, "decoder.proj")


def join(enc_e: np.ndarray, pred_p: np.ndarray, weights: Arrays) -> np.ndarray:
    return linear(np.tanh(linear(np.concatenate([enc_e, pred_p]), weights, "joint.joint.0")), weights, "joint.joint.2")


def greedy(feats_tf: np.ndarray, weights: Arrays, shape: Shape, most: int) -> list[int]:
    """The tokens of greedy search, `most` in a frame."""
    tokens: list[int] = []
    pred_p = predict(tokens, weights, shape)[-1]
    for enc_e in encode(feats_tf, weights, shape):
        for _ in range(most):
            best = int(join(enc_e, pred_p, weights).argmax())
            if best == 0:
                break
            tokens.append(best)
            pred_p = predict(tokens, weights, shape)[-1]
    return tokens
