"""The rules of the house, read from the syntax trees: who imports whom, who touches bytes, how long things may be."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("pipelines", "asr", "shards", "manifests", "configs")  # each may import itself and those to its right
SOURCES = [path.relative_to(ROOT).as_posix() for name in ORDER for path in sorted((ROOT / name).rglob("*.py"))]

_WAVEFORM = {"asr.codecs", "asr.waveform_config"}  # of asr.waveform
_LOGMEL = {"asr.frontend", "asr.lanes", "asr.logmel_ir"}
OFFLINE_ASR = {"asr.audio", "asr.formats", "asr.levels", "asr.tokenizer", *_LOGMEL, *_WAVEFORM}
LIVE_ASR = {  # what recognises through any runtime: no torch where the runtime is another
    "asr.bundle", "asr.endpoint", "asr.engine", "asr.engines.exported", "asr.engines.onnx_engine",
    "asr.engines.openvino_engine", "asr.live", "asr.lm", "asr.runtimes", "asr.search", "asr.searching", "asr.serve",
    "asr.serving", "asr.stream", "asr.transcribe", "asr.transcribing", "asr.words",
}  # fmt: skip
LATE = {"asr/runtimes.py": {"torch"}}  # imported inside the function that needs it
WITH_TORCH = {"asr.waveform"}  # which pipelines import inside the function that needs it
TORCH = {"torch", "torchaudio", "torch_audiomentations"}
PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
BYTES = {"open", "read_text", "read_bytes", "write_text", "write_bytes"}
DOORS = {"storage", "av"}  # names whose .open() or .read_bytes() is no file of ours: the door, and FFmpeg behind it
OPENS_FILES = {
    "manifests/storage.py": "the one door to bytes",
    "configs/load.py": "configs are part of the program, and configs may import nothing",
    "asr/training/health.py": "metrics.jsonl grows line by line; the door writes whole files only",
}
FILE_LINES, FUNCTION_LINES, TRAIN_FUNCTION_LINES = 400, 60, 100


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere, also inside functions; `from a import b` gives a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str, str]]:
    """Every call with what is called: (`a.b`, `c`) of a.b.c(), and ("", `c`) of c()."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node, ast.unparse(node.func.value), node.func.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node, "", node.func.id


def keyword_is_true(call: ast.Call, name: str) -> bool:
    return any(k.arg == name and isinstance(k.value, ast.Constant) and k.value.value is True for k in call.keywords)


def to_the_left(path: str, tree: ast.AST) -> Iterator[str]:
    package = path.partition("/")[0]
    for name in imports(tree):
        target = name.partition(".")[0]
        if target in ORDER and ORDER.index(target) < ORDER.index(package):
            yield f"{package} imports {name}"


def more_of_asr_than_the_offline_part(path: str, tree: ast.AST) -> Iterator[str]:
    if path.startswith("pipelines/"):
        for name in imports(tree):
            if name.startswith("asr.") and not among(name, OFFLINE_ASR | WITH_TORCH):
                yield name


def among(name: str, modules: set[str]) -> bool:
    """Whether a module, or a name in one, is one of these or in a package among them."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def ray_outside_executors(path: str, tree: ast.AST) -> Iterator[str]:
    if path != "pipelines/executors.py":
        yield from (name for name in imports(tree) if name.partition(".")[0] == "ray")


def loads_no_torch(path: str) -> bool:
    """Everything but asr, and of asr what pipelines take and what recognises."""
    return not path.startswith("asr/") or among(module_of(path), OFFLINE_ASR | LIVE_ASR)


def module_of(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


def torch_left_of_asr(path: str, tree: ast.AST) -> Iterator[str]:
    if loads_no_torch(path):
        forbidden = TORCH - LATE.get(path, set())
        yield from (name for name in imports(tree) if name.partition(".")[0] in forbidden)


def files_opened_beside_the_door(path: str, tree: ast.AST) -> Iterator[str]:
    if path not in OPENS_FILES:
        yield from _opened(tree)


def _opened(tree: ast.AST) -> Iterator[str]:
    for call, owner, name in calls(tree):
        if name in BYTES and owner not in DOORS:
            yield f"line {call.lineno}: {owner}.{name}()"


def shells_and_pickles(path: str, tree: ast.AST) -> Iterator[str]:
    yield from (f"imports {name}" for name in imports(tree) if name.partition(".")[0] in PICKLES)
    for call, owner, name in calls(tree):
        unsafe = (
            keyword_is_true(call, "shell")
            or keyword_is_true(call, "allow_pickle")
            or (owner, name) in {("os", "system"), ("os", "popen"), ("torch", "save")}
            or (owner == "torch" and name == "load" and not keyword_is_true(call, "weights_only"))
            or (owner == "yaml" and name.endswith("load") and name != "safe_load")
            or (owner == "" and name in {"eval", "exec"})
        )
        if unsafe:
            yield f"line {call.lineno}: {ast.unparse(call)}"


def long_functions(path: str, tree: ast.AST) -> Iterator[str]:
    limit = TRAIN_FUNCTION_LINES if path == "asr/train.py" else FUNCTION_LINES
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > limit:
                yield f"{node.name} has {lines} lines, more than {limit}"


Rule = Callable[[str, ast.AST], Iterator[str]]
RULES: list[Rule] = [
    to_the_left,
    more_of_asr_than_the_offline_part,
    ray_outside_executors,
    torch_left_of_asr,
    files_opened_beside_the_door,
    shells_and_pickles,
    long_functions,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_sources_keep_the_rule(rule: Rule) -> None:
    found = [f"{path}: {text}" for path in SOURCES for text in rule(path, ast.parse((ROOT / path).read_text()))]
    assert found == []


@pytest.mark.parametrize(
    ("rule", "path", "good", "bad"),
    [
        (to_the_left, "shards/a.py", "from manifests import storage", "def f():\n  from asr import audio"),
        (to_the_left, "asr/a.py", "import asr.audio, configs.load", "from pipelines.parts import Part"),
        (more_of_asr_than_the_offline_part, "pipelines/a.py", "from asr.audio import read", "from asr import data"),
        (ray_outside_executors, "asr/a.py", "import raylib", "import ray.data"),
        (torch_left_of_asr, "shards/a.py", "import numpy", "from torch import nn"),
        (torch_left_of_asr, "asr/audio.py", "import numpy", "import torchaudio"),
        (files_opened_beside_the_door, "asr/a.py", "storage.read_bytes(u)\nav.open(f)", "open(u)"),
        (files_opened_beside_the_door, "asr/a.py", "path.exists()", "Path(u).write_text('a')"),
        (shells_and_pickles, "asr/a.py", "run(['ls'], shell=False)", "run('ls', shell=True)"),
        (shells_and_pickles, "asr/a.py", "import json", "from pickle import loads"),
        (shells_and_pickles, "asr/a.py", "torch.load(f, weights_only=True)", "torch.load(f)"),
        (shells_and_pickles, "asr/a.py", "yaml.safe_load(t)", "yaml.load(t, yaml.Loader)"),
        (shells_and_pickles, "asr/a.py", "model.eval()", "eval('1')"),
        (long_functions, "asr/a.py", "def f():" + "\n  1" * 59, "def f():" + "\n  1" * 60),
        (long_functions, "asr/train.py", "def f():" + "\n  1" * 60, "def f():" + "\n  1" * 100),
    ],
)
def test_a_rule_sees_what_breaks_it(rule: Rule, path: str, good: str, bad: str) -> None:
    assert list(rule(path, ast.parse(good))) == []
    assert list(rule(path, ast.parse(bad))) != []


def test_each_file_that_may_open_files_does() -> None:
    for path in OPENS_FILES:
        assert list(_opened(ast.parse((ROOT / path).read_text()))), f"{path} needs no exception any more"


def test_no_file_is_long_and_packages_are_empty() -> None:
    assert {path.partition("/")[0] for path in SOURCES} == set(ORDER)
    for path in SOURCES:
        text = (ROOT / path).read_text()
        assert len(text.splitlines()) <= FILE_LINES, f"{path} holds two ideas; split it"
        assert not (path.endswith("/__init__.py") and text), f"{path} is to be empty"


def modules() -> list[str]:
    return [module_of(path) for path in SOURCES if not path.endswith("__init__.py") and loads_no_torch(path)]


def python(code: str, *argv: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_preparing_featurising_and_live_recognition_load_neither_torch_nor_ray() -> None:
    assert {"pipelines.prepare", "pipelines.featurize", "asr.formats.flac", "asr.stream"} <= set(modules())
    code = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("torch", "torchaudio", "ray"):
            raise ImportError(f"{name} is imported")

sys.meta_path.insert(0, Blocked())
for name in sys.argv[1:]:
    importlib.import_module(name)
print(len(sys.argv[1:]), "imported")
"""
    assert python(code, *modules()) == f"{len(modules())} imported\n"


@pytest.mark.parametrize("package", ORDER)
def test_a_package_itself_loads_nothing(package: str) -> None:
    code = "import sys; before = set(sys.modules); __import__(sys.argv[1]); print(set(sys.modules) - before)"
    assert python(code, package) == f"{{{package!r}}}\n"
