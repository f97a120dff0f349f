"""The commands as a user's shell finds them."""

import importlib
import subprocess
import sys
from functools import partial

from asr import commands


def test_each_command_has_a_main() -> None:
    started = [value for value in vars(commands).values() if isinstance(value, partial)]
    assert len(started) == 9
    for each in started:
        assert callable(importlib.import_module(each.args[0]).main)


def test_nothing_large_is_imported_before_ctrl_c_is_seen_to() -> None:
    code = "import sys; from asr import commands; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "torch", "yaml", "manifests", "shards"} & set(done.stdout.split())
