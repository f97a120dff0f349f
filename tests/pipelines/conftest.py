from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import executors
from pipelines.executors import Run


@pytest.fixture(scope="module")
def ray_run() -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # workers import a test file's functions by its name
        with executors.executor(1) as run:
            yield run
