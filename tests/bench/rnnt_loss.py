"""Times the transducer loss with its joint, forward and backward, against torchaudio's on materialised logits.

    OMP_NUM_THREADS=1 PYTHONPATH=. taskset -c 0 python tests/bench/rnnt_loss.py 200x40x1024:5 400x80x2048:2

Sizes are FRAMESxTOKENSxVOCAB:REPETITIONS, for 8 utterances of 75 to 100 % of that and a joint of 512; inputs are random
and already projected to the joint. Each repetition runs all losses in turn. CPU seconds, medians. Memory is the peak
of a process that computes one loss once, above what it held with the inputs made and every library loaded. Errors are
those to float64 autograd, on a small batch: of gradients the largest difference over the largest value, worst of four.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torchaudio
from torch import Tensor
from torch.nn import functional

from asr.loss import transducer_loss
from asr.losses.pruned_loss import pruned_transducer_loss

BATCH, JOINT = 8, 512
Inputs = tuple[list[Tensor], list[Tensor], list[Tensor]]
Loss = Callable[[Inputs], Tensor]


def make(num_t: int, num_u: int, vocab: int, batch: int = BATCH, joint: int = JOINT) -> Inputs:
    """What the joint takes, the simple joiner's weights, and targets with their lengths."""
    draw = torch.Generator().manual_seed(0)
    lens = [(n * (0.75 + 0.25 * torch.rand(batch, generator=draw))).long() for n in (num_t, num_u)]
    lens[0][0], lens[1][0] = num_t, num_u
    shapes = [
        (batch, num_t, joint),
        (batch, num_u + 1, joint),
        (vocab, joint),
        (vocab,),
        (vocab, joint),
        (vocab, joint),
    ]
    scales = [1, 1, joint**-0.5, 0.1, joint**-0.5, joint**-0.5]
    drawn = [torch.randn(shape, generator=draw).mul_(s) for shape, s in zip(shapes, scales, strict=True)]
    leaves = [x.requires_grad_() for x in drawn]
    targets = torch.randint(1, vocab, (batch, num_u), generator=draw)
    return leaves[:4], leaves[4:], [targets, *lens]


def materialised(inputs: Inputs) -> Tensor:
    (enc, pred, weight, bias), _, ends = inputs
    logits = functional.linear(torch.tanh(enc[:, :, None] + pred[:, None]), weight, bias)
    loss: Tensor = torchaudio.functional.rnnt_loss(logits, *(x.int() for x in ends), blank=0, reduction="sum")
    return loss


def ours(inputs: Inputs, **keywords: object) -> Tensor:
    return transducer_loss(*inputs[0], *inputs[2], reduction="sum", **keywords)


def pruned(inputs: Inputs) -> Tensor:
    both = pruned_transducer_loss(*inputs[0], *inputs[1], *inputs[2], precision="bf16", reduction="sum")
    return 0.5 * both.simple + both.pruned


LOSSES: dict[str, Loss] = {
    "torchaudio, materialised logits": materialised,
    "ours, fp32, eps=0": partial(ours, eps=0.0),
    "ours, fp32": ours,
    "ours, bf16": partial(ours, precision="bf16"),
    "ours, int8": partial(ours, precision="int8"),
    "pruned, bf16, s_range 5": pruned,
}


def seconds(loss: Loss, inputs: Inputs) -> float:
    leaves = [*inputs[0], *inputs[1]] if loss is pruned else inputs[0]
    start_s = time.process_time()
    torch.autograd.grad(loss(inputs), leaves)
    return time.process_time() - start_s


def resident_mb(name: str) -> float:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[name].split()[0]) / 1024


def peak_mb(name: str, size: str) -> float:
    """In a process of its own."""
    command = [sys.executable, __file__, "--peak", name, size]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def print_peak(name: str, num_t: int, num_u: int, vocab: int) -> None:
    seconds(LOSSES[name], make(4, 2, 300))
    inputs = make(num_t, num_u, vocab)
    before_mb = resident_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # starts VmHWM anew
    seconds(LOSSES[name], inputs)
    print(resident_mb("VmHWM") - before_mb)


def errors() -> None:
    inputs = make(150, 60, 512, batch=2, joint=64)
    leaves, _, ends = inputs
    double = [x.detach().double().requires_grad_() for x in leaves]
    value = transducer_loss(*double, *ends, eps=0.0, reduction="sum")
    exact = torch.autograd.grad(value, double)
    for name, loss in LOSSES.items():
        if loss is not pruned:
            ours = loss(inputs)
            off = abs(float(ours.detach() / value.detach()) - 1)
            found = torch.autograd.grad(ours, leaves)
            worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True))
            print(f"{name}: value's error {off:.1e}, gradient's {worst:.1e}")


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1] == "--peak":
        return print_peak(sys.argv[2], *map(int, sys.argv[3].split("x")))
    for argument in sys.argv[1:]:
        size, _, repetitions = argument.partition(":")
        inputs = make(*map(int, size.split("x")))
        spent: dict[str, list[float]] = {name: [] for name in LOSSES}
        for loss in LOSSES.values():
            seconds(loss, make(20, 5, 1024))
        for _ in range(int(repetitions or 3)):
            for name, loss in LOSSES.items():
                spent[name].append(seconds(loss, inputs))
        print(f"\n| {size} | CPU s | lowest to highest | x | peak MB | 1/ |\n|---|---|---|---|---|---|")
        theirs_s, theirs_mb = 0.0, 0.0
        for name, found in spent.items():
            median_s, peak = statistics.median(found), peak_mb(name, size)
            theirs_s, theirs_mb = theirs_s or median_s, theirs_mb or peak
            low, high = min(found), max(found)
            print(f"| {name} | {median_s:.3f} | {low:.3f}–{high:.3f} | {theirs_s / median_s:.1f} | {peak:.0f} "
                  f"| {theirs_mb / peak:.0f} |", flush=True)  # fmt: skip
    errors()


if __name__ == "__main__":
    main()
