"""train-asr: a shard set and a vocabulary to a bundle. One process, or many under torchrun."""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import nn

from asr import augment, checkpoint, data
from asr.evaluate import recognise, word_errors
from asr.health import Health
from asr.session import Session, epoch_plan, not_finite_uri, prepare, save_last
from configs import cli
from manifests import storage
from shards.plan import Plan


def command() -> NoReturn:
    """The process that a user starts."""
    cli.leave(main())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train-asr", description=__doc__)
    parser.add_argument("--config", required=True, metavar="NAME", help="configs/train/NAME.yaml, or a file")
    parser.add_argument("--shards", required=True, metavar="URLS", help="list of shard URLs, folder, or index.parquet")
    parser.add_argument("--dev-shards", metavar="URLS", help="shards to measure WER on while training")
    parser.add_argument("--vocab", required=True, metavar="MODEL", help="a sentencepiece model from build-vocab")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the run's folder")
    there = parser.add_mutually_exclusive_group()
    there.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out, if there is one")
    there.add_argument("--force", action="store_true", help="start over in a folder that holds a run")
    parser.add_argument("settings", nargs="*", metavar="key.sub=value", help="change a value of the config")
    cli.add_json(parser)
    return cli.run(train, parser, argv)


def train(args: argparse.Namespace) -> None:
    """Raises ValueError when inputs do not fit each other, or the run folder holds something else."""
    session = prepare(args)
    health = Health(session, args.json) if session.rank == 0 else None
    try:
        _loop(session, health)
    finally:
        if health is not None:
            health.close()
        if session.world > 1:
            dist.destroy_process_group()
    if session.rank == 0:
        _summary(args, session)


def _loop(session: Session, health: Health | None) -> None:
    config, position = session.config, session.position
    while position.epoch < config.epochs:
        plan = epoch_plan(session, position.epoch)
        if health is not None and position.step == 0:
            health.epoch(position.epoch, plan)
        for batch in _batches(session, plan, health):
            lr = _set_learning_rate(session, plan)
            values = train_step(session, batch) | {"lr": lr}
            position.step += 1
            position.total += 1
            if health is not None:
                health.step(position, (position.epoch + position.step / plan.steps) / config.epochs, values)
            if position.total % config.save_steps == 0 and position.step < plan.steps:
                save_last(session)
        position.epoch, position.step = position.epoch + 1, 0
        if session.dev is not None and (position.epoch % config.dev_epochs == 0 or position.epoch == config.epochs):
            _measure(session, session.dev, health)
        save_last(session)


def _batches(session: Session, plan: Plan, health: Health | None) -> Iterator[data.Batch]:
    """This rank's batches from the present position on; the waiting for them is told to `health`."""
    position = session.position
    config = None if position.epoch < session.config.shortest_first else session.config.augment
    seed = (session.config.seed, position.epoch)
    stream = data.batches(session.corpus, session.usable, plan, session.rank, position.step, config, seed)
    while True:
        start = time.perf_counter()
        batch = next(stream, None)
        if batch is None:
            return
        if health is not None:
            audio_s = float(batch.lens_b.sum()) * session.bundle.spec.frame_s * session.world
            health.batch(time.perf_counter() - start, audio_s)
        yield batch


def _set_learning_rate(session: Session, plan: Plan) -> float:
    """Linear warm-up, then a cosine over the whole training down to its final share."""
    optim, position = session.config.optim, session.position
    progress = (position.epoch + position.step / plan.steps) / session.config.epochs
    cosine = optim.final_lr + (1 - optim.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
    lr = optim.lr * min(1.0, (position.total + 1) / optim.warmup_steps) * cosine
    for group in session.optimiser.param_groups:
        group["lr"] = lr
    return lr


def train_step(session: Session, batch: data.Batch) -> dict[str, float]:
    """One optimiser step. Raises ValueError before it when the gradient is not finite; then no rank takes the step."""
    config, model = session.config, session.bundle.model
    # Dropout and masks are functions of the step, so that a resumed run repeats them.
    seed = (config.seed * 1_000_003 + session.position.total) * 1024 + session.rank
    torch.manual_seed(seed)
    session.trained.train()
    feats, lens = batch.feats_btf.to(session.device), batch.lens_b.to(session.device)
    inside = (torch.arange(feats.shape[1], device=session.device) < lens[:, None])[..., None]
    feats = model.normalise(feats) * inside
    if session.position.epoch >= config.shortest_first:
        generator = torch.Generator().manual_seed(seed)
        feats = augment.spec_augment(feats, lens, config.augment, session.bundle.spec.frame_s, generator)
    targets, target_lens = batch.targets_bu.to(session.device), batch.target_lens_b.to(session.device)
    losses = session.trained(feats, lens, targets, target_lens, config.loss_eps, session.precision)
    session.optimiser.zero_grad(set_to_none=True)
    (losses.transducer + config.ctc_weight * losses.ctc).backward()
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip))
    if not math.isfinite(norm):
        _stop_not_finite(session, batch, norm)
    session.optimiser.step()
    return {"loss": losses.transducer.item(), "ctc": losses.ctc.item(), "grad_norm": norm}


def _stop_not_finite(session: Session, batch: data.Batch, norm: float) -> None:
    """Gradients are averaged over ranks before the norm is taken, so every rank comes here or none does."""
    ids = session.corpus.shards.table.column("id")
    path = not_finite_uri(session.out, session.rank)
    storage.write_text(path, "".join(f"{ids[int(row)]}\n" for rows in batch.rows for row in rows))
    raise ValueError(f"step {session.position.total}: the gradient norm is {norm}; that batch's utterances: {path}")


def _measure(session: Session, dev: data.Corpus, health: Health | None) -> None:
    """Dev WER, each rank recognising its share; a better one than before becomes <out>/best."""
    start = time.perf_counter()
    model, position = session.bundle.model.eval(), session.position
    rows = list(range(session.rank, len(dev.shards), session.world))
    texts = recognise(model, session.bundle.tokenizer, dev, rows, session.device)
    counts = torch.tensor(word_errors([dev.texts[row] for row in rows], texts), device=session.device)
    if session.world > 1:
        dist.all_reduce(counts)
    errors, words = counts.tolist()
    wer = errors / max(1, words)
    better = position.best_wer is None or wer < position.best_wer
    if better:
        position.best_wer = wer
    if session.rank == 0:
        if health is not None:
            sample = (dev.texts[rows[0]], texts[0]) if rows else ("", "")
            health.dev(position, wer, better, sample, time.perf_counter() - start)
        if better:
            known = session.bundle.facts | {"epoch": position.epoch, "total": position.total, "dev_wer": wer}
            checkpoint.save(storage.join(session.out, "best"), replace(session.bundle, facts=known))


def _summary(args: argparse.Namespace, session: Session) -> None:
    position = session.position
    bundle = storage.join(session.out, "last" if position.best_wer is None else "best")
    wer = "" if position.best_wer is None else f", best dev WER {position.best_wer:.2%}"
    values = {"steps": position.total, "epochs": position.epoch, "dev_wer": position.best_wer, "bundle": bundle}
    cli.summary(args, values, f"{position.epoch} epochs, {position.total:,} steps{wer}; bundle: {bundle}")


if __name__ == "__main__":  # torchrun -m asr.train
    command()
