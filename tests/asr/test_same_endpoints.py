"""Segments end where they end whatever the runtime's step: words, times, segments and reasons are those of PyTorch.

So they are for encoders whose outputs do not depend on how many frames are encoded at once.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import rounded

from asr import checkpoint, export, runtimes, search, stream
from asr.checkpoint import Bundle
from asr.endpoint import EndpointRules
from asr.engine import Floats, State
from asr.engines.torch_engine import TorchEngine
from asr.frontend import logmel
from asr.model_config import ModelConfig
from asr.models import Model, make_model
from asr.searching.hypotheses import Hypothesis, SearchOptions, SearchState, Token
from asr.stream import Listener
from asr.tokenizer import BLANK
from asr.words import Word

RULES = EndpointRules(pause_s=0.7, silence_s=1.2, longest_s=1.5, preroll_s=0.4)
SEARCHES = {"greedy": SearchOptions(), "beam": SearchOptions(beam=3)}
Reference = Callable[[str, str], "Said"]


@dataclass
class Said:
    words: list[Word]
    ends: list[tuple[int, str]]


def together(listener: Listener, streams: Sequence[Sequence[Floats]]) -> list[Said]:
    """Streams that come in these chunks side by side, as many as are ready in each step."""
    states = [stream.start(listener) for _ in streams]
    said = [Said([], []) for _ in streams]
    for chunks in itertools.zip_longest(*streams):
        for b, chunk in enumerate(chunks):
            if chunk is not None:
                states[b] = stream.accept(listener, chunk, states[b])
        while ready := [b for b, state in enumerate(states) if stream.ready(listener, state)]:
            for b, (update, state) in zip(ready, stream.step_batch(listener, [states[b] for b in ready]), strict=True):
                states[b] = state
                said[b].words += update.final
                said[b].ends += update.ends
    for one, state in zip(said, states, strict=True):
        update = stream.finish(listener, state)
        one.words = rounded([*one.words, *update.final])
        one.ends += update.ends
    return said


def alone(listener: Listener, chunks: Sequence[Floats]) -> Said:
    return together(listener, [chunks])[0]


def listener_of(model: Model, bundle: Bundle, step: int = 0, searched: str = "greedy") -> Listener:
    """In a runtime whose steps are so many times the shortest one; 0: PyTorch's own."""
    engine = TorchEngine(model)
    traits = engine.traits
    engine.traits = replace(traits, step_frames=step * traits.reduction * traits.chunk)
    return Listener(engine, bundle.tokenizer, bundle.spec, SEARCHES[searched], RULES)


@pytest.fixture(scope="module")
def talk(hum: Floats) -> Floats:
    """15 seconds of speech and pauses, of digital silence and of noise, long and short; the last one is long."""
    quiet = np.random.default_rng(2).normal(0, 0.003, 50000).astype(np.float32)
    zeros = np.zeros(40000, np.float32)
    return np.concatenate(
        [quiet[:25000], hum, hum[9000:], quiet[:15000], hum[:20000], zeros, hum[:20000], zeros[:13000], quiet]
    )


@pytest.fixture(scope="module")
def models(bundle: Bundle) -> dict[str, Model]:
    """Random ones that say something."""
    torch.manual_seed(3)
    lstm = {"layers": 2, "hidden": 16, "projection": 12, "cell": "gru", "stack": 2, "reduce_after": [1]}
    gru = make_model(ModelConfig("lstm", lstm, kind="ctc", tail_frames=2), bundle.spec.mels, bundle.tokenizer.size)
    options = {"layers": 2, "width": 16, "heads": 2, "channels": 3, "left": 5, "chunk": 3}
    conformer = make_model(
        ModelConfig("conformer", options, kind="ctc", tail_frames=1), bundle.spec.mels, bundle.tokenizer.size
    )
    for model, blank in ((gru, 1.5), (conformer, 7)):
        model.set_normalisation(bundle.model.mean_f, bundle.model.scale_f**-2)
        with torch.no_grad():
            model.output.weight.mul_(12)
            model.output.bias[BLANK] += blank
    return {"lstm": bundle.model, "gru": gru.eval(), "conformer": conformer.eval()}


@pytest.fixture(scope="module")
def reference(bundle: Bundle, models: dict[str, Model], talk: Floats) -> Reference:
    """What PyTorch makes of the whole talk."""
    return functools.cache(lambda name, searched: alone(listener_of(models[name], bundle, 0, searched), [talk]))


NAMES = ["lstm", "gru", "conformer"]
every_model = pytest.mark.parametrize("name", NAMES)
every_search = pytest.mark.parametrize("searched", SEARCHES)


@every_search
@every_model
def test_the_talk_has_all_kinds_of_ends(reference: Reference, name: str, searched: str) -> None:
    """Else the other tests here compare little."""
    said = reference(name, searched)
    reasons = [reason for _, reason in said.ends]
    assert reasons.count("pause") >= 2 and reasons.count("length") >= 2
    assert len(said.words) > 7 and len({word.segment for word in said.words}) > 4


@settings(max_examples=24, deadline=None)
@given(
    name=st.sampled_from(NAMES), searched=st.sampled_from(sorted(SEARCHES)), step_s=st.floats(0.0, 3.0),
    cuts=st.lists(st.integers(0, 240_000), max_size=30),
)  # fmt: skip
def test_neither_steps_nor_chunks_move_an_end(
    bundle: Bundle, models: dict[str, Model], reference: Reference, talk: Floats, name: str, searched: str,
    step_s: float, cuts: list[int],
) -> None:  # fmt: skip
    unit_s = listener_of(models[name], bundle).unit_frames * 0.01
    listener = listener_of(models[name], bundle, int(step_s / unit_s), searched)
    chunks = np.split(talk, sorted(cut for cut in cuts if cut < len(talk)))
    assert alone(listener, chunks) == reference(name, searched)


@pytest.mark.parametrize("step_s", [1.2, 4.8, 30.0])
@every_model
def test_a_step_in_which_several_segments_end(
    bundle: Bundle, models: dict[str, Model], reference: Reference, talk: Floats, name: str, step_s: float
) -> None:
    """Even where all of the stream is in what is left at its end."""
    listener = listener_of(models[name], bundle, round(step_s / 0.24))
    assert alone(listener, np.array_split(talk, 40)) == reference(name, "greedy")


@every_search
def test_words_stay_whole_in_segments_that_are_too_long_at_once(
    bundle: Bundle, models: dict[str, Model], hum: Floats, searched: str
) -> None:
    """Whether their first word was final before or becomes so with the end: only a word that never ends is cut."""
    rules = replace(RULES, longest_s=0.1)
    listener = replace(listener_of(models["lstm"], bundle, 0, searched), endpoints=rules)
    said = alone(listener, [hum])
    assert len(said.ends) >= 3
    assert alone(listener, np.split(hum, range(960, len(hum), 960))) == said


@every_search
def test_streams_of_a_batch_end_where_each_does_alone(
    bundle: Bundle, models: dict[str, Model], talk: Floats, searched: str
) -> None:
    """They started at other times, so one has an end to look for in the middle of the others' pieces."""
    parts = [np.array_split(talk[start:190_000], 20) for start in (0, 7777, 100_000)]
    delayed = [[talk[:0]] * (4 * b) + part for b, part in enumerate(parts)]
    expected = [alone(listener_of(models["lstm"], bundle, 0, searched), part) for part in parts]
    for step in (0, 7):
        assert together(listener_of(models["lstm"], bundle, step, searched), delayed) == expected


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Listener:
    """The bundle in ONNX Runtime, in steps that are no multiple of the 300 ms after which ends are looked for."""
    folder = tmp_path_factory.mktemp("export")
    checkpoint.save(str(folder / "best"), bundle)
    argv = ["--bundle", f"{folder}/best", "--to", "onnx", "--chunk-ms", "420", "--out", f"{folder}/onnx"]
    assert export.main(argv) == 0
    return runtimes.open_listener(str(folder / "onnx"), endpoints=RULES)


@every_search
def test_an_export_ends_segments_where_pytorch_does(
    exported: Listener, reference: Reference, talk: Floats, searched: str
) -> None:
    listener = replace(exported, search=SEARCHES[searched])
    assert listener.unit_frames == 42 and listener.grid * 6 == 30
    for chunk in (1600, len(talk)):
        assert alone(listener, np.split(talk, range(chunk, len(talk), chunk))) == reference("lstm", searched)


class Counting(TorchEngine):
    """Counts the frames that it encodes."""

    frames = 0

    def encode(self, feats_btf: Floats, state: State) -> tuple[Floats, State]:
        self.frames += feats_btf.shape[1]
        return super().encode(feats_btf, state)


@pytest.mark.parametrize("step", [0, 7])
def test_only_what_a_new_start_hears_again_is_encoded_twice(
    bundle: Bundle, models: dict[str, Model], talk: Floats, step: int
) -> None:
    """That is the pre-roll, and less than a step behind the end; nothing where no stream starts anew."""
    for rules in (RULES, EndpointRules(pause_s=50, silence_s=50)):
        listener = listener_of(models["lstm"], bundle, step)
        engine = Counting(bundle.model)
        engine.traits = listener.engine.traits
        listener = replace(listener, engine=engine, endpoints=rules)
        origins, state = {0}, stream.start(listener)
        for chunk in np.array_split(talk, 100):
            state = stream.accept(listener, chunk, state)
            while stream.ready(listener, state):
                ((_, state),) = stream.step_batch(listener, [state])
                origins.add(state.origin_frames)
        heard = len(logmel(talk, bundle.spec)) - len(state.feats_tf)
        again = (len(origins) - 1) * (listener.preroll_frames + listener.piece_frames)
        assert engine.frames <= heard + again
        assert (engine.frames == heard) == (len(origins) == 1) == (rules is not RULES)


def test_words_come_as_early_as_without_ends(bundle: Bundle, models: dict[str, Model], talk: Floats) -> None:
    """A partial result does not wait for the next look."""
    listener = listener_of(models["lstm"], bundle)
    listeners = [replace(listener, endpoints=rules) for rules in (None, EndpointRules(50, 50, 50))]
    states = [stream.start(each) for each in listeners]
    for chunk in np.split(talk[:100_000], range(960, 100_000, 960)):
        found = [stream.step(each, chunk, state) for each, state in zip(listeners, states, strict=True)]
        shown = [(rounded(list(update.final)), rounded(list(update.partial))) for update, _ in found]
        assert shown[0] == shown[1]
        states = [state for _, state in found]


def test_a_word_is_not_final_while_its_time_may_change() -> None:
    """Else its time would depend on when somebody looked."""

    def reading(*frames: int) -> Hypothesis:
        return Hypothesis(tuple(Token(5, frame, 0.0) for frame in frames), 0.0, np.zeros(0, np.float32), ())

    assert search.common(SearchState((reading(1, 3, 7), reading(1, 4, 7)), 9)) == 1
