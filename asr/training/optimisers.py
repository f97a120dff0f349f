"""Optimisers by name, and the learning rate at a step."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from asr.recipe import OptimConfig

if TYPE_CHECKING:
    from asr.training.resume import Position


class Optimisers:
    """One or two optimisers, each with its parameters, as if they were one."""

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        """Biases, norms and the like do not decay. Muon (Jordan et al. 2024) turns the hidden matrices, those between
        the inputs and the vocabulary; AdamW has the rest. Its steps are scaled to the size of AdamW's (Liu et al. 2025,
        "Muon is scalable for LLM training", section 2.2), so that one learning rate serves both.
        """
        named = list(model.named_parameters())
        hidden = [p for name, p in named if config.kind == "muon" and p.ndim == 2 and not _is_outer(name)]
        taken = {id(p) for p in hidden}
        rest = [p for _, p in named if id(p) not in taken]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.parts: list[torch.optim.Optimizer] = []
        if config.kind == "sgd":
            nesterov = config.momentum > 0
            self.parts.append(torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov))
        else:
            self.parts.append(torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), foreach=True))
        if hidden:
            self.parts.append(torch.optim.Muon(
                hidden, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
            ))  # fmt: skip

    def set_lr(self, lr: float) -> None:
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """Their state by "what/parameter"."""
        return {
            f"{key}/{name}": value.contiguous()
            for name, parameter in model.named_parameters()
            for part in self.parts
            for key, value in part.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }

    def restore(self, model: nn.Module, tensors: dict[str, Tensor]) -> None:
        """From what `tensors` gave."""
        owner = {id(p): part for part in self.parts for group in part.param_groups for p in group["params"]}
        parameters = dict(model.named_parameters())
        for key, value in tensors.items():
            what, _, name = key.partition("/")
            parameter = parameters[name]
            # AdamW keeps its step counts on the CPU and the rest beside the parameters
            owner[id(parameter)].state[parameter][what] = value.to("cpu" if what == "step" else parameter.device)


def _is_outer(name: str) -> bool:
    """Of what no hidden matrix is: embeddings, heads, and the kernels of depthwise convolutions."""
    return name.startswith(("output.", "ctc.", "simple.")) or "embedding" in name or name.endswith("weight_kd")


def learning_rate(config: OptimConfig, position: "Position", epochs: int) -> float:
    """Of the next step. Warm-up and Eden go by steps, the cosine by the share of the whole training that is done."""
    warm = min(1.0, (position.total + 1) / config.warmup_steps)
    if config.schedule == "plateau":
        return max(min(config.min_lr, config.lr), config.lr * position.lr_factor) * warm
    epoch = position.epochs
    if config.schedule == "eden":
        steps, done = config.eden_steps, config.eden_epochs
        by_steps = (1 + (position.total / steps) ** 2) ** -0.25
        return config.lr * by_steps * (1 + (epoch / done) ** 2) ** -0.25 * warm
    cosine = config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    return config.lr * warm * cosine
