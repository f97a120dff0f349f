"""What a training says while it runs: one line for a person, the same to metrics.jsonl and TensorBoard."""

import contextlib
import json
import string
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.evaluation.scoring import align
from asr.training.memory import peak_bytes
from configs.wording import counted
from manifests import storage
from shards.plan import Plan

if TYPE_CHECKING:
    import numpy as np

    from asr.training.resume import Position
    from asr.training.session import Session

METRICS = "metrics.jsonl"
PICTURE = "alignment.png"
TRAINED = "trained-rank"  # start of the names of the logs of what ranks have trained on
SAMPLES = 8  # utterances of the dev set that TensorBoard shows, each time the same
WORDS = 12  # of a sample in a line
MOST = 100  # recognised words of a sample that are shown: a model that has not learnt to stop says thousands
# What values of metrics.jsonl are called in TensorBoard, which draws those of one group side by side.
TAGS = {
    "loss": "train/loss", "ctc": "train/ctc", "lr": "train/lr",
    "grad_norm": "gradient/norm", "grad_norm_max": "gradient/norm_max", "clipped": "gradient/clipped",
    "skipped": "gradient/skipped", "dev_wer": "dev/wer",
    "audio_s_per_s": "speed/audio_s_per_s", "data_wait": "speed/data_wait", "eta_s": "speed/eta_s",
    "memory_mb": "speed/memory_mb", "padding": "data/padding", "retries": "data/retries",
    "missing_utterances": "data/missing_utterances", "missing_shards": "data/missing_shards",
}  # fmt: skip


class Lines:
    """A file that grows by a line of JSON at a time; each is there for others as soon as it is written."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a", encoding="utf-8", buffering=1)

    def add(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        self._file.close()


def cut_off(path: str, total: int) -> None:
    """Keep of a file of `Lines` what was written up to step `total`: an earlier process got beyond its checkpoint."""
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    whole = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= total]
    storage.write_text(path, "".join(f"{line}\n" for line in whole))


class Health:
    """What a run says, by rank 0.

    What is said before a step counts as said at it: a run that goes on after step n forgets what came behind n, in the
    file as in TensorBoard, and says it again.
    """

    def __init__(self, session: "Session", quiet: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter  # half a second that other users of this module need not wait

        self._session = session
        self._out = sys.stderr if quiet else sys.stdout
        self._lines = Lines(storage.join(session.out, METRICS))
        self._folder = storage.join(session.out, "tensorboard")
        self._board = SummaryWriter(self._folder, purge_step=session.position.total + 1)
        self._start = time.perf_counter()
        self._start_progress: float | None = None
        self._sums = {"audio_s": 0.0, "wait_s": 0.0}
        self._since = time.perf_counter()
        self._say_start()

    def say(self, lines: Sequence[str]) -> None:
        """What is to be known before the next step."""
        for line in lines:
            self._say(line)
        with self._written():
            text = "\n".join(f"    {line}" for line in lines)
            self._board.add_text("before", text, self._session.position.total + 1)

    def _say_start(self) -> None:
        session = self._session
        model, shards = session.bundle.model, session.corpus.shards
        size = sum(p.numel() for p in model.parameters()) / 1e6
        self._say(
            f"{size:.2f} M parameters, encoder frames of {model.encoder.reduction * shards.spec.frame_s * 1e3:g} ms"
        )
        hours = float(session.lengths.frames.sum(dtype="int64")) * shards.spec.frame_s / 3600
        data = f"{counted(len(session.rows), 'utterance')}, {hours:.2f} h"
        self._say(f"{data}; {_processes(session.world)}, {session.precision}")
        for reason, count in session.left_out.items():
            if count:
                self._say(f"left out: {counted(count, 'utterance')}: {reason}")
        if session.mix is not None:
            self._say("an epoch is not each utterance once:")
            for line in session.mix.lines():
                self._say(f"  {line}")
        position = session.position
        if position.epoch >= session.config.epochs:
            self._say(f"finished before, after {counted(position.total, 'step')}: nothing is left to do")
        elif position.total:
            plans = [f"{counted(steps, 'step')} by {_processes(ranks)}" for ranks, steps in position.done]
            before = f"; of this epoch before: {', '.join(plans)}" if plans else ""
            self._say(f"going on after step {position.total}, in epoch {position.epoch + 1}{before}")

    def _say(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def epoch(self, epoch: int, plan: Plan) -> None:
        waiting = f", {plan.imbalance:.1%} waiting for other ranks" if plan.world_size > 1 else ""
        batches = self._session.config.optim.accumulate
        steps = counted(-(-plan.steps // batches), "step")
        each = f" of {batches} batches" if batches > 1 else ""
        self._say(f"epoch {epoch + 1}: {steps}{each}, padding {plan.padding:.1%}{waiting}")
        self._write({"step": self._session.position.total + 1, "epoch": epoch + 1, "padding": plan.padding})

    def epoch_end(self, position: "Position") -> None:
        """What an epoch went without."""
        if position.missing[-1]:
            lost = int(self._session.missing.lost.sum())
            record = {"missing_utterances": position.missing[-1], "missing_shards": lost}
            self._write({"step": position.total, "epoch": position.epoch} | record)
            self._say(f"epoch {position.epoch} went without {counted(position.missing[-1], 'utterance')}: "
                      f"{counted(lost, 'shard')} cannot be read")  # fmt: skip

    def batch(self, wait_s: float, audio_s: float) -> None:
        """Time waited for a batch and the audio in it, over all ranks."""
        self._sums["wait_s"] += wait_s
        self._sums["audio_s"] += audio_s

    def step(self, position: "Position", progress: float, values: dict[str, float]) -> None:
        """After each step; `progress` is the share of the whole training that is done.

        `values` are "loss", "ctc", "grad_norm", "lr" and the "weight" of this step in means; where they apply, 1 or 0
        for "clipped" and for "skipped": a step that was not taken, whose other values mean nothing.
        """
        now = time.perf_counter()
        if self._start_progress is None:
            self._start_progress, self._start = progress, now
        unsaid = position.unsaid  # part of the checkpoint: a resumed run says the means that an undisturbed one says
        _count(unsaid, values)
        if position.total % self._session.config.log_steps or not unsaid["steps"]:  # nothing since the last line
            return
        done = progress - self._start_progress
        elapsed, sums = now - self._since, self._sums
        record = {"step": position.total, "epoch": position.epoch + 1} | _said(unsaid) | {
            "lr": values["lr"], "audio_s_per_s": sums["audio_s"] / elapsed, "data_wait": sums["wait_s"] / elapsed,
            "memory_mb": peak_bytes(self._session.device) / 1e6,
            "eta_s": (now - self._start) / done * (1 - progress) if done else None,
        }  # fmt: skip
        if self._session.missing.allowed:
            record["missing_utterances"] = position.missing[-1]
        if self._session.cache is not None:
            record["retries"] = self._session.cache.retries
        self._write(record)
        self._say(_line(record))
        self._sums = dict.fromkeys(sums, 0.0)
        position.unsaid = {}
        self._since = time.perf_counter()

    def dev(
        self, position: "Position", wer: float, better: bool, samples: Sequence[tuple[str, str]], took_s: float,
        picture: "np.ndarray | None",
    ) -> None:  # fmt: skip
        """After the dev set was recognised. `samples` are references and what was made of them; `picture`, uint8
        [y, x, RGB], is the alignment of an utterance.
        """
        from asr.training import alignment  # with the libraries that draw

        self._say(f"dev WER {wer:.2%} after epoch {position.epoch}{', the best so far' if better else ''}")
        for reference, recognised in samples[:1]:
            self._say(f"  reference:  {reference}\n  recognised: {recognised}")
        with self._written():
            for number, sample in enumerate(_some(samples), 1):
                self._board.add_text(f"dev/sample_{number}", word_under_word(*sample), position.total)
            if picture is not None:
                self._board.add_image("dev/alignment", picture, position.total, dataformats="HWC")
        if picture is None:
            self._say(f"  no picture of an alignment: no utterance is above 0 and up to {alignment.LONGEST_S:g} s long")
        else:
            storage.write_bytes(storage.join(self._session.out, PICTURE), alignment.png(picture))
        self._write({"step": position.total, "epoch": position.epoch, "dev_wer": wer})
        self._since += took_s  # the rates of the health line are those of training

    def _write(self, record: dict[str, Any]) -> None:
        """To both."""
        self._lines.add(record)
        with self._written():
            for name, value in record.items():
                if name in TAGS and value is not None:
                    self._board.add_scalar(TAGS[name], value, record["step"])

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """What goes to TensorBoard inside is on disk behind: its own thread would come to it some time after a
        checkpoint. Raises OSError with the name of the folder, which the thread's does not have.
        """
        try:
            yield
            self._board.flush()
        except OSError as err:
            raise OSError(err.errno, err.strerror, self._folder) from err

    def close(self) -> None:
        self._lines.close()
        with self._written():
            self._board.close()


def _count(unsaid: dict[str, float], values: dict[str, float]) -> None:
    """Add a step to the sums since the last line."""
    skipped, weight = values.get("skipped", 0.0), values["weight"]
    if skipped:
        weight = 0.0
    terms = {"steps": 1.0} | {name: values[name] for name in ("loss", "ctc", "grad_norm", "clipped") if name in values}
    for name, value in terms.items():
        unsaid[name] = unsaid.get(name, 0.0) + (value * weight if weight else 0.0)
    if "skipped" in values:
        unsaid["skipped"] = unsaid.get("skipped", 0.0) + skipped
    if weight:
        unsaid["grad_norm_max"] = max(unsaid.get("grad_norm_max", 0.0), values["grad_norm"])


def _said(unsaid: dict[str, float]) -> dict[str, float]:
    """Means since the last line, the largest norm, and the number of steps that were skipped."""
    means = {name: unsaid[name] / unsaid["steps"] for name in ("loss", "ctc", "grad_norm", "clipped") if name in unsaid}
    return means | {name: unsaid[name] for name in ("grad_norm_max", "skipped") if name in unsaid}


def _line(record: dict[str, Any]) -> str:
    """The health line: a record for a person."""
    ctc = f"ctc {record['ctc']:.3f}  " if record["ctc"] else ""  # 0 without such a head
    skipped = f"skipped {record['skipped']:.0f}  " if record.get("skipped") else ""
    left = "?" if record["eta_s"] is None else _minutes(record["eta_s"])
    return (
        f"step {record['step']:6,}  epoch {record['epoch']}  loss {record['loss']:.3f}  {ctc}"
        f"grad {record['grad_norm']:.2f} (max {record['grad_norm_max']:.2f})  {skipped}lr {record['lr']:.2e}  "
        f"{record['audio_s_per_s']:,.0f} audio-s/s  data wait {record['data_wait']:.1%}  "
        f"{record['memory_mb']:,.0f} MB  left {left}"
    )


def _some(samples: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """SAMPLES at most, from the whole set: neighbours are often of one speaker."""
    return list(samples[:: -(-len(samples) // SAMPLES)]) if samples else []


def word_under_word(reference: str, recognised: str) -> str:
    """Markdown tables of what was said and what was recognised; words that differ are bold."""
    said, heard = reference.split(), recognised.split()
    errors = sum(a != b for a, b in align(said, heard))
    tables = [f"{counted(errors, 'error')}, {counted(len(said), 'word')}"]
    pairs = align(said, heard[:MOST])
    for start in range(0, len(pairs), WORDS):
        part = pairs[start : start + WORDS]
        rows = [["reference", *(_cell(a, a == b) for a, b in part)], ["---"] * (len(part) + 1),
                ["recognised", *(_cell(b, a == b) for a, b in part)]]  # fmt: skip
        tables.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    if len(heard) > MOST:
        tables.append(f"and {counted(len(heard) - MOST, 'word')} more")
    return "\n\n".join(tables)


def _cell(word: str | None, right: bool) -> str:
    if word is None:
        return "–"
    literal = "".join(f"&#{ord(c)};" if c in string.punctuation else c for c in word)  # nothing is Markdown's or HTML's
    return literal if right else f"**{literal}**"


def _processes(number: int) -> str:
    return counted(number, "process", "processes")


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
