"""The first moments of a command. Until `start` is called Ctrl-C prints a traceback, so that hardly anything is
imported here: with what configs.cli needs it took 25 ms to come so far, and takes 3.
"""

import importlib
import os
import signal
from types import FrameType


def start(module: str) -> None:
    """The process of a command: its module is imported, which takes a second or two, and its `main` called.

    Until the command is at work, Ctrl-C ends it at once, with 130 as later: an exception could come anywhere in what
    libraries do when they are imported.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as behind a script's `&`
        signal.signal(signal.SIGINT, stop)
    code = importlib.import_module(module).main()
    from configs.cli import leave

    leave(code)


def stop(number: int, frame: FrameType | None) -> None:
    os._exit(130)
