"""write-shards as a user meets it: what other tools read, repeats, kills, full disks and broken files."""

import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

from asr import audio
from asr.frontend import logmel
from manifests import parquet, storage
from manifests.schema import Utterance
from pipelines import featurize, prepare, shard_example
from pipelines.featurize import PARTS
from shards.index import open_shards
from shards.reader import Reader
from shards.spec import FrontendSpec

Corpus = Callable[..., list[Utterance]]
Printed = pytest.CaptureFixture[str]


def run(manifest: Path, out: Path, *more: str) -> int:
    return featurize.main(["--manifest", str(manifest), "--out", str(out), "--workers", "0", *more])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def one_line(printed: Printed) -> str:
    """The error of a command, which is all that it wrote to standard error."""
    (line,) = printed.readouterr().err.splitlines()
    assert line.startswith("write-shards: error: ")
    return line


def check_contents(tars: list[Path], utterances: list[Utterance]) -> None:
    """WebDataset and tarfile both find each utterance's features and text."""
    data = webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False, empty_check=False).decode()
    samples = {sample["__key__"]: sample for sample in data}
    members: dict[str, bytes] = {}
    for tar in tars:
        with tarfile.open(tar, "r:") as archive:
            members |= {m.name: archive.extractfile(m).read() for m in archive.getmembers()}  # type: ignore[union-attr]
    assert sorted(samples) == sorted(u.id for u in utterances) and len(members) == 2 * len(utterances)
    for u in utterances:
        samples_t = audio.read(u.audio, 16000, u.offset_s, u.duration_s)
        expected = logmel(samples_t, FrontendSpec()).astype(np.float16)
        np.testing.assert_array_equal(samples[u.id]["npy"], expected)
        np.testing.assert_array_equal(np.load(io.BytesIO(members[f"{u.id}.npy"]), allow_pickle=False), expected)
        assert samples[u.id]["txt"] == u.text == members[f"{u.id}.txt"].decode()


def test_webdataset_and_tarfile_read_the_shards(tmp_path: Path, corpus: Corpus, capsys: Printed) -> None:
    utterances = corpus(tmp_path / "in", 40)
    assert run(tmp_path / "in", tmp_path / "out", "--shard-size", "0.1", "--json") == 0
    tars = sorted((tmp_path / "out").glob("*.tar"))
    assert len(tars) > 3 and all(tar.stat().st_size < 130_000 for tar in tars)
    check_contents(tars, utterances)
    printed = json.loads(capsys.readouterr().out)
    assert printed["fingerprint"] == FrontendSpec().fingerprint and printed["dropped"] == {}
    hours = round(sum(FrontendSpec().num_frames(round(u.duration_s * 16000)) for u in utterances) / 360_000, 4)
    total = sum(tar.stat().st_size for tar in tars)
    assert printed["splits"] == {"train": {"utterances": 40, "hours": hours, "shards": len(tars), "bytes": total}}


def test_webdataset_reads_shards_of_real_speech(tmp_path: Path, speech_data: Path) -> None:
    paths = sorted((speech_data / "LibriSpeech").rglob("*.flac"))[:3]
    assert paths
    utterances = []
    for path in paths:
        info = audio.probe(str(path))
        assert info.duration_s is not None
        row = Utterance(path.stem, "librispeech", "dev", "en", path.stem.split("-")[0], str(path), 0.0, info.duration_s,
                        info.sample_rate, info.channels, "SAID", "said", "CC BY 4.0", "")  # fmt: skip
        utterances += [row, replace(row, id=f"{row.id}-part", offset_s=0.5, duration_s=1.2345)]
    parquet.write_utterances(str(tmp_path / "in" / "manifest.parquet"), utterances)
    assert run(tmp_path / "in", tmp_path / "out") == 0
    check_contents([tmp_path / "out" / "dev-00000.tar"], utterances)


def test_two_ray_workers_write_the_bytes_of_this_process(tmp_path: Path, corpus: Corpus) -> None:
    corpus(tmp_path / "in", 90, duration_s=0.2)
    for name, workers in (("inline", "0"), ("ray", "2")):
        assert run(tmp_path / "in", tmp_path / name, "--shard-size", "0.1", "--workers", workers) == 0
    assert len(list((tmp_path / "ray").glob("*.tar"))) > 2
    assert files(tmp_path / "inline") == files(tmp_path / "ray")


def test_a_set_in_a_store_is_that_of_a_disk(bucket: str, tmp_path: Path, corpus: Corpus, capsys: Printed) -> None:
    """Written to, found half done, repeated, and replaced there."""
    corpus(tmp_path / "in", 20, duration_s=0.2)
    argv = ["--manifest", str(tmp_path / "in"), "--workers", "0", "--shard-size", "0.1", "--content", "logmel8+audio"]
    assert featurize.main([*argv, "--out", str(tmp_path / "out")]) == 0
    assert featurize.main([*argv, "--out", f"{bucket}/sets/out"]) == 0
    there = {uri.removeprefix(f"{bucket}/sets/out/"): uri for uri, _ in storage.list_files(f"{bucket}/sets/out")}
    assert {name: storage.read_bytes(uri) for name, uri in there.items()} == files(tmp_path / "out")
    storage.delete(there["train-00001.tar"])
    capsys.readouterr()
    assert featurize.main([*argv, "--out", f"{bucket}/sets/out"]) == 0
    assert "files are missing or cut short; making it again" in capsys.readouterr().out
    assert {name: storage.read_bytes(uri) for name, uri in there.items()} == files(tmp_path / "out")
    reader = Reader(open_shards(str(tmp_path / "out")))
    assert reader.audio(0).startswith(b"fLaC")


def test_copies_are_added_to_what_is_trained_on(tmp_path: Path, corpus: Corpus, capsys: Printed) -> None:
    rows = corpus(tmp_path / "in", 6) + corpus(tmp_path / "dev", 3, "dev")
    parquet.write_utterances(str(tmp_path / "in" / "manifest.parquet"), rows)
    argv = ("--augment", "speed", "--copies", "2", "--json")
    assert run(tmp_path / "in", tmp_path / "out", *argv) == 0
    printed = json.loads(capsys.readouterr().out)["splits"]
    assert {split: values["utterances"] for split, values in printed.items()} == {"train": 18, "dev": 3}
    shards = open_shards(str(tmp_path / "out"))
    made = shards.table(["id", "split", "copy", "augmentation", "duration_s", "frames"]).to_pylist()
    assert sum(row["split"] == "dev" and row["copy"] == 0 for row in made) == 3
    assert sorted(row["copy"] for row in made if row["split"] == "train") == [0] * 6 + [1] * 6 + [2] * 6
    assert all((row["augmentation"] == "") == (row["copy"] == 0) for row in made)
    assert shards.moments.frames == sum(row["frames"] for row in made)
    assert run(tmp_path / "in", tmp_path / "again", *argv) == 0
    assert files(tmp_path / "again") == files(tmp_path / "out")
    capsys.readouterr()
    assert run(tmp_path / "in", tmp_path / "out", "--augment", "speed") == 1
    assert "from other inputs (copies)" in one_line(capsys)


# Kills


SHARDS = 8


@dataclass(frozen=True)
class Killed:
    manifest: Path
    out: Path  # what the dead process left
    finished: list[str]  # the shards that it had finished


def write_shards_process(*argv: str) -> subprocess.Popen[bytes]:
    code = "import sys; from pipelines.featurize import main; sys.exit(main())"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-c", code, *argv, "--workers", "0"], **quiet)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> Iterator[Killed]:
    """A run in a folder with a user's own file, killed as soon as its first shard was whole."""
    root = tmp_path_factory.mktemp("killed")
    corpus(root / "in", 210, duration_s=3.0)
    storage.write_text(str(root / "out" / "notes.txt"), "mine")
    process = write_shards_process("--manifest", str(root / "in"), "--out", str(root / "out"), "--force", *MB)
    try:
        while not list((root / "out" / PARTS).rglob("*.json")):
            assert process.poll() is None, "write-shards ended before its first shard"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    names = [path.stem for path in (root / "out" / PARTS).rglob("*.json") if not path.name.startswith(storage.STAGING)]
    assert 0 < len(names) < SHARDS and not (root / "out" / "index.parquet").exists()
    yield Killed(root / "in", root / "out", names)


MB = ["--shard-size", "1.5"]


def test_a_repeat_after_a_kill_gives_the_same_bytes_and_redoes_no_finished_shard(
    killed: Killed, tmp_path: Path
) -> None:
    undisturbed = tmp_path / "undisturbed"
    storage.write_text(str(undisturbed / "notes.txt"), "mine")
    assert run(killed.manifest, undisturbed, "--force", *MB) == 0
    assert len(list(undisturbed.glob("*.tar"))) == SHARDS
    out = shutil.copytree(killed.out, tmp_path / "out")
    (out / f"{storage.STAGING}train-00001.tar-1").write_bytes(b"half")  # as a kill while writing would leave it
    rows = pq.read_table(undisturbed / "index.parquet", columns=["audio", "shard"]).to_pylist()
    hidden = [Path(row["audio"]) for row in rows if row["shard"].removesuffix(".tar") in killed.finished]
    for path in hidden:  # a shard that was made again would now lack its utterances
        path.rename(f"{path}.away")
    try:
        assert run(killed.manifest, out, *MB) == 0
    finally:
        for path in hidden:
            Path(f"{path}.away").rename(path)
    assert len(hidden) >= 20
    assert files(out) == files(undisturbed)
    expected = {"notes.txt", "step.json", "index.parquet", "stats.json", "urls.txt", "urls-train.txt"}
    tars = {f"train-{i:05d}.tar" for i in range(SHARDS)}
    assert {path.name for path in out.iterdir()} == expected | tars | {"dropped.parquet"}


def test_a_finished_shard_whose_tar_is_gone_or_cut_is_made_again(killed: Killed, tmp_path: Path) -> None:
    assert run(killed.manifest, tmp_path / "undisturbed", *MB) == 0
    for damage in (Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-512])):
        out = shutil.copytree(killed.out, tmp_path / damage.__name__)
        (out / "notes.txt").unlink()
        damage(out / f"{killed.finished[0]}.tar")
        assert run(killed.manifest, out, *MB) == 0
        ours, clean = files(out), files(tmp_path / "undisturbed")
        assert [name for name in clean if ours[name] != clean[name]] == ["step.json"]


def test_shards_that_other_inputs_left_are_not_taken(killed: Killed, tmp_path: Path) -> None:
    """The folder also holds a user's file, so it is not emptied: the shards of the dead run are still there."""
    out = shutil.copytree(killed.out, tmp_path / "out")
    assert run(killed.manifest, out, "--frontend", "8k", *MB) == 1
    assert run(killed.manifest, out, "--frontend", "8k", "--force", *MB) == 0
    assert run(killed.manifest, tmp_path / "clean", "--frontend", "8k", *MB) == 0
    ours, clean = files(out), files(tmp_path / "clean")
    assert ours.pop("notes.txt") == b"mine"
    assert clean.keys() <= ours.keys()
    assert [name for name in clean if ours[name] != clean[name]] == ["step.json"]  # which says whose folder it was


# Repeats


def test_the_same_inputs_are_recognised_and_nothing_is_touched(tmp_path: Path, corpus: Corpus, capsys: Printed) -> None:
    corpus(tmp_path / "in", 5)
    out = tmp_path / "out"
    assert run(tmp_path / "in", out) == 0
    before = stamps(out)
    assert not before.keys() & {PARTS}
    (out / PARTS).mkdir()  # what a kill after the very last step leaves
    (out / PARTS / "train-00000.json").write_text("{}")
    capsys.readouterr()
    for more in ([], ["--force"], ["--workers", "1"]):
        assert run(tmp_path / "in", out, *more) == 0
        assert "already done" in capsys.readouterr().out
        assert stamps(out) == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--frontend", "8k"], "frontend"),
        (["--shard-size", "1"], "shard_size_mb"),
        (["--splits", "dev"], "manifest"),
        (["--content", "audio"], "content"),
        (["--augment", "speed"], "augment, copies"),
    ],
)
def test_other_inputs_are_refused_by_name_and_replaced_with_force(
    tmp_path: Path, corpus: Corpus, capsys: Printed, change: list[str], named: str
) -> None:
    rows = corpus(tmp_path / "in", 3) + corpus(tmp_path / "dev", 2, "dev")
    parquet.write_utterances(str(tmp_path / "in" / "manifest.parquet"), rows)
    out = tmp_path / "out"
    assert run(tmp_path / "in", out) == 0
    capsys.readouterr()
    before = stamps(out)
    assert run(tmp_path / "in", out, *change) == 1
    line = one_line(capsys)
    assert f"from other inputs ({named})" in line and "--force" in line and str(out) in line
    assert stamps(out) == before
    assert run(tmp_path / "in", out, *change, "--force") == 0
    assert run(tmp_path / "in", tmp_path / "clean", *change) == 0
    assert files(out) == files(tmp_path / "clean")


def test_a_folder_with_strange_files_is_refused_and_keeps_them_with_force(
    tmp_path: Path, corpus: Corpus, capsys: Printed
) -> None:
    corpus(tmp_path / "in", 2)
    storage.write_text(str(tmp_path / "out" / "thesis.txt"), "years of work")
    assert run(tmp_path / "in", tmp_path / "out") == 1
    assert "holds nothing that a step made" in one_line(capsys)
    assert run(tmp_path / "in", tmp_path / "out", "--force") == 0
    assert run(tmp_path / "in", tmp_path / "out", "--force", "--frontend", "8k") == 0
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


# What goes wrong


def test_a_file_that_broke_after_its_manifest_was_made_is_dropped_with_a_reason(
    tmp_path: Path, corpus: Corpus, capsys: Printed
) -> None:
    utterances = corpus(tmp_path / "in", 6)
    broken = utterances[2]
    Path(broken.audio).write_bytes(b"RIFF, once")
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert "dropped: undecodable: 1 utterance," in capsys.readouterr().out
    (row,) = pq.read_table(tmp_path / "out" / "dropped.parquet").to_pylist()
    assert (row["id"], row["split"], row["duration_s"]) == (broken.id, "train", broken.duration_s)
    assert row["reason"] == "undecodable" and broken.audio in row["detail"]
    check_contents([tmp_path / "out" / "train-00000.tar"], [u for u in utterances if u is not broken])


def test_a_split_of_broken_files_alone_has_no_shard(tmp_path: Path, corpus: Corpus) -> None:
    for u in corpus(tmp_path / "dev", 2, "dev"):
        Path(u.audio).unlink()
    corpus(tmp_path / "in", 2)
    assert run(tmp_path / "in", tmp_path / "out", "--manifest", str(tmp_path / "in"), str(tmp_path / "dev")) == 0
    assert (tmp_path / "out" / "urls.txt").read_text() == "train-00000.tar\n"
    assert not list((tmp_path / "out").glob("*dev*"))


@pytest.mark.parametrize("own_file", [False, True])
def test_when_nothing_can_be_used_the_folder_is_as_it_was(
    tmp_path: Path, corpus: Corpus, capsys: Printed, own_file: bool
) -> None:
    utterances = corpus(tmp_path / "in", 3)
    sound = {u.audio: Path(u.audio).read_bytes() for u in utterances}
    for path in sound:
        Path(path).write_bytes(b"RIFF, once")
    out = tmp_path / "out"
    out.mkdir()
    if own_file:
        (out / "notes.txt").write_text("mine")
    before = files(out)
    assert run(tmp_path / "in", out, "--force") == 1
    line = one_line(capsys)
    assert "no utterance could be used; the first: " in line and str(tmp_path / "in") in line
    assert files(out) == before and {path.name for path in out.iterdir()} == set(before)
    for path, data in sound.items():
        Path(path).write_bytes(data)
    assert run(tmp_path / "in", out, "--force") == 0
    check_contents([out / "train-00000.tar"], utterances)


# Audio that cannot be read


def fail(utterance: Utterance) -> None:
    """Every read of the file fails (EIO), as on a dying disk: nothing is mapped at the start of a process's memory."""
    path = Path(utterance.audio)
    path.rename(f"{path}.sound")
    path.symlink_to("/proc/self/mem")


def mend(utterance: Utterance) -> None:
    Path(f"{utterance.audio}.sound").replace(utterance.audio)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_example, "PAUSES_S", (0.0, 0.0))


def test_a_few_that_cannot_be_read_are_quarantined_and_counted(
    tmp_path: Path, corpus: Corpus, capsys: Printed, hasty: None
) -> None:
    utterances = corpus(tmp_path / "in", 20)
    fail(utterances[3])
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert "dropped: quarantined: 1 utterance," in capsys.readouterr().out
    (row,) = pq.read_table(tmp_path / "out" / "dropped.parquet").to_pylist()
    assert (row["id"], row["reason"]) == (utterances[3].id, "quarantined") and "Input/output error" in row["detail"]
    check_contents([tmp_path / "out" / "train-00000.tar"], [u for u in utterances if u is not utterances[3]])
    mend(utterances[3])
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert "already done" in capsys.readouterr().out
    assert run(tmp_path / "in", tmp_path / "out", "--force") == 0
    check_contents([tmp_path / "out" / "train-00000.tar"], utterances)


def test_too_many_that_cannot_be_read_end_the_command_and_the_same_command_tries_them_again(
    tmp_path: Path, corpus: Corpus, capsys: Printed, hasty: None
) -> None:
    """Spread over shards, none of which has too many by itself."""
    utterances = corpus(tmp_path / "in", 12, duration_s=0.2)
    argv = ("--shard-size", "0.02", "--max-quarantined", "4")
    assert run(tmp_path / "in", tmp_path / "undisturbed", *argv) == 0
    for u in utterances[2:7]:
        fail(u)
    capsys.readouterr()
    assert run(tmp_path / "in", tmp_path / "out", *argv) == 1
    line = one_line(capsys)
    assert "5 utterances could not be read, more than --max-quarantined 4; the first: " in line
    assert "Input/output error" in line and line.endswith("the same command tries them again")
    assert not (tmp_path / "out" / "index.parquet").exists()
    kept = [json.loads(path.read_bytes()) for path in (tmp_path / "out" / PARTS).rglob("*.json")]
    assert all(record["utterances"] and not record["dropped"] for record in kept)
    for u in utterances[2:7]:
        mend(u)
    assert run(tmp_path / "in", tmp_path / "out", *argv) == 0
    assert len(list((tmp_path / "out").glob("*.tar"))) > 3
    assert files(tmp_path / "out") == files(tmp_path / "undisturbed")


def test_what_a_killed_run_with_a_higher_limit_quarantined_is_tried_again(
    tmp_path: Path, corpus: Corpus, hasty: None
) -> None:
    utterances = corpus(tmp_path / "in", 8, duration_s=0.2)
    for u in utterances[:3]:
        fail(u)
    in_the_way = tmp_path / "out" / "dropped.parquet"
    in_the_way.mkdir(parents=True)  # the run ends when its shards are finished
    argv = ("--shard-size", "0.02", "--force")
    assert run(tmp_path / "in", tmp_path / "out", *argv, "--max-quarantined", "3") == 1
    assert len(list((tmp_path / "out" / PARTS).rglob("*.json"))) > 1
    in_the_way.rmdir()
    for u in utterances[:3]:
        mend(u)
    assert run(tmp_path / "in", tmp_path / "out", *argv, "--max-quarantined", "2") == 0
    assert len(pq.read_table(tmp_path / "out" / "index.parquet")) == 8


def test_as_many_may_fail_as_the_user_says(tmp_path: Path, corpus: Corpus, hasty: None) -> None:
    utterances = corpus(tmp_path / "in", 16)
    for u in utterances[:12]:
        fail(u)
    assert run(tmp_path / "in", tmp_path / "out") == 1  # 10, unless there are more than 10,000 utterances
    assert run(tmp_path / "in", tmp_path / "out", "--max-quarantined", "12") == 0
    assert len(pq.read_table(tmp_path / "out" / "dropped.parquet")) == 12


DISK_FULL = """
import shutil, subprocess, sys
from pathlib import Path
from pipelines.featurize import main
manifest, disk = sys.argv[1], Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
(disk / "ballast").write_bytes(bytes(600_000))
argv = ["--manifest", manifest, "--out", str(disk / "out"), "--workers", "0", "--shard-size", "0.2"]
first = main(argv)
kept = [path.name for path in (disk / "out").rglob("*") if path.is_file()]
(disk / "ballast").unlink()
second = main(argv)
shutil.copytree(disk / "out", sys.argv[3])
staged = [name for name in kept if name.startswith(".writing")]
print(f"exit {first}, then {second}; staged: {staged}; shards: {sum(name.endswith('.tar') for name in kept)}")
"""


def test_a_full_disk_is_one_clear_line_and_a_repeat_goes_on(tmp_path: Path, corpus: Corpus) -> None:
    """On a real disk of 1 MB, which a mount namespace of its own gives to a user who may make one."""
    namespace = ["unshare", "--map-root-user", "--mount"]
    (tmp_path / "disk").mkdir()
    probe = [*namespace, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path / "disk")]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no mount namespaces for this user here")
    corpus(tmp_path / "in", 64, duration_s=0.4)
    argv = [str(tmp_path / "in"), str(tmp_path / "disk"), str(tmp_path / "copied")]
    done = subprocess.run([*namespace, sys.executable, "-c", DISK_FULL, *argv], capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert line.endswith(
        "no space left on the device; free some, then the same command continues from what was finished"
    )
    assert done.stdout.splitlines()[-1] == "exit 1, then 0; staged: []; shards: 2"
    assert run(tmp_path / "in", tmp_path / "out", "--shard-size", "0.2") == 0
    assert files(tmp_path / "copied") == files(tmp_path / "out")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--shard-size", "0"], "--shard-size must be above 0"),
        (["--shard-size", "nan"], "--shard-size must be above 0"),
        (["--shard-size", "inf"], "--shard-size must be above 0 and finite"),
        (["--workers", "-1"], "--workers 0 or more"),
        (["--frontend", "defualt"], "did you mean default?"),
        (["--augment", "sped"], "did you mean speed?"),
        (["--augment", "speed", "--copies", "0"], "--copies must be 1 or more"),
        (["--copies", "2"], "needs --augment NAME"),
        (["--max-quarantined", "-1"], "--max-quarantined must be 0 or more"),
        (["--splits", "dev-other"], "no split dev-other; there are train"),
        (["--manifest", "nowhere"], "nowhere/manifest.parquet: no such manifest"),
    ],
)
def test_wrong_options_are_one_clear_line(
    tmp_path: Path, corpus: Corpus, capsys: Printed, more: list[str], message: str
) -> None:
    corpus(tmp_path / "in", 1)
    assert run(tmp_path / "in", tmp_path / "out", *more) == 1
    assert message in one_line(capsys) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["missing shard", "short shard", "missing index"])
def test_a_finished_set_that_lost_files_is_made_again(tmp_path: Path, corpus: Corpus, damage: str) -> None:
    corpus(tmp_path / "in", 3)
    assert run(tmp_path / "in", tmp_path / "out") == 0
    before = files(tmp_path / "out")
    path = tmp_path / "out" / ("index.parquet" if damage == "missing index" else "train-00000.tar")
    if damage == "short shard":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert files(tmp_path / "out") == before


def test_the_manifest_is_never_replaced_by_its_shards(tmp_path: Path, capsys: Printed) -> None:
    toy = prepare.found()["librispeech"].tiny(tmp_path)
    assert prepare.main(["librispeech", *toy, "--out", f"{tmp_path}/m", "--workers", "1"]) == 0
    before = files(tmp_path / "m")
    capsys.readouterr()
    assert run(tmp_path / "m", tmp_path / "m", "--force") == 1
    assert "--force would delete" in one_line(capsys) and files(tmp_path / "m") == before


def test_a_split_is_no_path(tmp_path: Path, corpus: Corpus) -> None:
    corpus(tmp_path / "in", 1, split="train")
    (row,) = parquet.read_manifests([str(tmp_path / "in")])
    parquet.write_utterances(str(tmp_path / "in" / "manifest.parquet"), [replace(row, split="../x/y")])
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert (tmp_path / "out" / "urls-___x_y.txt").read_text() == "___x_y-00000.tar\n"


def test_a_manifest_without_utterances_is_refused(tmp_path: Path, capsys: Printed) -> None:
    parquet.write_utterances(str(tmp_path / "in" / "manifest.parquet"), [])
    assert run(tmp_path / "in", tmp_path / "out") == 1
    assert "holds no utterance" in one_line(capsys)
