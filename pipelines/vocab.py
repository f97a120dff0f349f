"""build-vocab: from a manifest's texts to a sentencepiece vocab, and a report on how it fits the corpus."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sentencepiece

from asr import tokenizer
from asr.tokenizer import Tokenizer
from configs import cli
from configs.wording import counted
from manifests import storage
from manifests.parquet import read_manifests
from manifests.schema import Utterance, is_held_out
from pipelines.identity import fingerprint
from shards.spec import FrontendSpec

REDUCTIONS = (4, 6, 8)  # encoder frames are 40, 60 and 80 ms long
ALL_TRAINED = "trained on"


@dataclass(frozen=True)
class Fit:
    """How a vocab fits the utterances of one split, or of all that it was trained on."""

    split: str
    trained_on: bool
    utterances: int
    hours: float
    pieces_per_word: float
    unknown_share: float  # of the pieces
    pieces_per_s: float
    more_pieces_than_frames_share: dict[str, float]  # of the utterances, by reduction ("4x"), of 10 ms frames


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="build-vocab", description="Train a sentencepiece vocab on a manifest's texts."
    )
    parser.add_argument("--manifest", nargs="+", required=True, help="prepared folders, or .parquet files")
    parser.add_argument("--size", type=int, help="pieces, blank and unknown among them; a char vocab knows its own")
    parser.add_argument("--type", choices=tokenizer.KINDS, default="bpe", dest="kind")
    parser.add_argument("--out", required=True, help="folder for <type>-<size>.model, .vocab.txt and .json")
    parser.add_argument(
        "--splits", nargs="+", help="train on these; else on all but dev, test, eval and validation ones"
    )
    parser.add_argument("--byte-fallback", action="store_true", help="spell characters the texts lack in UTF-8 bytes")
    parser.add_argument("--force", action="store_true", help="replace a vocab of that name made from other inputs")
    cli.add_json(parser)
    return cli.run(_build, parser, argv)


def _build(args: argparse.Namespace) -> None:
    utterances = read_manifests(args.manifest, None)
    splits = training_splits([u.split for u in utterances], args.splits)
    trained_on = [u for u in utterances if u.split in splits]
    texts = training_texts(trained_on)
    size = _size(args, texts)
    inputs = {
        "type": args.kind,
        "size": size,
        "byte_fallback": args.byte_fallback,
        "splits": splits,
        "utterances": fingerprint(sorted([u.split, u.id, u.text, _frames(u)] for u in utterances)),
    }
    stem = storage.join(storage.absolute(args.out), f"{args.kind}-{size}")
    record = None if args.force else _finished(stem, inputs)
    if record is not None:
        cli.say(args, f"{stem}.model: already there, made from the same texts and options")
    else:
        storage.check_writable(storage.absolute(args.out))
        what = f"{counted(len(texts), 'text')} of {', '.join(splits)}"
        cli.say(args, f"Training a {args.kind} vocab of {size} pieces on {what}")
        vocab = Tokenizer(tokenizer.train(texts, args.kind, size, args.byte_fallback))
        _check_lossless(vocab, trained_on)
        record = _record(inputs, vocab, texts, report(vocab, utterances, splits))
        _write(stem, vocab, record, args.force)
    cli.summary(args, {"model": f"{stem}.model", **record}, _text(stem, record))


def _size(args: argparse.Namespace, texts: list[str]) -> int:
    if args.size is not None:
        return args.size
    if args.kind != "char":
        raise ValueError(f"--type {args.kind}: how many pieces? Say, for instance, --size 2048")
    return tokenizer.smallest_size(texts, args.byte_fallback)


def training_splits(present: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """The splits to train on, sorted. Raises ValueError for a split that no utterance has, or when none is left."""
    known = sorted(set(present))
    if not known:
        raise ValueError("--manifest: holds no utterance; look at its dropped.parquet for the reasons")
    listed = ", ".join(known)
    unknown = [split for split in wanted or [] if split not in known]
    if unknown:
        raise ValueError(f"--splits {unknown[0]}: no utterance has that split; there are: {listed}")
    splits = sorted(set(wanted)) if wanted else [split for split in known if not is_held_out(split)]
    if not splits:
        raise ValueError(
            f"--manifest: only held-out splits are there; say which to train on, for instance --splits {known[0]}"
        )
    return splits


def training_texts(utterances: Sequence[Utterance]) -> list[str]:
    """Their texts. Raises ValueError when all are empty, or when one holds what sentencepiece keeps for itself."""
    for utterance in utterances:
        mark = tokenizer.reserved(utterance.text)
        if mark is not None:
            raise ValueError(
                f"utterance {utterance.id}: its text holds {mark!r}, which sentencepiece keeps for itself; "
                f"prepare the corpus again with a normaliser that removes it"
            )
    texts = [u.text for u in utterances if u.text]
    if not texts:
        raise ValueError("--manifest: every text is empty; there is nothing to train on")
    return texts


def _check_lossless(vocab: Tokenizer, utterances: Sequence[Utterance]) -> None:
    for utterance in utterances:
        back = vocab.decode(vocab.encode(utterance.text))
        assert back == utterance.text, f"utterance {utterance.id}: {utterance.text!r} comes back as {back!r}"


def _frames(utterance: Utterance) -> int:
    """10 ms feature frames of the utterance, as the default frontend counts them."""
    spec = FrontendSpec()
    return spec.num_frames(round(utterance.duration_s * spec.sample_rate))


def report(vocab: Tokenizer, utterances: Sequence[Utterance], splits: Sequence[str]) -> list[Fit]:
    """The fit to all that was trained on, then to every split, the held-out ones too: there unknown pieces show."""
    trained_on = [u for u in utterances if u.split in splits]
    fits = [_fit(vocab, ALL_TRAINED, True, trained_on)]
    for split in sorted({u.split for u in utterances}):
        fits.append(_fit(vocab, split, split in splits, [u for u in utterances if u.split == split]))
    return fits


def _fit(vocab: Tokenizer, name: str, trained_on: bool, utterances: Sequence[Utterance]) -> Fit:
    encoded = vocab.encode_batch([u.text for u in utterances])
    pieces = sum(len(ids) for ids in encoded)
    words = sum(len(u.text.split()) for u in utterances)
    duration_s = sum(u.duration_s for u in utterances)
    over = {
        f"{k}x": sum(len(ids) > _frames(u) // k for ids, u in zip(encoded, utterances, strict=True)) for k in REDUCTIONS
    }
    return Fit(
        split=name,
        trained_on=trained_on,
        utterances=len(utterances),
        hours=round(duration_s / 3600, 4),
        pieces_per_word=_ratio(pieces, words),
        unknown_share=_ratio(sum(ids.count(tokenizer.UNKNOWN) for ids in encoded), pieces),
        pieces_per_s=_ratio(pieces, duration_s),
        more_pieces_than_frames_share={k: _ratio(count, len(utterances)) for k, count in over.items()},
    )


def _ratio(count: int, of: float) -> float:
    return round(count / of, 6) if of else 0.0


def _record(inputs: dict[str, Any], vocab: Tokenizer, texts: list[str], fits: list[Fit]) -> dict[str, Any]:
    covered = len(tokenizer.characters(texts))
    beyond = "others are spelled in UTF-8 bytes" if inputs["byte_fallback"] else "others are unknown"
    return {
        "inputs": inputs,
        "fingerprint": vocab.fingerprint,
        "sentencepiece": sentencepiece.__version__,
        "coverage": f"all {covered} characters of the training text (the space among them); {beyond}",
        "report": [asdict(fit) for fit in fits],
    }


def _finished(stem: str, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a vocab of these inputs that is already there. Raises ValueError when other inputs made it."""
    if not storage.exists(f"{stem}.json"):
        return None
    record = json.loads(storage.read_bytes(f"{stem}.json"))
    differing = [key for key in inputs if record["inputs"].get(key) != inputs[key]]
    if differing:
        raise ValueError(
            f"{stem}.model: made from other inputs ({', '.join(differing)}); "
            f"choose another --out, or say --force to replace it"
        )
    whole = storage.exists(f"{stem}.model") and Tokenizer.load(f"{stem}.model").fingerprint == record["fingerprint"]
    return record if whole else None


def _write(stem: str, vocab: Tokenizer, record: dict[str, Any], force: bool) -> None:
    """The three files, the record last: it says that the others are complete."""
    model_uri = f"{stem}.model"
    if storage.exists(model_uri) and storage.read_bytes(model_uri) != vocab.model_bytes and not force:
        raise ValueError(
            f"{model_uri}: is there and is not this vocab; choose another --out, or say --force to replace it"
        )
    storage.delete(f"{stem}.json")
    storage.write_bytes(model_uri, vocab.model_bytes)
    storage.write_text(f"{stem}.vocab.txt", "".join(f"{piece}\n" for piece in vocab.pieces(list(range(vocab.size)))))
    storage.write_text(f"{stem}.json", json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def _text(stem: str, record: dict[str, Any]) -> str:
    header = ["", "utterances", "hours", "pieces/word", "unknown", "pieces/s", *(f">{k}x" for k in REDUCTIONS)]
    rows = [_row(fit) for fit in record["report"]]
    return (
        f"{stem}.model: {record['inputs']['size']} pieces, fingerprint {record['fingerprint']}\n"
        f"Trained on: {', '.join(record['inputs']['splits'])}\n"
        f"Coverage: {record['coverage']}\n\n{cli.table(header, rows)}\n\n"
        f">4x: utterances with more pieces than encoder frames, when 4 frames of 10 ms become one"
    )


def _row(fit: dict[str, Any]) -> list[str]:
    over = fit["more_pieces_than_frames_share"]
    return [
        fit["split"],
        str(fit["utterances"]),
        f"{fit['hours']:.2f}",
        f"{fit['pieces_per_word']:.2f}",
        f"{fit['unknown_share']:.3%}",
        f"{fit['pieces_per_s']:.2f}",
        *(f"{over[f'{k}x']:.2%}" for k in REDUCTIONS),
    ]
