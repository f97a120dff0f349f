"""Where a training is, and how it goes on: from its last checkpoint, or in a folder cleared for a new run.

A run goes on exactly: with as many ranks as before it takes the steps that an undisturbed one takes, to the same
weights. With another number of ranks it takes new steps through what the epoch has left: no utterance that was trained
on comes again, and none is lost.
"""

import argparse
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from asr import checkpoint, token_lengths
from asr.averaging import averaged
from asr.evaluation.folder import FIGURES, PAGE
from asr.training.health import METRICS, PICTURE, TRAINED, cut_off
from configs import load
from manifests import storage

if TYPE_CHECKING:
    from asr.recipe import OptimConfig
    from asr.training.session import Session

RAW = "raw/"  # start of the names of weights as the optimiser has them, where the bundle has their means
EPOCH = "epoch-"  # start of the names of the bundles of `keep_epochs`
NOT_FINITE = "not-finite-rank"  # start of a file's name, as TRAINED
Saved = tuple[dict[str, torch.Tensor], dict[str, Any]]  # tensors, facts
VERSION = 3  # of training.json; raise it when the same position means other batches


@dataclass
class Position:
    """The next step to take, and what is known so far."""

    epoch: int = 0
    step: int = 0  # in the plan
    total: int = 0
    best_wer: float | None = None
    unsaid: dict[str, float] = field(default_factory=dict)  # sums since the last health line
    world: int = 1  # ranks that the plan is for
    plan_steps: int = 0
    done: list[tuple[int, int]] = field(default_factory=list)  # (ranks, steps) of plans that the epoch had before
    done_share: float = 0.0  # how much of the epoch those were
    missing: list[int] = field(default_factory=list)  # utterances left out of each epoch, as shards cannot be read
    lr_factor: float = 1.0  # of the schedule "plateau"
    waited: int = 0  # measurements in a row without a better dev WER

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Position":
        return cls(**values | {"done": [(ranks, steps) for ranks, steps in values["done"]]})

    @property
    def share(self) -> float:
        """How much of the epoch is done. Never decreases within it, also when the number of ranks changes."""
        return self.done_share + (1 - self.done_share) * (self.step / self.plan_steps if self.step else 0.0)

    @property
    def epochs(self) -> float:
        """Done, the share of the present one included."""
        return self.epoch + self.share

    def go_on_with(self, world: int) -> None:
        """Go on with so many ranks."""
        if world != self.world and self.step:
            self.done_share = self.share
            self.done.append((self.world, self.step))
            self.step = 0
        self.world = world

    def measured(self, wer: float, better: bool, config: "OptimConfig") -> None:
        """The dev WER after an epoch, which is what the schedule "plateau" goes by once the warm-up is over.

        Before that a WER of 100 % does not fall either, and every halving would be a fault of the warm-up.
        """
        if better:
            self.best_wer = wer
        self.waited = 0 if better or self.total < config.warmup_steps else self.waited + 1
        if self.waited > config.patience:
            self.lr_factor, self.waited = self.lr_factor * config.factor, 0

    def next_epoch(self) -> None:
        self.epoch += 1
        self.step, self.done, self.done_share = 0, [], 0.0


def save_last(session: "Session") -> None:
    """Checkpoint to <out>/last, by rank 0. All ranks must call it: none may die between what the checkpoint holds and
    its line in the log of utterances, nor end before it is written, as a launcher then ends rank 0 too.
    """
    if session.world > 1:
        dist.barrier()
    if session.rank == 0:
        tensors = session.optimisers.tensors(session.bundle.model)
        if session.ema is not None:
            tensors |= {f"{RAW}{name}": value for name, value in session.ema.raw().items()}
        position = asdict(session.position)
        scaler = session.scaler.state_dict()
        facts = {"version": VERSION, "identity": session.identity, "position": position, "scaler": scaler,
                 "epochs": session.position.epochs}  # fmt: skip
        known = session.bundle.facts | {key: position[key] for key in ("epoch", "step", "total", "best_wer")}
        with averaged(session.ema):
            checkpoint.save(storage.join(session.out, "last"), replace(session.bundle, facts=known), (tensors, facts))
    if session.world > 1:
        dist.barrier()


def keep_epoch(session: "Session") -> None:
    """Bundle of the present weights as <out>/epoch-<number>, of which the last `keep_epochs` stay. By rank 0."""
    if session.rank or not session.config.keep_epochs:
        return
    known = session.bundle.facts | {"epoch": session.position.epoch, "total": session.position.total}
    with averaged(session.ema):
        name = f"{EPOCH}{session.position.epoch:03d}"
        checkpoint.save(storage.join(session.out, name), replace(session.bundle, facts=known))
    for folder in kept_epochs(session.out)[: -session.config.keep_epochs]:
        storage.delete_folder(folder)


def kept_epochs(out: str) -> list[str]:
    """The oldest first."""
    folders = Path(out).glob(f"{EPOCH}*")
    found = [f for f in folders if f.name.removeprefix(EPOCH).isdecimal() and (f / checkpoint.FACTS).exists()]
    return [str(folder) for folder in sorted(found, key=lambda folder: int(folder.name.removeprefix(EPOCH)))]


def _epochs_begun(out: str) -> set[str]:
    """Numbers, as in names, of those and of what killed savings left."""
    names = {path.name.removeprefix(storage.STAGING).removesuffix(".previous") for path in Path(out).glob(f"*{EPOCH}*")}
    return {number for name in names if name.startswith(EPOCH) and (number := name.removeprefix(EPOCH)).isdecimal()}


def to_resume(args: argparse.Namespace, out: str, rank: int, world: int) -> bool:
    """True for a run to go on with, False for one to begin. Raises ValueError for a folder that holds anything else."""
    last = storage.join(out, "last")
    if rank == 0:
        for name in ("last", "best"):
            checkpoint.settle(storage.join(out, name))
        for number in _epochs_begun(out):
            checkpoint.settle(storage.join(out, f"{EPOCH}{number}"))
    if world > 1:
        dist.barrier()
    there = storage.exists(last)
    kept = kept_epochs(out) or storage.exists(storage.join(out, "best", checkpoint.FACTS))  # all that somebody kept?
    if (there or kept) and not args.resume and not args.force:
        raise ValueError(f"{out}: holds a run; say --resume to go on with it, or --force to start over")
    if there and args.resume:
        return True
    # killed before its first checkpoint
    begun = there or any(storage.exists(storage.join(out, name)) for name in (METRICS, token_lengths.LENGTHS))
    if not begun and not args.force and next(iter(storage.list_files(out)), None) is not None:
        raise ValueError(f"{out}: is not empty and holds no run; choose another --out, or say --force "
                         "to put a run beside what is there")  # fmt: skip
    return False


def load_saved(out: str, identity: dict[str, Any]) -> Saved:
    """What <out>/last holds beside a bundle. Raises ValueError when it is another training."""
    last = storage.join(out, "last")
    tensors, facts = checkpoint.load_training(last)
    if facts.get("version") != VERSION:
        raise ValueError(f"{last}: was left by another version of this program, whose batches came in another order; "
                         "start over with --force in place of --resume")  # fmt: skip
    if differing := load.differences(facts["identity"], identity):
        what = ", ".join(text.removeprefix("config.") for text in differing)
        raise ValueError(f"{last}: was trained otherwise: {what}; give the same again, another --out, or "
                         "--force in place of --resume")  # fmt: skip
    return tensors, facts


def resume(session: "Session", saved: Saved) -> None:
    """Go on from <out>/last."""
    tensors, facts = saved
    bundle = checkpoint.load(storage.join(session.out, "last"))
    session.bundle.model.load_state_dict(bundle.model.state_dict())
    raw = {name.removeprefix(RAW): tensors.pop(name) for name in list(tensors) if name.startswith(RAW)}
    if session.ema is not None:
        session.ema.restore(raw)
    session.optimisers.restore(session.bundle.model, tensors)
    session.scaler.load_state_dict(facts["scaler"])
    session.position = Position.from_json(facts["position"])
    session.position.go_on_with(session.world)


def check_same_place(session: "Session") -> None:
    """Raises ValueError when ranks do not go on from the same step, as on machines that share no folder. All ranks
    must call it.
    """
    if session.group is None:
        return
    found = [torch.zeros((), dtype=torch.int64) for _ in range(session.world)]
    dist.all_gather(found, torch.tensor(session.position.total), group=session.group)
    steps = [int(total) for total in found]
    if len(set(steps)) > 1:
        places = ", ".join(f"process {rank} at step {total}" for rank, total in enumerate(steps))
        raise ValueError(f"{session.out}: is not the same folder for all processes ({places}); give an --out that all "
                         "machines share")  # fmt: skip


def settle_records(session: "Session", fresh: bool) -> None:
    """Let the run's folder hold what `session.position` is built on and nothing beyond. All ranks must call it."""
    if session.world > 1:
        dist.barrier()  # all have looked before rank 0 clears the folder
    if session.rank == 0:
        if fresh:
            _clear(session.out)
        for uri, _ in list(storage.list_files(session.out, deep=False)):
            if storage.name(uri) == METRICS or _is_log(uri):
                cut_off(uri, session.position.total)
    if session.world > 1:
        dist.barrier()  # before others add to the files that were cut


def trained_uri(out: str, rank: int) -> str:
    """Where --log-utterances writes what a rank has trained on."""
    return storage.join(out, f"{TRAINED}{rank}.jsonl")


def not_finite_uri(out: str, rank: int) -> str:
    """Where the utterances of a batch without a finite gradient are named."""
    return storage.join(out, f"{NOT_FINITE}{rank}.txt")


def _is_log(uri: str) -> bool:
    return storage.name(uri).startswith(TRAINED) and uri.endswith(".jsonl")


def _clear(out: str) -> None:
    """Delete what a run leaves, and nothing else: the folder may hold the work of years."""
    for name in ("last", "best"):
        if storage.exists(storage.join(out, name, checkpoint.FACTS)):
            storage.delete_folder(storage.join(out, name))
    for folder in kept_epochs(out):
        storage.delete_folder(folder)
    for name in (METRICS, PICTURE):
        storage.delete(storage.join(out, name))
    for uri, _ in list(storage.list_files(storage.join(out, "evaluation"))):
        if storage.name(uri) in (FIGURES, PAGE):
            storage.delete(uri)
    for uri, _ in list(storage.list_files(out, deep=False)):
        if _is_log(uri) or (storage.name(uri).startswith(NOT_FINITE) and uri.endswith(".txt")):
            storage.delete(uri)
    for uri, _ in list(storage.list_files(storage.join(out, "tensorboard"))):
        if storage.name(uri).startswith("events.out.tfevents"):
            storage.delete(uri)
