"""import-bundle: a checkpoint of another system to a bundle.

Of online-speech-recognition: --config says how the model was built (one of this project's train configs, such as
e6d2-large-batch, or a file; its frontend gives window and hop), --vocab and --merges are the files of its tokenizer.
Features are made as that system made them, but for the dither, which is noise for training.
"""

import argparse
import hashlib
import json
from dataclasses import asdict, replace
from typing import Any

import yaml

from asr import checkpoint
from asr.importing import char_bpe, origin_checkpoint
from asr.importing.char_bpe import Special
from asr.recipe import TrainConfig
from asr.tokenizer import Tokenizer
from asr.transducer import Transducer
from configs import cli, load
from manifests import storage
from shards.spec import FrontendSpec

ORIGIN = "online-speech-recognition"
PAD, BOS, UNKNOWN = 1, 2, 3  # its ids; blank is 0
SPECIAL = Special(UNKNOWN, frozenset({0, PAD, BOS}))
FRONTEND, TRAIN = "frontend.yaml", "train.yaml"  # beside the bundle: the configs for going on from it


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="import-bundle", description=__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="what torch.save wrote; read as weights only")
    parser.add_argument("--from", dest="system", required=True, choices=[ORIGIN], help="the system that wrote it")
    parser.add_argument("--config", required=True, metavar="NAME", help="configs/train/NAME.yaml, or a file")
    parser.add_argument("--vocab", required=True, metavar="JSON", help="…-vocab.json: piece to id")
    parser.add_argument("--merges", required=True, metavar="TXT", help="…-merges.txt")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the bundle")
    parser.add_argument("--force", action="store_true", help="put it in the place of a bundle that is there")
    parser.add_argument("settings", nargs="*", metavar="key.sub=value", help="change a value of the config")
    cli.add_json(parser)
    return cli.run(import_bundle, parser, argv)


def import_bundle(args: argparse.Namespace) -> None:
    """Raises ValueError for a checkpoint that does not fit the config and vocabulary, or an --out that is in use."""
    out = storage.absolute(args.out)
    if not storage.is_local(out):
        raise ValueError(f"--out {args.out}: a bundle is written to a folder of this machine; copy it from there")
    if storage.exists(out) and not (args.force and storage.exists(storage.join(out, checkpoint.FACTS))):
        raise ValueError(f"{out}: is there already; choose another --out, or say --force to replace a bundle")
    config = load.load(TrainConfig, args.config, "train", args.settings)
    spec = front_end(load.load(FrontendSpec, config.frontend, "frontend"))
    config = replace(config, model=_as_it_was(config), frontend=storage.join(out, FRONTEND))
    tokenizer = read_vocab(storage.absolute(args.vocab), storage.absolute(args.merges))
    model = Transducer(config.model, spec.mels, tokenizer.size).eval()
    tensors = origin_checkpoint.read(args.checkpoint)
    origin_checkpoint.put_in(tensors, model, args.checkpoint)
    weights = hashlib.sha256(b"".join(tensors[key].float().numpy().tobytes() for key in sorted(tensors))).hexdigest()
    facts = {"config": asdict(config), "imported": {"from": ORIGIN, "tensors_sha256": weights}}
    configs = {FRONTEND: _yaml(spec.values()), TRAIN: _yaml(asdict(config))}
    checkpoint.settle(out)
    checkpoint.save(out, checkpoint.Bundle(model, tokenizer, spec, facts), beside=configs)
    _say(args, out, model, spec)


def _yaml(values: dict[str, Any]) -> bytes:
    plain = json.loads(json.dumps(values))  # YAML knows no tuples
    return yaml.safe_dump(plain, sort_keys=False).encode()


def front_end(spec: FrontendSpec) -> FrontendSpec:
    """The features of the system that have this spec's window, hop and size."""
    return replace(spec, definition="librosa", window="hann", low_hz=0.0, high_hz=8000.0, preemphasis=0.97)


def _as_it_was(config: TrainConfig) -> Any:
    """The model without what that system had not. Raises ValueError for one that it could not have."""
    model = config.model
    if model.kind != "transducer" or model.encoder != "lstm" or model.predictor != "lstm":
        raise ValueError(f"{ORIGIN} had transducers with an lstm encoder and predictor only; choose such a config, "
                         "for instance e6d2-large-batch")  # fmt: skip
    if model.encoder_options.get("convolutions") or not model.encoder_options.get("input_norm", True):
        raise ValueError(f"{ORIGIN} had encoders with a LayerNorm of the input and no convolutions; leave "
                         "model.encoder_options.convolutions and input_norm out")  # fmt: skip
    return replace(model, start_token=BOS, ctc=False, prune=0, tail_frames=0)


def read_vocab(vocab_uri: str, merges_uri: str) -> Tokenizer:
    """The tokenizer of Hugging Face's CharBPETokenizer files. Raises ValueError for files that are none."""
    try:
        ids = json.loads(storage.read_text(vocab_uri))
        pieces = sorted(ids, key=ids.__getitem__)
        if [ids[piece] for piece in pieces] != list(range(len(pieces))) or len(pieces) <= UNKNOWN:
            raise ValueError("its ids are not 0, 1, 2, … without a gap")
        "".join(pieces).encode()  # which half a surrogate pair is not
    except (AttributeError, TypeError, RecursionError):
        raise ValueError(f"{vocab_uri}: is no vocabulary from piece to id (a piece has something else)") from None
    except ValueError as err:
        raise ValueError(f"{vocab_uri}: is no vocabulary from piece to id ({' '.join(str(err).split())})") from None
    merges = []
    for number, line in enumerate(storage.read_text(merges_uri).splitlines(), 1):
        if not line.strip() or line.startswith("#version"):
            continue
        left, _, right = line.rstrip("\r").partition(" ")
        if left + right not in ids or not left or not right:
            raise ValueError(f"{merges_uri}, line {number}: {line!r} makes no piece of {vocab_uri}; both files belong "
                             "to one tokenizer")  # fmt: skip
        merges.append((left, right))
    made = {left + right for left, right in merges}
    if lost := [piece for piece in pieces[UNKNOWN + 1 :] if not _is_simple(piece) and piece not in made]:
        raise ValueError(f"{merges_uri}: has no merge that makes {lost[0]!r} of {vocab_uri}"
                         + (f", nor {len(lost) - 1:,} others" if len(lost) > 1 else "")
                         + "; it was cut short, or belongs to another tokenizer")  # fmt: skip
    return Tokenizer(char_bpe.dump(pieces, merges, SPECIAL), name=vocab_uri)


def _is_simple(piece: str) -> bool:
    """Whether it is one character, or a mark such as <mask>, for neither of which there is a merge."""
    text = piece.removesuffix(char_bpe.END)
    return len(text) <= 1 or (text.startswith("<") and text.endswith(">"))


def _say(args: argparse.Namespace, out: str, model: Transducer, spec: FrontendSpec) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    frame_ms = 1000 * spec.frame_s * model.encoder.reduction
    vocab = f"{out}/{checkpoint.VOCAB}"
    text = (f"{out}: {parameters / 1e6:.1f} M parameters, {model.vocab} pieces, encoder frames of {frame_ms:g} ms\n"
            f"recognise:   transcribe --bundle {out} FILE\n"
            f"train on:    write-shards --frontend {out}/{FRONTEND} …\n"
            f"             train-asr --config {out}/{TRAIN} --vocab {vocab} --init-from {out} …")  # fmt: skip
    values = {"bundle": out, "parameters": parameters, "vocab": model.vocab, "encoder_frame_ms": frame_ms}
    cli.summary(args, values, text)
