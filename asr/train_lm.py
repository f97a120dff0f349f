"""train-lm: texts and a recogniser's vocabulary to a language model for its beam search."""

import argparse
import math
import time
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from asr.language import model as lm_model
from asr.language import texts as lm_texts
from asr.language.session import BEST, Session, prepare, save
from asr.tokenizer import BLANK
from asr.training.health import METRICS, Lines
from configs import cli
from configs.wording import counted
from manifests import storage

LEAST_GAIN = 0.002  # nats of a held-out token: an epoch that brings less makes the learning rate smaller


def main(argv: list[str] | None = None) -> int:
    return cli.run(train, make_parser(), argv)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="train-lm", description=__doc__)
    parser.add_argument("--config", default="lm-tiny", metavar="NAME", help="configs/lm/NAME.yaml, or a file "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--manifest", nargs="+", default=[], metavar="FOLDER", help="prepared folders, or .parquet "
                        "files")  # fmt: skip
    parser.add_argument("--splits", nargs="+", help="train on these of the manifests; else on all but dev, test, eval "
                        "and validation ones")  # fmt: skip
    parser.add_argument("--text", nargs="+", default=[], metavar="FILE", help="text files, a sentence a line")
    parser.add_argument("--language", metavar="TAG", help="of the text files, for instance en")
    parser.add_argument("--dev", nargs="+", default=[], metavar="SOURCE", help="measure on these in place of a share "
                        "of the texts: dev splits of prepared folders, or text files")  # fmt: skip
    parser.add_argument("--vocab", required=True, metavar="MODEL", help="the recogniser's: vocab.model of its bundle")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the run's folder; the model will be in best/")
    there = parser.add_mutually_exclusive_group()
    there.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out, if there is one")
    there.add_argument("--force", action="store_true", help="start over in a folder that holds a run")
    parser.add_argument("settings", nargs="*", metavar="key.sub=value", help="change a value of the config")
    cli.add_json(parser)
    return parser


def train(args: argparse.Namespace) -> None:
    """Raises ValueError when inputs do not fit each other, or the run's folder holds something else."""
    session = prepare(args)
    lines = Lines(storage.join(session.out, METRICS))
    try:
        while not session.position.finished:
            _epoch(session, lines)
            _measure(session, lines)
            save(session)
    finally:
        lines.close()
    _summary(args, session)


def _epoch(session: Session, lines: Lines) -> None:
    """The steps that the present epoch has left."""
    config, position = session.config, session.position
    plan, ends = lm_texts.plan(session.train, config, position.epoch), session.train.ends
    since, tokens = time.perf_counter(), 0
    while position.step < len(plan.batches):
        lr = config.lr * position.lr_factor * min(1.0, (position.total + 1) / config.warmup_steps)
        nats, count = take(session, lm_texts.pack(session.train, ends, plan, position.step), lr)
        position.unsaid = [position.unsaid[0] + nats, position.unsaid[1] + count]
        tokens += count
        position.step += 1
        position.total += 1
        if position.total % config.log_steps == 0:
            loss = position.unsaid[0] / position.unsaid[1]
            position.unsaid = [0.0, 0.0]
            lines.add({"step": position.total, "epoch": position.epoch + 1, "loss": loss, "lr": lr})
            took_s = time.perf_counter() - since
            session.say(f"step {position.total:,} ({position.step:,} of {len(plan.batches):,} in epoch "
                        f"{position.epoch + 1}): loss {loss:.4f}, perplexity {math.exp(loss):,.2f}, "
                        f"{tokens / took_s:,.0f} tokens/s")  # fmt: skip
        if position.total % config.save_steps == 0 and position.step < len(plan.batches):
            save(session)


def take(session: Session, packed_bu: npt.NDArray[np.int64], lr: float) -> tuple[float, int]:
    """One step; nats and tokens of its batch. Raises ValueError before it when the gradient is not finite."""
    config, position, model = session.config, session.position, session.model
    torch.manual_seed(config.seed * 1_000_003 + position.total)  # dropout is a function of the step
    model.train()
    session.optimisers.zero_grad()
    nats = _nats(session, packed_bu)
    count = int((packed_bu[:, 1:] != BLANK).sum())
    (nats / count).backward()
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), config.clip))
    if not math.isfinite(norm):
        raise ValueError(
            f"step {position.total + 1}: the gradient norm is {norm}; take a smaller lr than {config.lr:g}"
        )
    session.optimisers.set_lr(lr)
    for part in session.optimisers.parts:
        part.step()
    return nats.item(), count


def _nats(session: Session, packed_bu: npt.NDArray[np.int64]) -> torch.Tensor:
    tokens_bu = torch.from_numpy(packed_bu).to(session.device)
    return session.model.loss(tokens_bu[:, :-1], tokens_bu[:, 1:])


def _measure(session: Session, lines: Lines) -> None:
    """The end of an epoch: how well it is on the held-out texts, whether that is the best, and whether it goes on."""
    config, position = session.config, session.position
    position.epoch, position.step = position.epoch + 1, 0
    nats, best = _dev_nats(session), position.best_nats
    better = best is None or nats < best
    if better:
        position.best_nats = nats
        training = {"config": asdict(config), "epoch": position.epoch, "steps": position.total,
                    "texts": len(session.train), "tokens": len(session.train.tokens)}  # fmt: skip
        known = {"perplexity": _perplexities(session, nats), "training": training}
        lm_model.save(storage.join(session.out, BEST), session.model, session.tokenizer, known)
    if best is None or nats < best - LEAST_GAIN:
        position.waited = 0
    else:
        position.waited += 1
        position.lr_factor *= config.factor
    position.finished = position.epoch >= config.epochs or position.waited >= config.patience
    lines.add({"step": position.total, "epoch": position.epoch, "dev_loss": nats})
    session.say(f"epoch {position.epoch} of {config.epochs} at most: held-out texts: {_said(session, nats)}"
                f"{', the best so far' if better else ''}")  # fmt: skip


@torch.no_grad()
def _dev_nats(session: Session) -> float:
    """Of a token of the held-out texts, each for itself."""
    session.model.eval()
    plan, ends = lm_texts.in_order(session.dev, session.config.batch_tokens), session.dev.ends
    batches = range(len(plan.batches))
    total = sum(_nats(session, lm_texts.pack(session.dev, ends, plan, batch)).item() for batch in batches)
    return total / len(session.dev.tokens)


def _perplexities(session: Session, nats: float) -> dict[str, float | None]:
    """Of the held-out texts. Words stand between spaces; where a word is a whole sentence there is no number."""
    word_nats = nats * len(session.dev.tokens) / int(session.dev.words.sum())
    word = math.exp(word_nats) if word_nats < 50 else None
    return {"token": math.exp(nats), "word": word, "unigram_token": math.exp(session.unigram_nats)}


def _said(session: Session, nats: float) -> str:
    found = _perplexities(session, nats)
    word = "" if found["word"] is None else f", {found['word']:,.2f} a word"
    return f"perplexity {found['token']:,.2f} a token{word}"


def _summary(args: argparse.Namespace, session: Session) -> None:
    position = session.position
    assert position.best_nats is not None
    bundle = storage.join(session.out, BEST)
    held_out = counted(len(session.dev), "held-out text")
    values = {"bundle": bundle, "epochs": position.epoch, "steps": position.total, "texts": len(session.train),
              "tokens": len(session.train.tokens), "held_out": len(session.dev),
              "perplexity": _perplexities(session, position.best_nats)}  # fmt: skip
    cli.summary(args, values, f"{bundle}: {_said(session, position.best_nats)} of {held_out} "
                f"(knowing only how often each token occurs: {math.exp(session.unigram_nats):,.2f} a token)\n"
                f"Recognise with it: --beam 4 --lm {bundle}")  # fmt: skip
