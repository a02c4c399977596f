"""From what a user names to the kind of source that reads it: a folder, Parquet, WebDataset tars, Arrow directories."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath

from forebear.data.arrow import ArrowSource, saved_files
from forebear.data.columns import Columns
from forebear.data.folder import FolderSource, is_picture
from forebear.data.parquet import ParquetSource
from forebear.data.storage import LocalStorage, Storage, StoredFile, object_storage
from forebear.data.tars import TarSource
from forebear.data.training_set import FileSource
from forebear.errors import DataError

Make = Callable[[Storage, Sequence[StoredFile]], FileSource]

_NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")
_WORDS = re.compile(r"\{([^{}]*,[^{}]*)\}")
MAX_FILES = 100_000
"""A brace pattern that names more files is taken for a mistake."""


def file_source(source: str, image_column: str, columns: Columns, max_bytes: int) -> FileSource:
    """The source behind a local path, an address `scheme://bucket/...`, or a pattern of either.

    Raises DataError when there is none, and what the storage raises.
    """
    makes: dict[str, Make] = {
        suffix: partial(kind, image_column=image_column, columns=columns, max_bytes=max_bytes)
        for suffix, kind in ((".parquet", ParquetSource), (".tar", TarSource), (".arrow", ArrowSource))
    }
    kind, root = _kind(source)
    if kind == "folder":
        return _folder_source(root, makes) or FolderSource(root, columns, max_bytes)
    storage, pattern = _parent(source)
    files = _matching(storage, [pattern] if kind == "file" else _expanded(pattern), literal=kind == "file")
    if not files:
        raise DataError(
            f"{source} does not exist; give `openmoji`, `digits`, a folder of images, Parquet files, WebDataset tars, "
            "a directory written by `save_to_disk`, or the s3:// address of one of these"
        )
    return makes[_one_suffix(storage, files)](storage, files)


def _kind(source: str) -> tuple[str, Storage]:
    """`file`, `folder` or `none`, and the storage whose root the source is."""
    if "://" in source:
        remote = object_storage(source)
        # An object's name may hold these marks, but hardly does: a pattern is meant.
        return ("none" if re.search(r"[*?\[{]", source) else remote.kind()), remote
    path = Path(source).expanduser()
    return "file" if path.is_file() else "folder" if path.is_dir() else "none", LocalStorage(path)


def _parent(source: str) -> tuple[Storage, str]:
    """The storage of the folder in which a file or a pattern lies, and its name there."""
    if "://" in source:
        folder, _, name = source.rstrip("/").rpartition("/")
        return object_storage(folder), name
    path = Path(source).expanduser()
    return LocalStorage(path.parent), path.name


def _folder_source(root: Storage, makes: Mapping[str, Make]) -> FileSource | None:
    """The source of a folder that holds something else than pictures; None for a folder of pictures."""
    found = list(root.files())
    if saved := saved_files(root, found):
        return makes[".arrow"](root, saved)
    # A clone of a Hugging Face dataset keeps its files in data/; metadata.parquet belongs to a folder of images.
    parquet = _ending(found, ".parquet") or _ending(root.files("data/"), ".parquet")
    if parquet := [file for file in parquet if PurePosixPath(file.name).name != "metadata.parquet"]:
        return makes[".parquet"](root, parquet)
    tars = _ending(found, ".tar")
    if tars and not any(is_picture(file.name) for file in root.walk()):
        return makes[".tar"](root, tars)
    return None


def _ending(files: Iterable[StoredFile], suffix: str) -> list[StoredFile]:
    return [file for file in files if file.name.endswith(suffix)]


def _matching(storage: Storage, patterns: Sequence[str], literal: bool) -> list[StoredFile]:
    """The files of a folder that the patterns name, in the order of the patterns, each once.

    Raises DataError when one of several patterns names no file: a shard that is missing is no smaller training set.
    """
    by_name = {file.name: file for file in storage.files()}
    chosen: dict[str, StoredFile] = {}
    for pattern in patterns:
        names = [pattern] if pattern in by_name else [] if literal else _named(by_name, pattern)
        if not names and len(patterns) > 1:
            raise DataError(f"{storage.place(pattern)} does not exist; restore it, or leave it out of the pattern")
        chosen.update((name, by_name[name]) for name in names)
    return list(chosen.values())


def _named(names: Iterable[str], pattern: str) -> list[str]:
    return [name for name in names if fnmatchcase(name, pattern)]


def _one_suffix(storage: Storage, files: Sequence[StoredFile]) -> str:
    """The suffix by which all of the files are read; anything but tars and Arrow files is taken for Parquet."""
    suffixes = {PurePosixPath(file.name).suffix for file in files}
    if suffixes & {".gz", ".tgz", ".bz2", ".xz", ".zst"}:
        raise DataError(f"{storage.place(files[0].name)} is compressed; unpack it: pictures are read at their offsets")
    if len(suffixes) > 1 and suffixes & {".tar", ".arrow"}:
        raise DataError(f"{storage.place()}: the pattern names files of several kinds ({', '.join(sorted(suffixes))})")
    suffix = suffixes.pop()
    return suffix if suffix in {".tar", ".arrow"} else ".parquet"


def _expanded(pattern: str) -> list[str]:
    """A pattern without braces: `{000..123}` counts with leading zeros, `{a,b}` lists."""
    if numbers := _NUMBERS.search(pattern):
        first, last = numbers.groups()
        count = int(last) - int(first) + 1
        if not 0 < count <= MAX_FILES:
            raise DataError(f"{pattern} names {max(count, 0):,} files; name 1 to {MAX_FILES:,}")
        words = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        found = numbers
    elif listed := _WORDS.search(pattern):
        words, found = listed[1].split(","), listed
    else:
        return [pattern]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [name for word in words for name in _expanded(f"{before}{word}{after}")]
