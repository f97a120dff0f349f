"""transcribe: files to words through the online path, chunk by chunk."""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import NoReturn

import torch

from asr import audio, checkpoint, stream
from asr.checkpoint import Bundle
from asr.stream import Word
from configs import cli

WHOLE_FILE_S = 600  # --chunk-ms 0 reads in pieces of ten minutes, so that memory stays bounded


def command() -> NoReturn:
    """The process that a user starts."""
    cli.leave(main())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="transcribe", description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE", help="any container and sample rate; a path or URL")
    parser.add_argument("--bundle", required=True, metavar="FOLDER", help="runs/<name>/best or …/last")
    parser.add_argument("--chunk-ms", type=int, default=320, help="audio in one step (default 320; 0: all at once)")
    parser.add_argument("--format", choices=["text", "json"], default="text", help="text: the words, a line a file")
    return cli.run(transcribe, parser, argv)


def transcribe(args: argparse.Namespace) -> None:
    """Every file in turn; one that cannot be read gets an empty line, and the command fails at the end."""
    if args.chunk_ms < 0:
        raise ValueError("--chunk-ms must be 0 or more")
    torch.set_num_threads(1)  # a step of one stream is too small to share
    bundle = checkpoint.load(args.bundle)
    failed = 0
    for file in args.files:
        try:
            _one_file(bundle, file, args.chunk_ms, args.format)
        except (ValueError, OSError) as err:  # an AudioError, or a URI that is none
            print(json.dumps({"file": file, "error": str(err)}) if args.format == "json" else "", flush=True)
            print(f"transcribe: {err}", file=sys.stderr, flush=True)
            failed += 1
    if failed:
        raise ValueError(f"{failed} of {len(args.files)} files could not be read to their end")


def _one_file(bundle: Bundle, file: str, chunk_ms: int, form: str) -> None:
    if form == "json":
        words = list(recognise(bundle, file, chunk_ms))
        times = [{"word": w.text, "time_s": round(w.time_s, 3)} for w in words]
        print(json.dumps({"file": file, "text": " ".join(w.text for w in words), "words": times}, ensure_ascii=False))
        return
    for number, word in enumerate(recognise(bundle, file, chunk_ms)):
        print(" " * bool(number) + word.text, end="", flush=True)
    print(flush=True)


def recognise(bundle: Bundle, file: str, chunk_ms: int) -> Iterator[Word]:
    """Words of a file as they become certain. Raises AudioError."""
    rate = bundle.spec.sample_rate
    state = stream.init_state(bundle)
    for samples in audio.stream(file, rate, round((chunk_ms / 1000 or WHOLE_FILE_S) * rate)):
        words, state = stream.step(bundle, samples, state)
        yield from words
    yield from stream.finish(bundle, state)
