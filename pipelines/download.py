"""Archives of a corpus, from where they are published to `<root>/<name>.tar` with an index of its members.

A task per archive: the compressed bytes are kept in parts while they arrive (pipelines/partial.py), hashed and
gunzipped in the same pass (manifests/archive.py), and deleted when size and hash were right. What was fetched is not
fetched again, and a run that was killed goes on at the byte: a repeated command does what is missing.
"""

import argparse
import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from configs import cli
from configs.wording import counted
from manifests import archive, storage
from manifests.archive import Received
from manifests.storefaults import shown
from manifests.tarstream import Damaged
from pipelines import executors, http, partial
from pipelines.http import Patience, Version
from pipelines.progress import size, watched

AT_MOST = 3  # archives at once; a corpus comes from one host
READ_BYTES = 1 << 20
REMOTE_READ_BYTES = 64 << 20  # a request each

_ENDINGS = (".tar.gz", ".tgz", ".tar")


@dataclass(frozen=True, slots=True)
class Archive:
    """A .tar.gz or .tar as it is published, or as it lies on this machine or in an object store.

    `url`: http(s), an object store's, or a path. `size_bytes`, `sha256`, `md5` are the published ones, as far as there
    are any. `expansion`: how much longer the tar is, about; for the look at the free space.
    """

    name: str
    url: str = field(repr=False)  # its query may be a secret
    size_bytes: int | None
    sha256: str | None
    md5: str | None
    expansion: float = 1.1

    @property
    def is_remote(self) -> bool:
        return self.url.startswith(("http://", "https://"))

    @property
    def published_hash(self) -> str:
        return self.sha256 or self.md5 or ""


@dataclass(frozen=True, slots=True)
class Task:
    archive: Archive
    root: str

    @property
    def tar(self) -> str:
        return storage.join(self.root, f"{self.archive.name}.tar")

    @property
    def parts(self) -> str:
        """The folder for what arrives. What is published under the same name with other bytes has another one."""
        version = (self.archive.published_hash or str(self.archive.size_bytes or "unknown"))[:16]
        return storage.join(self.root, f"{archive.FETCHING}{self.archive.name}-{version}")

    @property
    def rejected(self) -> str:
        return storage.join(self.root, self.archive.name + archive.REJECTED)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`received` is None where there is an `error`, or where another command was faster.

    `failures`: how often something went wrong on the way.
    """

    received: Received | None
    failures: int
    error: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("getting the corpus")
    group.add_argument("--download", action="store_true", help="fetch what is not in --root yet (a folder or a URL)")
    group.add_argument(
        "--archive", nargs="+", metavar="FILE", help="archives that are here already: checked and indexed in --root"
    )
    group.add_argument("--mirror", metavar="URL", help="fetch the files of the same names from below this URL")


def given(files: Sequence[str], known: Sequence[Archive], any_name: bool = False) -> list[Archive]:
    """The archives of --archive, with what is published about them: they are known by their file names.

    `any_name`: others are taken as they are, named by their files. Else raises ValueError for them; it also does so for
    a file that is missing, and for two of one name.
    """
    published = {_file_name(a.url): a for a in known}
    found: dict[str, Archive] = {}
    for file in files:
        uri = storage.absolute(file)
        told = "--archive " + (shown(uri) if "://" in uri else file)
        file_name = _file_name(uri)
        if (of := published.get(file_name)) is not None:
            one = Archive(of.name, uri, of.size_bytes, of.sha256, of.md5, of.expansion)
        elif any_name and file_name.endswith(_ENDINGS):
            ending = next(e for e in _ENDINGS if file_name.endswith(e))
            one = Archive(file_name.removesuffix(ending), uri, None, None, None)
        else:
            names = ", ".join(published) or "files that end in .tar.gz, .tgz or .tar"
            if storage.is_local(uri) and storage.is_folder(uri):
                raise ValueError(f"{told}: is a folder; an unpacked tree is read with --root {file}")
            raise ValueError(f"{told}: is not known by this name; known are {names}")
        if not one.is_remote and not storage.exists(uri):
            raise ValueError(f"{told}: no such file")
        if found.setdefault(one.name, one) is not one:
            raise ValueError(f"{told}: {one.name} is given twice")
    return list(found.values())


def fetch(archives: Sequence[Archive], args: argparse.Namespace) -> None:
    """Bring all that are not there yet to `args.root`; also reads mirror, workers, ray_address and json of `args`.

    One that fails does not stop the others. Raises ValueError that says what failed and why, or that the disk of a
    local root is too small; OSError when it is full all the same.
    """
    assert len({a.name for a in archives}) == len(archives)
    root = storage.absolute(args.root)
    tasks = [Task(_mirrored(a, args.mirror), root) for a in archives]
    missing = [task for task in tasks if not archive.is_there(task.tar)]
    for task in tasks:
        if task not in missing:
            cli.say(args, f"{task.archive.name}: is in {root} already")
    if not missing:
        return
    for task in missing:
        storage.delete_abandoned(root, storage.name(task.tar))
    _check_space(missing, root)
    cli.say(args, f"fetching {', '.join(task.archive.name for task in missing)} to {root}")
    here = args.ray_address is None and (args.workers <= 1 or len(missing) == 1)  # starting Ray takes seconds
    errors: list[str] = []
    with _progress(missing) as done, executors.executor(0 if here else args.workers, args.ray_address) as run:
        for position, outcome in run(fetch_one, missing, at_most=AT_MOST):
            done[position] = outcome.received.archive_bytes if outcome.received else 0
            if outcome.error:
                errors.append(outcome.error)
            if not outcome.error or len(missing) > 1:
                cli.say(args, _line(missing[position], outcome))
    if len(errors) > 1:
        raise ValueError(f"{len(errors)} of {len(missing)} archives were not fetched; the first: {errors[0]}")
    if errors:
        raise ValueError(errors[0])


def fetch_one(task: Task) -> Outcome:
    """Raises OSError for what concerns all tasks, a full disk for one."""
    storage.delete_abandoned(task.root, storage.name(task.tar))
    patience = Patience(task.archive.name)
    try:
        received = _from_server(task, patience) if task.archive.is_remote else _from_file(task)
    except ValueError as err:
        return Outcome(None, patience.failures, str(err))
    except FileNotFoundError:
        if not archive.is_there(task.tar):
            raise
        received = None  # another command finished it, and deleted the parts
    return Outcome(received, patience.failures, "")


def _from_file(task: Task) -> Received:
    source = task.archive
    size_bytes = storage.size_bytes(source.url)
    _check_size(source, size_bytes, source.url)
    try:
        task = replace(task, archive=replace(source, size_bytes=size_bytes))  # a header cannot say more than this holds
        return _receive(_read(source.url, size_bytes), task, source.url)
    except Damaged as err:
        raise ValueError(f"{err}; the file is left as it is, and is not used") from None


def _read(uri: str, size_bytes: int) -> Iterator[bytes]:
    step = READ_BYTES if storage.is_local(uri) else REMOTE_READ_BYTES
    for offset in range(0, size_bytes, step):
        piece = storage.read_range(uri, offset, min(step, size_bytes - offset))
        for start in range(0, len(piece), READ_BYTES):
            yield piece[start : start + READ_BYTES]


def _from_server(task: Task, patience: Patience) -> Received:
    source = task.archive

    def check(version: Version) -> None:
        _check_size(source, version.size_bytes, shown(source.url))
        if source.size_bytes is None and version.size_bytes is not None and not storage.is_folder(task.parts):
            known = Archive(source.name, source.url, version.size_bytes, None, None, source.expansion)
            _check_space([Task(known, task.root)], task.root)

    while True:
        has_hash = bool(source.published_hash)
        chunks = partial.arriving(source.url, task.parts, source.size_bytes, has_hash, patience, check)
        try:
            with contextlib.closing(chunks):
                received = _receive(chunks, task, shown(source.url))
        except http.Changed as changed:
            storage.delete_folder(task.parts)
            patience.failed(str(changed))
        except Damaged as err:
            storage.move_folder(task.parts, task.rejected)
            raise ValueError(
                f"{err}; it is not used, and kept in {task.rejected}. Repeat the command to fetch it anew; "
                "if it comes out the same, --mirror or --archive may give a good one"
            ) from None
        else:
            storage.delete_folder(task.parts)
            return received


def _receive(chunks: Iterator[bytes], task: Task, shown: str) -> Received:
    a = task.archive
    return archive.receive(chunks, task.tar, name=shown, size_bytes=a.size_bytes, sha256=a.sha256, md5=a.md5)


def _check_size(source: Archive, size_bytes: int | None, shown: str) -> None:
    if None not in (source.size_bytes, size_bytes) and source.size_bytes != size_bytes:
        raise ValueError(
            f"{shown}: has {size_bytes} bytes, but the published {source.name} has {source.size_bytes}; fetch it anew, "
            f"or, if it is another archive, give it another name"
        )


def _mirrored(a: Archive, mirror: str | None) -> Archive:
    if not mirror or not a.is_remote:
        return a
    return Archive(a.name, f"{mirror.rstrip('/')}/{_file_name(a.url)}", a.size_bytes, a.sha256, a.md5, a.expansion)


def _file_name(url: str) -> str:
    return storage.name(urlsplit(url).path if "://" in url else url)


def _check_space(tasks: Sequence[Task], root: str) -> None:
    """Raises ValueError when a local root has no room for all tars, and for the parts that are there at one time."""
    if not storage.is_local(root):
        return
    tars = sum(round(_archive_bytes(t.archive) * t.archive.expansion) for t in tasks)
    rests = sorted((_rest_bytes(t) for t in tasks), reverse=True)
    folder = root
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    needed = tars + sum(rests[:AT_MOST])
    if needed > free:
        raise ValueError(
            f"{root}: {size(needed)} are needed ({size(tars)} for the tars, {size(needed - tars)} while they arrive), "
            f"but {size(free)} are free; choose another --root, or fewer archives"
        )


def _archive_bytes(source: Archive) -> int:
    """Of one that is here its own size, whatever was published; 0 where nobody knows."""
    return (source.size_bytes or 0) if source.is_remote else storage.size_bytes(source.url)


def _rest_bytes(task: Task) -> int:
    """What is still to come of an archive that is kept while it arrives."""
    if not task.archive.is_remote:
        return 0
    return max(0, (task.archive.size_bytes or 0) - partial.arrived_bytes(task.parts))


def _line(task: Task, outcome: Outcome) -> str:
    received = outcome.received
    if outcome.error:
        return f"{task.archive.name}: failed: {outcome.error}"
    if received is None:
        return f"{task.archive.name}: another command has fetched it meanwhile"
    checked = "its hash is the published one" if task.archive.published_hash else "no hash was published to check it by"
    text = f"{task.archive.name}: {counted(received.files, 'file')}, {size(received.tar_bytes)}, {checked}"
    if outcome.failures:
        text += f"; {outcome.failures} interruptions"
    for what, count in received.left_out.items():
        text += f"; left out: {what}, {counted(count, 'time')}"
    return text


@contextlib.contextmanager
def _progress(tasks: Sequence[Task]) -> Iterator[dict[int, int]]:
    """Shows what has arrived of all, asking the folders that the tasks write to; yields the dict for those done."""
    sizes = [task.archive.size_bytes or 0 for task in tasks]
    done: dict[int, int] = {}  # bytes by the position of the task

    def arrived() -> int:
        return sum(done[i] if i in done else _arrived_bytes(task) for i, task in enumerate(tasks))

    look_s = 1.0 if storage.is_local(tasks[0].root) else 10.0  # listing an object store takes time, and money
    with watched("fetching", sum(sizes) if all(sizes) else None, arrived, look_s):
        yield done


def _arrived_bytes(task: Task) -> int:
    """Of a file that is here already: about as much as was gunzipped."""
    if task.archive.is_remote:
        return partial.arrived_bytes(task.parts)
    return round(storage.staged_bytes(task.root, storage.name(task.tar)) / task.archive.expansion)
