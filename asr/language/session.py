"""What the training of a language model works with: read, checked against each other, begun or gone on from."""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from asr import folders, lm
from asr.language import model as lm_model
from asr.language import texts as lm_texts
from asr.language.config import LmTrainConfig
from asr.language.texts import LeftOut, Line, Texts
from asr.recipe import OptimConfig
from asr.tokenizer import Tokenizer
from asr.training.health import METRICS, cut_off
from asr.training.optimisers import Optimisers
from configs import cli, load
from configs.wording import counted
from manifests import storage

BEST, TRAINING, LEFT_OUT = "best", "training.safetensors", "left-out.tsv"
VERSION = 1  # of what is in training.safetensors; raise it when the same position means other batches
_FACTS = "speechmill"  # the key of its metadata
_SHA256 = "tensors_sha256"  # in these, the hash of the tensors as a file of their own
SAID_LINES = 1_000_000


@dataclass
class Position:
    """The next step to take, and what is known so far."""

    epoch: int = 0
    step: int = 0  # in the epoch
    total: int = 0
    lr_factor: float = 1.0
    best_nats: float | None = None  # of a held-out token
    waited: int = 0  # epochs in a row that were no better
    finished: bool = False
    unsaid: list[float] = field(default_factory=lambda: [0.0, 0.0])  # nats and tokens since the last line


@dataclass
class Session:
    config: LmTrainConfig
    out: str
    quiet: bool  # standard output is for the summary alone
    tokenizer: Tokenizer
    train: Texts
    dev: Texts
    unigram_nats: float  # of a held-out token
    device: torch.device
    model: lm_model.LstmLm
    optimisers: Optimisers
    identity: dict[str, Any]
    position: Position

    def say(self, text: str) -> None:
        print(text, file=sys.stderr if self.quiet else sys.stdout, flush=True)


def prepare(args: argparse.Namespace) -> Session:
    """Raises ValueError when inputs do not fit each other, or the run's folder holds something else."""
    config = load.load(LmTrainConfig, args.config, "lm", args.settings)
    tokenizer = Tokenizer.load(args.vocab)
    out = storage.absolute(args.out)
    if not storage.is_local(out):
        raise ValueError(f"--out {args.out}: a run is written to a folder of this machine; copy its bundle from there")
    resumes = _to_resume(args, out)
    left_out = LeftOut()
    train, dev = _texts(args, config, tokenizer, left_out)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(config.seed)
    model = lm_model.LstmLm(config.model, tokenizer.size).to(device)
    optimisers = Optimisers(model, OptimConfig(lr=config.lr, weight_decay=config.weight_decay))
    values = asdict(config)
    for name in ("log_steps", "save_steps"):
        del values[name]
    identity = {
        "config": values, "vocab": tokenizer.fingerprint, "texts": train.fingerprint(), "dev": dev.fingerprint()
    }  # fmt: skip
    unigram = lm_texts.unigram_nats(train, dev, tokenizer.size)
    session = Session(
        config, out, args.json, tokenizer, train, dev, unigram, device, model, optimisers, identity, Position()
    )
    if resumes:
        _resume(session)
        if storage.exists(storage.join(out, METRICS)):
            cut_off(storage.join(out, METRICS), session.position.total)
    else:
        _clear(out)
    storage.write_text(storage.join(out, LEFT_OUT), "".join(left_out.named))
    _say_start(session, left_out)
    return session


def _to_resume(args: argparse.Namespace, out: str) -> bool:
    """True for a run to go on with, False for one to begin. Raises ValueError for a folder that holds anything else."""
    folders.settle(storage.join(out, BEST))
    storage.delete_staged(out)
    there = [name for name in (TRAINING, f"{BEST}/{lm.FACTS}") if storage.exists(storage.join(out, name))]
    if there and not args.resume and not args.force:
        raise ValueError(f"{out}: holds a run; say --resume to go on with it, or --force to start over")
    if TRAINING in there and args.resume:
        return True
    begun = there or storage.exists(storage.join(out, LEFT_OUT))  # killed before its first checkpoint
    if not begun and not args.force and next(iter(storage.list_files(out)), None) is not None:
        raise ValueError(f"{out}: is not empty and holds no run; choose another --out, or say --force "
                         "to put a run beside what is there")  # fmt: skip
    return False


def _clear(out: str) -> None:
    """Delete what a run leaves, and nothing else."""
    for name in (TRAINING, METRICS, LEFT_OUT):
        storage.delete(storage.join(out, name))
    if storage.exists(storage.join(out, BEST, lm.FACTS)):
        storage.delete_folder(storage.join(out, BEST))


def _texts(
    args: argparse.Namespace, config: LmTrainConfig, tokenizer: Tokenizer, left_out: LeftOut
) -> tuple[Texts, Texts]:
    """(to train on, to measure on)."""
    prepared = [uri for uri in args.dev if uri.endswith(".parquet") or storage.is_folder(uri)]
    files = [uri for uri in args.dev if uri not in prepared]
    if not (args.manifest or args.text):
        raise ValueError("no texts: give --manifest FOLDER or --text FILE")
    if args.splits and not args.manifest:
        raise ValueError("--splits: is for --manifest; text files have none")
    if (args.text or files) and not args.language:
        raise ValueError(f"{(args.text or files)[0]}: in which language? Say, for instance, --language en")
    lines = _counted(args, _lines(args.manifest, args.splits, False, args.text, args.language, left_out))
    texts = lm_texts.to_tokens(lines, tokenizer, config.max_tokens, left_out)
    if args.dev:
        lines = _lines(prepared, None, True, files, args.language, left_out)
        dev = lm_texts.to_tokens(lines, tokenizer, config.max_tokens, left_out)
        train = lm_texts.without(texts, dev)
        left_out.counts["in --dev too"] = len(texts) - len(train)
    else:
        train, dev = lm_texts.hold_out(texts, config.dev_share)
    for some, what in ((train, "to train on"), (dev, "to measure on")):
        if not len(some):
            raise ValueError(f"of {counted(len(texts), 'text')} none is left {what} (left out: {left_out.reasons()}); "
                             "give more texts, another dev_share, or --dev")  # fmt: skip
    return train, dev


def _lines(
    manifests: Sequence[str], splits: Sequence[str] | None, dev: bool, files: Sequence[str], language: str,
    left_out: LeftOut,
) -> Iterator[Line]:  # fmt: skip
    if manifests:
        yield from lm_texts.manifest_lines(manifests, splits, dev)
    for uri in files:
        yield from lm_texts.file_lines(uri, language, left_out)


def _counted(args: argparse.Namespace, lines: Iterator[Line]) -> Iterator[Line]:
    """Says how far the reading is: millions of lines take minutes."""
    for count, line in enumerate(lines, 1):
        yield line
        if count % SAID_LINES == 0:
            cli.say(args, f"{count:,} texts read")


def _say_start(session: Session, left_out: LeftOut) -> None:
    size = sum(p.numel() for p in session.model.parameters()) / 1e6
    texts, dev, position = session.train, session.dev, session.position
    session.say(f"{size:.2f} M parameters; {counted(len(texts), 'text')}, {counted(len(texts.tokens), 'token')} of "
                f"which {texts.unknown / len(texts.tokens):.2%} unknown; "
                f"held out: {counted(len(dev), 'text')}")  # fmt: skip
    if left_out.counts.total():
        session.say(f"left out: {left_out.reasons()}; see {storage.join(session.out, LEFT_OUT)}")
    if position.finished:
        session.say(f"finished before, after {counted(position.total, 'step')}: nothing is left to do")
    elif position.total:
        session.say(f"going on after step {position.total}, in epoch {position.epoch + 1}")


def save(session: Session) -> None:
    """All that the training goes on from, in one file, so that it is there whole or is the one before."""
    tensors = {f"model/{name}": tensor.contiguous() for name, tensor in session.model.state_dict().items()}
    tensors |= {f"optimiser/{name}": tensor for name, tensor in session.optimisers.tensors(session.model).items()}
    facts = {"version": VERSION, "identity": session.identity, "position": asdict(session.position),
             _SHA256: hashlib.sha256(save_tensors(tensors)).hexdigest()}  # fmt: skip
    data = save_tensors(tensors, metadata={_FACTS: json.dumps(facts)})
    storage.write_bytes(storage.join(session.out, TRAINING), data)


def _resume(session: Session) -> None:
    """Raises ValueError when the checkpoint or the best model is damaged, or they are of another training."""
    uri = storage.join(session.out, TRAINING)
    data = storage.read_bytes(uri)
    try:
        tensors = load_tensors(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # the format of safetensors
        facts = json.loads(header["__metadata__"][_FACTS])
        written = facts.get(_SHA256)  # None: by an earlier version
        if written not in (None, hashlib.sha256(save_tensors(tensors)).hexdigest()):
            raise ValueError("it was altered since it was written")
    except (ValueError, KeyError, SafetensorError) as err:
        raise ValueError(f"{uri}: is damaged ({err}); say --force in place of --resume to start over") from None
    if facts["version"] != VERSION:
        raise ValueError(f"{uri}: was left by another version of this program; say --force in place of --resume")
    if differing := load.differences(facts["identity"], session.identity):
        what = ", ".join(text.removeprefix("config.") for text in differing)
        raise ValueError(f"{uri}: was trained otherwise: {what}; give the same again, another --out, or "
                         "--force in place of --resume")  # fmt: skip
    parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "optimiser": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    session.model.load_state_dict(parts["model"])
    session.optimisers.restore(session.model, parts["optimiser"])
    session.position = Position(**facts["position"])
    if session.position.best_nats is not None:
        lm.load(storage.join(session.out, BEST))  # later epochs are compared with it, and perhaps none is better
