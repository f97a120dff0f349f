"""transcribe: recordings, a microphone or a live URL to words, as they are spoken.

transcribe FILE... | FOLDER   any container and sample rate, a path or URL; a folder: every audio file below it
transcribe mic                the microphone, until Ctrl-C
transcribe URL                media, a radio station, HLS, or a page such as a live stream on YouTube
"""

import argparse
import contextlib
import io
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

from asr import audio, runtimes
from asr.live import microphone, url
from asr.live.feed import Feed
from asr.live.loop import Ear, Heard, listen, stopped_by_signals
from asr.live.screen import Both, Kept, Plain, Screen, Terminal
from asr.live.sound import recorder
from asr.stream import Listener
from asr.transcribing import batch, recordings, transcript
from asr.transcribing.recordings import Recording
from configs import cli
from configs.wording import counted
from manifests import remote, storage

MIC = "mic"
WHOLE_FILE_S = 600  # --chunk-ms 0 reads in pieces of ten minutes, so that memory stays bounded


class _ListMicrophones(argparse.Action):
    """Like --help: needs nothing else."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> NoReturn:
        try:
            print(microphone.devices(), flush=True)
        except ValueError as err:
            parser.exit(1, f"{parser.prog}: error: {err}\n")
        parser.exit()


def main(argv: list[str] | None = None) -> int:
    """130 after Ctrl-C and 143 after SIGTERM, but 0 after Ctrl-C of a microphone, which has no other end."""
    parser = argparse.ArgumentParser(
        prog="transcribe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", nargs="+", metavar="FILE|FOLDER|mic|URL")
    runtimes.add_options(parser)
    parser.add_argument("--chunk-ms", type=int, default=320, help="audio in one step (default 320; 0: all of a file)")
    parser.add_argument("--format", choices=list(transcript.FORMS), default="text",
                        help="text (default): a line a segment; json: an object a file, or live one each time that "
                        "words become final; srt, vtt: subtitles; ctm: a line a word")  # fmt: skip
    parser.add_argument("--out", metavar="FOLDER", help="for the transcript of each file (default: standard output)")
    parser.add_argument("--batch", action="store_true",
                        help="many files at once, for speed; no endpoints, so that text is a line a file")  # fmt: skip
    parser.add_argument("--save-audio", metavar="FILE", help="keep what is heard live, as .wav or .flac")
    parser.add_argument("--microphone", metavar="NUMBER|NAME", help="which one (default: the system's)")
    parser.add_argument("--list-microphones", action=_ListMicrophones, nargs=0, help="show them and exit")
    heard = Heard()
    _prepare_output()
    code = cli.run(lambda args: transcribe(args, heard), parser, argv)
    return code or {0: 0, signal.SIGINT: 130, signal.SIGTERM: 143}[heard.stopped]


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


def _prepare_output() -> None:
    """Where standard output or error is closed (`>&-`), nobody wants it. And characters that the terminal's encoding
    lacks are written as escapes: a transcript should not end at one."""
    for name in ("stdout", "stderr"):
        out = getattr(sys, name)
        if out is None:
            setattr(sys, name, _Nowhere())
        elif isinstance(out, io.TextIOWrapper) and out.errors == "strict":
            out.reconfigure(errors="backslashreplace")


def transcribe(args: argparse.Namespace, heard: Heard) -> None:
    """Raises ValueError for options that do not go together, and when something could not be read to its end."""
    if args.chunk_ms < 0:
        raise ValueError("--chunk-ms must be 0 or more")
    if args.out == "":  # as an unset shell variable leaves it
        raise ValueError("--out is empty; name a folder")
    if MIC in args.inputs and len(args.inputs) > 1:
        raise ValueError("mic: the microphone is heard alone; leave out mic or the others (a file of this name: ./mic)")
    live = args.inputs == [MIC] or (len(args.inputs) == 1 and remote.is_web(args.inputs[0]))
    if not live and (args.save_audio or args.microphone):
        raise ValueError("--save-audio and --microphone are for `transcribe mic` and, the first, for `transcribe URL`")
    if live and (args.batch or not args.chunk_ms):
        raise ValueError(f"{args.inputs[0]}: --batch and --chunk-ms 0 are for files, of which all is there at once")
    if live:
        _live(args, heard)
    else:
        _files(args)


def _files(args: argparse.Namespace) -> None:
    """One that cannot be read gets a line, and the command fails at the end; alone, with that line."""
    found, others = recordings.find(args.inputs)
    if others:
        print(f"transcribe: files that are no audio by their names, left out: {others}", file=sys.stderr)
    outputs = recordings.outputs(found, args.out, transcript.SUFFIXES[args.format]) if args.out else [""] * len(found)
    if not args.out and len(found) > 1 and args.format in ("srt", "vtt"):
        raise ValueError(f"--format {args.format} of {len(found)} files: name a folder for them with --out")
    if args.out:  # that it cannot be written should not show after an hour of the first file
        probe = storage.join(args.out, f"{storage.STAGING}transcribe")
        storage.write_text(probe, "")
        storage.delete(probe)
    listener = runtimes.from_args(args)
    failed = 0
    pieces = _batched(args, listener, found) if args.batch else _one_by_one(args, listener, found)
    written = io.StringIO()
    for number, text, error in pieces:
        if not args.out:
            print(text, end="", flush=True)
        else:
            written.write(text)
        if error is None:
            continue
        if error and len(found) == 1:
            raise ValueError(error)
        if error:
            failed += 1
            print(f"transcribe: {error}", file=sys.stderr, flush=True)
        elif args.out:
            storage.write_text(outputs[number], written.getvalue())
            print(outputs[number], flush=True)
        written = io.StringIO()
    if failed:
        raise ValueError(f"{failed} of {counted(len(found), 'file')} could not be read to the end")


Piece = tuple[int, str, str | None]  # number of a file, text of it; at its end why it ends early, "" if it does not


def _one_by_one(args: argparse.Namespace, listener: Listener, found: list[Recording]) -> Iterator[Piece]:
    rate = listener.spec.sample_rate
    chunk_samples = round((args.chunk_ms / 1000 or WHOLE_FILE_S) * rate)
    for number, recording in enumerate(found):
        form = transcript.FORMS[args.format](_named(args, recording))
        ear, error, said = Ear(listener, args.hotwords), "", False
        try:
            for samples in audio.stream(recording.uri, rate, chunk_samples):
                update = ear.hear(samples)
                text = form.more(update.final, bool(update.endpoint))
                said = said or bool(text)
                yield number, text, None
        except (ValueError, OSError) as err:  # an AudioError, or a URI that is none
            error = recordings.failure(recording.uri, err)
        text = form.more(ear.finish().final) + form.end(error)
        yield number, text if text or said else _nothing(args, found, error), error


def _batched(args: argparse.Namespace, listener: Listener, found: list[Recording]) -> Iterator[Piece]:
    """In their order, as soon as those before them are done."""
    done: dict[int, batch.Result] = {}
    number = 0
    for result in batch.recognise(listener, [recording.uri for recording in found], args.hotwords):
        done[result.number] = result
        while number in done:
            form = transcript.FORMS[args.format](_named(args, found[number]))
            text = form.more(done[number].words) + form.end(done[number].error)
            error = done.pop(number).error
            yield number, text or _nothing(args, found, error), error
            number += 1


def _nothing(args: argparse.Namespace, found: list[Recording], error: str) -> str:
    """For a file in which nothing was said: in text a line, as each of the others has."""
    return "\n" if args.format == "text" and (len(found) > 1 or not error) else ""


def _named(args: argparse.Namespace, recording: Recording) -> str:
    """What a transcript calls its recording."""
    name = recording.name if args.format == "ctm" else recording.uri
    return name.encode(errors="backslashreplace").decode()  # a name on disk need not be text


def _live(args: argparse.Namespace, heard: Heard) -> None:
    """Until it ends, or Ctrl-C; the transcript so far stays in any case."""
    source = args.inputs[0]
    name = MIC if source == MIC else url.name(source)
    out = storage.join(args.out, f"{name}.{transcript.SUFFIXES[args.format]}") if args.out else ""
    if out and storage.exists(out) and storage.size_bytes(out):
        raise ValueError(f"{out}: is already there; name another folder, for what is live cannot be repeated")
    listener = runtimes.from_args(args)
    feed = Feed(listener.spec.sample_rate)
    ear = Ear(listener, args.hotwords)
    kept = Kept(out) if out else None
    screen = _screen(args, name, kept)
    chunk_samples = max(1, round(args.chunk_ms / 1000 * feed.sample_rate))
    with contextlib.ExitStack() as stack:
        if kept:
            stack.callback(kept.save)
        sound = stack.enter_context(recorder(args.save_audio, feed.sample_rate)) if args.save_audio else None
        stack.enter_context(stopped_by_signals(feed, heard, drop=source != MIC))
        if source == MIC:
            overruns = stack.enter_context(microphone.listening(feed, args.microphone))
        else:
            overruns = None
            url.start(source, feed)
        ended = False
        try:
            listen(ear, feed, chunk_samples, screen, sound, heard)
            ended = True
        finally:
            if ended or heard.audio_s or heard.missed_s:  # else the error says all there is to say
                screen.note(heard.summary())
            if overruns is not None and overruns.count:
                screen.note(f"the sound card lost sound {counted(overruns.count, 'time')}")
    if heard.stopped == signal.SIGINT and source == MIC:
        heard.stopped = 0
    if heard.lost:
        raise ValueError(heard.lost)


def _screen(args: argparse.Namespace, name: str, kept: Kept | None) -> Screen:
    """Words on standard output; with --out in their form in `kept`, too."""
    form = transcript.JsonLines() if args.format == "json" else transcript.FORMS[args.format](name)
    if not kept and (args.format != "text" or not sys.stdout.isatty()):
        return Plain(form, sys.stdout)
    screen: Screen = Terminal(sys.stdout) if sys.stdout.isatty() else Plain(transcript.Text(), sys.stdout)
    return Both(screen, Plain(form, kept)) if kept else screen
