"""Residual LayerNorm LSTM or GRU encoder: the low-latency model for processors without a GPU.

Input LayerNorm over stacked frames -> convolutions over time and mels, where asked for -> recurrent layers, each with a
residual connection (from the second on) and a LayerNorm, the time axis halved by the mean of two frames after chosen
layers -> projection. Strictly causal.

Shape letters: b batch, t frames (the rate changes from feature frames to encoder frames on the way), f mels,
h hidden, d output size.
"""

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.recompute import computed

RecurrentState = tuple[Tensor, ...]  # (h, c) of an LSTM or (h,) of a GRU, each [1, b, h]


@dataclass(frozen=True)
class Config:
    layers: int = 4
    hidden: int = 256
    projection: int = 256
    cell: Literal["lstm", "gru"] = "lstm"
    stack: int = 3  # feature frames side by side in one input
    convolutions: tuple[int, ...] = ()  # channels of each; they make one input of the stacked frames, halving them
    kernel_mels: int = 5  # that a convolution sees at a time
    reduce_after: tuple[int, ...] = (2,)  # layers (from 1) after which two frames become one
    input_norm: bool = True  # LayerNorm of the input: level does not matter, nor can it tell speech from silence
    dropout: float = 0.0  # between layers, in training

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.projection < 1 or not 0 <= self.dropout < 1:
            raise ValueError(f"lstm encoder: hidden {self.hidden} and projection {self.projection} must be 1 or more, "
                             f"dropout {self.dropout:g} from 0 to below 1")  # fmt: skip
        if min(self.convolutions, default=1) < 1 or self.kernel_mels < 1 or self.kernel_mels % 2 == 0:
            raise ValueError(f"lstm encoder: convolutions {self.convolutions} must have 1 channel or more, and "
                             f"kernel_mels {self.kernel_mels} be odd")  # fmt: skip
        if self.convolutions and self.stack != (frames := 2 ** len(self.convolutions)):
            raise ValueError(f"lstm encoder: each of its convolutions halves time, so stack must be {frames} for "
                             f"{len(self.convolutions)} of them, not {self.stack}")  # fmt: skip
        if self.layers < 1 or self.stack < 1 or any(not 1 <= layer <= self.layers for layer in self.reduce_after):
            raise ValueError(f"lstm encoder: reduce_after {self.reduce_after} and stack {self.stack} do not fit "
                             f"{self.layers} layers")  # fmt: skip


@dataclass
class State:
    """One recurrent state for each layer, and [b, stack - 1, f] that convolutions look back at, where there are any."""

    layers: list[RecurrentState]
    past: list[Tensor]


class Encoder(nn.Module):
    def __init__(self, config: Config, mels: int) -> None:
        super().__init__()
        self.config = config
        self.output_size = config.projection
        self.checkpointing = False  # see asr/recompute.py
        self.reduction = config.stack * 2 ** len(config.reduce_after)  # feature frames in one encoder frame
        self.input_norm = nn.LayerNorm(mels * config.stack) if config.input_norm else nn.Identity()
        self.mels = mels
        self.convolutions = Convolutions(config, mels) if config.convolutions else None
        kind = nn.LSTM if config.cell == "lstm" else nn.GRU
        sizes = [config.hidden if config.convolutions else mels * config.stack] + [config.hidden] * (config.layers - 1)
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
        past = [] if self.convolutions is None else [zero.new_zeros(batch, self.config.stack - 1, self.mels)]
        return State([(zero,) * count for _ in self.recurrent], past)

    def step(self, feats_btf: Tensor, state: State) -> tuple[Tensor, State]:
        """Feature frames, a multiple of `reduction` of them, to [b, t / reduction, d] and the state after them."""
        batch, frames, mels = feats_btf.shape
        assert frames % self.reduction == 0, f"{frames} frames are not a multiple of {self.reduction}"
        x = self.input_norm(feats_btf.reshape(batch, frames // self.config.stack, mels * self.config.stack))
        again, after, past = self.checkpointing and self.training, [], []
        if self.convolutions is not None:
            x_btf = torch.cat([*state.past, x.reshape(batch, frames, mels)], 1)
            past = [x_btf[:, frames:].clone()]  # a view would keep the whole step alive
            x = computed(again, self.convolutions, x_btf)
        for i, before in enumerate(state.layers):
            x, end = computed(again, self._layer, i, x, before)
            after.append(end)
            if i + 1 in self.config.reduce_after:
                x = x.unflatten(1, (-1, 2)).mean(2)
        return self.projection(x), State(after, past)

    def _layer(self, i: int, x: Tensor, before: RecurrentState) -> tuple[Tensor, RecurrentState]:
        y, end = self.recurrent[i](x, before if len(before) == 2 else before[0])
        return self.dropout(self.norms[i](x + y if i else y)), end if isinstance(end, tuple) else (end,)


class Convolutions(nn.Module):
    """Causal, over three frames and `kernel_mels` mels, each of which halves both: [b, s - 1 + s t, f] to [b, t, h].

    What stacked frames and a matrix must learn of every mel anew, a convolution learns for all: with three speakers to
    learn digits from, a quarter fewer errors on a fourth (tests/bench/LOG.md).
    """

    def __init__(self, config: Config, mels: int) -> None:
        super().__init__()
        sizes, kernel = [1, *config.convolutions], (3, config.kernel_mels)
        padding = (0, config.kernel_mels // 2)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, kernel, stride=2, padding=padding) for before, after in itertools.pairwise(sizes)
        )
        self.projection = nn.Linear(sizes[-1] * -(-mels // config.stack), config.hidden)
        self.norm = nn.LayerNorm(config.hidden)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_btf: Tensor) -> Tensor:
        y = x_btf[:, None]
        for layer in self.layers:
            y = functional.silu(layer(y))
        return self.dropout(self.norm(self.projection(y.transpose(1, 2).flatten(2))))


def _open_forget_gates(lstms: list, hidden: int) -> None:
    """Forget-gate bias 1 (Jozefowicz et al. 2015): a new LSTM remembers."""
    for lstm in lstms:
        with torch.no_grad():
            lstm.bias_ih_l0[hidden : 2 * hidden].fill_(1.0)
            lstm.bias_hh_l0[hidden : 2 * hidden].zero_()
