"""compare-runtimes: one table of runtimes, precisions and chunks: error rate, time of each part, latency, memory.

Each measurement is a process of its own (asr/comparing/one.py) and one thread; all candidates come in turn, and again
after all have come. A measurement is a file in <out>/parts: the same command goes on with those that are missing.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from asr import bundle
from asr.comparing import page
from asr.comparing.result import Candidate, Outcome, outcome
from asr.engines import exported
from asr.evaluation.spoken import Spoken, add_sources, drawn, open_speech
from configs import cli
from configs.wording import counted
from manifests import storage

VERSION = 1  # raise it when measurements made before do not compare with those made now
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# asr.export is started like a command, so that nothing of torch or ONNX stays in this process
EXPORT = "import sys; from asr import export; sys.exit(export.main(sys.argv[1:]))"


@dataclass(frozen=True, slots=True)
class Made:
    """A candidate that can be measured, or the reason why it cannot."""

    candidate: Candidate
    folder: str
    identity: str  # hash of what is measured
    reason: str = ""
    encoder_chunk: int = 0  # encoder frames that come out together, 0 where the bundle decides


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="compare-runtimes", description=__doc__)
    parser.add_argument("--bundle", required=True, metavar="FOLDER", help="of train-asr; PyTorch runs it")
    parser.add_argument("--export", nargs="+", default=[], metavar="FOLDER", help="what export-asr made of that bundle")
    parser.add_argument("--to", nargs="+", choices=["torch", "onnx", "openvino"], help="runtimes to export to "
                        "here (default: onnx openvino, or none with --export); PyTorch is always there")  # fmt: skip
    parser.add_argument("--precision", nargs="+", choices=["fp32", "fp16", "int8"], default=["fp32", "int8"],
                        help="of those exports (default fp32 int8)")  # fmt: skip
    parser.add_argument("--chunk-ms", nargs="+", type=int, default=[80, 320], metavar="MS",
                        help="audio in one step (default 80 320; a given export has its own)")  # fmt: skip
    add_sources(parser)
    parser.add_argument("--utterances", type=int, default=50, metavar="N", help="drawn by chance, always the same "
                        "(default 50; 0: all)")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="of each measurement (default 3)")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="for compare.md, .json and .html, and exports")
    cli.add_json(parser)
    return cli.run(compare, parser, argv, continues=True)


def compare(args: argparse.Namespace) -> None:
    """Raises ValueError for what is no bundle, and for speech that has no samples."""
    for name, least in (("utterances", 0), ("repeats", 1)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name} {getattr(args, name)}: must be {least} or more")
    if min(args.chunk_ms) < 1:
        raise ValueError(f"--chunk-ms {min(args.chunk_ms)}: must be 1 or more")
    facts = bundle.read_facts(bundle.locate(args.bundle))
    speech = open_speech(args)
    storage.check_writable(args.out)
    utterances = drawn(speech.utterances, args.utterances)
    chosen = candidates(args, facts["weights_sha256"])
    results: dict[Candidate, list[dict[str, Any]]] = {made.candidate: [] for made in chosen}
    reasons = {made.candidate: made.reason for made in chosen}
    for repetition in range(args.repeats):
        for made in chosen:
            if not reasons[made.candidate]:
                found = _measured(args, made, utterances, repetition)
                if isinstance(found, str):
                    reasons[made.candidate] = found
                else:
                    results[made.candidate].append(found)
    outcomes = _outcomes(chosen, reasons, results, utterances)
    times = counted(args.repeats, "time")
    about = {"Bundle": args.bundle, "Speech": f"{speech.name}, {counted(len(utterances), 'utterance')}",
             "Measured": f"{times} each in turn, one thread, a process each; {machine()}"}  # fmt: skip
    _write(args, outcomes, about)


def machine() -> str:
    """The processor's name where the system tells it."""
    uri = "/proc/cpuinfo"
    text = storage.read_bytes(uri).decode(errors="replace") if storage.exists(uri) else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return f"{names[0] if names else 'unknown processor'}, {os.cpu_count()} cores"


def candidates(args: argparse.Namespace, weights: str) -> list[Made]:
    """By chunk, PyTorch first; every export has a row of PyTorch beside it."""
    found = [_exported(storage.absolute(folder), weights, folder) for folder in args.export]
    for chunk_ms in args.chunk_ms if args.to or not args.export else []:
        wanted = [Candidate(chunk_ms, r, p) for r in args.to or ["onnx", "openvino"] for p in args.precision]
        if not args.to:  # nobody asked for what OpenVINO has not
            wanted = [one for one in wanted if (one.runtime, one.precision) != ("openvino", "int8")]
        made = [_export(args, candidate, weights) for candidate in wanted if candidate.runtime != "torch"]
        # steps are of whole encoder frames, so that they may be longer than was asked for
        fitted = next((one.candidate.chunk_ms for one in made if not one.reason), chunk_ms)
        found += [replace(one, candidate=replace(one.candidate, chunk_ms=fitted)) for one in made]
        found += [Made(Candidate(fitted, "torch", "fp32"), args.bundle, weights)]
    # an encoder that was trained with chunks of several sizes is exported with one that fits; PyTorch gets the same
    chunks = {one.candidate.chunk_ms: one.encoder_chunk for one in found if one.encoder_chunk}
    for chunk_ms in {one.candidate.chunk_ms for one in found}:
        found.insert(0, Made(Candidate(chunk_ms, "torch", "fp32"), args.bundle, weights, "", chunks.get(chunk_ms, 0)))
    once = {one.candidate: one for one in reversed(found)}
    return sorted(once.values(), key=lambda one: one.candidate.order)


def _exported(folder: str, weights: str, name: str) -> Made:
    """Raises ValueError for an export that is damaged, or was made of another bundle."""
    facts = exported.read_facts(folder)
    if facts["source"]["weights_sha256"] != weights:
        raise ValueError(f"{name}: was made of another bundle; give --bundle that one, or export this one")
    identity = hashlib.sha256(storage.read_bytes(storage.join(folder, exported.FACTS))).hexdigest()
    candidate = Candidate(round(facts["chunk_ms"]), facts["runtime"], facts["precision"])
    return Made(candidate, folder, identity, "", facts["traits"]["chunk"])


def _export(args: argparse.Namespace, candidate: Candidate, weights: str) -> Made:
    """Exported now, unless it was before. How many words differ is for the table to say."""
    folder = storage.join(storage.absolute(args.out), "exports", candidate.name)
    if not is_export(folder, weights):
        cli.say(args, f"exporting for {candidate}")
        options = ["--bundle", args.bundle, "--to", candidate.runtime, "--precision", candidate.precision,
                   "--chunk-ms", str(candidate.chunk_ms), "--out", folder, "--force",
                   "--max-word-difference", "1"]  # fmt: skip
        argv = [sys.executable, "-c", EXPORT, *options]
        done = subprocess.run(argv, capture_output=True, text=True, env=_environment())
        if done.returncode:
            return Made(candidate, folder, "", _complaint(done))
    return _exported(folder, weights, folder)


def is_export(folder: str, weights: str) -> bool:
    """Whether an export of the bundle with these weights is there and whole."""
    if not storage.exists(storage.join(folder, exported.FACTS)):
        return False
    try:
        facts = exported.read_facts(folder)
        for name in facts["files"]:
            exported.read_file(folder, facts, name)
    except ValueError:  # of another version, or not whole
        return False
    return bool(facts["source"]["weights_sha256"] == weights)


def _measured(
    args: argparse.Namespace, made: Made, utterances: Sequence[Spoken], repetition: int
) -> dict[str, Any] | str:
    """What asr.comparing.one says, now or in an earlier run; a text says why it failed."""
    candidate = made.candidate
    request = {
        "bundle": made.folder, "runtime": candidate.runtime, "chunk_ms": candidate.chunk_ms,
        "encoder_chunk": made.encoder_chunk, "utterances": [asdict(spoken) for spoken in utterances],
    }  # fmt: skip
    mark = hashlib.sha256(json.dumps([VERSION, made.identity, request]).encode()).hexdigest()[:12]
    part = storage.join(args.out, "parts", f"{candidate.name}-{mark}-{repetition}.json")
    if storage.exists(part):
        return dict(json.loads(storage.read_text(part)))
    cli.say(args, f"{candidate}, {repetition + 1} of {args.repeats}")
    done = subprocess.run([sys.executable, "-m", "asr.comparing.one"], input=json.dumps(request), capture_output=True,
                          text=True, env=_environment())  # fmt: skip
    if done.returncode:
        return _complaint(done)
    storage.write_text(part, done.stdout)
    return dict(json.loads(done.stdout))


def _environment() -> dict[str, str]:
    return dict(os.environ) | dict.fromkeys(THREADS, "1")


def _complaint(done: "subprocess.CompletedProcess[str]") -> str:
    if done.returncode < 0:
        return f"its process was ended by signal {-done.returncode}"
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return said[-1].removeprefix("export-asr: error: ") if said else f"its process ended with {done.returncode}"


def _outcomes(
    candidates: Sequence[Made], reasons: dict[Candidate, str], results: dict[Candidate, list[dict[str, Any]]],
    utterances: Sequence[Spoken],
) -> list[Outcome]:  # fmt: skip
    torch = {c.chunk_ms: found[0]["texts"] for c, found in results.items() if c.runtime == "torch" and found}
    return [
        outcome(made.candidate, reasons[made.candidate], results[made.candidate], utterances,
                torch.get(made.candidate.chunk_ms))
        for made in candidates
    ]  # fmt: skip


def _write(args: argparse.Namespace, outcomes: Sequence[Outcome], about: dict[str, str]) -> None:
    values = {"about": about, "rows": [one.to_json() for one in outcomes]}
    table = page.markdown(outcomes, about)
    files = {
        "compare.json": json.dumps(values, ensure_ascii=False, indent=1) + "\n",
        "compare.md": table,
        "compare.html": page.render(outcomes, about),
    }
    for name, text in files.items():
        storage.write_text(storage.join(args.out, name), text)
    cli.summary(args, values, f"{table}\n{storage.join(args.out, 'compare.html')}")
