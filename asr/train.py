"""train-asr: a shard set and a vocabulary to a bundle. One process, or many under torchrun."""

import argparse
import contextlib
import itertools
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import NoReturn

import torch
import torch.distributed as dist

from asr import checkpoint, data
from asr.averaging import averaged
from asr.corpus import Corpus, add_cache
from asr.evaluate import recognise, word_errors
from asr.training import alignment, budget, memory, preflight, step
from asr.training.health import Health, Lines
from asr.training.optimisers import learning_rate
from asr.training.ranks import any_rank
from asr.training.resume import keep_epoch, save_last, trained_uri
from asr.training.session import Session, epoch_plan, prepare
from configs import cli
from configs.wording import counted
from manifests import storage
from shards.plan import Plan


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
    parser.add_argument("--init-from", metavar="BUNDLE", help="begin with the weights of this bundle, which has the "
                        "same model and vocabulary, in place of random ones")  # fmt: skip
    parser.add_argument("--find-batch-budget", action="store_true", help="do not train: measure the largest "
                        "data.batch_s that fits this machine")  # fmt: skip
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
        if args.find_batch_budget:
            figures = budget.measure(session, step.take)
            values = {"batch_s": figures.batch_s, "trials": [asdict(trial) for trial in figures.trials]}
            return cli.summary(args, values, figures.text())
        _run(session, args)
    except (RuntimeError, MemoryError) as err:
        if memory.is_out(err):
            raise ValueError("out of memory beside the batches, in an optimiser's step or recognising the dev set: "
                             "take a smaller model, or fewer processes on this machine") from err  # fmt: skip
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
        if health is not None and not session.position.total:
            health.say(preflight.lines(session))
        with _sigterm_noted() as noted:
            _loop(session, health, trained, noted)
    finally:
        for log in (health, trained):
            if log is not None:
                log.close()
    # After an error nothing else is waited for: neither transfers that hang nor ranks that are gone. The process ends.
    if session.cache is not None:
        session.cache.close()
    if session.heartbeat is not None:
        dist.barrier(session.group)
        session.heartbeat.stop()
        dist.destroy_process_group()


def _loop(session: Session, health: Health | None, trained: Lines | None, noted: Sequence[int]) -> None:
    config, position, missing = session.config, session.position, session.missing
    while position.epoch < config.epochs:
        plan = session.plan = session.plan or epoch_plan(session)
        if len(position.missing) == position.epoch:
            position.missing.append(0)
        if health is not None and position.step == 0:
            health.epoch(position.epoch, plan)
        stream = batches(session, plan, health)
        while group := list(itertools.islice(stream, config.optim.accumulate)):
            lr = learning_rate(config.optim, position, config.epochs)
            session.optimisers.set_lr(lr)
            values = step.take(session, group) | {"lr": lr}
            position.step += len(group)
            position.total += 1
            missing.left_out += sum(batch.missing for batch in group)
            stop = position.step < plan.steps and any_rank(bool(noted), session.group)
            save = stop or position.total % config.save_steps == 0 or position.step == plan.steps
            if save or position.total % config.log_steps == 0:
                position.missing[-1] += missing.agree()
            if trained is not None:
                ids = [id_ for batch in group for id_ in session.corpus.ids(batch.utterances)]
                trained.add({"epoch": position.epoch + 1, "step": position.total, "world": session.world, "ids": ids})
            if health is not None:
                health.step(position, position.epochs / config.epochs, values)
            if save and position.step < plan.steps:
                save_last(session)
            if stop:
                _terminate(session)
        position.next_epoch()
        session.plan = None
        if health is not None:
            health.epoch_end(position)
        if session.dev is not None and (position.epoch % config.dev_epochs == 0 or position.epoch == config.epochs):
            _measure(session, session.dev, health)
        keep_epoch(session)
        save_last(session)
        if position.epoch < config.epochs and any_rank(bool(noted), session.group):
            _terminate(session)


@contextlib.contextmanager
def _sigterm_noted() -> Iterator[list[int]]:
    """A list that SIGTERM makes longer: as batch systems send it some seconds before they kill."""
    noted: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(session: Session) -> NoReturn:
    raise cli.Terminated(f"stopped by SIGTERM after step {session.position.total:,}, which is saved; the same command "
                         "with --resume goes on")  # fmt: skip


def batches(session: Session, plan: Plan, health: Health | None) -> Iterator[data.Batch]:
    """This rank's batches from the present position on; the waiting for them is told to `health`."""
    position, config = session.position, session.config
    plain = position.epoch < config.shortest_first
    seed = (config.seed, position.epoch, len(position.done))
    feed = data.Feed(
        session.corpus, session.rows, plan, session.rank, None if plain else config.augment, seed, session.missing,
        session.device, None if plain else session.waveform,
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


def _measure(session: Session, dev: Corpus, health: Health | None) -> None:
    """Dev WER, each rank recognising its share; a better one than before becomes <out>/best."""
    start = time.perf_counter()
    model, position, tokenizer = session.bundle.model.eval(), session.position, session.bundle.tokenizer
    rows = list(range(session.rank, len(dev.shards), session.world))
    with averaged(session.ema):
        texts = recognise(model, tokenizer, dev, rows, session.device)
    references = [dev.text(row) for row in rows]
    counts = torch.tensor(word_errors(references, texts), device=session.device)
    if session.world > 1:
        dist.all_reduce(counts)
    errors, words = counts.tolist()
    wer = errors / max(1, words)
    better = position.best_wer is None or wer < position.best_wer
    position.measured(wer, better, session.config.optim)
    if session.rank == 0:
        if better:
            known = session.bundle.facts | {"epoch": position.epoch, "total": position.total, "dev_wer": wer}
            with averaged(session.ema):
                checkpoint.save(storage.join(session.out, "best"), replace(session.bundle, facts=known))
        if health is not None:
            row = alignment.drawable(dev, rows)
            with averaged(session.ema):
                picture = None if row is None else alignment.of_row(model, tokenizer, dev, row, session.device)
            samples = list(zip(references, texts, strict=True))
            health.dev(position, wer, better, samples, time.perf_counter() - start, picture)


def _summary(args: argparse.Namespace, session: Session) -> None:
    position = session.position
    bundle = storage.join(session.out, "last" if position.best_wer is None else "best")
    wer = "" if position.best_wer is None else f", best dev WER {position.best_wer:.2%}"
    missing = {"missing_shards": int(session.missing.lost.sum()), "missing_utterances": sum(position.missing)}
    left_out = ""
    if any(missing.values()):
        left_out = (f"; {counted(missing['missing_utterances'], 'time')} an utterance was left out, "
                    f"{counted(missing['missing_shards'], 'shard')} cannot be read")  # fmt: skip
    values = {"steps": position.total, "epochs": position.epoch, "dev_wer": position.best_wer, "bundle": bundle}
    done = f"{counted(position.epoch, 'epoch')}, {counted(position.total, 'step')}"
    cli.summary(args, values | missing, f"{done}{wer}; bundle: {bundle}{left_out}")


if __name__ == "__main__":  # torchrun -m asr.train
    cli.leave(main())
