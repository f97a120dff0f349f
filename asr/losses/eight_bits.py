"""Logits of the joint by products of bytes: on a CPU with VNNI twice as fast as in bfloat16, five times as in float32.

The hidden layer, tanh of something, lies between -1 and 1 and is rounded to 255 steps of the same width; each row of
the vocabulary's weights is rounded to 255 steps between its largest absolute value and minus that. Sums of products are
exact, in 32 bits, and come out as float32, so that unlike in bfloat16 the size of a logit costs no accuracy. A weight
that is far larger than the others of its row does: it makes the steps of all of them wide.

Shape letters: j joint size, v vocab, n lattice points.
"""

import functools
import sys

import torch
from torch import Tensor

from asr.losses.kernels import BITS

STEPS = 127  # on either side of 0
MULTIPLIERS = ("avx512_vnni", "avx_vnni", "amx_int8")  # others saturate sums of two products at 16 bits


class EightBits:
    """Weights [v, j] and bias [v], ready to be multiplied."""

    def __init__(self, weight_vj: Tensor, bias_v: Tensor) -> None:
        largest_v = weight_vj.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny * STEPS)  # a row of zeros
        self.scale_v = (largest_v / STEPS).float()
        # qlinear_prepack reads memory in its order, whatever the strides: a transposed weight would be another one
        bytes_vj = (weight_vj / self.scale_v[:, None]).round_().to(torch.int8).contiguous()
        self.weight = torch.ops.onednn.qlinear_prepack(bytes_vj, None)
        self.zero_v = torch.zeros(len(bias_v), dtype=torch.int64)
        self.bias_v = bias_v.float() * BITS

    def bits(self, sigmoid_nj: Tensor) -> Tensor:
        """Logits [n, v] in units of log 2, float32, of hidden = 2 sigmoid - 1."""
        # Conversion to uint8 is not vectorised, by way of 16 bits it takes a fifth of the time.
        bytes_nj = torch.add(0.5, sigmoid_nj, alpha=2 * STEPS).to(torch.int16).to(torch.uint8)
        bits_nv: Tensor = torch.ops.onednn.qlinear_pointwise(
            bytes_nj, BITS / STEPS, STEPS, self.weight, self.scale_v, self.zero_v, self.bias_v, 1.0, 0, torch.float32,
            "none", [], "",
        )  # fmt: skip
        return bits_nv


def available(device: torch.device) -> bool:
    """Whether products of bytes are fast and right on this device.

    Asked for the first time, it tries a small problem. If that fails, one line on stderr says why, and the answer stays
    no. A device that is not made for it gets no line.
    """
    return device.type == "cpu" and any(torch.cpu.get_capabilities().get(name) for name in MULTIPLIERS) and _tried()


@functools.cache
def _tried() -> bool:
    try:
        with torch.no_grad():
            error = _error()
        reason = "" if error <= 1e-5 else f"logits are off by {error:.2g}"
    except Exception as err:  # the operators are not documented: another torch may lack them, or take other arguments
        reason = " ".join(f"{type(err).__name__}: {err}".split())[:300]
    if reason:
        print(f"transducer loss: no products of bytes, bfloat16 goes on: {reason}", file=sys.stderr, flush=True)
    return not reason


def _error() -> float:
    """Of logits that eight bits hold exactly, up to the largest sums, relative to the largest of them."""
    draw = torch.Generator().manual_seed(0)
    hidden_nj = torch.randint(-STEPS, STEPS + 1, (5, 70), generator=draw) / STEPS
    weight_vj = torch.randint(-STEPS, STEPS + 1, (37, 70), generator=draw).float()
    weight_vj[:, 0], hidden_nj[0], weight_vj[0], weight_vj[1] = STEPS, 1.0, STEPS, -STEPS
    bias_v = torch.randn(37, generator=draw)
    expected_nv = (hidden_nj.double() @ weight_vj.T.double() + bias_v) * BITS
    found_nv = EightBits(weight_vj, bias_v).bits((hidden_nj + 1) / 2)
    return float((found_nv - expected_nv).abs().max() / expected_nv.abs().max())
