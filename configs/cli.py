"""What all commands share: one clear line for an error, exit codes, the summary for a person or a program."""

import argparse
import contextlib
import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from configs.start import stop


class Terminated(KeyboardInterrupt):
    """SIGTERM has come, and what was at hand is saved. The text says how to go on."""


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Within it Ctrl-C ends the process as in `start`: for what a command at work imports, and loads with that.

    ONNX Runtime took the exception for a bundle that it cannot run, and once it was lost, so that a server went on.
    """
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not raises or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run(
    body: Callable[[argparse.Namespace], Any], parser: argparse.ArgumentParser, argv: list[str] | None,
    continues: bool = False,
) -> int:  # fmt: skip
    """Parse, run `body`, and turn what a user can mend into one line and exit code 1 (argparse itself exits with 2).

    A command that `continues` goes on from what it has finished when it is repeated; one with --resume does so with it.
    """
    try:
        args = parser.parse_intermixed_args(argv)  # positionals may stand between options
    except TypeError:  # not where there are subcommands
        args = parser.parse_args(argv)
    try:
        if signal.getsignal(signal.SIGINT) is stop:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # which raises KeyboardInterrupt
        body(args)
    except Terminated as err:
        return _fail(parser, str(err), code=143)
    except KeyboardInterrupt:
        return _fail(parser, f"stopped; {_again(args, continues)}", code=130)
    except BrokenPipeError:  # the reader of our output has seen enough
        return 0
    except OSError as err:
        return _fail(parser, _os_error(err, _again(args, continues)))
    except (ValueError, EOFError) as err:
        return _fail(parser, str(err))
    return 0


def leave(code: int) -> NoReturn:
    """End the process of a command at once, without the interpreter's teardown.

    Native threads of Arrow, torch and gloo are not joined there in time: one in six processes that had finished their
    work well was aborted at this point (exit code 134, "terminate called without an active exception").
    """
    for out in (sys.stdout, sys.stderr):
        if out is not None:  # closed by the shell
            out.flush()
    os._exit(code)


def _fail(parser: argparse.ArgumentParser, message: str, code: int = 1) -> int:
    sys.stdout.flush()
    # names and servers' answers may hold what a terminal obeys
    message = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in message)
    print(f"{parser.prog}: error: {message}", file=sys.stderr)
    return code


def _again(args: argparse.Namespace, continues: bool) -> str:
    """What a repeat of the command does."""
    if "resume" in args:
        return "the same command with --resume continues from what was finished"
    return f"the same command {'continues from what was finished' if continues else 'starts over'}"


def _os_error(err: OSError, again: str) -> str:
    where = f"{err.filename}: " if err.filename else ""
    if err.errno == errno.ENOSPC:
        return f"{where}no space left on the device; free some, then {again}"
    if isinstance(err, FileNotFoundError):
        return f"{where}no such file or folder" if err.filename else str(err)
    return f"{where}{err.strerror or err}"


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def say(args: argparse.Namespace, text: str) -> None:
    """A line for a person; with --json it goes to standard error so that standard output stays pure."""
    print(text, file=sys.stderr if args.json else sys.stdout, flush=True)


def summary(args: argparse.Namespace, values: dict[str, Any], text: str) -> None:
    """The end of a command: `text` for a person, or `values` with --json."""
    print(json.dumps(values, ensure_ascii=False) if args.json else text, flush=True)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns padded with spaces, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)
