"""evaluate-asr: how well a bundle recognises a shard set, as figures and as a page."""

import argparse
import json
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr import checkpoint, score_page
from asr.corpus import Corpus, add_cache, open_cache
from asr.decode import greedy
from asr.models import Model
from asr.scoring import Scored, count_edits, score
from asr.tokenizer import Tokenizer
from configs import cli
from manifests import storage
from shards.index import open_shards
from shards.spec import check_same

BATCH_FRAMES = 60_000  # ten minutes of audio at a time: keeps the matrices large and the memory small


def recognise(
    model: Model, tokenizer: Tokenizer, corpus: Corpus, rows: Sequence[int], device: torch.device
) -> list[str]:
    """The words of the given rows, in their order."""
    frames = corpus.shards.frames
    texts = [""] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: int(frames[rows[i]]))
    while order:
        longest = max(1, int(frames[rows[order[-1]]]))
        chosen = order[-max(1, BATCH_FRAMES // longest) :]
        del order[-len(chosen) :]
        feats: list[Tensor] = [torch.from_numpy(corpus.features(rows[i])) for i in chosen]
        lens_b = torch.tensor([len(f) for f in feats], device=device)
        tokens = greedy(model, pad_sequence(feats, batch_first=True).to(device), lens_b)
        for i, found in zip(chosen, tokens, strict=True):
            texts[i] = tokenizer.decode([token.id for token in found])
    return texts


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[int, int]:
    """Word edits summed over utterances, and words in the references."""
    errors = 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        errors += count_edits(reference, hypothesis).errors
    return errors, sum(len(r.split()) for r in references)


def command() -> NoReturn:
    """The process that a user starts."""
    cli.leave(main())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="evaluate-asr", description=__doc__)
    parser.add_argument("--bundle", required=True, metavar="FOLDER", help="runs/<name>/best or …/last")
    parser.add_argument("--shards", required=True, metavar="URLS", help="list of shard URLs, folder, or index.parquet")
    parser.add_argument("--out", metavar="FOLDER", help="for wer.json and wer.html (default: beside the bundle)")
    add_cache(parser)
    cli.add_json(parser)
    return cli.run(evaluate, parser, argv)


def evaluate(args: argparse.Namespace) -> None:
    """Raises ValueError for a damaged bundle, or shards whose features it was not trained on."""
    bundle = checkpoint.load(args.bundle)
    shards = open_shards(args.shards)
    mend = "Write the shards again with the bundle's frontend, or take the bundle that was trained on these."
    check_same(bundle.spec, shards.spec, args.bundle, args.shards, mend)
    corpus = Corpus(shards, bundle.tokenizer, open_cache(args, shards))
    cli.say(args, f"{len(shards):,} utterances, {shards.hours:.2f} h")
    texts = recognise(bundle.model, bundle.tokenizer, corpus, range(len(shards)), torch.device("cpu"))
    names = ("id", "corpus", "split", "speaker", "duration_s", "text")
    columns = zip(*(shards.column(name) for name in names), texts, strict=True)
    report = score([Scored(*values) for values in columns])
    out = args.out or storage.join(storage.parent(storage.absolute(args.bundle)), "evaluation")
    values = {"bundle": storage.absolute(args.bundle), "shards": args.shards} | report.to_json()
    facts = {"Bundle": args.bundle, "Shards": args.shards, "Decoding": "greedy, as it streams"}
    storage.write_text(storage.join(out, "wer.json"), json.dumps(values, ensure_ascii=False, indent=1) + "\n")
    storage.write_text(storage.join(out, "wer.html"), score_page.render(report, "Word error rate", facts))
    text = f"{score_page.summary_text(report)}\n{storage.join(out, 'wer.html')}"
    cli.summary(args, values, text)
