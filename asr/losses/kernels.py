"""Triton kernels of the transducer loss on CUDA: the softmax's sums and gradient by rows, and the lattice.

They compute what `asr.loss` and `asr.losses.lattice.posteriors` compute in PyTorch, in fewer passes over the memory: a
row of logits is read once for what the forward pass keeps of it, and becomes its own gradient in place; the lattice
takes two launches whatever its size. Matrix products stay with PyTorch.

Whoever asks `available` gets them only where they have just given the right answers; everywhere else PyTorch goes on.
SPEECHMILL_KERNELS=0 in the environment switches them off.

Proved in Triton's interpreter, and compiled to machine code for several GPUs; neither run nor timed on a GPU yet.

Triton comes with torch on Linux and is imported when a kernel is launched for the first time.

Shape letters: b batch, t encoder frames, u tokens (+ 1), v vocab, n lattice points.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

BITS = 1 / math.log(2)  # makes logits powers of 2
OUTSIDE = -1e30  # log-probability there; finite, so that differences stay numbers
ROW_BLOCK = 1024  # logits that a program reads at a time: 8 for each of its 128 threads
MOST_LANES = 4096  # token positions of the longest target: a lane each, 32 for each of 128 threads
interpreted = False  # tests run the kernels on CPU tensors, with TRITON_INTERPRET=1

if TYPE_CHECKING:
    import triton.language as tl
else:
    tl = None  # where kernels look for triton.language; see `_jitted`


def available(device: torch.device) -> bool:
    """Whether the kernels are to be used for tensors on this device.

    At the first question about a GPU they are tried on a small problem. If anything is raised or a number is wrong, one
    line on stderr says so, and the answer stays no.
    """
    if os.environ.get("SPEECHMILL_KERNELS") == "0" or not (device.type == "cuda" or interpreted):
        return False
    return _tried(device)


def row_stats(logits_nv: Tensor, bias_v: Tensor, token_n: Tensor, blank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of logits (float32 or bfloat16) + bias, in bits and float32: blank [n], token [n], and log2 sum exp2 [n]."""
    rows, vocab = logits_nv.shape
    stats = [logits_nv.new_empty(rows, dtype=torch.float32) for _ in range(3)]
    inputs = (x.contiguous() for x in (logits_nv, bias_v, token_n))
    _launch(_row_stats, rows, *inputs, *stats, blank, vocab, BITS, _block(vocab, ROW_BLOCK))
    blank_n, next_n, norm_n = stats
    return blank_n, next_n, norm_n


def to_gradients_(
    logits_nv: Tensor, bias_v: Tensor, norm_n: Tensor, token_n: Tensor, on_blank_n: Tensor, on_token_n: Tensor,
    blank: int,
) -> Tensor:  # fmt: skip
    """Replaces logits by d loss / d logits = (on_blank + on_token) softmax - on_blank, on_token at their own places.

    `norm_n` is from `row_stats`. Computed in float32 and rounded to the type of the logits once.
    """
    assert logits_nv.is_contiguous(), "changed in place"
    rows, vocab = logits_nv.shape
    inputs = (x.contiguous() for x in (bias_v, norm_n, token_n, on_blank_n, on_token_n))
    _launch(_to_gradients, rows, logits_nv, *inputs, blank, vocab, BITS, _block(vocab, ROW_BLOCK))
    return logits_nv


def posteriors(
    blank_btu: Tensor, token_btu: Tensor, enc_lens_b: Tensor, target_lens_b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As `asr.losses.lattice.posteriors`, float64, at most MOST_LANES token positions; outside of an utterance 0.

    Graves 2012, section 2.4, one anti-diagonal t + u after the other, whose points depend on the one before only.
    """
    blank_btu, token_btu, *lens = (x.contiguous() for x in (blank_btu, token_btu, enc_lens_b, target_lens_b))
    batch, num_t, num_u = blank_btu.shape
    size = num_t, num_u, OUTSIDE, _block(num_u, MOST_LANES)
    alpha_btu, loss_b = torch.empty_like(blank_btu), blank_btu.new_empty(batch)
    _launch(_alphas, batch, blank_btu, token_btu, *lens, alpha_btu, loss_b, *size)
    post_blank, post_token = torch.zeros_like(blank_btu), torch.zeros_like(blank_btu)
    inputs = blank_btu, token_btu, *lens, alpha_btu, loss_b
    _launch(_posteriors, batch, *inputs, post_blank, post_token, *size)
    return loss_b, post_blank, post_token


def _block(size: int, most: int) -> int:
    """The power of 2 that holds so many, at least a warp and at most `most`."""
    return min(most, max(32, 1 << (size - 1).bit_length()))


def _launch(kernel: Callable[..., None], programs: int, *args: Any) -> None:
    with torch.cuda.device_of(args[0]):  # Triton launches on the current device; nothing on CPU
        _jitted(kernel)[(programs,)](*args, num_warps=4)


@functools.cache
def _jitted(kernel: Callable[..., None]) -> Any:
    global tl
    import triton
    import triton.language as tl  # the kernels' global name

    return triton.jit(kernel)


def _row_stats(  # type: ignore[no-untyped-def]
    logits_ptr, bias_ptr, token_ptr, blank_ptr, next_ptr, norm_ptr, blank,
    VOCAB: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program for each row: the largest of all blocks so far, and the sum relative to it."""
    row = tl.program_id(0)
    row_ptr = logits_ptr + row.to(tl.int64) * VOCAB
    token = tl.load(token_ptr + row)
    blank_bits = (tl.load(row_ptr + blank).to(tl.float32) + tl.load(bias_ptr + blank)) * BITS
    token_bits = (tl.load(row_ptr + token).to(tl.float32) + tl.load(bias_ptr + token)) * BITS
    top = tl.full([], -3.0e38, tl.float32)  # finite, for a row that begins with a block of -inf
    total = tl.full([], 0.0, tl.float32)
    for start in range(0, VOCAB, BLOCK):
        v = start + tl.arange(0, BLOCK)
        logits = tl.load(row_ptr + v, mask=v < VOCAB, other=float("-inf")).to(tl.float32)
        bits = (logits + tl.load(bias_ptr + v, mask=v < VOCAB, other=0.0)) * BITS
        higher = tl.maximum(top, tl.max(bits, 0))
        total = total * tl.exp2(top - higher) + tl.sum(tl.exp2(bits - higher), 0)
        top = higher
    tl.store(blank_ptr + row, blank_bits)
    tl.store(next_ptr + row, token_bits)
    tl.store(norm_ptr + row, top + tl.log2(total))


def _to_gradients(  # type: ignore[no-untyped-def]
    logits_ptr, bias_ptr, norm_ptr, token_ptr, on_blank_ptr, on_token_ptr, blank,
    VOCAB: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program for each row."""
    row = tl.program_id(0)
    row_ptr = logits_ptr + row.to(tl.int64) * VOCAB
    norm = tl.load(norm_ptr + row)
    token = tl.load(token_ptr + row)
    on_blank = tl.load(on_blank_ptr + row)
    on_token = tl.load(on_token_ptr + row)
    for start in range(0, VOCAB, BLOCK):
        v = start + tl.arange(0, BLOCK)
        logits = tl.load(row_ptr + v, mask=v < VOCAB, other=float("-inf")).to(tl.float32)
        bits = (logits + tl.load(bias_ptr + v, mask=v < VOCAB, other=0.0)) * BITS
        grads = tl.exp2(bits - norm) * (on_blank + on_token)
        grads -= tl.where(v == blank, on_blank, 0.0)
        grads -= tl.where(v == token, on_token, 0.0)
        tl.store(row_ptr + v, grads.to(logits_ptr.dtype.element_ty), mask=v < VOCAB)


def _alphas(  # type: ignore[no-untyped-def]
    blank_ptr, token_ptr, enc_lens_ptr, target_lens_ptr, alpha_ptr, loss_ptr,
    num_t, num_u, OUTSIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program for each utterance, a lane for each u: log-probability of arriving at (t, u), and the loss."""
    b = tl.program_id(0)
    frames = tl.load(enc_lens_ptr + b).to(tl.int32)
    tokens = tl.load(target_lens_ptr + b).to(tl.int32)
    first = b.to(tl.int64) * num_t * num_u
    u = tl.arange(0, BLOCK)
    never = tl.full([BLOCK], OUTSIDE, tl.float64)
    alpha = tl.where(u == 0, 0.0, never)
    diagonal = 0
    while diagonal < frames + tokens:  # `range` of what was loaded is beyond the interpreter with numpy of today
        t = diagonal - u
        inside = (t >= 0) & (t < frames) & (u <= tokens)
        here = first + t * num_u + u
        tl.store(alpha_ptr + here, alpha, mask=inside)
        by_blank = alpha + tl.load(blank_ptr + here, mask=inside, other=OUTSIDE)
        by_token = alpha + tl.load(token_ptr + here, mask=inside & (u < tokens), other=OUTSIDE)
        by_token = tl.where(u == 0, never, tl.gather(by_token, tl.maximum(u - 1, 0), 0))
        top = tl.maximum(by_blank, by_token)
        alpha = top + tl.log(tl.exp(by_blank - top) + tl.exp(by_token - top))
        diagonal += 1
    tl.store(loss_ptr + b, -tl.sum(tl.where(u == tokens, alpha, 0.0), 0))  # having left the last frame


def _posteriors(  # type: ignore[no-untyped-def]
    blank_ptr, token_ptr, enc_lens_ptr, target_lens_ptr, alpha_ptr, loss_ptr,
    post_blank_ptr, post_token_ptr, num_t, num_u, OUTSIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The same backwards, with beta the log-probability of finishing from (t, u); behind the last frame it is 0."""
    b = tl.program_id(0)
    frames = tl.load(enc_lens_ptr + b).to(tl.int32)
    tokens = tl.load(target_lens_ptr + b).to(tl.int32)
    loss = tl.load(loss_ptr + b)
    first = b.to(tl.int64) * num_t * num_u
    u = tl.arange(0, BLOCK)
    never = tl.full([BLOCK], OUTSIDE, tl.float64)
    beta = tl.where(u == tokens, 0.0, never)
    diagonal = frames + tokens - 1
    while diagonal >= 0:
        t = diagonal - u
        inside = (t >= 0) & (t < frames) & (u <= tokens)
        here = first + t * num_u + u
        by_blank = beta + tl.load(blank_ptr + here, mask=inside, other=OUTSIDE)
        above = tl.gather(beta, tl.minimum(u + 1, BLOCK - 1), 0)
        by_token = above + tl.load(token_ptr + here, mask=inside & (u < tokens), other=OUTSIDE)
        arrived = tl.load(alpha_ptr + here, mask=inside, other=OUTSIDE) + loss
        tl.store(post_blank_ptr + here, tl.exp(arrived + by_blank), mask=inside)
        tl.store(post_token_ptr + here, tl.exp(arrived + by_token), mask=inside)
        top = tl.maximum(by_blank, by_token)
        beta = top + tl.log(tl.exp(by_blank - top) + tl.exp(by_token - top))
        diagonal -= 1


@functools.cache
def _tried(device: torch.device) -> bool:
    try:
        with torch.no_grad():
            wrong = [f"{what} is off by {error:.2g}" for what, error, most in _errors(device) if not error <= most]
        reason = "; ".join(wrong)
    except Exception as err:  # whatever a compiler or driver may come with: PyTorch can go on
        reason = " ".join(f"{type(err).__name__}: {err}".split())[:300]
    if reason:
        print(f"transducer loss: no Triton kernels on {device}, PyTorch goes on: {reason}", file=sys.stderr, flush=True)
    return not reason


def _errors(device: torch.device) -> Iterator[tuple[str, float, float]]:
    """What was computed on a small fixed problem, its largest error against PyTorch on CPU, and what is allowed."""
    draw = torch.Generator().manual_seed(0)
    normal = functools.partial(torch.randn, generator=draw)
    rows, vocab, blank = 6, ROW_BLOCK + 37, 3
    bias_v, token_n = normal(vocab), torch.randint(vocab, (rows,), generator=draw)
    on_blank_n, on_token_n = torch.rand(2, rows, generator=draw)
    for dtype, rounding in ((torch.float32, 1e-5), (torch.bfloat16, 2**-7)):
        logits_nv = (4 * normal(rows, vocab)).to(dtype)
        nats_nv = logits_nv.double() + bias_v
        norm_n = nats_nv.logsumexp(1)
        stats = nats_nv[:, blank], nats_nv.gather(1, token_n[:, None])[:, 0], norm_n
        on_device = logits_nv.to(device), bias_v.to(device), token_n.to(device)
        found = row_stats(*on_device, blank)
        yield f"softmax of {dtype}", _distance(torch.stack(found), torch.stack(stats) * BITS), 1e-5
        d_nv = (nats_nv - norm_n[:, None]).exp() * (on_blank_n + on_token_n)[:, None]
        d_nv[:, blank] -= on_blank_n
        d_nv.scatter_add_(1, token_n[:, None], -on_token_n[:, None].double())
        logits, bias, token = on_device
        to_gradients_(logits, bias, found[2], token, on_blank_n.to(device), on_token_n.to(device), blank)
        yield f"gradient of {dtype}", _distance(logits, d_nv), rounding
    errors = _lattice_errors(device, normal)
    for what, error in zip(("loss", "posterior of blank", "posterior of token"), errors, strict=True):
        yield what, error, 1e-10


def _lattice_errors(device: torch.device, normal: Callable[..., Tensor]) -> Iterator[float]:
    from asr.losses.lattice import NEVER, inside, posteriors_by_scans  # which imports this module

    lens = torch.tensor([7, 3, 1]), torch.tensor([4, 0, 2])
    within = inside(7, 5, *lens)
    leads_on = within & (torch.arange(5) < lens[1][:, None, None])
    blank_btu = -normal(within.shape, dtype=torch.float64).abs() * within
    token_btu = torch.where(leads_on, -normal(within.shape, dtype=torch.float64).abs(), NEVER)
    scores = blank_btu, token_btu, *lens
    expected, found = posteriors_by_scans(*scores), posteriors(*(x.to(device) for x in scores))
    yield _distance(found[0], expected[0])
    for mine, other in zip(found[1:], expected[1:], strict=True):
        yield _distance(mine.cpu()[within], other[within])


def _distance(found: Tensor, expected: Tensor) -> float:
    return float((found.cpu().double() - expected).abs().max())
