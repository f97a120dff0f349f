"""How much memory there is, and a training step that runs out of it, for real."""

import multiprocessing
import os
import resource
from pathlib import Path

import pytest
import torch
from runs import arguments, make_inputs

from asr import train
from asr.data import Batch
from asr.recipe import DataConfig
from asr.tokenizer import Tokenizer
from asr.training import memory, step
from asr.training.session import Session, prepare

CPU = torch.device("cpu")
FRAME_S = 0.01


def batch_of(examples: int, frames: int, tokens: int = 3, rows_each: int = 1) -> Batch:
    rows = [torch.zeros(rows_each, dtype=torch.int64).numpy() for _ in range(examples)]
    return Batch(rows, torch.full((examples,), frames), torch.ones(examples, tokens, dtype=torch.int64),
                 torch.full((examples,), tokens), torch.randn(examples, frames, 8))  # fmt: skip


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, vocab: Tokenizer) -> Session:
    """Of a model that takes much more memory for a batch than for its weights."""
    folder = tmp_path_factory.mktemp("memory")
    make_inputs(folder, vocab)
    more = ["model.encoder_options.hidden=64", "data.batch_s=400", "data.batch_examples=64"]
    return prepare(train.make_parser().parse_intermixed_args(arguments(folder, folder / "run", *more)))


def step_within(session: Session, examples: int, more_bytes: int, said: Path) -> str:
    """What a step says in a process that gets so much more memory than it has: an error's text, or nothing."""

    def child() -> None:
        pages = [int(field) for field in Path("/proc/self/statm").read_text().split()]
        limit = pages[5] * resource.getpagesize() + more_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        try:
            step.take(session, [batch_of(examples, 600)])
            said.write_text("")
        except ValueError as err:
            said.write_text(str(err))
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    return said.read_text()


def test_a_step_without_memory_names_its_batch_and_a_budget_and_that_one_fits(session: Session, tmp_path: Path) -> None:
    session.optimisers.zero_grad()  # what torch imports there is no part of a step
    errors = []
    more_bytes = 4_000_000
    while error := step_within(session, 64, more_bytes, tmp_path / "said"):
        errors.append(error)
        more_bytes = int(1.25 * more_bytes)
    assert len(errors) > 3
    said = ("out of memory on a batch of 64 examples of up to 6.0 s and 3 tokens (cost 384.0 s, data.batch_s is 400); "
            "say data.batch_s=190, or --find-batch-budget to have the largest that fits measured")  # fmt: skip
    assert set(errors) == {said}
    assert not step_within(session, 190 // 6, int(more_bytes / 1.25), tmp_path / "said")


@pytest.mark.parametrize(
    ("batch", "config", "mend"),
    [
        (batch_of(2, 1503), DataConfig(batch_s=100), "data.batch_s=15.1,"),  # half, but not less than one example
        (batch_of(4, 1500, 50), DataConfig(batch_s=99, token_weight=0.01), "data.batch_s=45,"),
        (batch_of(30, 1000), DataConfig(batch_s=240), "data.batch_s=120,"),  # augmented to more than the budget
        (batch_of(1, 1500), DataConfig(max_s=16), "data.max_s=7.5 instead of 16,"),
        (batch_of(1, 1500, 3, 2), DataConfig(splice=3, splice_s=15.5), "data.splice_s=7.5 instead of 15.5,"),
    ],
)
def test_the_mend_is_one_that_a_plan_can_have(batch: Batch, config: DataConfig, mend: str) -> None:
    said = str(memory.explain(MemoryError(), batch, config, FRAME_S))
    assert f"say {mend} or" in said
    assert "\n" not in said


def test_only_a_lack_of_memory_is_explained() -> None:
    batch, config = batch_of(2, 10), DataConfig()
    for err in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("x"), OSError(28, "No space"),
                RuntimeError("could not create a primitive descriptor")):  # fmt: skip
        assert memory.explain(err, batch, config, FRAME_S) is None
    for err in (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), OSError(12, "no memory"),
                RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be")):  # fmt: skip
        assert memory.explain(err, batch, config, FRAME_S) is not None


@pytest.mark.parametrize(
    ("own", "files", "limits"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "5000\n"}, [5000]),
        ("0::/\n", {"memory.max": "7000\n"}, [7000]),
        ("0::/docker/outside\n", {"memory.max": "7000\n"}, [7000]),
        ("5:cpu,memory:/x\n0::/\n", {"memory/x/memory.limit_in_bytes": "3000", "memory.max": "9000"}, [3000, 9000]),
        ("5:cpu:/x\n", {"cpu/x/memory.max": "3000"}, []),
    ],
)
def test_limits_of_control_groups(tmp_path: Path, own: str, files: dict[str, str], limits: list[int]) -> None:
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text)
    (tmp_path / "own").write_text(own)
    assert sorted(memory.cgroup_limits(str(tmp_path / "own"), str(tmp_path / "fs"))) == limits


def test_what_there_is_and_what_was_taken() -> None:
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    before = memory.peak_bytes(CPU)
    assert 0 < before < memory.limit_bytes(CPU) <= physical
    torch.ones(before // 4)  # of 4 bytes
    assert memory.peak_bytes(CPU) > 1.2 * before
