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
from asr.corpus import Corpus, add_cache
from asr.evaluate import recognise, word_errors
from asr.health import Health, Lines
from asr.resume import not_finite_uri, save_last, trained_uri
from asr.session import Session, epoch_plan, prepare
from configs import cli
from manifests import storage
from shards.plan import Plan


def command() -> NoReturn:
    """The process that a user starts."""
    cli.leave(main())


def main(argv: list[str] | None = None) -> int:
    return cli.run(train, make_parser(), argv)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="train-asr", description=__doc__)
    parser.add_argument("--config", required=True, metavar="NAME", help="configs/train/NAME.yaml, or a file")
    parser.add_argument("--shards", required=True, metavar="URLS", help="list of shard URLs, folder, or index.parquet")
    parser.add_argument("--dev-shards", metavar="URLS", help="shards to measure WER on while training")
    parser.add_argument("--vocab", required=True, metavar="MODEL", help="a sentencepiece model from build-vocab")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the run's folder")
    parser.add_argument("--mix", metavar="WEIGHTS", help="how often corpora come in an epoch, for instance "
                        "librispeech=1,youtube=0.3 (default: data.mix of the config; without, all once)")  # fmt: skip
    parser.add_argument("--max-missing-shards", type=int, default=0, metavar="N", help="go on without up to N shards "
                        "that cannot be read, and count what is left out (default 0: stop)")  # fmt: skip
    add_cache(parser)
    parser.add_argument("--log-utterances", action="store_true", help="write trained-rank<r>.jsonl to --out: a line "
                        "for each step with the utterances that it was on")  # fmt: skip
    there = parser.add_mutually_exclusive_group()
    there.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out, if there is one")
    there.add_argument("--force", action="store_true", help="start over in a folder that holds a run")
    parser.add_argument("settings", nargs="*", metavar="key.sub=value", help="change a value of the config")
    cli.add_json(parser)
    return parser


def train(args: argparse.Namespace) -> None:
    """Raises ValueError when inputs do not fit each other, or the run folder holds something else."""
    try:
        session = prepare(args)
        _run(session, args)
    except RuntimeError as err:
        if not (isinstance(err, dist.DistError) or "gloo/transport" in str(err)):
            raise
        reason = str(err).strip().partition("\n")[0]
        raise ValueError(f"the other processes of this training cannot be reached ({reason}); what one of them said "
                         "before may be the cause") from err  # fmt: skip
    if session.rank == 0:
        _summary(args, session)


def _run(session: Session, args: argparse.Namespace) -> None:
    health = Health(session, args.json) if session.rank == 0 else None
    trained = Lines(trained_uri(session.out, session.rank)) if args.log_utterances else None
    try:
        _loop(session, health, trained)
    finally:
        for log in (health, trained):
            if log is not None:
                log.close()
    # After an error nothing else is waited for: neither transfers that hang nor ranks that are gone. The process ends.
    if session.cache is not None:
        session.cache.close()
    if session.world > 1:
        dist.destroy_process_group()


def _loop(session: Session, health: Health | None, trained: Lines | None) -> None:
    config, position, missing = session.config, session.position, session.missing
    while position.epoch < config.epochs:
        plan = session.plan = session.plan or epoch_plan(session)
        if len(position.missing) == position.epoch:
            position.missing.append(0)
        if health is not None and position.step == 0:
            health.epoch(position.epoch, plan)
        for batch in batches(session, plan, health):
            lr = _set_learning_rate(session)
            values = train_step(session, batch) | {"lr": lr, "weight": batch.weight}
            position.step += 1
            position.total += 1
            missing.left_out += batch.missing
            save = position.total % config.save_steps == 0 or position.step == plan.steps
            if save or position.total % config.log_steps == 0:
                position.missing[-1] += missing.agree()
            if trained is not None:
                ids = session.corpus.ids(batch.utterances)
                trained.add({"epoch": position.epoch + 1, "step": position.total, "world": session.world, "ids": ids})
            if health is not None:
                health.step(position, (position.epoch + position.share) / config.epochs, values)
            if save and position.step < plan.steps:
                save_last(session)
        position.next_epoch()
        session.plan = None
        if health is not None:
            health.epoch_end(position)
        if session.dev is not None and (position.epoch % config.dev_epochs == 0 or position.epoch == config.epochs):
            _measure(session, session.dev, health)
        save_last(session)


def batches(session: Session, plan: Plan, health: Health | None) -> Iterator[data.Batch]:
    """This rank's batches from the present position on; the waiting for them is told to `health`."""
    position, config = session.position, session.config
    augmentation = None if position.epoch < config.shortest_first else config.augment
    seed = (config.seed, position.epoch, len(position.done))
    feed = data.Feed(
        session.corpus, session.rows, plan, session.rank, augmentation, seed, session.missing, session.device
    )  # fmt: skip
    stream = data.batches(feed, position.step, config.data.threads)
    while True:
        start = time.perf_counter()
        batch = next(stream, None)
        if batch is None:
            return
        if health is not None:
            audio_s = float(batch.lens_b.sum()) * session.bundle.spec.frame_s * session.world
            health.batch(time.perf_counter() - start, audio_s)
        yield batch


def _set_learning_rate(session: Session) -> float:
    """Linear warm-up, then a cosine over the whole training down to its final share."""
    optim, position = session.config.optim, session.position
    progress = (position.epoch + position.share) / session.config.epochs
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
    feats, lens = batch.features(session.device, session.bundle.spec)
    inside = (torch.arange(feats.shape[1], device=session.device) < lens[:, None])[..., None]
    feats = model.normalise(feats) * inside
    if session.position.epoch >= config.shortest_first:
        generator = torch.Generator().manual_seed(seed)
        feats = augment.spec_augment(feats, lens, config.augment, session.bundle.spec.frame_s, generator)
    targets, target_lens = (x.to(session.device, non_blocking=True) for x in (batch.targets_bu, batch.target_lens_b))
    losses = session.trained(feats, lens, targets, target_lens, config.loss, session.precision, session.position.total)
    session.optimiser.zero_grad(set_to_none=True)
    # A batch that has lost all its examples takes part all the same: the other ranks wait for its gradient.
    (losses.total * batch.weight).backward()
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip))
    if not math.isfinite(norm):
        _stop_not_finite(session, batch, norm)
    session.optimiser.step()
    return {"loss": losses.main.item(), "ctc": losses.ctc.item(), "grad_norm": norm}


def _stop_not_finite(session: Session, batch: data.Batch, norm: float) -> None:
    """Gradients are averaged over ranks before the norm is taken, so every rank comes here or none does."""
    ids = session.corpus.ids(batch.utterances)
    path = not_finite_uri(session.out, session.rank)
    storage.write_text(path, "".join(f"{id_}\n" for id_ in ids))
    raise ValueError(f"step {session.position.total}: the gradient norm is {norm}; that batch's utterances: {path}")


def _measure(session: Session, dev: Corpus, health: Health | None) -> None:
    """Dev WER, each rank recognising its share; a better one than before becomes <out>/best."""
    start = time.perf_counter()
    model, position = session.bundle.model.eval(), session.position
    rows = list(range(session.rank, len(dev.shards), session.world))
    texts = recognise(model, session.bundle.tokenizer, dev, rows, session.device)
    references = [dev.text(row) for row in rows]
    counts = torch.tensor(word_errors(references, texts), device=session.device)
    if session.world > 1:
        dist.all_reduce(counts)
    errors, words = counts.tolist()
    wer = errors / max(1, words)
    better = position.best_wer is None or wer < position.best_wer
    if better:
        position.best_wer = wer
    if session.rank == 0:
        if health is not None:
            sample = (references[0], texts[0]) if rows else ("", "")
            health.dev(position, wer, better, sample, time.perf_counter() - start)
        if better:
            known = session.bundle.facts | {"epoch": position.epoch, "total": position.total, "dev_wer": wer}
            checkpoint.save(storage.join(session.out, "best"), replace(session.bundle, facts=known))


def _summary(args: argparse.Namespace, session: Session) -> None:
    position = session.position
    bundle = storage.join(session.out, "last" if position.best_wer is None else "best")
    wer = "" if position.best_wer is None else f", best dev WER {position.best_wer:.2%}"
    missing = {"missing_shards": int(session.missing.lost.sum()), "missing_utterances": sum(position.missing)}
    left_out = "; {missing_utterances:,} times an utterance was left out, {missing_shards} shards cannot be read"
    values = {"steps": position.total, "epochs": position.epoch, "dev_wer": position.best_wer, "bundle": bundle}
    cli.summary(args, values | missing, f"{position.epoch} epochs, {position.total:,} steps{wer}; bundle: {bundle}"
                f"{left_out.format(**missing) if any(missing.values()) else ''}")  # fmt: skip


if __name__ == "__main__":  # torchrun -m asr.train
    command()
