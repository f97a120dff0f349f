"""How a bundle is opened for recognition, in the runtime that fits it, and the options of each command that does so."""

import argparse
from typing import Literal, get_args

from asr import bundle, lm
from asr.endpoint import EndpointRules
from asr.engine import Engine
from asr.searching.hypotheses import SearchOptions
from asr.stream import Listener
from asr.tokenizer import Tokenizer
from configs import cli
from manifests import storage
from shards.spec import FrontendSpec

Runtime = Literal["torch", "onnx", "openvino"]
MOST_THREADS = 256  # of which no model here has use; ONNX Runtime hung with 100,000


def open_listener(
    uri: str,
    runtime: Runtime | None = None,
    search: SearchOptions | None = None,
    endpoints: EndpointRules | None = None,
    device: str = "cpu",
    threads: int = 1,
) -> Listener:
    """A bundle of train-asr, which PyTorch runs, or of export-asr. Only the runtime in use is imported.

    Greedy search without `search`; one segment without `endpoints`. Raises ValueError for what is no bundle, is
    damaged, or is not for this runtime.
    """
    folder = bundle.locate(uri)
    with cli.loading():
        engine, tokenizer, spec = _open(uri, folder, runtime, device, threads)
    search = search or SearchOptions()
    if search.lm is not None and search.lm.vocab_fingerprint != tokenizer.fingerprint:
        raise ValueError(f"--lm: was trained with another vocabulary than {uri}; say train-lm --vocab with the "
                         f"{bundle.VOCAB} of this bundle")  # fmt: skip
    return Listener(engine, tokenizer, spec, search, endpoints)


Opened = tuple[Engine, Tokenizer, FrontendSpec]


def _open(uri: str, folder: str, runtime: Runtime | None, device: str, threads: int) -> Opened:
    if storage.exists(storage.join(folder, bundle.EXPORT)):
        return _exported(uri, folder, runtime, device, threads)
    if runtime not in (None, "torch"):
        raise ValueError(f"{uri}: is a bundle for --runtime torch; for {runtime} give what export-asr --bundle {uri} "
                         f"--to {runtime} --out FOLDER makes of it")  # fmt: skip
    return _trained(folder, device, threads)


def _trained(folder: str, device: str, threads: int) -> Opened:
    import torch

    from asr import checkpoint
    from asr.engines.torch_engine import TorchEngine

    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: PyTorch finds no GPU here; leave it out")
    torch.set_num_threads(threads)
    opened = checkpoint.load(folder)
    return TorchEngine(opened.model, device), opened.tokenizer, opened.spec


def _exported(uri: str, folder: str, runtime: Runtime | None, device: str, threads: int) -> Opened:
    from asr.engines import exported

    facts = exported.read_facts(folder)
    if runtime not in (None, facts["runtime"]):
        raise ValueError(f"{uri}: was exported for --runtime {facts['runtime']}, not for {runtime}")
    if device != "cpu":
        raise ValueError(f"--device {device}: exported bundles run on the CPU here; leave it out")
    engine = exported.open_engine(folder, facts, threads)
    return engine, bundle.read_tokenizer(folder, facts), bundle.read_spec(folder, facts)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `from_args` reads."""
    parser.add_argument("--bundle", required=True, metavar="FOLDER",
                        help="runs/<name>/best, an export, or a URL of one (https, s3, hf://owner/name)")  # fmt: skip
    parser.add_argument("--runtime", choices=get_args(Runtime), help="what must run it (default: what it was made for)")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for a bundle of train-asr (default cpu)")
    parser.add_argument("--threads", type=int, default=1, help="of the model (default 1, the fastest for one stream)")
    parser.add_argument("--beam", type=int, default=1, metavar="N", help="hypotheses at once (default 1: greedy)")
    parser.add_argument("--lm", metavar="FOLDER", help="language model of train-lm, or a URL of one")
    parser.add_argument("--lm-weight", type=float, default=0.3, help="of its log-probabilities (default 0.3)")
    parser.add_argument("--hotword", dest="hotwords", action="append", default=[], metavar="PHRASE",
                        help="a word or phrase to listen for; may be given several times")  # fmt: skip
    parser.add_argument(
        "--hotword-boost",
        type=float,
        default=0.5,
        help="log-probability for each of its tokens (default 0.5; 1 already invents some)",
    )
    parser.add_argument("--no-endpoints", action="store_true",
                        help="one segment, however long: never start anew after a pause")  # fmt: skip


def from_args(args: argparse.Namespace) -> Listener:
    """Raises ValueError as `open_listener` does, and for options that cannot be."""
    if not 1 <= args.threads <= MOST_THREADS:
        raise ValueError(f"--threads {args.threads}: must be from 1 to {MOST_THREADS}")
    model = lm.load(args.lm) if args.lm else None
    search = SearchOptions(args.beam, model, args.lm_weight, args.hotword_boost)
    endpoints = None if args.no_endpoints else EndpointRules()
    return open_listener(args.bundle, args.runtime, search, endpoints, args.device, args.threads)
