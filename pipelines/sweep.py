"""sweep-asr: trainings that differ in one thing, compared: a table, a plot, and what they show."""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from configs import cli
from configs.wording import counted
from manifests import storage
from pipelines import sweep_page
from pipelines.executors import THREADS
from pipelines.sweep_config import Budget, Point, SweepConfig, budget, points, read, vocab_options
from pipelines.sweep_outcome import Outcome, percent
from pipelines.sweep_result import as_markdown, as_text, findings
from pipelines.sweep_runs import Run, execute
from shards.index import open_shards

RESULT, LOCK = "sweep.json", "sweep.lock"
_CALL = "import sys; from {module} import main; sys.exit(main())"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="sweep-asr", description="Train models that differ in one thing, and compare them in a table and a plot."
    )
    parser.add_argument("sweep", metavar="NAME", help="configs/sweeps/NAME.yaml, or a file: vocab, balance")
    parser.add_argument("--manifest", nargs="+", required=True, help="of which build-vocab makes vocabularies")
    parser.add_argument("--shards", required=True, metavar="URLS", help="to train on, as of train-asr")
    parser.add_argument("--dev-shards", required=True, metavar="URLS", help="on which points are compared")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="for vocabularies, trainings and the result")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time (default 1), each with "
                        "one thread unless OMP_NUM_THREADS says otherwise")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="train each point with N seeds (default 1)")
    parser.add_argument("--force", action="store_true", help="train again what was made from other inputs or settings")
    parser.add_argument("settings", nargs="*", metavar="key.sub=value", help="change a value of the sweep's config, "
                        "for instance 'budget=20 minutes' or settings.optim.lr=1e-3")  # fmt: skip
    cli.add_json(parser)
    return cli.run(_sweep, parser, argv, continues=True)


@dataclass(slots=True)
class _Entry:
    """A point, what is known of its model, and its runs. `reason` says why it cannot be trained."""

    point: Point
    vocab: str = ""  # its model file
    model: dict[str, Any] = field(default_factory=dict)  # from asr.sweep_models
    runs: list[Run] = field(default_factory=list)
    reason: str = ""

    def outcome(self, seeds: int) -> Outcome:
        errors = [f"seed {run.seed} failed: {run.error}" for run in self.runs if run.error]
        return Outcome(
            self.point.label, self.point.vocab, self.model.get("vocab_size", 0),
            tuple(self.model.get("settings", self.point.settings)), self.model.get("parameters", {}),
            sum(self.model.get("left_out", {}).values()), tuple(run.result for run in self.runs if run.result), seeds,
            self.reason or "; ".join(errors), bool(errors),
        )  # fmt: skip


def _sweep(args: argparse.Namespace) -> None:
    """Raises ValueError for what cannot be compared, and at the end when a point has failed."""
    for name in ("jobs", "seeds"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)}: must be 1 or more")
    config = read(args.sweep, args.settings)
    entries = [_Entry(point) for point in points(config)]
    out = storage.absolute(args.out)
    if not storage.is_local(out):
        raise ValueError(f"--out {args.out}: trainings are written to a folder of this machine; copy it from there")
    _check_folder(args, config, out)
    with _alone(args, out):
        _compare(args, config, entries, out)


def _compare(args: argparse.Namespace, config: SweepConfig, entries: list[_Entry], out: str) -> None:
    _prepare(args, config, budget(config.budget), entries, out)
    runs = [run for entry in entries for run in entry.runs]
    _check_stale(args, runs)
    _say_plan(args, config, entries)
    started = time.monotonic()
    waiting = [run for run in runs if run.result is None]
    ended: list[Run] = []

    def told(run: Run, has_ended: bool) -> None:
        if not has_ended:
            cli.say(args, f"{run.name}: {run.log}")
            return
        ended.append(run)
        left_s = (time.monotonic() - started) / len(ended) * (len(waiting) - len(ended))
        done = f"dev WER {percent(run.result['wer']['rate'])}" if run.result else f"failed: {run.error}"
        left = f"; about {left_s / 60:.1f} minutes left" if len(ended) < len(waiting) else ""
        cli.say(args, f"{len(ended)} of {len(waiting)}: {run.name}: {done}{left}")
        _write(args, config, entries, out)

    with _terminable():
        execute(waiting, args.jobs, told)
    outcomes = _write(args, config, entries, out)
    text = f"\n{as_text(config, outcomes)}\n\n{storage.join(out, 'sweep.html')}"
    cli.summary(args, _values(args, config, outcomes), text)
    if failed := [o.label for o in outcomes if o.failed]:
        raise ValueError(f"{len(failed)} of {len(outcomes)} points failed: {', '.join(failed)}; the same command tries "
                         f"them again, and their logs are in {storage.join(out, 'points')}")  # fmt: skip


def _check_folder(args: argparse.Namespace, config: SweepConfig, out: str) -> None:
    """Raises ValueError for the folder of another sweep."""
    path = storage.join(out, RESULT)
    if storage.exists(path) and not args.force:
        try:
            there = f"the sweep “{json.loads(storage.read_bytes(path))['title']}”"
        except (ValueError, KeyError, TypeError):
            there = f"a {RESULT} that is of no sweep"
        if there != f"the sweep “{config.title}”":
            raise ValueError(f"{args.out}: holds {there}; choose another --out, or say --force to put this one's "
                             "result in its place")  # fmt: skip


@contextlib.contextmanager
def _alone(args: argparse.Namespace, out: str) -> Iterator[None]:
    """Two sweeps would take each other's trainings for stale or half done. Raises ValueError for the second one."""
    os.makedirs(out, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(storage.open_locked(storage.join(out, LOCK), wait=False))
        except BlockingIOError:
            raise ValueError(f"{args.out}: another sweep is at work there; wait for it, or choose another "
                             "--out") from None  # fmt: skip
        yield


def _prepare(args: argparse.Namespace, config: SweepConfig, limit: Budget, entries: list[_Entry], out: str) -> None:
    """Vocabularies, models and runs of all entries."""
    shards, dev = open_shards(args.shards), open_shards(args.dev_shards)
    if shards.fingerprint == dev.fingerprint:
        raise ValueError(f"--dev-shards {args.dev_shards}: are the ones to train on; write-shards leaves "
                         "urls-<split>.txt, give that of a split held out")  # fmt: skip
    _make_vocabs(args, entries, storage.join(out, "vocabs"))
    epochs = limit.epochs(shards.hours)
    _describe(args, config, entries, [] if epochs is None else [f"epochs={epochs}"])
    for entry in entries:
        for seed in range(args.seeds if entry.model.get("parameters") else 0):
            made_of = {
                "config": entry.model["config"] | {"seed": seed}, "vocab": entry.model["vocab_fingerprint"],
                "shards": shards.fingerprint, "dev_shards": dev.fingerprint,
            }  # fmt: skip
            minutes = limit.amount if limit.unit == "minutes" else None
            if minutes is not None:
                made_of["minutes"] = minutes
            train = ["--config", config.base, "--shards", args.shards, "--dev-shards", args.dev_shards,
                     "--vocab", entry.vocab, *entry.model["settings"], f"seed={seed}"]  # fmt: skip
            folder = storage.join(out, "points", f"{entry.point.folder}-seed{seed}")
            hours = entry.model["hours_an_epoch"]
            run = Run(entry.point.label, seed, folder, made_of, train, args.dev_shards, minutes, hours)
            entry.runs.append(run)


def _make_vocabs(args: argparse.Namespace, entries: list[_Entry], out: str) -> None:
    """One of each size that there is; a size that the texts do not allow is a reason, all else an error."""
    made: dict[str, tuple[str, str]] = {}
    force = ["--force"] if args.force else []
    for entry in entries:
        name = entry.point.vocab
        if name not in made:
            cli.say(args, f"vocabulary {name}")
            options = ["--manifest", *args.manifest, "--out", out, *vocab_options(name), *force, "--json"]
            done = _call("pipelines.vocab", options)
            error = done.stderr.strip().rpartition("\n")[2].removeprefix("build-vocab: error: ")
            if done.returncode and not error.startswith("--size "):
                raise ValueError(f"build-vocab: {error}")
            made[name] = ("", error) if done.returncode else (json.loads(done.stdout)["model"], "")
        entry.vocab, entry.reason = made[name]


def _describe(args: argparse.Namespace, config: SweepConfig, entries: list[_Entry], more: list[str]) -> None:
    """What each model will be, before any is trained."""
    known = [entry for entry in entries if not entry.reason]
    if not known:
        raise ValueError(f"no point can be trained; {entries[0].point.label}: {entries[0].reason}")
    asked = [
        {"label": e.point.label, "settings": [*e.point.settings, *more], "vocab": e.vocab, "ratio": e.point.ratio}
        for e in known
    ]
    balance = None if config.balance is None else asdict(config.balance)
    request = {"base": config.base, "shards": args.shards, "balance": balance, "points": asked}
    done = _call("asr.sweep_models", [], json.dumps(request))
    if done.returncode:
        raise ValueError(done.stderr.strip().rpartition("\n")[2])
    for entry, model in zip(known, json.loads(done.stdout), strict=True):
        entry.model, entry.reason = model, model.get("reason", "")


def _call(module: str, arguments: Sequence[str], given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _CALL.format(module=module), *arguments], input=given, text=True, capture_output=True,
        env=THREADS | os.environ,
    )  # fmt: skip


def _check_stale(args: argparse.Namespace, runs: list[Run]) -> None:
    """Take over what is there. Raises ValueError for runs that were made otherwise, unless they may go."""
    stale = [(run, differing) for run in runs if (differing := run.look())]
    if stale and not args.force:
        what = "; ".join(f"{run.name} ({', '.join(differing)})" for run, differing in stale)
        raise ValueError(f"{args.out}: {len(stale)} of {counted(len(runs), 'training')} there were made otherwise: "
                         f"{what.replace('config.', '')}; choose another --out, or say --force to train them "
                         "again")  # fmt: skip
    for run, _ in stale:
        storage.delete_folder(run.folder)


def _say_plan(args: argparse.Namespace, config: SweepConfig, entries: list[_Entry]) -> None:
    rows = []
    for entry in entries:
        sizes = entry.model.get("parameters")
        total = f"{sizes['total']:,}" if sizes else "–"
        share = f"{sizes['encoder'] / sizes['total']:.1%}" if sizes else "–"
        finished = sum(run.result is not None for run in entry.runs)
        state = "cannot be trained" if entry.reason else f"{finished} of {len(entry.runs)} finished"
        rows.append([entry.point.label, total, share, state])
    cli.say(args, f"{config.title}: each point is {config.budget} of {config.base}, {counted(args.seeds, 'seed')}")
    cli.say(args, cli.table(["point", "parameters", "encoder", "trainings"], rows))


def _write(args: argparse.Namespace, config: SweepConfig, entries: list[_Entry], out: str) -> list[Outcome]:
    """Table and plot of what is there by now."""
    outcomes = [entry.outcome(args.seeds) for entry in entries]
    facts = {
        "Training": f"{config.base}, {config.budget} for each point", "Seeds": str(args.seeds), "Shards": args.shards,
        "Dev shards": args.dev_shards,
    }  # fmt: skip
    values = json.dumps(_values(args, config, outcomes), ensure_ascii=False, indent=1)
    storage.write_text(storage.join(out, RESULT), values + "\n")
    storage.write_text(storage.join(out, "sweep.md"), as_markdown(config, outcomes, facts))
    storage.write_text(storage.join(out, "sweep.html"), sweep_page.render(config, outcomes, facts))
    return outcomes


def _values(args: argparse.Namespace, config: SweepConfig, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "title": config.title, "advice": config.advice, "base": config.base, "budget": config.budget,
        "shards": args.shards, "dev_shards": args.dev_shards, "seeds": args.seeds,
        "points": [outcome.to_json() for outcome in outcomes], "findings": findings(config, outcomes),
    }  # fmt: skip


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block like Ctrl-C."""

    def end(*_: object) -> NoReturn:
        raise cli.Terminated("stopped; the same command continues from what was finished")

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
