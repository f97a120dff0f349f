"""What a training needs before its first step: everything read, checked against each other, and put together."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.amp.grad_scaler import GradScaler

from asr import checkpoint, device_waveform, mixing, token_lengths
from asr.averaging import Ema, check_same_kind
from asr.corpus import Corpus, open_cache, usable
from asr.device_waveform import WaveformAugment
from asr.missing import Missing
from asr.mixing import Mix
from asr.models import Model, make_model
from asr.recipe import TrainConfig, as_values
from asr.recogniser import Precision
from asr.tokenizer import Tokenizer
from asr.training import preflight
from asr.training.health import METRICS
from asr.training.heartbeat import Heartbeat
from asr.training.optimisers import Optimisers
from asr.training.ranks import choose_precision, join_ranks
from asr.training.resume import Position, Saved, check_same_place, load_saved, resume, settle_records, to_resume
from configs import cli, load
from configs.wording import counted
from manifests import storage
from shards.index import ShardSet, open_shards
from shards.plan import Budget, Lengths, Plan, plan_epoch
from shards.spec import FrontendSpec, check_same

if TYPE_CHECKING:
    from shards.cache import Cache


@dataclass
class Session:
    """What the loop works with."""

    config: TrainConfig
    out: str
    rank: int
    world: int
    device: torch.device
    precision: Precision
    bundle: checkpoint.Bundle
    trained: nn.Module  # the model, or DDP around it
    optimisers: Optimisers
    scaler: GradScaler  # of gradients in float16, else idle
    ema: Ema | None
    waveform: WaveformAugment | None
    corpus: Corpus
    rows: np.ndarray  # of the corpus, to train on
    lengths: Lengths  # of those
    mix: Mix | None  # None: each comes once an epoch
    left_out: dict[str, int]
    dev: Corpus | None
    cache: Cache | None
    missing: Missing
    identity: dict[str, Any]
    position: Position
    plan: Plan | None = None  # of the present epoch
    group: dist.ProcessGroup | None = None  # of all ranks, on the CPU and patient; None with one
    heartbeat: Heartbeat | None = None  # likewise
    coverage: preflight.Coverage | None = None  # of the texts by the vocabulary


def prepare(args: argparse.Namespace) -> Session:
    """Raises ValueError when inputs do not fit each other, or the run folder holds something else.

    What can be refused without the lengths of all texts is refused before they are counted.
    """
    config = _config(args)
    out = storage.absolute(args.out)
    if not storage.is_local(out):
        raise ValueError(f"--out {args.out}: a run is written to a folder of this machine; copy its bundles from there")
    storage.check_writable(out)
    spec = load.load(FrontendSpec, config.frontend, "frontend")
    tokenizer = Tokenizer.load(args.vocab)
    sets = [_open(source, spec, config) for source in (args.shards, args.dev_shards) if source]
    waveform = _waveform(config, sets[0])
    mixing.check(sets[0], config.data.mix)
    rank, world, device = join_ranks()
    if args.find_batch_budget and world > 1:
        raise ValueError("--find-batch-budget: is found by one process; start it without torchrun")
    heartbeat = Heartbeat(rank, world) if world > 1 else None
    precision = choose_precision(config.precision, device)
    model = _model(config, sets[0], tokenizer).to(device)
    bundle = checkpoint.Bundle(model, tokenizer, spec, {"config": asdict(config)})
    begun = _init_from(args.init_from, bundle) if args.init_from else None
    identity = identity_of(config, precision, tokenizer, sets[0], begun)
    saved = None
    if not args.find_batch_budget and to_resume(args, out, rank, world):
        saved = load_saved(out, identity)
    # Others wait while rank 0 counts tokens, perhaps for many minutes; NCCL would call that a hang after ten.
    group = dist.new_group(backend="gloo", timeout=timedelta(days=1)) if world > 1 else None
    cache = open_cache(args, *sets)
    corpus, *dev = (Corpus(shards, tokenizer, cache) for shards in sets)
    missing = Missing(sets[0].files, args.max_missing_shards, world, device)
    missing.look(rank)
    for shards in sets[1:]:  # not after the first epoch
        Missing(shards.files, world=world, device=device).look(rank)
    tokens, are_new = _token_lengths(args, out, sets[0], tokenizer, rank, group)
    rows, left_out = usable(sets[0].frames, tokens, model.encoder_frames, round(config.data.max_s / spec.frame_s))
    if not len(rows):
        raise ValueError(f"{args.shards}: no utterance to train on; left out: {left_out}")
    session = Session(
        config, out, rank, world, device, precision, bundle, model, Optimisers(model, config.optim),
        GradScaler(device.type, enabled=precision == "fp16"), Ema(model, config.ema) if config.ema else None,
        waveform, corpus, rows, Lengths(sets[0].frames[rows], tokens[rows], sets[0].shard[rows]),
        mixing.mix(sets[0], rows, config.data.mix, config.data.mix_temperature), left_out, dev[0] if dev else None,
        cache, missing, identity, Position(world=world), group=group, heartbeat=heartbeat,
    )  # fmt: skip
    if not args.find_batch_budget:  # which leaves the run's folder as it is
        _begin(args, session, saved)
        if are_new:
            token_lengths.save(out, tokens, sets[0], tokenizer)
    return session


def _begin(args: argparse.Namespace, session: Session, saved: Saved | None) -> None:
    """Go on from what was saved, or begin in a folder cleared for it."""
    out = session.out
    if saved is not None:
        resume(session, saved)
    elif args.resume and session.rank == 0:
        stopped = storage.exists(storage.join(out, METRICS))
        cli.say(args, f"{out}: was stopped before its first checkpoint, so it begins again" if stopped else
                f"{out}: nothing was trained there, so the training begins")  # fmt: skip
    check_same_place(session)
    if session.position.epoch < session.config.epochs:
        session.plan = epoch_plan(session)  # a budget that does not fit is said before the folder is touched
    session.coverage = preflight.check(session)
    settle_records(session, fresh=saved is None)
    if session.world > 1:
        # No buffer changes in training, so that none need be sent before each step.
        session.trained = nn.parallel.DistributedDataParallel(session.bundle.model, broadcast_buffers=False)


def _config(args: argparse.Namespace) -> TrainConfig:
    config = load.load(TrainConfig, args.config, "train", args.settings)
    if args.max_missing_shards < 0:
        raise ValueError(f"--max-missing-shards {args.max_missing_shards}: must be 0 or more")
    if args.mix is not None:
        config = replace(config, data=replace(config.data, mix=mixing.parse(args.mix)))
    if config.optim.schedule == "plateau" and not args.dev_shards:
        raise ValueError("optim.schedule=plateau: goes by the dev WER; give --dev-shards, or another schedule")
    return config


def identity_of(
    config: TrainConfig, precision: Precision, tokenizer: Tokenizer, shards: ShardSet, begun: str | None
) -> dict[str, Any]:
    """What must be the same in a resumed run: all that decides its batches and its model."""
    values = as_values(config)
    del values["data"]["threads"]
    # Of the precision counts what it is on this machine, which may be given by name where `auto` would choose another.
    for name in ("log_steps", "save_steps", "keep_epochs", "checkpoint_activations", "precision"):
        del values[name]
    return {"config": values, "precision": precision, "vocab": tokenizer.fingerprint, "init_from": begun,
            "features": shards.spec.fingerprint, "shards": shards.fingerprint}  # fmt: skip


def _init_from(uri: str, bundle: checkpoint.Bundle) -> str:
    """Puts a bundle's weights in; gives their hash. Raises ValueError for a bundle that does not fit."""
    other = checkpoint.load(uri)
    check_same_kind(f"--init-from {uri}", other, "this training", bundle)
    bundle.model.load_state_dict(other.model.state_dict())
    known = bundle.facts["init_from"] = checkpoint.weights_sha256(uri)
    return known


def _waveform(config: TrainConfig, shards: ShardSet) -> WaveformAugment | None:
    if not config.waveform:
        return None
    waveform = device_waveform.load(config.waveform)  # first, as a name that is mistyped needs no other shards
    device_waveform.check_waveform(config, shards.content)
    return waveform


def _token_lengths(
    args: argparse.Namespace,
    out: str,
    shards: ShardSet,
    tokenizer: Tokenizer,
    rank: int,
    group: dist.ProcessGroup | None,
) -> tuple[np.ndarray, bool]:
    """Int32 [rows], and whether they were counted now, by rank 0, since no earlier run has left them."""
    lengths = token_lengths.load(out, shards, tokenizer) if rank == 0 else np.empty(len(shards), np.int32)
    are_new = lengths is None
    if lengths is None:
        cli.say(args, f"counting the tokens of {counted(len(shards), 'text')}")
        lengths = token_lengths.count(shards, tokenizer)
    if group is not None:
        dist.broadcast(torch.from_numpy(lengths), 0, group=group)
    return lengths, are_new


def _model(config: TrainConfig, shards: ShardSet, tokenizer: Tokenizer) -> Model:
    torch.manual_seed(config.seed)
    model = make_model(config.model, shards.spec.mels, tokenizer.size)
    model.set_normalisation(torch.from_numpy(shards.moments.mean_f), torch.from_numpy(shards.moments.variance_f))
    if config.checkpoint_activations:
        if not hasattr(model.encoder, "checkpointing"):
            raise ValueError(f"checkpoint_activations: the encoder {config.model.encoder} does not know this")
        model.encoder.checkpointing = True
    return model


def _open(source: str, spec: FrontendSpec, config: TrainConfig) -> ShardSet:
    shards = open_shards(source)
    mend = f"Write the shards with --frontend {config.frontend}, or train with frontend=NAME of theirs."
    check_same(spec, shards.spec, f"config frontend {config.frontend}", source, mend)
    return shards


def epoch_plan(session: Session) -> Plan:
    """The batches of the present epoch, without those that other numbers of ranks took; the same on every rank.

    Raises ValueError for an utterance that fits no batch, or fewer utterances than ranks.
    """
    config, position, frame_s = session.config, session.position, session.bundle.spec.frame_s
    data = config.data
    budget = Budget(
        max(1, round(data.batch_s / frame_s)), data.batch_examples, data.token_weight, data.splice,
        round(data.splice_s / frame_s),
    )  # fmt: skip
    times = session.mix.times(config.seed, position.epoch) if session.mix else None
    plan = plan_epoch(
        replace(session.lengths, times=times), budget, seed=config.seed, epoch=position.epoch,
        world_size=session.world, done=position.done, shortest_first=position.epoch < config.shortest_first,
    )  # fmt: skip
    position.plan_steps = plan.steps
    return plan
