"""The joint at some lattice points: logits = tanh(enc + pred) @ weight.T + bias, what the loss keeps of them, and back.

Shape letters: b batch, t encoder frames, u tokens (+ 1), j joint size, v vocab, n lattice points.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from asr.losses import eight_bits, kernels
from asr.losses.eight_bits import EightBits
from asr.losses.kernels import BITS

Precision = Literal["fp32", "bf16", "int8"]
# On CPU a chunk stays near the cache: 2^20 logits take up to half as much memory again for at most 4 % of the time.
CHUNK_LOGITS = 1 << 19
CHUNK_POINTS = 256  # at least: with 64, a vocabulary of 16,384 takes 1.6 times as long, moving weights about
GOOD_POINTS = 512  # and so many where these are 2^20 logits or less: at 2,048 pieces 7 to 9 % faster than 256
CUDA_CHUNK_LOGITS = 1 << 24  # three float32 copies of 64 MB; smaller ones would mostly wait for kernels to start
SAFE = 2.0**-64, 2.0**100  # sums of powers of 2 of logits as they are; far from where float32 ends, at 2^-126 and 2^128


class Joint:
    """Points are given by their rows of enc [b * t, j] and pred [b * u, j].

    "Inner" is what stands between them and the hidden layer: the layer itself, or on CPU in lower precisions the
    sigmoid of twice the sum in float32, as tanh x = 2 sigmoid(2x) - 1, and float32's sigmoid takes half the time of
    tanh in bfloat16, a sixth of tanh in float32.
    """

    def __init__(
        self, enc_btj: Tensor, pred_buj: Tensor, weight_vj: Tensor, bias_v: Tensor, precision: Precision, blank: int
    ) -> None:
        self.by_sigmoid = precision != "fp32" and not weight_vj.is_cuda
        rows = (x.flatten(0, 1) for x in (enc_btj, pred_buj))
        self.enc, self.pred = (2 * x if self.by_sigmoid else x for x in rows)
        self.weight = weight_vj if precision == "fp32" else weight_vj.bfloat16()
        self.bias_v, self.blank = bias_v, blank
        by_bytes = precision == "int8" and eight_bits.available(weight_vj.device)
        self.eight = EightBits(weight_vj, bias_v) if by_bytes else None
        self.kernels = bias_v.dtype == torch.float32 and kernels.available(bias_v.device)

    def chunks(self, points: int) -> list[slice]:
        size = max(self.weight.shape)
        if self.weight.is_cuda:
            step = max(CHUNK_POINTS, CUDA_CHUNK_LOGITS // size)
        else:
            step = max(CHUNK_POINTS, CHUNK_LOGITS // size, min(GOOD_POINTS, 2 * CHUNK_LOGITS // size))
        return [slice(start, start + step) for start in range(0, points, step)]

    def row_stats(self, enc_row_n: Tensor, pred_row_n: Tensor, next_n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """In bits, of each row of logits: blank, the next token, and the logarithm of the sum."""
        inner_nj = self._inner(enc_row_n, pred_row_n)
        if self.kernels:
            logits_nv = functional.linear(self._hidden(inner_nj), self.weight)
            return kernels.row_stats(logits_nv, self.bias_v, next_n, self.blank)
        bits_nv = self._bits(inner_nj)
        blank_n, token_n = bits_nv[:, self.blank].clone(), bits_nv.gather(1, next_n[:, None])[:, 0]
        if self.eight is not None:  # bytes are always numbers, but what is none in the inputs is to be noticed
            blank_n += 0 * inner_nj.sum(1)
        if not bits_nv.is_cuda:  # where looking costs nothing: logits of this size need not be made smaller first
            sum_n = bits_nv.exp2_().sum(1)
            least, most = sum_n.aminmax()
            if least > SAFE[0] and most < SAFE[1]:
                return blank_n, token_n, sum_n.log2_()
            bits_nv = self._bits(inner_nj)
        top_n = bits_nv.amax(1)
        return blank_n, token_n, bits_nv.sub_(top_n[:, None]).exp2_().sum(1).log2_().add_(top_n)

    def gradients(
        self, enc_row_n: Tensor, pred_row_n: Tensor, next_n: Tensor, norm_n: Tensor, on_blank_n: Tensor,
        on_token_n: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Of the weight [v, j], of the bias [v] and of enc + pred at each point [n, j].

        d loss / d logits = (blank + token posterior) * softmax - posterior of the symbol itself.
        """
        inner_nj = self._inner(enc_row_n, pred_row_n)
        hidden_nj = self._hidden(inner_nj)
        d_low, d_bias_v = self._d_logits(inner_nj, hidden_nj, norm_n, next_n, on_blank_n, on_token_n)
        d_hidden_nj = (d_low @ self.weight).to(self.enc.dtype)
        if self.by_sigmoid:  # d tanh x / d x = 4 s (1 - s)
            d_sum_nj = torch.ops.aten.sigmoid_backward(d_hidden_nj, inner_nj).mul_(4)
        else:
            d_sum_nj = torch.ops.aten.tanh_backward(d_hidden_nj, hidden_nj.to(self.enc.dtype))
        return d_low.T @ hidden_nj, d_bias_v, d_sum_nj

    def _d_logits(
        self, inner_nj: Tensor, hidden_nj: Tensor, norm_n: Tensor, next_n: Tensor, on_blank_n: Tensor,
        on_token_n: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """In the precision of the weights; and the sum of the rows."""
        if self.kernels:
            logits_nv = functional.linear(hidden_nj, self.weight)
            points = norm_n, next_n, on_blank_n, on_token_n
            d_low = kernels.to_gradients_(logits_nv, self.bias_v, *points, self.blank)
            return d_low, d_low.sum(0, dtype=self.bias_v.dtype)
        bits_nv = self._bits(inner_nj, hidden_nj)
        d_nv = bits_nv.sub_(norm_n[:, None]).exp2_().mul_((on_blank_n + on_token_n)[:, None])
        d_nv[:, self.blank] -= on_blank_n
        d_nv.scatter_add_(1, next_n[:, None], -on_token_n[:, None].to(d_nv.dtype))
        return d_nv.to(self.weight.dtype), d_nv.sum(0)

    def _inner(self, enc_row_n: Tensor, pred_row_n: Tensor) -> Tensor:
        sum_nj = self.enc.index_select(0, enc_row_n).add_(self.pred.index_select(0, pred_row_n))
        return sum_nj.sigmoid_() if self.by_sigmoid else sum_nj.to(self.weight.dtype).tanh_()

    def _hidden(self, inner_nj: Tensor) -> Tensor:
        """[n, j] in the precision of the weights."""
        return torch.add(-1.0, inner_nj, alpha=2).to(self.weight.dtype) if self.by_sigmoid else inner_nj

    def _bits(self, inner_nj: Tensor, hidden_nj: Tensor | None = None) -> Tensor:
        """Logits in units of log 2, since powers of 2 take a third of the time of exp on CPU."""
        if self.eight is not None:
            return self.eight.bits(inner_nj)
        hidden_nj = self._hidden(inner_nj) if hidden_nj is None else hidden_nj
        if self.weight.dtype == torch.bfloat16:
            return functional.linear(hidden_nj, self.weight).float().mul_(BITS).add_(self.bias_v * BITS)
        return torch.addmm(self.bias_v * BITS, hidden_nj, self.weight.T, alpha=BITS)
