"""A real cluster of three nodes, and what happens to them in the middle: the result is that of this process alone."""

import io
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from httpd import serve

import configs
import manifests
from manifests import parquet
from manifests.schema import Utterance
from pipelines import executors, featurize, prepare
from pipelines.candidates import write_toy
from pipelines.cluster import PACKAGES, check_address, pack_code

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

Corpus = Callable[..., list[Utterance]]
Out = pytest.CaptureFixture[str]

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
WAIT_S = 60


@pytest.fixture(scope="module")
def cluster() -> Iterator["Cluster"]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in executors.SETTINGS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ACCESS_KEY_ID", "the nodes' own")
        from ray.cluster_utils import Cluster  # Ray reads the settings when it is imported

        started = Cluster(initialize_head=True, head_node_args={**NODE, "ray_client_server_port": free_port()})
        for _ in range(2):
            started.add_node(wait=False, **NODE)
        started.wait_for_nodes()
    yield started
    started.shutdown()


class Audio(dict[str, bytes]):
    """What a web server serves; the threads that answer say first what is asked for, and may be held back so."""

    asked: Callable[[str], None]

    def get(self, path: str, default: object = None) -> bytes | None:  # type: ignore[override]
        self.asked(path)
        return super().get(path)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@dataclass
class Held:
    """Audio that does not come once a shard is finished, until it is released: then all nodes are amid a shard."""

    audio: Audio
    manifest: Path
    expected: dict[str, bytes]  # of the shard set that this process writes alone
    shard_of: dict[str, str]  # by what is asked for
    out: Path = Path()
    begun: set[str] = field(default_factory=set)  # shards whose audio is asked for and held back
    changed: threading.Condition = field(default_factory=threading.Condition)
    released: bool = False

    def asked(self, path: str) -> None:
        with self.changed:
            if not self.released and any((self.out / "parts").rglob("*.json")):
                self.begun.add(self.shard_of[path])
                self.changed.notify_all()
                self.changed.wait_for(lambda: self.released, WAIT_S)

    def wait_for(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.begun) >= count, WAIT_S)

    def release(self) -> None:
        with self.changed:
            self.released = True
            self.changed.notify_all()


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> Iterator[Held]:
    folder = tmp_path_factory.mktemp("cluster")
    with serve() as site:
        site.files = audio = Audio()
        audio.asked = lambda path: None
        rows = []
        for row in corpus(folder / "in", 40, duration_s=0.3):
            audio[f"/{row.id}.wav"] = Path(row.audio).read_bytes()
            rows.append(replace(row, audio=f"{site.url}/{row.id}.wav"))
        parquet.write_utterances(str(folder / "in" / parquet.MANIFEST), rows)
        assert featurize.main([*argv(folder / "in", folder / "alone"), "--workers", "0"]) == 0
        index = pq.read_table(folder / "alone" / "index.parquet").to_pylist()
        shard_of = {f"/{row['id']}.wav": row["shard"] for row in index}
        assert len(set(shard_of.values())) >= 10
        yield Held(audio, folder / "in", files(folder / "alone"), shard_of)


@pytest.fixture
def held(material: Held, tmp_path: Path) -> Iterator[Held]:
    held = replace(material, out=tmp_path / "out", begun=set(), changed=threading.Condition())
    held.audio.asked = held.asked
    yield held
    held.release()


def argv(manifest: Path, out: Path) -> list[str]:
    return ["--manifest", str(manifest), "--out", str(out), "--shard-size", "0.03"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start(held: Held, address: str, lost_s: float = executors.LOST_S) -> subprocess.Popen[str]:
    """The command on a cluster, as a process; it is in the middle once a shard is finished and all nodes work."""
    # A shell's job in the background ignores SIGINT, and so would all that it starts.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"from configs.start import start; from pipelines import executors; executors.LOST_S = {lost_s}; "
        "start('pipelines.featurize')"
    )
    command = [sys.executable, "-c", code, *argv(held.manifest, held.out), "--ray-address", address]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes)  # type: ignore[call-overload]


def end(held: Held, driver: subprocess.Popen[str]) -> str:
    """What it has said to standard error, when it has made what this process makes alone."""
    held.release()
    with driver:
        _, said = driver.communicate(timeout=WAIT_S)
    assert driver.returncode == 0, said
    assert files(held.out) == held.expected
    return said


def working(cluster: "Cluster") -> dict[int, int]:
    """The process of each node that does a task, by that of the node's raylet."""
    raylets = {node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()}
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            title, parent = (
                (path / "cmdline").read_bytes(),
                int((path / "stat").read_text().rpartition(")")[2].split()[1]),
            )
        except (FileNotFoundError, ProcessLookupError):
            continue
        if title.startswith(b"ray::call") and parent in raylets:
            found[parent] = int(path.name)
    return found


# Nodes, workers and drivers


def test_a_worker_that_is_killed(held: Held, cluster: "Cluster") -> None:
    driver = start(held, cluster.address)
    held.wait_for(3)
    workers = list(working(cluster).values())
    assert len(workers) == 3
    os.kill(workers[0], signal.SIGKILL)
    (line,) = end(held, driver).splitlines()
    assert "a worker died; what they did is done again" in line


def test_a_node_that_joins_and_one_that_leaves(held: Held, cluster: "Cluster") -> None:
    driver = start(held, cluster.address)
    held.wait_for(3)
    cluster.add_node(**NODE)
    held.wait_for(4)  # the new one works
    node = next(iter(cluster.worker_nodes))
    worker = os.pidfd_open(working(cluster)[node.all_processes["raylet"][0].process.pid])
    cluster.remove_node(node, allow_graceful=False)
    assert select.select([worker], [], [], WAIT_S)[0]  # it has ended, before it gets what it waits for
    os.close(worker)
    (line,) = end(held, driver).splitlines()
    assert "a worker died; what they did is done again (Task failed because the node" in line


def test_a_driver_that_is_stopped_and_one_that_is_killed(held: Held, cluster: "Cluster") -> None:
    with start(held, cluster.address) as driver:
        held.wait_for(3)
        driver.send_signal(signal.SIGINT)
        _, said = driver.communicate(timeout=WAIT_S)
    assert (driver.returncode, said) == (
        130, "write-shards: error: stopped; the same command continues from what was finished\n"
    )  # fmt: skip
    held.begun.clear()
    with start(held, cluster.address) as driver:
        held.wait_for(3)
        driver.kill()
    assert not (held.out / "index.parquet").exists()
    held.release()
    assert end(held, start(held, cluster.address)) == ""


def test_undisturbed_by_the_port_for_clients(held: Held, cluster: "Cluster") -> None:
    port = cluster.head_node._ray_params.ray_client_server_port
    assert end(held, start(held, f"ray://127.0.0.1:{port}")) == ""


def test_a_cluster_that_is_lost_is_one_clear_line(held: Held, cluster: "Cluster") -> None:
    server = cluster.head_node.all_processes["gcs_server"][0].process
    with start(held, cluster.address, lost_s=2.0) as driver:
        held.wait_for(3)
        server.send_signal(signal.SIGSTOP)
        try:
            _, said = driver.communicate(timeout=WAIT_S)
        finally:
            server.send_signal(signal.SIGCONT)
    assert driver.returncode == 1 and not (held.out / "index.parquet").exists()
    assert said.splitlines()[-1] == (
        f"write-shards: error: --ray-address {cluster.address}: the cluster is lost (no answer for 2 s); "
        "repeat the command when it is back"
    )
    held.release()
    assert end(held, start(held, cluster.address)) == ""


def test_prepare_corpus_listens_on_the_cluster(cluster: "Cluster", tmp_path: Path) -> None:
    lines = ["path\ttext"]
    for i in range(70):  # three chunks
        write_toy(str(tmp_path / "audio" / f"{i}.wav"), 0.5 + i / 70)
        lines.append(f"{i}.wav\tnumber {i}" if i % 9 else f"{i}.wav\t")
    (tmp_path / "l.tsv").write_text("\n".join(lines))
    for name, where in (("alone", ["--workers", "1"]), ("cluster", ["--ray-address", cluster.address])):
        options = ["--list", f"{tmp_path}/l.tsv", "--root", f"{tmp_path}/audio", "--keep-leaks", "audio", "sentence"]
        assert prepare.main(["folder", *options, "--out", f"{tmp_path}/{name}", *where]) == 0
    alone, there = files(tmp_path / "alone"), files(tmp_path / "cluster")
    for name in ("manifest.parquet", "dropped.parquet", "fingerprints.parquet"):
        assert alone[name] == there[name]


def test_workers_have_our_code_and_the_nodes_credentials(cluster: "Cluster", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the driver's")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the driver's")

    def look(_: int) -> tuple[str, str, dict[str, str]]:
        import os

        import configs
        import manifests

        return configs.__file__, manifests.__file__, dict(os.environ)

    with executors.executor(0, cluster.address) as run:
        ((_, (config, manifest, there)),) = run(look, [0])
    assert there["AWS_ACCESS_KEY_ID"] == "the nodes' own" and "the driver's" not in there.values()
    assert {name: there[name] for name in executors.THREADS} == executors.THREADS
    for here, shipped in ((configs.__file__, config), (manifests.__file__, manifest)):
        assert here != shipped and "working_dir_files" in shipped


# Addresses


@pytest.mark.parametrize(
    "address", ["head", "ray://head", "foo://head:1", "head:0", "head:65536", "http://head:1/", ""]
)
def test_what_is_no_address_is_told_the_forms(address: str) -> None:
    with pytest.raises(
        ValueError, match=r"^--ray-address .*must be ray://HOST:PORT .*, HOST:PORT .*, auto .* or local$"
    ):
        check_address(address)


@pytest.mark.parametrize("form", ["ray://{}", "{}"])
def test_a_port_where_nobody_or_somebody_else_answers(form: str) -> None:
    with pytest.raises(ValueError, match=r"no Ray cluster answers there \(Connection refused\)$"):
        check_address(form.format(f"127.0.0.1:{free_port()}"))
    with serve() as site, pytest.raises(ValueError, match="what answers there is not Ray"):
        check_address(form.format(site.url.removeprefix("http://")))


def test_a_host_that_nobody_knows() -> None:
    with pytest.raises(ValueError, match=r"^--ray-address ray://no.such.host.invalid:10001: no Ray cluster answers"):
        check_address("ray://no.such.host.invalid:10001")


def test_a_running_cluster_passes(cluster: "Cluster") -> None:
    check_address(cluster.address)
    check_address("auto")


def test_the_code_that_nodes_get_is_the_packages_and_no_data(tmp_path: Path) -> None:
    data = Path(manifests.__file__).parent / "data of a user"
    data.mkdir()
    try:
        (data / "notes.py").write_text("secret")
        for name in ("a.zip", "b.zip"):
            pack_code(str(tmp_path / name))
    finally:
        (data / "notes.py").unlink()
        data.rmdir()
    packed = (tmp_path / "a.zip").read_bytes()
    assert packed == (tmp_path / "b.zip").read_bytes() and len(packed) < 2 << 20
    names = zipfile.ZipFile(io.BytesIO(packed)).namelist()
    assert {f"{package}/__init__.py" for package in PACKAGES} < set(names)
    assert "configs/frontend/default.yaml" in names and "pipelines/corpora/folder.py" in names
    assert not [name for name in names if "user" in name or "pycache" in name or not name.endswith((".py", ".yaml"))]
