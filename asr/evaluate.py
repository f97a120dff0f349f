"""evaluate-asr: how well a bundle recognises speech, as figures and as a page."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr import checkpoint, runtimes
from asr.bundle import locate
from asr.corpus import Corpus, add_cache, open_cache
from asr.decode import greedy
from asr.evaluation import score_page, streamed, streamed_report
from asr.evaluation.scoring import Scored, count_edits, score
from asr.evaluation.spoken import add_sources, open_speech
from asr.models import Model
from asr.tokenizer import Tokenizer
from configs import cli
from manifests import storage
from shards.index import open_shards
from shards.spec import check_same

BATCH_FRAMES = 60_000  # ten minutes of audio at a time: keeps the matrices large and the memory small
CHUNK_MS = 320
ONLY_STREAMING = ("manifest", "files", "splits", "chunk_ms", "aligner", "runtime", "device", "threads", "beam", "lm",
                  "lm_weight", "hotword", "hotword_boost", "no_endpoints")  # fmt: skip


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
    runtimes.add_options(parser)
    add_sources(parser)
    parser.add_argument("--streaming", action="store_true", help="recognise samples chunk by chunk, as live, and "
                        "measure delays; options that say how are for this")  # fmt: skip
    parser.add_argument("--chunk-ms", type=int, metavar="MS", help=f"audio in one step (default {CHUNK_MS})")
    parser.add_argument("--aligner", metavar="BUNDLE", help="whose CTC head says when words were spoken (default: the "
                        "bundle's own)")  # fmt: skip
    parser.add_argument("--out", metavar="FOLDER", help="for wer.json and wer.html (default: beside the bundle)")
    add_cache(parser)
    cli.add_json(parser)
    plain = {name: parser.get_default(name) for name in ONLY_STREAMING}
    return cli.run(lambda args: stream(args) if args.streaming else evaluate(args, plain), parser, argv)


def evaluate(args: argparse.Namespace, plain: Mapping[str, Any]) -> None:
    """Raises ValueError for a damaged bundle, or shards whose features it was not trained on.

    `plain` is what the options are when nobody gives them.
    """
    if given := [name for name in ONLY_STREAMING if getattr(args, name) != plain[name]]:
        raise ValueError(f"--{given[0].replace('_', '-')}: says how to stream; say --streaming, too")
    bundle = checkpoint.load(locate(args.bundle))
    shards = open_shards(args.shards)
    mend = "Write the shards again with the bundle's frontend, or take the bundle that was trained on these."
    check_same(bundle.spec, shards.spec, args.bundle, args.shards, mend)
    out, corpus = _out(args), Corpus(shards, bundle.tokenizer, open_cache(args, shards))
    cli.say(args, f"{len(shards):,} utterances, {shards.hours:.2f} h")
    texts = recognise(bundle.model, bundle.tokenizer, corpus, range(len(shards)), torch.device("cpu"))
    names = ("id", "corpus", "split", "speaker", "duration_s", "text")
    columns = zip(*(shards.column(name) for name in names), texts, strict=True)
    report = score([Scored(*values) for values in columns])
    values = {"bundle": storage.absolute(args.bundle), "shards": args.shards} | report.to_json()
    facts = {"Bundle": args.bundle, "Shards": args.shards, "Decoding": "greedy, as it streams"}
    page = score_page.render(report, "Word error rate", facts)
    _write(args, out, values, page, score_page.summary_text(report))


def stream(args: argparse.Namespace) -> None:
    """Raises ValueError for a damaged bundle, and for speech that has no samples."""
    chunk_ms = CHUNK_MS if args.chunk_ms is None else args.chunk_ms
    if chunk_ms < 1:
        raise ValueError(f"--chunk-ms {chunk_ms}: must be 1 or more")
    speech = open_speech(args)
    timing = streamed.choose_aligner(args.bundle, args.aligner)
    listener, out = runtimes.from_args(args), _out(args)
    torch.set_num_threads(args.threads)  # of the aligner, whichever the runtime: utterances are too small to share
    cli.say(args, f"{len(speech.utterances):,} utterances, {chunk_ms} ms at a time")
    found = streamed.measure(listener, speech, chunk_ms, timing, args.hotword, lambda line: cli.say(args, line))
    values = {"bundle": storage.absolute(args.bundle), "speech": speech.name} | found.report.to_json()
    values["streaming"] = streamed_report.to_json(found)
    facts = {"Bundle": args.bundle, "Speech": speech.name, "Decoding": _decoding(args, chunk_ms)}
    page = score_page.render(found.report, "Word error rate, streamed", facts, streamed_report.section(found))
    _write(args, out, values, page, "\n".join([score_page.summary_text(found.report), *streamed_report.lines(found)]))


def _decoding(args: argparse.Namespace, chunk_ms: int) -> str:
    search = "greedy" if args.beam == 1 else f"beam of {args.beam}"
    parts = [f"{search}, {chunk_ms} ms at a time", f"language model {args.lm}" if args.lm else ""]
    parts += [f"{len(args.hotword)} hotwords" * bool(args.hotword), "no endpoints" * args.no_endpoints]
    return ", ".join(part for part in parts if part)


def _out(args: argparse.Namespace) -> str:
    """The folder for what is found. Raises ValueError and OSError for one that cannot be written to, before the work
    that would be lost."""
    if not args.out and not storage.is_local(args.bundle):
        raise ValueError(f"--out: say in which folder to write; there is none beside {args.bundle}")
    out: str = args.out or storage.join(storage.parent(storage.absolute(args.bundle)), "evaluation")
    storage.check_writable(out)
    return out


def _write(args: argparse.Namespace, out: str, values: dict[str, Any], page: str, text: str) -> None:
    storage.write_text(storage.join(out, "wer.json"), json.dumps(values, ensure_ascii=False, indent=1) + "\n")
    storage.write_text(storage.join(out, "wer.html"), page)
    cli.summary(args, values, f"{text}\n{storage.join(out, 'wer.html')}")
