"""serve-asr: a server that recognises speech as it comes, over WebSockets, with a page to try it; files over HTTP."""

import argparse

from asr import runtimes, stream
from asr.serving.limits import Limits
from configs import cli
from configs.wording import counted

_PACKAGES = ("h11", "starlette", "uvicorn", "websockets")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="serve-asr", description=__doc__)
    runtimes.add_options(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine)")
    parser.add_argument("--port", type=int, default=8000, help="default 8000; 0: any that is free")
    parser.add_argument("--max-streams", type=int, default=16, metavar="N", help="at once; others are refused (16)")
    parser.add_argument("--max-minutes", type=float, default=240, help="of audio in a stream or file (default 240)")
    parser.add_argument("--max-upload-mb", type=float, default=512, help="of a file (default 512)")
    parser.add_argument(
        "--idle-s",
        type=float,
        default=30,
        help="a client that sends or reads nothing for so long is cut off (30)",
    )
    parser.add_argument(
        "--allow-origin", action="append", default=[], metavar="URL",
        help="a site whose pages may use this server too, as https://example.org",
    )  # fmt: skip
    return cli.run(serve, parser, argv)


def serve(args: argparse.Namespace) -> None:
    """Until SIGTERM or Ctrl-C."""
    limits = Limits(args.max_streams, args.max_minutes, args.max_upload_mb, args.idle_s, tuple(args.allow_origin))
    try:
        with cli.loading():
            from asr.serving import server
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] not in _PACKAGES:
            raise
        raise ValueError(f"{err.name} is not installed; say pip install 'speechmill[serve]'") from None
    bound = server.bind(args.host, args.port)
    listener = runtimes.from_args(args)
    stream.start(listener, args.hotwords)  # hotwords that cannot be are refused now
    shown = f"[{args.host}]" if ":" in args.host else args.host

    def started(port: int) -> None:
        print(f"serve-asr: http://{shown}:{port}/ is ready for {counted(limits.streams, 'stream')}", flush=True)

    metrics = server.run(listener, limits, args.hotwords, bound, started)
    streams = sum(metrics.started.values())
    heard = f"{counted(streams, 'stream')} with {metrics.audio_s:.1f} s of audio"
    print(f"serve-asr: stopped after {heard}", flush=True)
