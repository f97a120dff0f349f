"""What a training needs before its first step: everything read, checked against each other, and put together."""

import argparse
import os
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from asr import checkpoint, data
from asr.health import METRICS
from asr.loss import Precision
from asr.recipe import OptimConfig, TrainConfig
from asr.tokenizer import Tokenizer
from asr.transducer import Transducer
from configs import load
from manifests import storage
from shards.index import open_shards
from shards.plan import Budget, Plan, plan_epoch
from shards.spec import FrontendSpec, check_same


@dataclass
class Position:
    """Where a training is: the next step to take, and what is known so far."""

    epoch: int = 0
    step: int = 0  # in the epoch
    total: int = 0
    best_wer: float | None = None
    unsaid: dict[str, float] = field(default_factory=dict)  # sums since the last health line


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
    optimiser: torch.optim.Optimizer
    corpus: data.Corpus
    usable: np.ndarray  # rows of the corpus to train on
    left_out: dict[str, int]
    dev: data.Corpus | None
    identity: dict[str, Any]
    position: Position


def prepare(args: argparse.Namespace) -> Session:
    """Raises ValueError when inputs do not fit each other, or the run folder holds something else."""
    config = load.load(TrainConfig, args.config, "train", args.settings)
    spec = load.load(FrontendSpec, config.frontend, "frontend")
    tokenizer = Tokenizer.load(args.vocab)
    corpus = _open(args.shards, spec, config, tokenizer)
    dev = _open(args.dev_shards, spec, config, tokenizer) if args.dev_shards else None
    out = storage.absolute(args.out)
    if not storage.is_local(out):
        raise ValueError(f"--out {args.out}: a run is written to a folder of this machine; copy its bundles from there")
    rank, world, device = _join_ranks()
    model = _model(config, corpus, tokenizer).to(device)
    usable, left_out = corpus.usable(model.encoder_frames, round(config.data.max_s / spec.frame_s))
    if not len(usable):
        raise ValueError(f"{args.shards}: no utterance to train on; left out: {left_out}")
    precision = _precision(config, device)
    identity = {"config": asdict(config), "world_size": world, "precision": precision, "vocab": tokenizer.fingerprint,
                "features": spec.fingerprint, "shards": corpus.fingerprint}  # fmt: skip
    bundle = checkpoint.Bundle(model, tokenizer, spec, {"config": asdict(config)})
    session = Session(
        config, out, rank, world, device, precision, bundle, model, _optimiser(model, config.optim), corpus, usable,
        left_out, dev, identity, Position(),
    )  # fmt: skip
    epoch_plan(session, session.position.epoch)  # a budget that does not fit is said before the folder is touched
    _resume_or_start(args, session)
    if world > 1:
        session.trained = nn.parallel.DistributedDataParallel(model)
    return session


def _precision(config: TrainConfig, device: torch.device) -> Precision:
    """bf16 takes half the time where the hardware knows it, and much more than float32 where it does not."""
    if config.precision != "auto":
        return config.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    known = torch.cpu.get_capabilities()
    return "bf16" if known.get("avx512_bf16") or known.get("amx_bf16") else "fp32"


def _model(config: TrainConfig, corpus: data.Corpus, tokenizer: Tokenizer) -> Transducer:
    torch.manual_seed(config.seed)
    model = Transducer(config.model, corpus.spec.mels, tokenizer.size)
    moments = corpus.shards.moments
    model.set_normalisation(torch.from_numpy(moments.mean_f), torch.from_numpy(moments.variance_f))
    return model


def _optimiser(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW; biases, norms and the like do not decay."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), foreach=True)


def _join_ranks() -> tuple[int, int, torch.device]:
    """(rank, world size, device) from torchrun's environment; alone without it."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if not cuda and "OMP_NUM_THREADS" not in os.environ:
        # Each process its share of the cores: two trainings with two threads each on two cores ran at a tenth of the
        # speed of two with one each, which is why a user's own OMP_NUM_THREADS stays.
        local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, torch.get_num_threads() // local_world))
    if world > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    return int(os.environ.get("RANK", "0")), world, device


def _open(source: str, spec: FrontendSpec, config: TrainConfig, tokenizer: Tokenizer) -> data.Corpus:
    shards = open_shards(source)
    mend = f"Write the shards with --frontend {config.frontend}, or train with frontend=NAME of theirs."
    check_same(spec, shards.spec, f"config frontend {config.frontend}", source, mend)
    return data.Corpus(shards, tokenizer)


def epoch_plan(session: Session, epoch: int) -> Plan:
    """The batches of an epoch over the usable rows; the same on every rank."""
    config, spec = session.config, session.bundle.spec
    budget = Budget(
        round(config.data.batch_s / spec.frame_s), config.data.batch_examples,
        config.data.splice, round(config.data.splice_s / spec.frame_s),
    )  # fmt: skip
    return plan_epoch(
        session.corpus.shards.frames[session.usable], budget,
        seed=config.seed, epoch=epoch, world_size=session.world, shortest_first=epoch < config.shortest_first,
    )  # fmt: skip


def save_last(session: Session) -> None:
    """Checkpoint to <out>/last, by rank 0."""
    if session.rank == 0:
        tensors = checkpoint.optimiser_tensors(session.bundle.model, session.optimiser)
        position = asdict(session.position)
        facts = {"identity": session.identity, "position": position}
        known = session.bundle.facts | {key: position[key] for key in ("epoch", "step", "total", "best_wer")}
        checkpoint.save(storage.join(session.out, "last"), replace(session.bundle, facts=known), (tensors, facts))


def _resume_or_start(args: argparse.Namespace, session: Session) -> None:
    """Load <out>/last, or make room for a new run. Raises ValueError for a folder that holds anything else."""
    last = storage.join(session.out, "last")
    if session.rank == 0:
        for name in ("last", "best"):
            checkpoint.settle(storage.join(session.out, name))
    if session.world > 1:
        dist.barrier()
    there = storage.exists(last)
    if there and not args.resume and not args.force:
        raise ValueError(f"{session.out}: holds a run; say --resume to go on with it, or --force to start over")
    if there and args.resume:
        _resume(last, session)
        return
    begun = there or storage.exists(storage.join(session.out, METRICS))  # killed before its first checkpoint
    if not begun and not args.force and next(iter(storage.list_files(session.out)), None) is not None:
        raise ValueError(f"{session.out}: is not empty and holds no run; choose another --out, or say --force "
                         "to put a run beside what is there")  # fmt: skip
    if session.world > 1:
        dist.barrier()  # all ranks have looked before rank 0 clears the folder
    if session.rank == 0:
        _clear(session.out, session.world)


def _resume(last: str, session: Session) -> None:
    tensors, facts = checkpoint.load_training(last)
    _check_same_run(last, facts["identity"], session.identity)
    session.bundle.model.load_state_dict(checkpoint.load(last).model.state_dict())
    checkpoint.restore_optimiser(session.bundle.model, session.optimiser, tensors)
    session.position = Position(**facts["position"])


def _clear(out: str, world: int) -> None:
    """Delete what a run leaves, and nothing else: the folder may hold the work of years."""
    for name in ("last", "best"):
        if storage.exists(storage.join(out, name, checkpoint.FACTS)):
            storage.delete_folder(storage.join(out, name))
    for name in (METRICS, "evaluation/wer.json", "evaluation/wer.html"):
        storage.delete(storage.join(out, name))
    for rank in range(world):
        storage.delete(not_finite_uri(out, rank))
    for uri, _ in list(storage.list_files(storage.join(out, "tensorboard"))):
        if storage.name(uri).startswith("events.out.tfevents"):
            storage.delete(uri)


def not_finite_uri(out: str, rank: int) -> str:
    """Where the utterances of a batch without a finite gradient are named."""
    return storage.join(out, f"not-finite-rank{rank}.txt")


def _check_same_run(last: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raises ValueError that names what differs between a checkpoint and what was asked for now."""
    then, now = _flat(theirs), _flat(ours)
    differing = [key for key in sorted(then.keys() | now.keys()) if then.get(key) != now.get(key)]
    if differing:
        what = ", ".join(f"{key.removeprefix('config.')} {then.get(key)} then, {now.get(key)} now" for key in differing)
        raise ValueError(f"{last}: was trained otherwise: {what}; give the same again, another --out, or "
                         "--force in place of --resume")  # fmt: skip


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots; sequences as lists, so that JSON's and ours compare."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
