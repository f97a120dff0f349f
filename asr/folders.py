"""Folders that appear whole in the place of an older one."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from manifests import storage


def replace(folder: str, files: Mapping[str, bytes]) -> None:
    """Write a local folder of these files and put it in the place of an older one.

    A folder cannot be replaced in one step: between the two renames the older one is `<folder>.previous`, where
    `settle` finds it after a kill.
    """
    staged = _staged(folder)
    shutil.rmtree(staged, ignore_errors=True)
    for name, data in files.items():
        storage.write_bytes(str(staged / name), data)
    previous = f"{folder}.previous"
    shutil.rmtree(previous, ignore_errors=True)
    if os.path.isdir(folder):
        os.rename(folder, previous)
    os.rename(staged, folder)
    shutil.rmtree(previous, ignore_errors=True)


def settle(folder: str) -> None:
    """Finish or undo what a killed `replace` left."""
    shutil.rmtree(_staged(folder), ignore_errors=True)
    previous = f"{folder}.previous"
    if os.path.isdir(previous) and not os.path.isdir(folder):
        os.rename(previous, folder)
    shutil.rmtree(previous, ignore_errors=True)


def _staged(folder: str) -> Path:
    return Path(storage.parent(folder)) / f"{storage.STAGING}{storage.name(folder)}"
