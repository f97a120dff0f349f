"""The processes of a training, and what their processors can do."""

import os
from typing import Literal

import torch
import torch.distributed as dist

from asr.recogniser import Precision


def join_ranks() -> tuple[int, int, torch.device]:
    """(rank, world size, device) from torchrun's environment; alone without it."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    elif "OMP_NUM_THREADS" not in os.environ:
        # Each process its share of the cores: two trainings with two threads each on two cores ran at a tenth of the
        # speed of two with one each, which is why a user's own OMP_NUM_THREADS stays.
        local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, torch.get_num_threads() // local_world))
    if world > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    return int(os.environ.get("RANK", "0")), world, device


def any_rank(mine: bool, group: dist.ProcessGroup | None) -> bool:
    """Whether it is so on any rank of the group; all must call it. 0.1 ms over loopback.

    Waits for slow ranks as long as the group does; of those that are gone `Heartbeat` hears.
    """
    if group is None:
        return mine
    said = torch.tensor(int(mine))
    dist.all_reduce(said, dist.ReduceOp.MAX, group=group)
    return bool(said)


def choose_precision(asked: Literal["auto"] | Precision, device: torch.device) -> Precision:
    """bf16 takes half the time where the hardware knows it, and much more than float32 where it does not.

    Raises ValueError for what the device cannot do.
    """
    if asked == "fp16" and device.type != "cuda":
        raise ValueError(
            "precision=fp16: is for GPUs that do not know bf16; say precision=auto"
        )  # no LSTM trains in it
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    known = torch.cpu.get_capabilities()
    return "bf16" if known.get("avx512_bf16") or known.get("amx_bf16") else "fp32"
