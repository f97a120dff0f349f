"""Properties of an epoch's plan, whatever the lengths, shards, budget, seed and number of ranks."""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shards import plan as planning
from shards.plan import Budget, Lengths, Plan, plan_epoch


@pytest.fixture(autouse=True, scope="module")
def small_windows() -> Iterator[None]:
    """So that the few rows of a property test make several windows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "WINDOW_ROWS", 12)
        patch.setattr(planning, "WINDOW_BATCHES", 1)
        patch.setattr(planning, "WINDOW_STEPS", 2)
        patch.setattr(planning, "LOOK_AHEAD_STEPS", 3)
        yield


@dataclass(frozen=True)
class Case:
    lengths: Lengths
    budget: Budget
    seed: int
    world_size: int
    shortest_first: bool

    def plan(self, epoch: int = 0, done: tuple[tuple[int, int], ...] = (), world_size: int | None = None) -> Plan:
        return plan_epoch(
            self.lengths, self.budget, seed=self.seed, epoch=epoch, world_size=world_size or self.world_size,
            done=done, shortest_first=self.shortest_first,
        )  # fmt: skip

    def times(self) -> list[int]:
        return [1] * len(self.lengths.frames) if self.lengths.times is None else self.lengths.times.tolist()

    def example_frames(self, batch: list[np.ndarray]) -> list[int]:
        return [int(self.lengths.frames[rows].sum()) for rows in batch]

    def cost(self, batch: list[np.ndarray]) -> float:
        most = max(int(self.lengths.tokens[rows].sum()) for rows in batch)
        return len(batch) * max(self.example_frames(batch)) * (1 + most * self.budget.token_weight)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    world_size = draw(st.integers(1, 9))
    rows = draw(st.integers(world_size, 100))
    rng = np.random.default_rng(draw(st.integers(0, 2**30)))
    frames = rng.integers(1, draw(st.integers(2, 100)), rows).astype(np.int32)
    tokens = rng.integers(0, draw(st.integers(1, 20)), rows).astype(np.int32)
    shard = rng.integers(0, draw(st.integers(1, 12)), rows).astype(np.int32)
    if draw(st.booleans()):
        shard.sort()
    times = None
    if draw(st.booleans()):
        times = rng.integers(0, draw(st.integers(1, 4)), rows)
        times[:world_size] = 1
    weight = draw(st.sampled_from([0.0, 0.01, 0.3]))
    least = int(np.ceil((frames * (1 + tokens * weight)).max()))
    budget = Budget(draw(st.integers(least, least * 12)), draw(st.integers(1, 12)), weight,
                    draw(st.integers(1, 4)), draw(st.integers(0, 300)))  # fmt: skip
    return Case(Lengths(frames, tokens, shard, times), budget, draw(st.integers(0, 2**40)), world_size,
                draw(st.booleans()))  # fmt: skip


def plain(frames: list[int], budget: Budget, world_size: int, shard: list[int] | None = None) -> Case:
    none = [0] * len(frames)
    lengths = Lengths(*(np.array(x, np.int32) for x in (frames, none, shard or none)))
    return Case(lengths, budget, 0, world_size, False)


def batches(plan: Plan) -> list[list[np.ndarray]]:
    return [plan.batch(step, rank) for step in range(plan.steps) for rank in range(plan.world_size)]


def rows_of(some: list[list[np.ndarray]]) -> Counter[int]:
    return Counter(int(row) for batch in some for rows in batch for row in rows)


@given(cases())
def test_every_row_comes_exactly_as_often_as_it_is_to_and_no_batch_is_empty(case: Case) -> None:
    plan = case.plan()
    assert rows_of(batches(plan)) == +Counter(dict(enumerate(case.times())))
    assert all(len(batch) and all(len(rows) for rows in batch) for batch in batches(plan))


@given(cases())
def test_each_rank_has_the_same_number_of_batches(case: Case) -> None:
    plan = case.plan()
    assert plan.steps >= 1 and plan.steps * case.world_size == len(plan.batch_starts) == len(plan.batch_sizes)


@given(cases())
@example(plain([60, 61, 62, 63, 64], Budget(100, 4), 3))  # none can be halved
@example(plain([9, 60, 61, 62, 63, 64, 5], Budget(100, 4), 4))  # one can, that is too few
# Two windows in either order: where the one of 15 single batches is the last, only the earlier one has any to halve.
@example(plain([1] * 14 + [60] * 15, Budget(100, 7), 2, [0] * 14 + [1] * 15))
@example(plain([1] * 14 + [60] * 15, Budget(100, 7), 2, [1] * 14 + [0] * 15))
def test_the_budget_is_kept_unless_there_are_too_few_examples_for_the_ranks(case: Case) -> None:
    plan = case.plan()
    over = examples = 0
    for batch in batches(plan):
        over += len(batch) > case.budget.batch_examples or case.cost(batch) > case.budget.batch_frames
        examples += len(batch)
    # Batches are put together only where even single examples would not fill one more step.
    assert over <= case.world_size - 1
    if over:
        assert examples < (plan.steps + 1) * case.world_size


@given(cases())
def test_splices_keep_their_limits(case: Case) -> None:
    plan = case.plan()
    for rows in (rows for batch in batches(plan) for rows in batch):
        assert len(rows) <= case.budget.splice
        if len(rows) > 1:
            assert case.lengths.frames[rows].sum() <= case.budget.splice_frames and not case.shortest_first
            assert case.cost([rows]) <= case.budget.batch_frames


@given(cases())
def test_the_same_inputs_give_the_same_plan(case: Case) -> None:
    one, two = case.plan(3), case.plan(3)
    for name in ("rows", "example_starts", "batch_starts", "batch_sizes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@given(cases())
def test_padding_and_imbalance_are_those_of_the_batches(case: Case) -> None:
    plan = case.plan()
    padded = sum(len(batch) * max(case.example_frames(batch)) for batch in batches(plan))
    assert plan.padding == pytest.approx(1 - np.dot(case.lengths.frames, case.times()) / padded)
    costs = np.array([case.cost(batch) for batch in batches(plan)]).reshape(-1, case.world_size)
    assert plan.imbalance == pytest.approx(1 - costs.sum() / (case.world_size * costs.max(1).sum()))


@given(cases())
def test_shortest_first_goes_from_short_to_long_in_each_window(case: Case) -> None:
    case = replace(case, shortest_first=True)
    longest = [max(case.example_frames(batch)) for batch in batches(case.plan())]
    windows = max(1, sum(case.times()) // 12)
    assert sum(a > b for a, b in itertools.pairwise(longest)) < windows
    one_shard = replace(case, lengths=replace(case.lengths, times=None, shard=np.zeros_like(case.lengths.shard)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "WINDOW_ROWS", 200)
        longest = [max(case.example_frames(batch)) for batch in batches(one_shard.plan())]
    assert longest == sorted(longest)


@given(cases(), st.data())
def test_rows_and_shards_from_a_step_on_are_those_of_the_batches(case: Case, data: st.DataObject) -> None:
    plan = case.plan()
    first = data.draw(st.integers(0, plan.steps))
    for rank in (None, *range(case.world_size)):
        ranks = range(case.world_size) if rank is None else [rank]
        asked = [plan.batch(step, r) for step in range(first, plan.steps) for r in ranks]
        rows = [row for batch in asked for rows in batch for row in rows]
        assert plan.rows_of(first, plan.steps, rank).tolist() == rows
        assert list(plan.shards_needed(first, rank)) == list(dict.fromkeys(case.lengths.shard[rows].tolist()))


@given(cases(), st.lists(st.tuples(st.integers(1, 9), st.floats(0, 1)), min_size=1, max_size=4))
def test_runs_with_any_numbers_of_ranks_see_each_row_of_the_epoch_once(
    case: Case, runs: list[tuple[int, float]]
) -> None:
    done: tuple[tuple[int, int], ...] = ()
    seen: Counter[int] = Counter()
    for world_size, share in [*runs, (1, 1.0)]:
        left = sum(case.times()) - sum(seen.values())
        if not done and left < world_size and case.lengths.times is None:
            with pytest.raises(ValueError, match=f"{left} utterances? .* by {world_size} ranks"):
                case.plan(5, done, world_size)
            continue
        plan = case.plan(5, done, world_size)
        steps = round(share * plan.steps)
        seen += rows_of(batches(plan)[: steps * world_size])
        done = (*done, (world_size, steps))
    assert seen == +Counter(dict(enumerate(case.times())))
    assert case.plan(5, done).steps == 0 and list(case.plan(5, done).shards_needed(0)) == []


def test_what_is_left_for_too_many_ranks_leaves_the_last_ones_without() -> None:
    case = plain([10, 20, 30, 40, 50], Budget(100, 1), 1)
    plan = case.plan(done=((1, 3),), world_size=4)
    assert plan.steps == 1 and [len(plan.batch(0, rank)) for rank in range(4)] == [1, 1, 0, 0]
    done = case.plan().rows_of(0, 3).tolist()
    assert sorted(done + plan.rows_of(0, 1).tolist()) == [0, 1, 2, 3, 4]


def test_an_epoch_that_a_mix_leaves_almost_empty_is_planned() -> None:
    case = plain([10, 20, 30], Budget(100, 1), 2)
    one, none = (replace(case, lengths=replace(case.lengths, times=np.array(t))).plan() for t in ([0, 1, 0], [0, 0, 0]))
    assert one.steps == 1 and one.batch(0, 0)[0].tolist() == [1] and one.batch(0, 1) == []
    assert none.steps == 0


def test_runs_that_cannot_have_been_are_refused() -> None:
    case = plain([10, 20, 30], Budget(100, 1), 1)
    for steps in (-1, 4):
        with pytest.raises(ValueError, match=f"{steps} steps with 1 ranks .* there are 3"):
            case.plan(done=((1, steps),), world_size=2)


@pytest.mark.parametrize(
    ("frames", "world_size", "message"),
    [
        ([10, 101], 1, "longest utterance has 101 frames and a batch may have 100; raise data.batch_s"),
        ([10, 10], 3, "2 utterances cannot be shared by 3 ranks"),
        ([], 1, "0 utterances cannot be shared by 1 rank;"),
    ],
)
def test_what_cannot_be_planned_is_refused(frames: list[int], world_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain(frames, Budget(100, 4), world_size).plan()


def test_an_utterance_whose_text_is_over_the_budget_is_refused_with_its_tokens() -> None:
    lengths = Lengths(np.array([80, 60]), np.array([1, 40]), np.array([0, 0]))
    with pytest.raises(ValueError, match="of 60 frames and 40 tokens costs as much as 108 frames and a batch may have"):
        plan_epoch(lengths, Budget(100, 4, token_weight=0.02), seed=0, epoch=0)
    # In an epoch that it does not come in, it is no obstacle.
    lengths = replace(lengths, times=np.array([1, 0]))
    assert plan_epoch(lengths, Budget(100, 4, token_weight=0.02), seed=0, epoch=0).steps == 1


@pytest.mark.parametrize("values", [(0, 1, 0, 1), (1, 0, 0, 1), (1, 1, 0, 0), (float("nan"), 1, 0, 1)])
def test_an_empty_budget_is_refused(values: tuple[float, int, float, int]) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        Budget(*values)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_a_token_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="token_weight is"):
        Budget(100, 4, weight)
