"""One step of a training: some batches forward and back, their gradient checked, the optimiser."""

import contextlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor, nn

from asr import augment
from asr.data import Batch
from asr.training import memory
from asr.training.resume import not_finite_uri
from manifests import storage

if TYPE_CHECKING:
    from asr.training.session import Session

LEAST_SCALE = 1.0  # of float16 gradients: what is not finite at this scale does not come of the scale


def take(session: "Session", batches: Sequence[Batch]) -> dict[str, float]:
    """One optimiser step on the mean gradient of the batches of all ranks: "loss", "ctc", the "weight" of those means,
    "grad_norm", and 1 for "clipped" and "skipped".

    Raises ValueError before it when the gradient is not finite, then no rank takes the step; or when memory is out.
    In float16 a gradient beyond its range skips the step, and the next one is scaled down.
    """
    config, model, scaler = session.config, session.bundle.model, session.scaler
    session.trained.train()
    session.optimisers.zero_grad()
    sums = torch.zeros(3, device=session.device)  # loss, ctc, weight
    for number, batch in enumerate(batches):
        with _together(session, number + 1 == len(batches)):
            sums += _backward(session, batch, number, len(batches))
    for part in session.optimisers.parts:
        scaler.unscale_(part)
    norm_tensor = nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip)
    # The one time that the device is waited for.
    loss, ctc, weight, norm = torch.cat([sums, norm_tensor[None]]).tolist()
    finite = math.isfinite(norm)
    if not finite and (not scaler.is_enabled() or scaler.get_scale() <= LEAST_SCALE):
        _stop_not_finite(session, batches, norm)
    if finite:  # else no part: each looks for what is beyond the range among its own gradients alone
        for part in session.optimisers.parts:
            scaler.step(part)
    scaler.update()
    if session.ema is not None and finite:
        session.ema.update(session.position.total)
    return {
        "loss": loss / weight if weight else 0.0, "ctc": ctc / weight if weight else 0.0,
        "weight": weight / len(batches), "grad_norm": norm,
        "clipped": float(norm > config.optim.clip), "skipped": float(not finite),
    }  # fmt: skip


def _together(session: "Session", last: bool) -> contextlib.AbstractContextManager[None]:
    """Ranks exchange their gradients once a step, with the last batch."""
    trained = session.trained
    if last or not isinstance(trained, nn.parallel.DistributedDataParallel):
        return contextlib.nullcontext()
    return trained.no_sync()


def _backward(session: "Session", batch: Batch, number: int, of: int) -> Tensor:
    """Adds a share of a batch's gradient; gives [loss, ctc, 1] times the batch's weight."""
    try:
        return _losses(session, batch, number, of)
    except (RuntimeError, MemoryError) as err:
        explained = memory.explain(err, batch, session.config.data, session.bundle.spec.frame_s)
        if explained is None:
            raise
        raise explained from err


def _losses(session: "Session", batch: Batch, number: int, of: int) -> Tensor:
    config, model, spec = session.config, session.bundle.model, session.bundle.spec
    position, device = session.position, session.device
    # Dropout and masks are functions of the step, so that a resumed run repeats them.
    part = position.total * config.optim.accumulate + number
    seed = (config.seed * 1_000_003 + part) * 1024 + session.rank
    torch.manual_seed(seed)
    augmented = position.epoch >= config.shortest_first
    feats, lens = batch.features(device, spec, session.waveform if augmented else None, seed)
    inside = (torch.arange(feats.shape[1], device=device) < lens[:, None])[..., None]
    feats = model.normalise(feats) * inside
    if augmented:
        generator = torch.Generator().manual_seed(seed)
        feats = augment.spec_augment(feats, lens, config.augment, spec.frame_s, generator)
    targets, target_lens = (x.to(device, non_blocking=True) for x in (batch.targets_bu, batch.target_lens_b))
    losses = session.trained(feats, lens, targets, target_lens, config.loss, session.precision, position.total)
    # A batch that has lost all its examples takes part all the same: the other ranks wait for its gradient.
    session.scaler.scale(losses.total * (batch.weight / of)).backward()
    return torch.stack([losses.main, losses.ctc, torch.ones_like(losses.main)]).detach() * batch.weight


def _stop_not_finite(session: "Session", batches: Sequence[Batch], norm: float) -> NoReturn:
    """Gradients are averaged over ranks before the norm is taken, so every rank comes here or none does."""
    ids = [id_ for batch in batches for id_ in session.corpus.ids(batch.utterances)]
    path = not_finite_uri(session.out, session.rank)
    storage.write_text(path, "".join(f"{id_}\n" for id_ in ids))
    raise ValueError(f"step {session.position.total}: the gradient norm is {norm}; that batch's utterances: {path}")
