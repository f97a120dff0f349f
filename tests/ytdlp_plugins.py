"""An extractor as yt-dlp loads them from packages that are installed beside it."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def installed(folder: Path, name: str, source: str) -> Iterator[None]:
    from yt_dlp.plugins import load_all_plugins

    module = folder / "yt_dlp_plugins" / "extractor" / f"{name}.py"
    module.parent.mkdir(parents=True)
    module.write_text(source)
    sys.path.insert(0, str(folder))
    load_all_plugins()
    yield
    sys.path.remove(str(folder))
    for loaded in [loaded for loaded in sys.modules if loaded.startswith("yt_dlp_plugins")]:
        del sys.modules[loaded]  # or the plugins of another test's folder would not be found
