"""What all commands share."""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from configs import cli

ROOT = Path(__file__).resolve().parents[2]
Printed = pytest.CaptureFixture[str]


def run(body: Callable[[argparse.Namespace], object], *argv: str) -> int:
    parser = argparse.ArgumentParser(prog="bake")
    cli.add_json(parser)
    return cli.run(body, parser, list(argv))


def raises(error: BaseException) -> Callable[[argparse.Namespace], None]:
    def body(args: argparse.Namespace) -> None:
        print("working")
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("no flour; buy some"), 1, "no flour; buy some"),
        (EOFError("a.tar: cut short"), 1, "a.tar: cut short"),
        (KeyboardInterrupt(), 130, "stopped; the same command starts over"),
        (FileNotFoundError(2, "No such file", "a.wav"), 1, "a.wav: no such file or folder"),
        (FileNotFoundError("s3://b/a is not there"), 1, "s3://b/a is not there"),
        (PermissionError(13, "Permission denied", "/root/a"), 1, "/root/a: Permission denied"),
        (OSError(28, "No space left", "/full/a"), 1,
         "/full/a: no space left on the device; free some, then the same command starts over"),
        (OSError("timed out"), 1, "timed out"),
        # what a terminal would obey
        (ValueError("http://h/\x1b[2J\x07: is gone"), 1, "http://h/\ufffd[2J\ufffd: is gone"),
    ],
)  # fmt: skip
def test_what_a_user_can_mend_is_one_line_and_an_exit_code(
    capsys: Printed, error: BaseException, code: int, line: str
) -> None:
    assert run(raises(error)) == code
    printed = capsys.readouterr()
    assert printed.err == f"bake: error: {line}\n" and printed.out == "working\n"


@pytest.mark.parametrize(
    ("continues", "option", "said"),
    [
        (False, "--crusty", "starts over"),
        (True, "--crusty", "continues from what was finished"),
        (False, "--resume", "with --resume continues from what was finished"),
    ],
)
def test_who_is_stopped_hears_what_a_repeat_does(capsys: Printed, continues: bool, option: str, said: str) -> None:
    parser = argparse.ArgumentParser(prog="bake")
    parser.add_argument(option, action="store_true")
    for error in (KeyboardInterrupt(), OSError(28, "No space left", "a")):
        cli.run(raises(error), parser, [], continues)
        assert capsys.readouterr().err.endswith(f"the same command {said}\n")


@pytest.mark.parametrize("error", [AssertionError("a defect"), KeyError("x"), TypeError("y")])
def test_our_own_mistakes_are_not_hidden(error: Exception) -> None:
    with pytest.raises(type(error)):
        run(raises(error))


def test_a_reader_that_has_seen_enough_is_no_error(capsys: Printed) -> None:
    assert run(raises(BrokenPipeError())) == 0
    assert capsys.readouterr().err == ""


def test_a_real_file_that_is_not_there_is_named(tmp_path: Path, capsys: Printed) -> None:
    assert run(lambda args: (tmp_path / "gone").read_bytes()) == 1
    assert capsys.readouterr().err == f"bake: error: {tmp_path / 'gone'}: no such file or folder\n"


def test_an_unknown_option_is_exit_code_2() -> None:
    with pytest.raises(SystemExit) as stop:
        run(lambda args: None, "--jason")
    assert stop.value.code == 2


def test_positionals_may_stand_between_options() -> None:
    parser = argparse.ArgumentParser(prog="bake")
    parser.add_argument("--oven")
    parser.add_argument("breads", nargs="*")
    seen: list[list[str]] = []
    assert cli.run(lambda args: seen.append(args.breads), parser, ["rye", "--oven", "1", "oat"]) == 0
    assert seen == [["rye", "oat"]]


def done(args: argparse.Namespace) -> None:
    cli.say(args, "baking")
    cli.summary(args, {"loaves": 3, "name": "brød"}, "3 loaves")


def test_a_person_reads_text_and_a_program_pure_json(capsys: Printed) -> None:
    assert run(done) == 0
    assert capsys.readouterr() == ("baking\n3 loaves\n", "")
    assert run(done, "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"loaves": 3, "name": "brød"} and printed.err == "baking\n"


def test_a_table_lines_up() -> None:
    table = cli.table(["split", "hours"], [["train", "1.00"], ["d", "100.00"]])
    assert table == "split   hours\ntrain    1.00\nd      100.00"


def test_hardly_anything_is_imported_before_ctrl_c_is_silent() -> None:
    """Each module more is a while in which it prints a traceback."""
    code = "import re, sys; before = {*sys.modules}; from asr import commands; print(*sorted({*sys.modules} - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    ours = {"asr", "asr.commands", "configs", "configs.start"}
    assert {*done.stdout.split()} <= {*ours, "importlib", "importlib._bootstrap", "signal", "_signal", "warnings"}


INTERRUPT = "os.kill(os.getpid(), signal.SIGINT)\n"
BODY = """
def body(args):
    print("at work", flush=True)
    {body}
    print("done", flush=True)

def main():
    return cli.run(body, argparse.ArgumentParser(prog="bake"), [])
"""


@pytest.mark.parametrize(
    ("importing", "body", "handled", "code", "out", "err"),
    [
        (INTERRUPT, "", True, 130, "", ""),
        ("", f"with cli.loading(): {INTERRUPT}", True, 130, "at work\n", ""),
        ("", f"with cli.loading(): pass\n    {INTERRUPT}", True, 130, "at work\n",
         "bake: error: stopped; the same command starts over\n"),
        ("", INTERRUPT, True, 130, "at work\n",
         "bake: error: stopped; the same command starts over\n"),
        (INTERRUPT, f"with cli.loading(): {INTERRUPT}", False, 0, "at work\ndone\n", ""),
    ],
    ids=["while modules are imported", "while more is imported", "behind that", "at work", "ignored"],
)  # fmt: skip
def test_ctrl_c_ends_a_command_without_a_traceback(
    tmp_path: Path, importing: str, body: str, handled: bool, code: int, out: str, err: str
) -> None:
    imports = f"import argparse, os, signal\nfrom configs import cli\n{importing}"
    (tmp_path / "baking.py").write_text(imports + BODY.format(body=body))
    before = signal.signal(signal.SIGINT, signal.default_int_handler if handled else signal.SIG_IGN)
    try:  # a child of a shell's `&` begins with the signal ignored
        done = subprocess.run(
            [sys.executable, "-c", "from configs.start import start; start('baking')"], capture_output=True, text=True,
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)
