"""Which budgets are tried, and that the one that is said fits: trials in real processes with a real limit."""

import os
import select
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import arguments, make_inputs
from toys import TEXTS, Toy, row_features, write_toys

from asr import train
from asr.data import Batch
from asr.tokenizer import Tokenizer
from asr.training import budget, budget_search, memory, step
from asr.training.budget_search import Trial, largest
from asr.training.session import Session, prepare
from shards.spec import FrontendSpec

LEAST_S = 15.0
CPU = torch.device("cpu")


@given(
    base=st.floats(0, 1e9), slope=st.floats(1e4, 1e8), bend=st.floats(0.9, 1.1), least_s=st.floats(0.2, 30),
    room=st.floats(1.2, 1e4), ends_badly=st.floats(1.0, 2.0),
)  # fmt: skip
def test_the_largest_budget_that_fits_is_almost_found_in_few_trials(
    base: float, slope: float, bend: float, least_s: float, room: float, ends_badly: float
) -> None:
    """Of a machine whose memory grows almost in a line; far beyond the limit, trials end without a peak."""

    def taken(batch_s: float) -> int:
        return int(base + slope * batch_s**bend)

    most = taken(room * least_s)

    def trial(batch_s: float) -> Trial:
        if taken(batch_s) > ends_badly * most:
            return Trial(batch_s, batch_s, fits=False)
        return Trial(batch_s, batch_s, taken(batch_s) <= most, 1.0, batch_s, taken(batch_s))

    trials = budget_search.search(trial, least_s, most)
    if any(t.fits for t in trials):
        best = largest(trials)
        assert taken(best.batch_s) <= most
        beyond_s = 1.15 * best.batch_s + 0.1  # a tenth of a second is the least step
        assert taken(beyond_s) > most
    assert len(trials) <= np.log2(room) + 6
    assert len({t.batch_s for t in trials}) == len(trials)


def test_more_than_all_examples_and_more_than_a_minute_are_not_tried() -> None:
    def trial(batch_s: float) -> Trial:
        return Trial(batch_s, min(batch_s, 100), True, min(batch_s, 100) / 10, min(batch_s, 100), 1000)

    trials = budget_search.search(trial, 10, 1e9)
    assert [t.batch_s for t in trials] == [10, 20, 40, 80, 160, 320]
    assert largest(trials).batch_s == 160 and budget_search.full(trials)
    trials = budget_search.search(lambda s: Trial(s, s, True, s, s, 1000), 10, 1e9)
    assert [t.batch_s for t in trials] == [10, 20, 40, 80] and trials[-1].slow


def test_the_smallest_of_the_fast_ones() -> None:
    trials = [Trial(s, s, fits, s / speed, s, 1) for s, speed, fits in
              ((10, 50, True), (20, 97, True), (40, 100, True), (80, 99, True), (160, 300, False))]  # fmt: skip
    assert budget_search.fastest(trials).batch_s == 20


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, vocab: Tokenizer) -> Session:
    """Of 300 utterances of 5 to 15 s, the longest of which say little and the shortest much."""
    folder = tmp_path_factory.mktemp("budget")
    make_inputs(folder, vocab)
    lengths = [*np.random.default_rng(0).integers(500, 1500, 299).tolist(), round(LEAST_S * 100)]
    texts = [TEXTS[1] if n > 1000 else " ".join(TEXTS) for n in lengths]
    toys = [Toy(f"u{i}", text, row_features(i, n)) for i, (n, text) in enumerate(zip(lengths, texts, strict=True))]
    write_toys(folder / "s", toys, FrontendSpec(mels=8), "logmel", per_shard=50)
    more = ["--find-batch-budget", "model.encoder_options.hidden=32", "data.batch_examples=300", "data.batch_s=20"]
    return prepare(train.make_parser().parse_intermixed_args(arguments(folder, folder / "run", *more)))


def bytes_of_a_small_step(session: Session) -> int:
    plan = budget.epoch_plan(session)
    batches = budget._batches(session, plan, [0])
    told = budget._in_process_of_its_own(lambda: budget._run(session, step.take, batches), CPU, 1 << 40)
    assert told is not None
    return int(told["peak_bytes"])


def test_the_budget_that_is_said_fits_and_nothing_is_changed(
    session: Session, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {name: value.clone() for name, value in session.bundle.model.state_dict().items()}
    room = 60_000_000
    limit = bytes_of_a_small_step(session) + room + budget.BESIDE_BYTES["cpu"]
    figures = budget.measure(session, step.take, limit)
    best = largest(figures.trials)
    assert 2 * LEAST_S < best.batch_s < 3000  # neither at once at its end nor all of the corpus
    assert best.peak_bytes <= limit - budget.BESIDE_BYTES["cpu"]
    too_much = any(best.batch_s < t.batch_s < 1.2 * best.batch_s and not t.fits for t in figures.trials)
    assert too_much or best.peak_bytes > figures.most_bytes - room / 2, "much more may fit"
    assert not budget_search.full(figures.trials)
    *table, last = figures.text().splitlines()
    assert last == f"data.batch_s={best.batch_s:g}"
    assert table[0].split() == ["data.batch_s", "s", "a", "step", "audio-s/s", "peak", "GB"]
    assert [row.split()[0] for row in table[1 : 1 + len(figures.trials)]] == [
        f"{t:g}" for t in sorted(t.batch_s for t in figures.trials)
    ]
    assert f"data.batch_s={best.batch_s:g}: " in capfd.readouterr().err
    for name, value in session.bundle.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(part.state for part in session.optimisers.parts)
    assert not Path(session.out).exists()


def test_a_trial_that_takes_too_much_ends_alone_and_is_no_mistake(session: Session) -> None:
    def take(_: Session, batches: list[Batch]) -> None:
        """As a step whose memory is 1 MB for each example, and more than there is from 40 examples on."""
        examples = len(batches[0].lens_b)
        torch.ones(examples if examples < 40 else 1_000_000, 250_000)

    figures = budget.measure(session, take, bytes_of_a_small_step(session) + 200_000_000 + budget.BESIDE_BYTES["cpu"])
    assert any(not t.fits and not t.whole for t in figures.trials)
    assert "more than there is" in figures.text()
    assert largest(figures.trials).batch_s < min(t.batch_s for t in figures.trials if not t.whole)
    with pytest.raises(
        ValueError, match=r"^not even a batch of the longest utterance, 15\.0 s, leaves 1\.0 GB of 1\.2 GB; "
    ):
        budget.measure(session, step.take, 1_200_000_000)


def test_trials_without_a_process_of_their_own_are_undone(session: Session) -> None:
    """As they are on a GPU, with a state of the optimisers as a resumed training has it."""
    model, plan = session.bundle.model, budget.epoch_plan(session)
    batches = budget._batches(session, plan, [0, 1])
    step.take(session, batches[:1])
    session.optimisers.zero_grad()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = {name: value.clone() for name, value in session.optimisers.tensors(model).items()}
    with budget._undone(session):
        step.take(session, batches[1:])
        assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    now = session.optimisers.tensors(model)
    assert now.keys() == kept.keys() and all(torch.equal(now[name], kept[name]) for name in kept)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("err", "kind"), [(ValueError("no gradient"), ValueError), (KeyError("x"), RuntimeError)])
def test_other_errors_in_a_trial_are_not_taken_for_a_lack_of_memory(
    session: Session, err: Exception, kind: type[Exception]
) -> None:
    def take(*_: object) -> None:
        raise err

    with pytest.raises(kind, match=r"no gradient|KeyError: 'x'"):
        budget.measure(session, take)


def test_a_process_that_the_system_kills_did_not_fit() -> None:
    def run() -> dict[str, float]:
        os.kill(os.getpid(), 9)
        return {}

    assert budget._in_process_of_its_own(run, CPU, 1 << 40) is None


def test_a_trial_ends_when_the_process_that_waits_for_it_is_killed() -> None:
    read_end, write_end = os.pipe()

    def run() -> dict[str, float]:
        os.write(write_end, b"x")
        threading.Event().wait(60)
        return {}

    if not (waiting := os.fork()):
        budget._in_process_of_its_own(run, CPU, 1 << 40)
        os._exit(0)
    os.close(write_end)  # the other ends are the two processes'
    with os.fdopen(read_end, "rb", buffering=0) as pipe:
        assert pipe.read(1) == b"x"
        os.kill(waiting, signal.SIGKILL)
        os.waitpid(waiting, 0)
        assert select.select([pipe], [], [], 20)[0], "the trial goes on"
        assert pipe.read(1) == b""


def test_steps_of_a_trial_do_not_run_away_at_a_rate_that_a_training_warms_up_to(session: Session) -> None:
    batches = budget._batches(session, budget.epoch_plan(session), [0])
    session.optimisers.set_lr(1e8)
    told = budget._in_process_of_its_own(lambda: budget._run(session, step.take, batches), CPU, 1 << 40)
    assert told is not None and told["step_s"] > 0
    assert not Path(session.out).exists()


def test_threads_of_the_parent_do_not_hang_a_trial() -> None:
    """What OpenMP does in a copied process whose original had used it."""

    def run() -> dict[str, float]:
        return {"sum": float((torch.ones(1000, 1000) @ torch.ones(1000, 1000)).sum())}

    torch.set_num_threads(2)
    try:
        run()
        told = budget._in_process_of_its_own(run, CPU, memory.limit_bytes(CPU))
    finally:
        torch.set_num_threads(1)
    assert told is not None and told["sum"] == 1e9


def test_the_batches_tried_are_the_costliest_of_the_plan(session: Session) -> None:
    plan = budget.epoch_plan(session)
    steps, _ = budget._costliest(plan, session)
    batches = budget._batches(session, plan, steps)
    tried = [(len(b.lens_b), int(b.lens_b.max()), int(b.target_lens_b.max())) for b in batches]
    frames, tokens = session.lengths.frames, session.lengths.tokens
    sizes = [
        (len(batch), int(frames[np.concatenate(batch)].max()), int(tokens[np.concatenate(batch)].max()))
        for batch in (plan.batch(step) for step in range(plan.steps))
    ]
    assert tried[0] == max(sizes, key=lambda size: size[0] * size[1] * (size[2] + 1))
    assert tried[1][0] * tried[1][1] == max(size[0] * size[1] for size in sizes)
    assert all(torch.isfinite(batch.feats_btf).all() for batch in batches if batch.feats_btf is not None)
