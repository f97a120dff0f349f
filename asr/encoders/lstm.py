"""Residual LayerNorm LSTM or GRU encoder: the low-latency model for processors without a GPU.

Input LayerNorm over stacked frames -> recurrent layers, each with a residual connection (from the second on) and a
LayerNorm, the time axis halved by the mean of two frames after chosen layers -> projection. Strictly causal.

Shape letters: b batch, t frames (the rate changes from feature frames to encoder frames on the way), f mels,
h hidden, d output size.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from asr.recompute import computed

RecurrentState = tuple[Tensor, ...]  # (h, c) of an LSTM or (h,) of a GRU, each [1, b, h]


@dataclass(frozen=True)
class Config:
    layers: int = 4
    hidden: int = 256
    projection: int = 256
    cell: Literal["lstm", "gru"] = "lstm"
    stack: int = 3  # feature frames side by side in one input
    reduce_after: tuple[int, ...] = (2,)  # layers (from 1) after which two frames become one
    input_norm: bool = True  # LayerNorm of the input: level does not matter, nor can it tell speech from silence
    dropout: float = 0.0  # between layers, in training

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.projection < 1 or not 0 <= self.dropout < 1:
            raise ValueError(f"lstm encoder: hidden {self.hidden} and projection {self.projection} must be 1 or more, "
                             f"dropout {self.dropout:g} from 0 to below 1")  # fmt: skip
        if self.layers < 1 or self.stack < 1 or any(not 1 <= layer <= self.layers for layer in self.reduce_after):
            raise ValueError(f"lstm encoder: reduce_after {self.reduce_after} and stack {self.stack} do not fit "
                             f"{self.layers} layers")  # fmt: skip


@dataclass
class State:
    """One recurrent state for each layer."""

    layers: list[RecurrentState]


class Encoder(nn.Module):
    def __init__(self, config: Config, mels: int) -> None:
        super().__init__()
        self.config = config
        self.output_size = config.projection
        self.checkpointing = False  # see asr/recompute.py
        self.reduction = config.stack * 2 ** len(config.reduce_after)  # feature frames in one encoder frame
        self.input_norm = nn.LayerNorm(mels * config.stack) if config.input_norm else nn.Identity()
        kind = nn.LSTM if config.cell == "lstm" else nn.GRU
        sizes = [mels * config.stack] + [config.hidden] * (config.layers - 1)
        layers = [kind(size, config.hidden, batch_first=True) for size in sizes]
        if config.cell == "lstm":
            _open_forget_gates(layers, config.hidden)
        self.recurrent = nn.ModuleList(layers)
        self.norms = nn.ModuleList(nn.LayerNorm(config.hidden) for _ in sizes)
        self.dropout = nn.Dropout(config.dropout)
        self.projection = nn.Linear(config.hidden, config.projection)

    def init_state(self, batch: int) -> State:
        zero = self.projection.weight.new_zeros(1, batch, self.config.hidden)
        count = 2 if self.config.cell == "lstm" else 1
        return State([(zero,) * count for _ in self.recurrent])

    def step(self, feats_btf: Tensor, state: State) -> tuple[Tensor, State]:
        """Feature frames, a multiple of `reduction` of them, to [b, t / reduction, d] and the state after them."""
        batch, frames, mels = feats_btf.shape
        assert frames % self.reduction == 0, f"{frames} frames are not a multiple of {self.reduction}"
        x = self.input_norm(feats_btf.reshape(batch, frames // self.config.stack, mels * self.config.stack))
        again, after = self.checkpointing and self.training, []
        for i, before in enumerate(state.layers):
            x, end = computed(again, self._layer, i, x, before)
            after.append(end)
            if i + 1 in self.config.reduce_after:
                x = x.unflatten(1, (-1, 2)).mean(2)
        return self.projection(x), State(after)

    def _layer(self, i: int, x: Tensor, before: RecurrentState) -> tuple[Tensor, RecurrentState]:
        y, end = self.recurrent[i](x, before if len(before) == 2 else before[0])
        return self.dropout(self.norms[i](x + y if i else y)), end if isinstance(end, tuple) else (end,)


def _open_forget_gates(lstms: list, hidden: int) -> None:
    """Forget-gate bias 1 (Jozefowicz et al. 2015): a new LSTM remembers."""
    for lstm in lstms:
        with torch.no_grad():
            lstm.bias_ih_l0[hidden : 2 * hidden].fill_(1.0)
            lstm.bias_hh_l0[hidden : 2 * hidden].zero_()
