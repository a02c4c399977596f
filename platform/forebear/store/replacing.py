"""Putting a new store in the place of an old one, so that at every moment one of them is whole."""

import shutil
from pathlib import Path

from forebear.files import sync_folder


def successor(folder: Path) -> Path:
    """Where the store that shall take the place of `folder` is written."""
    return folder.with_name(f"{folder.name}.compacting")


def predecessor(folder: Path) -> Path:
    """Where a store waits while its successor takes its place."""
    return folder.with_name(f"{folder.name}.old")


def present(folder: Path) -> Path:
    """The store's folder, or its predecessor when a replacement was killed between its two renames."""
    return predecessor(folder) if not folder.exists() and predecessor(folder).exists() else folder


def settle(folder: Path) -> None:
    """End what a killed replacement left: the old store comes back unless the new one is in its place."""
    old = predecessor(folder)
    if not old.exists():
        return
    if folder.exists():
        shutil.rmtree(old)
    else:
        old.rename(folder)
        sync_folder(folder.parent)


def replace_store(folder: Path) -> None:
    """Put the successor, whole by now, in the place of the store, which is then deleted."""
    settle(folder)
    folder.rename(predecessor(folder))
    successor(folder).rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(predecessor(folder), ignore_errors=True)
