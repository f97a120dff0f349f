"""Memory of the device that trains: how much there is, how much was taken, and what to say when it is out."""

import errno
import math
import os
import re
import resource
import sys
from pathlib import PurePosixPath

import torch

from asr.data import Batch
from asr.recipe import DataConfig
from configs.wording import counted
from manifests import storage

CGROUPS = "/sys/fs/cgroup"
OWN_CGROUP = "/proc/self/cgroup"
OWN_PAGES = "/proc/self/statm"
# What torch says when it gets no memory, beside its own class of errors: the CPU's allocator, oneDNN (a training step
# of LSTMs under 29 limits of memory ended 14 times in the former, 15 times in the latter), CUDA and its libraries.
SAID = re.compile("can't allocate memory|bad_alloc|could not create a (primitive$|memory object)|"
                  "CUDA error: out of memory|CU(BLAS|DNN)_STATUS_ALLOC_FAILED")  # fmt: skip


def limit_bytes(device: torch.device) -> int:
    """The device's memory; on a CPU the smaller of the machine's and what the process's control groups allow."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *cgroup_limits(OWN_CGROUP, CGROUPS)])


def cgroup_limits(own: str, mounted: str) -> list[int]:
    """The limits of the control groups that the file `own` names and of all groups around them, of version 1 or 2.

    A container may see its group mounted as the root, but be told the name that it has outside.
    """
    if not storage.exists(own):
        return []
    limits = []
    for line in storage.read_bytes(own).decode().splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root, file = mounted, "memory.max"
        elif "memory" in controllers.split(","):
            root, file = storage.join(mounted, "memory"), "memory.limit_in_bytes"
        else:
            continue
        inside = PurePosixPath(group.lstrip("/"))
        for place in (inside, *inside.parents):
            uri = storage.join(root, str(place), file)
            text = storage.read_bytes(uri).decode().strip() if storage.exists(uri) else "max"
            limits += [int(text)] if text.isdigit() else []
    return limits


def peak_bytes(device: torch.device) -> int:
    """The most that was taken so far: of a CPU by this process, of a GPU by everybody, as of the last reset."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        elsewhere = total - free - torch.cuda.memory_reserved(device)  # CUDA's own, and other processes
        return int(torch.cuda.max_memory_reserved(device) + elsewhere)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def allow_no_more_than(limit: int) -> None:
    """From now on this process's allocations fail, rather than that the system ends it, near to `limit` bytes of its
    own. Linux only: others do not count what a process has."""
    if not storage.exists(OWN_PAGES):
        return
    pages = [int(field) for field in storage.read_bytes(OWN_PAGES).split()]
    resident, reserved = pages[1] * resource.getpagesize(), pages[5] * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = [reserved + max(0, limit - resident), *(value for value in (soft, hard) if value != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(most), hard))


def is_out(err: BaseException) -> bool:
    """Whether an error, or one that it was made from, says that there was no memory."""
    if isinstance(err, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(err, OSError) and err.errno == errno.ENOMEM:
        return True
    if isinstance(err, RuntimeError) and SAID.search(str(err)):
        return True
    return err.__cause__ is not None and is_out(err.__cause__)


def explain(err: BaseException, batch: Batch, config: DataConfig, frame_s: float) -> ValueError | None:
    """For an error that says that memory is out: what the batch was, and a smaller budget. Else None.

    Half of the batch is proposed, not calculated: where a step stops, the rest of what it needs is not known.
    """
    if not is_out(err):
        return None
    examples, longest_s, tokens = len(batch.lens_b), int(batch.lens_b.max()) * frame_s, int(batch.target_lens_b.max())
    alone_s = longest_s * (1 + tokens * config.token_weight)
    cost_s = examples * alone_s
    sizes = f"{longest_s:.1f} s and {counted(tokens, 'token')}"
    what = f"of up to {sizes} (cost {cost_s:.1f} s, data.batch_s is {config.batch_s:g})"
    if examples == 1:
        name, value = ("splice_s", config.splice_s) if len(batch.utterances) > 1 else ("max_s", config.max_s)
        return ValueError(f"out of memory on a batch of one example {what}; say data.{name}={longest_s / 2:.2g} "
                          f"instead of {value:g}, or take a smaller model")  # fmt: skip
    fits_s = max(_rounded_down(min(cost_s, config.batch_s) / 2), math.ceil(alone_s * 10) / 10)
    return ValueError(f"out of memory on a batch of {examples} examples {what}; say data.batch_s={fits_s:g}, or "
                      "--find-batch-budget to have the largest that fits measured")  # fmt: skip


def _rounded_down(value: float) -> float:
    """To two digits, or to a tenth below ten."""
    unit = 10.0 ** max(-1, math.floor(math.log10(value)) - 1)
    return math.floor(value / unit) * unit
