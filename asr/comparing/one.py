"""One measurement of compare-runtimes, in a process of its own: a bundle in a runtime streams some utterances.

A JSON object comes on standard input, another goes to standard output. Nothing is imported here that the runtime does
not need, so that the memory is what somebody has to have who only recognises.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from asr import runtimes
from asr.endpoint import EndpointRules
from asr.engine import Engine, Floats, Ids, State
from asr.evaluation.spoken import Spoken
from asr.evaluation.trace import listen, peak_bytes
from asr.stream import Listener


@dataclass(slots=True)
class Spent:
    calls: int = 0
    cpu_s: float = 0.0


@dataclass(slots=True)
class Spending:
    """Of each part of a model."""

    encoder: Spent = field(default_factory=Spent)
    decoder: Spent = field(default_factory=Spent)  # the predictor
    joint: Spent = field(default_factory=Spent)


class TimedEngine:
    """An engine that notes the CPU time of its calls; see asr.engine.Engine for what they do."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.traits, self.mean_f = engine.traits, engine.mean_f
        self.encoder_start, self.stack, self.unstack = engine.encoder_start, engine.stack, engine.unstack
        self.predictor_start = engine.predictor_start
        self.spending = Spending()

    def encode(self, feats_btf: Floats, state: State) -> tuple[Floats, State]:
        begun = time.process_time()
        found = self._engine.encode(feats_btf, state)
        _note(self.spending.encoder, begun)
        return found

    def predict(self, tokens_b: Ids, state: State) -> tuple[Floats, State]:
        begun = time.process_time()
        found = self._engine.predict(tokens_b, state)
        _note(self.spending.decoder, begun)
        return found

    def join(self, enc_bj: Floats, pred_bj: Floats | None) -> Floats:
        begun = time.process_time()
        found = self._engine.join(enc_bj, pred_bj)
        _note(self.spending.joint, begun)
        return found


def _note(spent: Spent, begun: float) -> None:
    spent.cpu_s += time.process_time() - begun
    spent.calls += 1


def main() -> int:
    """Exit code 1 and one line for what a user can mend."""
    request = json.load(sys.stdin)
    try:
        listener = runtimes.open_listener(request["bundle"], request["runtime"], endpoints=EndpointRules())
        if request["runtime"] == "torch":
            listener = with_chunk(listener, request["encoder_chunk"])
        utterances = [Spoken(**values) for values in request["utterances"]]
        found = measure(listener, utterances, request["chunk_ms"])
    except (ValueError, OSError) as err:
        print(" ".join(str(err).split()), file=sys.stderr)
        return 1
    print(json.dumps(found))
    return 0


def with_chunk(listener: Listener, chunk: int) -> Listener:
    """PyTorch with the encoder's chunk of the exports beside it; as the bundle has it where that is 0."""
    from asr.engines.torch_engine import TorchEngine

    engine = listener.engine
    assert isinstance(engine, TorchEngine)
    if chunk in (0, engine.traits.chunk):
        return listener
    engine.model.encoder.chunk = chunk  # type: ignore[attr-defined]
    return replace(listener, engine=TorchEngine(engine.model))


def measure(listener: Listener, utterances: Sequence[Spoken], chunk_ms: int) -> dict[str, Any]:
    """What was recognised, what it cost and how long a speaker would have waited. Raises AudioError, or OSError.

    The first utterance is recognised once more before all others, as runtimes set things up in their first calls.
    """
    engine = TimedEngine(listener.engine)
    timed = replace(listener, engine=engine)
    rate = listener.spec.sample_rate
    chunk_samples = max(1, round(chunk_ms * rate / 1000))
    listen(timed, utterances[0].samples(rate), chunk_samples)
    engine.spending = Spending()
    texts, firsts_s, lasts_s = [], [], []
    audio_s = cpu_s = wall_s = 0.0
    for spoken in utterances:
        heard = listen(timed, spoken.samples(rate), chunk_samples)
        texts.append(" ".join(heard.trace.final))
        firsts_s += [] if heard.first_word_s is None else [heard.first_word_s]
        lasts_s.append(heard.last_word_s)
        audio_s, cpu_s, wall_s = audio_s + heard.audio_s, cpu_s + heard.cpu_s, wall_s + heard.wall_s
    return {"texts": texts, "first_word_s": firsts_s, "last_word_s": lasts_s, "audio_s": audio_s, "cpu_s": cpu_s,
            "wall_s": wall_s, "peak_bytes": peak_bytes(), "spending": asdict(engine.spending)}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
