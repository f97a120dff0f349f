"""Text files that name a shard in each line."""

from manifests import storage
from manifests.storefaults import shown


def listed(urls_file: str) -> list[str]:
    """The shards in a text file, as whole paths and URLs. Raises ValueError when there are none."""
    folder = storage.parent(urls_file)
    lines = [line.strip() for line in storage.read_text(urls_file).splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{shown(urls_file)}: lists no shards")
    return [storage.absolute(line if "://" in line else _beside(folder, line)) for line in lines]


def _beside(folder: str, line: str) -> str:
    """The path of a line of a list in `folder`. Names in stores have no `.` and `..`, which `find` writes."""
    while line.startswith(("./", "../")):
        step, _, line = line.partition("/")
        folder = storage.parent(folder) if step == ".." else folder
    return storage.join(folder, line)
