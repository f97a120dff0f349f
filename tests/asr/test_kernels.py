"""The Triton kernels give what PyTorch gives, compile for GPUs that are not there, and step aside when they do not.

What needs Triton's interpreter is checked in a child: this file run as a script with TRITON_INTERPRET=1, on CPU. The
interpreter is chosen when Triton is imported, once in a process.
"""

import contextlib
import importlib.util
import io
import itertools
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from plain_loss import Case, enumerated_loss, gradients, log_probs, make_case, recursion
from torch import Tensor

from asr.loss import transducer_loss
from asr.losses import kernels
from asr.losses.lattice import NEVER, Points, inside, posteriors_by_scans
from asr.losses.pruned_loss import band, pruned_transducer_loss

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
CUT = 2.0**-7  # largest relative error of a bfloat16 in the interpreter, which cuts off where a GPU rounds to nearest
KERNELS = {"_row_stats", "_to_gradients", "_alphas", "_posteriors"}
with_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton comes with torch on Linux")

Lens = tuple[list[int], list[int]]
RAGGED: dict[str, Lens] = {
    "one": ([6], [3]),
    "one_point": ([1], [0]),
    "ragged": ([7, 4, 1, 5], [3, 4, 2, 0]),
    "no_tokens": ([4, 2], [0, 0]),
    "more_tokens_than_frames": ([2, 3], [6, 5]),
    "more_lanes_than_a_warp": ([3, 2], [40, 2]),
}


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def check_rows(vocab: int, dtype: torch.dtype, scale: float) -> None:
    """Against float64; the gradient against that of autograd."""
    rows, blank = 5, vocab // 2
    logits_nv, bias_v = (scale * normal(rows, vocab)).to(dtype), normal(vocab)
    token_n = torch.tensor([0, vocab - 1, blank, vocab // 3, 0])
    exact_nv = (logits_nv.double() + bias_v).requires_grad_()
    logp_nv = exact_nv.log_softmax(1)
    of_blank_n, of_token_n = logp_nv[:, blank], logp_nv.gather(1, token_n[:, None])[:, 0]
    blank_n, next_n, norm_n = kernels.row_stats(logits_nv, bias_v, token_n, blank)
    torch.testing.assert_close(norm_n.double(), exact_nv.logsumexp(1) * kernels.BITS, rtol=1e-6, atol=1e-5)
    for mine, plain in ((blank_n, of_blank_n), (next_n, of_token_n)):
        torch.testing.assert_close((mine - norm_n).double(), plain * kernels.BITS, rtol=1e-5, atol=1e-6 * scale + 1e-5)

    on_blank_n, on_token_n = torch.tensor([0.5, 0.0, 0.3, 1.0, 2.0]), torch.tensor([0.25, 1.0, 0.3, 0.0, 1.5])
    (d_nv,) = torch.autograd.grad(-(on_blank_n * of_blank_n + on_token_n * of_token_n).sum(), exact_nv)
    mine_nv = logits_nv.clone()
    assert kernels.to_gradients_(mine_nv, bias_v, norm_n, token_n, on_blank_n, on_token_n, blank) is mine_nv
    rounding = 0.0 if dtype == torch.float32 else CUT
    # float32 knows logits in the thousands to about 1e-7 of themselves, and exp makes that its relative error
    torch.testing.assert_close(mine_nv.double(), d_nv, rtol=rounding + 1e-6, atol=3e-7 * scale + 1e-6)


def check_a_row_that_is_no_number() -> None:
    logits_nv = normal(3, 50)
    logits_nv[1, 7] = torch.nan
    norm_n = kernels.row_stats(logits_nv, torch.zeros(50), torch.zeros(3, dtype=torch.long), 0)[2]
    assert norm_n.isnan().tolist() == [False, True, False]


def check_a_block_of_impossible_symbols() -> None:
    logits_nv, bias_v = normal(1, 2 * kernels.ROW_BLOCK), torch.zeros(2 * kernels.ROW_BLOCK)
    bias_v[: kernels.ROW_BLOCK] = -torch.inf
    norm_n = kernels.row_stats(logits_nv, bias_v, torch.tensor([2000]), 1999)[2]
    torch.testing.assert_close(norm_n, (logits_nv + bias_v).logsumexp(1) * kernels.BITS)


def scores(case: Case) -> tuple[Tensor, Tensor]:
    """Log-probabilities of blank and token [b, t, u], 0 and NEVER where there are none."""
    shape = case.enc_btj.shape[0], case.enc_btj.shape[1], case.pred_buj.shape[1]
    blank_btu = torch.zeros(shape, dtype=torch.float64)
    token_btu = torch.full_like(blank_btu, NEVER)
    for b, (frames, tokens) in enumerate(zip(case.enc_lens_b.tolist(), case.target_lens_b.tolist(), strict=True)):
        logp_tuv = log_probs(case, b).detach()
        blank_btu[b, :frames, : tokens + 1] = logp_tuv[:, :, 0]
        targets_tu1 = case.targets_bu[b, :tokens].expand(frames, -1)[:, :, None]
        token_btu[b, :frames, :tokens] = logp_tuv[:, :-1].gather(2, targets_tu1)[:, :, 0]
    return blank_btu, token_btu


def by_definition(case: Case, b: int, within_tu: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and posteriors [t, u] of one utterance, by autograd through Graves' recursion."""
    apart_tuv = log_probs(case, b).detach().requires_grad_()
    loss = recursion(apart_tuv, case.targets_bu[b, : int(case.target_lens_b[b])], within_tu)
    (grad_tuv,) = torch.autograd.grad(loss, apart_tuv)
    return loss.detach(), -grad_tuv[:, :, 0], -grad_tuv[:, :, 1:].sum(2)


def check_lattice(lens: Lens, scale: float) -> None:
    case = make_case(*lens, vocab=4, scale=scale)
    inputs = *scores(case), case.enc_lens_b, case.target_lens_b
    within = inside(*inputs[0].shape[1:], *inputs[2:])
    ours, scans = kernels.posteriors(*inputs), posteriors_by_scans(*inputs)
    torch.testing.assert_close(ours[0], scans[0], rtol=1e-12, atol=1e-10)
    for mine, other in zip(ours[1:], scans[1:], strict=True):
        torch.testing.assert_close(mine[within], other[within], rtol=1e-10, atol=1e-10)
        assert not mine[~within].any()
    for b, (frames, tokens) in enumerate(zip(*lens, strict=True)):
        mine = ours[0][b], ours[1][b, :frames, : tokens + 1], ours[2][b, :frames, : tokens + 1]
        torch.testing.assert_close(mine, by_definition(case, b), rtol=1e-10, atol=1e-10)
        if frames + tokens < 12:
            torch.testing.assert_close(ours[0][b], enumerated_loss(case, b).detach(), rtol=1e-12, atol=1e-10)


def check_band(height: int) -> None:
    lens = [10, 7, 6, 3], [5, 6, 0, 1]
    case = make_case(*lens)
    blank_btu, token_btu = scores(case)
    ends = case.enc_lens_b, case.target_lens_b
    _, *post = posteriors_by_scans(blank_btu, token_btu, *ends)
    low_bt = band(*post, *ends, height)
    u = torch.arange(blank_btu.shape[2])
    inside_btu = inside(*blank_btu.shape[1:], *ends) & (u >= low_bt[:, :, None]) & (u < low_bt[:, :, None] + height)
    points = Points(inside_btu, None, case.targets_bu, *ends, 0)
    assert kernels.available(CPU)
    ours = points.posteriors(blank_btu.flatten()[points.flat_n], token_btu.flatten()[points.flat_n])
    for b, (frames, tokens) in enumerate(zip(*lens, strict=True)):
        within_tu = inside_btu[b, :frames, : tokens + 1]
        loss, *plain = by_definition(case, b, within_tu)
        torch.testing.assert_close(ours[0][b], loss, rtol=1e-12, atol=1e-10)
        for mine, other in zip(ours[1:], plain, strict=True):
            torch.testing.assert_close(mine[points.b_n == b], other[within_tu], rtol=1e-10, atol=1e-10)


def with_and_without(losses: Callable[[], Tensor], leaves: Callable[[Tensor], tuple[Tensor, ...]]) -> Iterator[list]:
    """Losses and gradients, first by the kernels."""
    for kernels.interpreted in (True, False):
        assert kernels.available(CPU) == kernels.interpreted
        value = losses()
        yield [value.detach(), *leaves(value)]
    kernels.interpreted = True


def check_loss(lens: Lens, **options: float) -> None:
    case = make_case(*lens, vocab=37, joint=8, dtype=torch.float32)
    losses = partial(transducer_loss, *case.all, reduction="none", blank=2, **options)
    for mine, other in zip(*with_and_without(losses, partial(gradients, case=case)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def check_loss_in_bf16() -> None:
    case = make_case([7, 4, 1], [3, 4, 2], vocab=37, joint=8, dtype=torch.float32)
    losses = partial(transducer_loss, *case.all, reduction="none", precision="bf16", eps=0.0)
    ours, plain = with_and_without(losses, partial(gradients, case=case))
    torch.testing.assert_close(ours[0], plain[0], rtol=1e-5, atol=1e-5)
    for mine, other in zip(ours[1:4], plain[1:4], strict=True):
        assert mine.dtype == torch.float32
        assert (mine - other).norm() < 2 * CUT * other.norm()
    # The bias's gradient is the sum of those in bfloat16, none larger than its point's posteriors: T + U on a path.
    bound = CUT * sum((b + 1) * (t + u) for b, (t, u) in enumerate(((7, 3), (4, 4), (1, 2))))
    assert (ours[4] - plain[4]).abs().max() < bound


def check_pruned_loss() -> None:
    case = make_case([10, 7, 6], [5, 6, 0], vocab=37, joint=8, dtype=torch.float32)
    simple = [normal(37, 8).requires_grad_(), (normal(37, 8) + 1).requires_grad_()]

    def losses() -> Tensor:
        both = pruned_transducer_loss(*case.leaves, *simple, *case.all[4:], s_range=3, eps=0.0, reduction="none")
        return both.simple + both.pruned

    def leaves(losses_b: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(losses_b.sum(), [*case.leaves, *simple])

    for mine, other in zip(*with_and_without(losses, leaves), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=2e-5)


def check_float64_stays_exact() -> None:
    """The row kernels compute in float32; what is in float64 is not given to them."""
    case = make_case([5, 3], [2, 3])
    ours, plain = with_and_without(partial(transducer_loss, *case.all, eps=0.0), lambda x: (x.detach(),))
    torch.testing.assert_close(ours[0], plain[0], rtol=1e-12, atol=1e-12)


def raises(*_: object) -> None:
    raise RuntimeError("no\ncompiler")


def lies(honest: Callable[..., object], *args: object) -> object:
    found = honest(*args)
    (found if isinstance(found, Tensor) else found[-1]).mul_(1.01)
    return found


def is_no_number(honest: Callable[..., tuple[Tensor, ...]], *args: object) -> object:
    found = honest(*args)
    found[-1].fill_(torch.nan)
    return found


def check_fallback(name: str, fault: Callable[..., object], reason: str) -> None:
    """One line that names the reason, and the losses of PyTorch."""
    case = make_case([5, 3], [2, 3], dtype=torch.float32)
    kernels.interpreted = False
    plain = transducer_loss(*case.all, reduction="none")
    kernels.interpreted = True
    honest = getattr(kernels, name)
    setattr(kernels, name, fault if fault is raises else partial(fault, honest))
    kernels._tried.cache_clear()
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            assert not kernels.available(CPU)
            for _ in range(2):
                assert torch.equal(transducer_loss(*case.all, reduction="none"), plain)
    finally:
        setattr(kernels, name, honest)
        kernels._tried.cache_clear()
    (line,) = said.getvalue().splitlines()
    assert line.startswith("transducer loss: no Triton kernels on cpu, PyTorch goes on: ") and reason in line, line


def check_switch() -> None:
    assert kernels.available(CPU)
    os.environ["SPEECHMILL_KERNELS"] = "0"
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            assert not kernels.available(CPU)
    finally:
        del os.environ["SPEECHMILL_KERNELS"]
    assert not said.getvalue()


def check_all_kernels_were_run() -> None:
    assert kernels._jitted.cache_info().currsize == len(KERNELS)


ROWS = [*itertools.product((1, 2, 31, 1024, 1500, 2049), (torch.float32, torch.bfloat16), (1.0, 1e4))]
CHECKS: dict[str, Callable[[], None]] = {
    **{f"rows_{v}_{dtype}_{scale:g}": partial(check_rows, v, dtype, scale) for v, dtype, scale in ROWS},
    "a_row_that_is_no_number": check_a_row_that_is_no_number,
    "a_block_of_impossible_symbols": check_a_block_of_impossible_symbols,
    **{f"lattice_{name}": partial(check_lattice, lens, 2.0) for name, lens in RAGGED.items()},
    "lattice_of_huge_logits": partial(check_lattice, RAGGED["ragged"], 50.0),
    **{f"band_{height}": partial(check_band, height) for height in (2, 3, 4)},
    **{f"loss_{name}": partial(check_loss, lens, eps=0.0) for name, lens in RAGGED.items()},
    "loss_with_options": partial(check_loss, RAGGED["ragged"], eps=1e-2, fastemit=0.3, delay_penalty=0.2),
    "loss_in_bf16": check_loss_in_bf16,
    "loss_in_float64": check_float64_stays_exact,
    "pruned_loss": check_pruned_loss,
    "fallback_raising": partial(check_fallback, "_launch", raises, "RuntimeError: no compiler"),
    "fallback_wrong_rows": partial(check_fallback, "row_stats", lies, "softmax of torch.float32 is off by"),
    "fallback_wrong_gradient": partial(check_fallback, "to_gradients_", lies, "gradient of torch.float32 is off by"),
    "fallback_wrong_lattice": partial(check_fallback, "posteriors", lies, "posterior of token is off by"),
    "fallback_no_number": partial(check_fallback, "posteriors", is_no_number, "posterior of token is off by nan"),
    "switch": check_switch,
    "all_kernels_were_run": check_all_kernels_were_run,
}


def run_checks() -> dict[str, str]:
    """What went wrong in each; "" where nothing did."""
    torch.set_num_threads(1)
    kernels.interpreted = True
    found = {}
    for name, check in CHECKS.items():
        try:
            check()
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
    return found


def child(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, *args], env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    done = child(__file__, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@with_triton
@pytest.mark.parametrize("name", CHECKS)
def test_interpreted(outcomes: dict[str, str], name: str) -> None:
    assert outcomes[name] == ""


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from asr.losses import kernels as k

ROWS = {"*fp32": 29, "*bf16": 5000}
JOBS = [(k._row_stats, f"{kind} *fp32 *i64 *fp32 *fp32 *fp32 i32", (vocab, k.BITS, k._block(vocab, k.ROW_BLOCK)))
        for kind, vocab in ROWS.items()]
JOBS += [(k._to_gradients, f"{kind} *fp32 *fp32 *i64 *fp32 *fp32 i32", (vocab, k.BITS, k._block(vocab, k.ROW_BLOCK)))
         for kind, vocab in ROWS.items()]
for lanes in (32, 512):
    JOBS += [(k._alphas, "*fp64 *fp64 *i64 *i64 *fp64 *fp64 i32 i32", (k.OUTSIDE, lanes)),
             (k._posteriors, "*fp64 *fp64 *i64 *i64 *fp64 *fp64 *fp64 *fp64 i32 i32", (k.OUTSIDE, lanes))]
for kernel, types, constants in JOBS:
    jitted = k._jitted(kernel)
    signature = dict(zip(jitted.arg_names, types.split() + ["constexpr"] * len(constants), strict=True))
    source = ASTSource(jitted, signature, dict(zip(jitted.arg_names[-len(constants):], constants, strict=True)))
    for capability in (80, 90):
        assert triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]
    print(kernel.__name__)
"""


@with_triton
def test_all_kernels_compile_to_machine_code_of_gpus_that_are_not_there(tmp_path: Path) -> None:
    done = child("-c", COMPILE, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == KERNELS


ABSENT = """
import sys
import torch
from asr import loss
from asr.losses import kernels, pruned_loss

assert not kernels.available(torch.device("cpu"))
print(sorted(name for name in sys.modules if name.partition(".")[0] == "triton"))
sys.modules["triton"] = None
kernels.interpreted = True
print([kernels.available(torch.device("cpu")) for _ in range(2)])
"""


def test_the_loss_loads_no_triton_and_needs_none() -> None:
    done = child("-c", ABSENT)
    assert done.stdout == "[]\n[False, False]\n", done.stderr
    (line,) = done.stderr.splitlines()
    assert "no Triton kernels on cpu" in line and "triton" in line.partition("goes on")[2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gets_the_kernels(capfd: pytest.CaptureFixture[str]) -> None:
    assert kernels.available(torch.device("cuda", 0)), capfd.readouterr().err


if __name__ == "__main__":
    print(json.dumps(run_checks()))
