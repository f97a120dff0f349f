"""evaluate-asr: how well a bundle recognises speech, as figures and as a page."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr import checkpoint, runtimes
from asr.bundle import locate
from asr.corpus import Corpus, add_cache, open_cache
from asr.decode import greedy
from asr.evaluation import folder, score_page, streamed, streamed_report
from asr.evaluation.scoring import Scored, count_edits, score
from asr.evaluation.spoken import add_sources, drawn, open_speech
from asr.models import Model
from asr.tokenizer import Tokenizer
from configs import cli
from configs.wording import counted
from manifests import storage
from shards.index import open_shards
from shards.spec import check_same

BATCH_FRAMES = 60_000  # ten minutes of audio at a time: keeps the matrices large and the memory small
CHUNK_MS = 320
ONLY_STREAMING = ("chunk_ms", "aligner", "runtime", "device", "threads", "beam", "lm", "lm_weight", "hotwords",
                  "hotword_boost", "no_endpoints")  # fmt: skip


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
            texts[i] = tokenizer.decode([token for token, _ in found])
    return texts


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[int, int]:
    """Word edits summed over utterances, and words in the references."""
    errors = 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        errors += count_edits(reference, hypothesis).errors
    return errors, sum(len(r.split()) for r in references)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="evaluate-asr", description=__doc__)
    runtimes.add_options(parser)
    add_sources(parser)
    parser.add_argument("--streaming", action="store_true", help="recognise samples chunk by chunk, as live, and "
                        "measure delays; --manifest, --files and options of recognition are for this")  # fmt: skip
    parser.add_argument("--utterances", type=int, default=0, metavar="N", help="only so many, drawn by chance, always "
                        "the same (default 0: all)")  # fmt: skip
    parser.add_argument("--chunk-ms", type=int, metavar="MS", help=f"audio in one step (default {CHUNK_MS})")
    parser.add_argument("--aligner", metavar="BUNDLE", help="whose CTC head says when words were spoken (default: the "
                        "bundle's own)")  # fmt: skip
    parser.add_argument("--out", metavar="FOLDER", help="for wer.json and wer.html (default: evaluation/BUNDLE-SPEECH "
                        "beside the bundle)")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace an evaluation of other inputs in --out")
    add_cache(parser)
    cli.add_json(parser)
    plain = {name: parser.get_default(name) for name in ONLY_STREAMING}
    return cli.run(lambda args: stream(args) if args.streaming else evaluate(args, plain), parser, argv)


def _limit(args: argparse.Namespace) -> dict[str, Any]:
    """Among what decides an evaluation, where it is not of all. Raises ValueError."""
    if args.utterances < 0:
        raise ValueError(f"--utterances {args.utterances}: must be 0 or more")
    return {"utterances": args.utterances} if args.utterances else {}


def _sample(count: int, every: int) -> dict[str, str]:
    """For the page, whose rates would else be taken for those of all."""
    return {"Sample": f"{count:,} of {counted(every, 'utterance')}, drawn by chance"} if count < every else {}


def evaluate(args: argparse.Namespace, plain: Mapping[str, Any]) -> None:
    """Raises ValueError for a damaged bundle, or shards whose features it was not trained on.

    `plain` is what the options are when nobody gives them.
    """
    _check_options(args, plain)
    bundle = checkpoint.load(locate(args.bundle))
    shards = open_shards(args.shards)
    mend = "Write the shards again with the bundle's frontend, or take the bundle that was trained on these."
    check_same(bundle.spec, shards.spec, args.bundle, args.shards, mend)
    inputs = folder.inputs(args, shards.fingerprint, _limit(args) | {"streaming": False})
    out, corpus = folder.choose(args, inputs), Corpus(shards, bundle.tokenizer, open_cache(args, shards))
    rows = drawn(range(len(shards)), args.utterances)
    hours = shards.frames[rows].sum() * shards.spec.frame_s / 3600
    cli.say(args, f"{counted(len(rows), 'utterance')}, {hours:.2f} h")
    texts = recognise(bundle.model, bundle.tokenizer, corpus, rows, torch.device("cpu"))
    names = ("id", "corpus", "split", "speaker", "duration_s", "text")
    columns = [[column[row] for row in rows] for column in map(shards.column, names)]
    report = score([Scored(*values) for values in zip(*columns, texts, strict=True)])
    values = {"bundle": storage.absolute(args.bundle), "shards": args.shards, folder.INPUTS: inputs} | report.to_json()
    facts = {"Bundle": args.bundle, "Shards": args.shards, "Decoding": "greedy, as it streams"}
    facts |= _sample(len(rows), len(shards))
    page = score_page.render(report, "Word error rate", facts)
    _finish(args, out, values, page, score_page.summary_text(report))


def _check_options(args: argparse.Namespace, plain: Mapping[str, Any]) -> None:
    """Raises ValueError for what is given and would do nothing without --streaming."""
    if source := next((name for name in ("manifest", "files") if getattr(args, name)), None):
        raise ValueError(f"--{source}: its audio is recognised as it streams; say --streaming too, or give --shards")
    if args.splits:
        raise ValueError("--splits: goes with --manifest and --streaming; of shards give the list urls-NAME.txt")
    if given := next((name for name in ONLY_STREAMING if getattr(args, name) != plain[name]), None):
        option = f"--{given.replace('_', '-')}" if given != "hotwords" else "--hotword"
        raise ValueError(f"{option}: is only for --streaming; say that too, or leave out {option}")


def stream(args: argparse.Namespace) -> None:
    """Raises ValueError for a damaged bundle, and for speech that has no samples."""
    chunk_ms = CHUNK_MS if args.chunk_ms is None else args.chunk_ms
    if chunk_ms < 1:
        raise ValueError(f"--chunk-ms {chunk_ms}: must be 1 or more")
    limit, speech = _limit(args), open_speech(args)
    every = len(speech.utterances)
    speech = replace(speech, utterances=drawn(speech.utterances, args.utterances))
    timing = streamed.choose_aligner(args.bundle, args.aligner)
    listener = runtimes.from_args(args)
    options = {name: getattr(args, name) for name in ONLY_STREAMING} | limit
    options |= {"chunk_ms": chunk_ms, "streaming": True}
    names = folder.fingerprint([(one.id, one.text, one.audio) for one in speech.utterances])
    inputs = folder.inputs(args, names, options)
    out = folder.choose(args, inputs)
    torch.set_num_threads(args.threads)  # of the aligner, whichever the runtime: utterances are too small to share
    cli.say(args, f"{counted(len(speech.utterances), 'utterance')}, {chunk_ms} ms at a time")
    found = streamed.measure(listener, speech, chunk_ms, timing, args.hotwords, lambda line: cli.say(args, line))
    values = {"bundle": storage.absolute(args.bundle), "speech": speech.name, folder.INPUTS: inputs}
    values |= found.report.to_json() | {"streaming": streamed_report.to_json(found)}
    facts = {"Bundle": args.bundle, "Speech": speech.name, "Decoding": _decoding(args, chunk_ms)}
    facts |= _sample(len(speech.utterances), every)
    page = score_page.render(found.report, "Word error rate, streamed", facts, streamed_report.section(found))
    text = "\n".join([score_page.summary_text(found.report), *streamed_report.lines(found)])
    _finish(args, out, values, page, text)


def _decoding(args: argparse.Namespace, chunk_ms: int) -> str:
    search = "greedy" if args.beam == 1 else f"beam of {args.beam}"
    parts = [f"{search}, {chunk_ms} ms at a time", f"language model {args.lm}" if args.lm else ""]
    parts += [counted(len(args.hotwords), "hotword") * bool(args.hotwords), "no endpoints" * args.no_endpoints]
    return ", ".join(part for part in parts if part)


def _finish(args: argparse.Namespace, out: str, values: dict[str, Any], page: str, text: str) -> None:
    folder.write(out, values, page)
    cli.summary(args, values, f"{text}\n{storage.join(out, folder.PAGE)}")
