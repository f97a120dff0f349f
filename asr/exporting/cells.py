"""Recurrent layers as the matrix products they are made of, step by step.

For eight bits, where a wide layer takes a step or two at a time: then the time is that of reading the weights, and
ONNX Runtime reads them faster for products (eight_bits.py) than for its own eight-bit LSTM. E6D2 in steps of 75 ms
takes 1.95 in place of 2.88 ms. Longer steps, narrow layers and many streams are slower so, up to twice as slow
(tests/bench/LOG.md). What a stream says then does not depend on who shares its batch, and a GRU is rounded, too. In
float32 there is nothing to win.

Shape letters: b batch, t steps, d input size, h hidden, g gates times hidden.
"""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from asr.models import Model

WIDE = 640  # E6D2 with four layers, steps of 75 ms: 0.71 against 0.97 ms with 640, 0.36 against 0.30 with 512


def are_faster(model: Model, step_frames: int) -> bool:
    """Whether products are, for steps of so many feature frames."""
    layers = cast(nn.Module, model.encoder).modules()
    wide = any(isinstance(layer, nn.RNNBase) and layer.hidden_size >= WIDE for layer in layers)
    return wide and step_frames == model.encoder.reduction


def unrolled(model: Model) -> Model:
    """A copy of the model in which each LSTM and GRU is `Lstm` or `Gru`, for traces with a fixed number of steps."""
    copied = copy.deepcopy(model)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.LSTM):
                setattr(parent, name, Lstm(child))
            elif isinstance(child, nn.GRU):
                setattr(parent, name, Gru(child))
    return copied


class _Layers(nn.Module):
    """The weights of a recurrent module, whose calls its copies answer."""

    def __init__(self, module: nn.RNNBase) -> None:
        super().__init__()
        assert module.batch_first and module.bias and not module.bidirectional and not module.proj_size
        self.weights = nn.ParameterList(module.parameters())
        self.count = module.num_layers

    def start(self, x_btd: Tensor) -> Tensor:
        """Zeros [layers, b, h], the state of none."""
        return x_btd.new_zeros(self.count, len(x_btd), self.weights[1].shape[1])

    def layer(self, i: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """W [g, d], R [g, h] and their biases."""
        w_gd, r_gh, w_bias_g, r_bias_g = self.weights[4 * i : 4 * i + 4]
        return w_gd, r_gh, w_bias_g, r_bias_g


class Lstm(_Layers):
    def forward(
        self, x_btd: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        state, ends = state or (self.start(x_btd), self.start(x_btd)), []
        for i in range(self.count):
            w_gd, r_gh, w_bias_g, r_bias_g = self.layer(i)
            inputs_btg = x_btd @ w_gd.t() + (w_bias_g + r_bias_g)
            h_bh, c_bh = (part[i] for part in state)
            outputs = []
            for input_bg in inputs_btg.unbind(1):
                let_in, forget, cell, let_out = (input_bg + h_bh @ r_gh.t()).chunk(4, 1)
                c_bh = forget.sigmoid() * c_bh + let_in.sigmoid() * cell.tanh()
                h_bh = let_out.sigmoid() * c_bh.tanh()
                outputs.append(h_bh)
            x_btd = torch.stack(outputs, 1)
            ends.append((h_bh, c_bh))
        h_lbh, c_lbh = (torch.stack(parts) for parts in zip(*ends, strict=True))
        return x_btd, (h_lbh, c_lbh)


class Gru(_Layers):
    def forward(self, x_btd: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        state, ends = self.start(x_btd) if state is None else state, []
        for i in range(self.count):
            w_gd, r_gh, w_bias_g, r_bias_g = self.layer(i)
            h_bh, outputs = state[i], []
            for input_bg in (x_btd @ w_gd.t() + w_bias_g).unbind(1):
                reset_in, keep_in, new_in = input_bg.chunk(3, 1)
                reset_h, keep_h, new_h = (h_bh @ r_gh.t() + r_bias_g).chunk(3, 1)
                keep = (keep_in + keep_h).sigmoid()
                new = (new_in + (reset_in + reset_h).sigmoid() * new_h).tanh()
                h_bh = (1 - keep) * new + keep * h_bh
                outputs.append(h_bh)
            x_btd = torch.stack(outputs, 1)
            ends.append(h_bh)
        return x_btd, torch.stack(ends)
