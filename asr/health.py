"""What a training says while it runs: one line for a person, the same to metrics.jsonl and TensorBoard."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests import storage
from shards.plan import Plan

if TYPE_CHECKING:
    from asr.resume import Position
    from asr.session import Session

METRICS = "metrics.jsonl"
TRAINED = "trained-rank"  # start of the names of the logs of what ranks have trained on


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
    """What a run says, by rank 0."""

    def __init__(self, session: "Session", quiet: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter  # half a second that other users of this module need not wait

        self._every = session.config.log_steps
        self._out = sys.stderr if quiet else sys.stdout
        self._lines = Lines(storage.join(session.out, METRICS))
        self._missing, self._cache = session.missing, session.cache
        folder = storage.join(session.out, "tensorboard")
        self._board = SummaryWriter(folder, purge_step=session.position.total + 1)
        self._start = time.perf_counter()
        self._start_progress: float | None = None
        self._sums = {"audio_s": 0.0, "wait_s": 0.0}
        self._since = time.perf_counter()
        self._say_start(session)

    def _say_start(self, session: "Session") -> None:
        model, shards = session.bundle.model, session.corpus.shards
        size = sum(p.numel() for p in model.parameters()) / 1e6
        self._say(
            f"{size:.2f} M parameters, encoder frames of {model.encoder.reduction * shards.spec.frame_s * 1e3:g} ms"
        )
        data = f"{len(session.rows):,} utterances, {shards.hours:.2f} h"
        self._say(f"{data}; {session.world} process(es), {session.precision}")
        for reason, count in session.left_out.items():
            if count:
                self._say(f"left out: {count:,} utterances: {reason}")
        if session.mix is not None:
            self._say("an epoch is not each utterance once:")
            for line in session.mix.lines():
                self._say(f"  {line}")
        position = session.position
        if position.total:
            ranks = [f"{steps:,} steps by {ranks} process(es)" for ranks, steps in position.done]
            before = f"; of this epoch before: {', '.join(ranks)}" if ranks else ""
            self._say(f"going on after step {position.total}, in epoch {position.epoch + 1}{before}")

    def _say(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def epoch(self, epoch: int, plan: Plan) -> None:
        waiting = f", {plan.imbalance:.1%} waiting for other ranks" if plan.world_size > 1 else ""
        self._say(f"epoch {epoch + 1}: {plan.steps} steps, padding {plan.padding:.1%}{waiting}")

    def epoch_end(self, position: "Position") -> None:
        """What an epoch went without."""
        if position.missing[-1]:
            record = {"missing_utterances": position.missing[-1], "missing_shards": int(self._missing.lost.sum())}
            self._write({"step": position.total, "epoch": position.epoch} | record)
            self._say(f"epoch {position.epoch} went without {position.missing[-1]:,} utterances: their shards, "
                      f"{record['missing_shards']} of them, cannot be read")  # fmt: skip

    def batch(self, wait_s: float, audio_s: float) -> None:
        """Time waited for a batch and the audio in it, over all ranks."""
        self._sums["wait_s"] += wait_s
        self._sums["audio_s"] += audio_s

    def step(self, position: "Position", progress: float, values: dict[str, float]) -> None:
        """After each step; `progress` is the share of the whole training that is done."""
        now = time.perf_counter()
        if self._start_progress is None:
            self._start_progress, self._start = progress, now
        unsaid = position.unsaid  # part of the checkpoint: a resumed run says the means that an undisturbed one says
        for name, value in (("loss", values["loss"]), ("ctc", values["ctc"]), ("steps", 1.0)):
            unsaid[name] = unsaid.get(name, 0.0) + value * values["weight"]
        if position.total % self._every or not unsaid["steps"]:  # no utterance since the last line
            return
        sums, elapsed = self._sums, now - self._since
        done = progress - self._start_progress
        record = {
            "step": position.total, "epoch": position.epoch + 1,
            "loss": unsaid["loss"] / unsaid["steps"], "ctc": unsaid["ctc"] / unsaid["steps"],
            "grad_norm": values["grad_norm"], "lr": values["lr"],
            "audio_s_per_s": sums["audio_s"] / elapsed, "data_wait": sums["wait_s"] / elapsed,
            "eta_s": (now - self._start) / done * (1 - progress) if done else None,
        }  # fmt: skip
        if self._missing.allowed:
            record["missing_utterances"] = position.missing[-1]
        if self._cache is not None:
            record["retries"] = self._cache.retries
        self._write(record)
        eta = "?" if record["eta_s"] is None else _minutes(record["eta_s"])
        self._say(
            f"step {position.total:6,}  epoch {record['epoch']}  loss {record['loss']:.3f}  ctc {record['ctc']:.3f}  "
            f"grad {record['grad_norm']:.2f}  lr {record['lr']:.2e}  {record['audio_s_per_s']:,.0f} audio-s/s  "
            f"data wait {record['data_wait']:.1%}  left {eta}"
        )
        self._sums = dict.fromkeys(self._sums, 0.0)
        position.unsaid = {}
        self._since = time.perf_counter()

    def dev(self, position: "Position", wer: float, better: bool, sample: tuple[str, str], took_s: float) -> None:
        """After the dev set was recognised; `sample` is a reference and what was made of it."""
        self._write({"step": position.total, "epoch": position.epoch, "dev_wer": wer})
        self._board.add_text("sample", f"reference: {sample[0]}\n\nrecognised: {sample[1]}", position.total)
        self._say(f"dev WER {wer:.2%} after epoch {position.epoch}{', the best so far' if better else ''}")
        self._say(f"  reference:  {sample[0]}\n  recognised: {sample[1]}")
        self._since += took_s  # the rates of the health line are those of training

    def _write(self, record: dict[str, Any]) -> None:
        self._lines.add(record)
        for name, value in record.items():
            if name not in ("step", "epoch") and value is not None:
                self._board.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self._lines.close()
        self._board.close()


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
