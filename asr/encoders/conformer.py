"""Causal Conformer that works in chunks: the accurate model, for GPUs and for streams that may wait a little.

Conformer (Gulati et al. 2020) with the eightfold convolutional subsampling of FastConformer (Rekesh et al. 2023).
Attention sees a chunk of frames and a bounded number before it (Chen et al. 2021); convolutions see the past only. So a
chunk is computed once, when its last frame has come, from the state that the chunk before has left. Training draws
the size of a batch's chunks: one model then serves every size, small ones for low latency, large ones for accuracy.
Positions are rotary (Su et al. 2021).

A step of several chunks computes them together, under a mask that hides from each what it could not have seen.

Shape letters: b batch, t feature frames, f mels, n encoder frames, d width, h heads, k width of a head, l frames of
left context, s frames that a query might see (l + n).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.recompute import computed

REDUCTION = 8  # feature frames in one encoder frame: three convolutions of stride 2
PAST_FEATURES = 7  # frames before its own eight that an encoder frame is made from
LONGEST = 512  # encoder frames computed together; more would make the masks large and the attention slow
TURN = 65536  # steps of a whole turn: with angles in whole numbers no stream is so long that they lose accuracy


@dataclass(frozen=True)
class Config:
    layers: int = 14
    width: int = 192
    heads: int = 4
    expansion: int = 4  # of the feed-forward parts
    kernel: int = 9  # encoder frames that a layer's convolution sees, its own and those before
    channels: int = 32  # of the first convolution; the second has twice, the third four times as many
    left: int = 70  # encoder frames before its chunk that a frame sees in each layer
    chunk: int = 4  # encoder frames that come out together, for all but training
    chunks: tuple[int, ...] = (1, 2, 4, 8, 14)  # of which training draws one for each batch
    dropout: float = 0.1

    def __post_init__(self) -> None:
        sizes = (self.layers, self.heads, self.expansion, self.kernel, self.channels, self.chunk, *self.chunks)
        if min(sizes) < 1 or not self.chunks or self.left < 0 or not 0 <= self.dropout < 1:
            raise ValueError("conformer encoder: sizes and chunks must be 1 or more, left 0 or more, dropout from 0 to "
                             "below 1")  # fmt: skip
        if self.width < 1 or self.width % (2 * self.heads):
            near = max(1, round(self.width / (2 * self.heads))) * 2 * self.heads
            raise ValueError(f"conformer encoder: width {self.width} does not divide into {self.heads} heads of even "
                             f"width; {near} does")  # fmt: skip


@dataclass
class LayerState:
    """What a layer remembers of the frames before."""

    keys_bhlk: Tensor
    values_bhlk: Tensor
    conv_bnd: Tensor  # input of the convolution, kernel - 1 frames


@dataclass
class State:
    feats_btf: Tensor  # the last PAST_FEATURES frames
    frames_b: Tensor  # int64, encoder frames so far
    layers: list[LayerState]


@dataclass
class Span:
    """The frames of a step, the same for all layers."""

    frames: int  # that came; the mean frames that fill up the last chunk are not to be remembered
    seen_b1ns: Tensor  # which keys each query sees
    cos_b1nk: Tensor
    sin_b1nk: Tensor


class Encoder(nn.Module):
    turns_k: Tensor

    def __init__(self, config: Config, mels: int) -> None:
        super().__init__()
        self.config = config
        self.output_size = config.width
        self.reduction = REDUCTION
        self.chunk = config.chunk
        self.checkpointing = False  # see asr/recompute.py
        self.mels = mels
        self.subsampling = Subsampling(config, mels)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        half = config.width // config.heads // 2
        radians_k = 10000.0 ** -(torch.arange(half) / half)
        turns_k = (radians_k * TURN / (2 * math.pi)).round().long()
        self.register_buffer("turns_k", turns_k, persistent=False)

    def init_state(self, batch: int) -> State:
        config, weight = self.config, self.subsampling.projection.weight
        cache = weight.new_zeros(batch, config.heads, config.left, config.width // config.heads)
        conv = weight.new_zeros(batch, config.kernel - 1, config.width)
        return State(
            weight.new_zeros(batch, PAST_FEATURES, self.mels),
            torch.zeros(batch, dtype=torch.long, device=weight.device),
            [LayerState(cache, cache, conv) for _ in self.layers],
        )

    def step(self, feats_btf: Tensor, state: State) -> tuple[Tensor, State]:
        """Feature frames, a multiple of `reduction` of them, to [b, t / reduction, d] and the state after them.

        Chunks are counted from the first frame of a step. When they are not all full, mean frames, which are zeros,
        take the place of those that have not come, as at the end of an utterance.
        """
        assert feats_btf.shape[1] % REDUCTION == 0, f"{feats_btf.shape[1]} frames are not a multiple of {REDUCTION}"
        chunk = self.chunk
        if self.training:
            chunk = self.config.chunks[int(torch.randint(len(self.config.chunks), ()))]
        out = []
        for part_btf in feats_btf.split(max(1, LONGEST // chunk) * chunk * REDUCTION, 1):
            part_bnd, state = self._together(part_btf, chunk, state)
            out.append(part_bnd)
        return torch.cat(out, 1), state

    def _together(self, feats_btf: Tensor, chunk: int, state: State) -> tuple[Tensor, State]:
        frames = feats_btf.shape[1] // REDUCTION
        missing = -frames % chunk
        feats_btf = torch.cat([state.feats_btf, functional.pad(feats_btf, (0, 0, 0, missing * REDUCTION))], 1)
        again = self.checkpointing and self.training
        x_bnd = computed(again, self.subsampling, feats_btf)
        span = self._span(frames, frames + missing, chunk, state.frames_b)
        layers = []
        for layer, before in zip(self.layers, state.layers, strict=True):
            x_bnd, after = computed(again, layer, x_bnd, before, span)
            layers.append(after)
        feats_btf = _remembered(feats_btf, 1, frames * REDUCTION, PAST_FEATURES)
        return x_bnd[:, :frames], State(feats_btf, state.frames_b + frames, layers)

    def _span(self, came: int, frames: int, chunk: int, before_b: Tensor) -> Span:
        at_n = torch.arange(frames, device=before_b.device)
        key_s = torch.arange(-self.config.left, frames, device=before_b.device)
        start_n1 = (at_n // chunk * chunk)[:, None]
        near_ns = (key_s >= start_n1 - self.config.left) & (key_s < start_n1 + chunk)
        there_bs = key_s >= -before_b[:, None]  # at the start of a stream nothing is remembered
        turn_bnk = (before_b[:, None, None] + at_n[:, None]) * self.turns_k % TURN
        angle_b1nk = turn_bnk[:, None] * (2 * math.pi / TURN)
        return Span(came, near_ns & there_bs[:, None, None], angle_b1nk.cos(), angle_b1nk.sin())


def _remembered(x: Tensor, dim: int, start: int, length: int) -> Tensor:
    """A copy: a view would keep the whole step alive."""
    return x.narrow(dim, start, length).clone()


class Subsampling(nn.Module):
    """Three causal convolutions over time and mels, each of which halves both: [b, 7 + 8 n, f] to [b, n, d].

    Dense ones of few channels: with 80 mels and a width of 192 they multiply 1.8 M times for an encoder frame, where
    FastConformer's separable ones of 256 channels do so 4.2 M times.
    """

    def __init__(self, config: Config, mels: int) -> None:
        super().__init__()
        sizes = [1, config.channels, 2 * config.channels, 4 * config.channels]
        self.convs = nn.ModuleList(
            nn.Conv2d(sizes[i], sizes[i + 1], 3, stride=2, padding=(0, 1)) for i in range(len(sizes) - 1)
        )
        self.projection = nn.Linear(sizes[-1] * -(-mels // REDUCTION), config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, feats_btf: Tensor) -> Tensor:
        x = feats_btf[:, None]
        for conv in self.convs:
            x = functional.silu(conv(x))
        return self.dropout(self.projection(x.transpose(1, 2).flatten(2)))


class Layer(nn.Module):
    """Half a feed-forward part, attention, convolution, the other half."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.first = FeedForward(config)
        self.attention = Attention(config)
        self.convolution = Convolution(config)
        self.second = FeedForward(config)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_bnd: Tensor, state: LayerState, span: Span) -> tuple[Tensor, LayerState]:
        x_bnd = x_bnd + 0.5 * self.dropout(self.first(x_bnd))
        y_bnd, keys_bhlk, values_bhlk = self.attention(x_bnd, state.keys_bhlk, state.values_bhlk, span)
        x_bnd = x_bnd + self.dropout(y_bnd)
        y_bnd, conv_bnd = self.convolution(x_bnd, state.conv_bnd, span.frames)
        x_bnd = x_bnd + self.dropout(y_bnd)
        x_bnd = x_bnd + 0.5 * self.dropout(self.second(x_bnd))
        return self.norm(x_bnd), LayerState(keys_bhlk, values_bhlk, conv_bnd)


class FeedForward(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.wide = nn.Linear(config.width, config.expansion * config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.narrow = nn.Linear(config.expansion * config.width, config.width)

    def forward(self, x_bnd: Tensor) -> Tensor:
        return self.narrow(self.dropout(functional.silu(self.wide(self.norm(x_bnd)))))


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.left = config.heads, config.left
        self.norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x_bnd: Tensor, keys: Tensor, values: Tensor, span: Span) -> tuple[Tensor, Tensor, Tensor]:
        qkv_3bhnk = self.qkv(self.norm(x_bnd)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query_bhnk, key_bhnk = _rotated(qkv_3bhnk[:2], span)
        keys_bhsk = torch.cat([keys.to(key_bhnk.dtype), key_bhnk], 2)
        values_bhsk = torch.cat([values.to(key_bhnk.dtype), qkv_3bhnk[2]], 2)
        y_bhnk = functional.scaled_dot_product_attention(query_bhnk, keys_bhsk, values_bhsk, span.seen_b1ns)
        remembered = (_remembered(x, 2, span.frames, self.left) for x in (keys_bhsk, values_bhsk))
        return self.out(y_bhnk.transpose(1, 2).flatten(2)), *remembered


def _rotated(x: Tensor, span: Span) -> Tensor:
    """Each pair (i, k / 2 + i) of [..., b, h, n, k] turned by its frame's angle."""
    a, b = x.chunk(2, -1)
    cos, sin = span.cos_b1nk, span.sin_b1nk
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)


class Convolution(nn.Module):
    """Gated pointwise, causal depthwise, pointwise; a LayerNorm in between, as batch statistics do not stream."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.gated = nn.Linear(config.width, 2 * config.width)
        bound = config.kernel**-0.5
        self.weight_kd = nn.Parameter(torch.empty(config.kernel, config.width).uniform_(-bound, bound))
        self.inner_norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x_bnd: Tensor, past_bnd: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """`frames` of the input are to be remembered."""
        gated_bnd = functional.glu(self.gated(self.norm(x_bnd)), -1)
        all_bnd = torch.cat([past_bnd.to(gated_bnd.dtype), gated_bnd], 1)
        y_bnd = functional.silu(self.inner_norm(_depthwise(all_bnd, self.weight_kd)))
        return self.out(y_bnd), _remembered(all_bnd, 1, frames, past_bnd.shape[1])


def _depthwise(x_bnd: Tensor, weight_kd: Tensor) -> Tensor:
    """Convolution of each channel for itself, [b, k - 1 + n, d] to [b, n, d].

    Sums of shifted inputs: 45 us for a chunk of one stream, where conv1d takes 70, and 800 to 1,600 without oneDNN,
    which is off when a stream is recognised; in training as fast as conv1d.
    """
    frames = x_bnd.shape[1] - len(weight_kd) + 1
    y_bnd = x_bnd[:, :frames] * weight_kd[0]
    for k in range(1, len(weight_kd)):
        y_bnd = torch.addcmul(y_bnd, x_bnd[:, k : k + frames], weight_kd[k])
    return y_bnd
