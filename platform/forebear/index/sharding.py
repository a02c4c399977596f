"""Building an index in parts: finished parts outlive an interruption, and serve the next build when nothing changed."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forebear.config import plain
from forebear.errors import SearchIndexError
from forebear.files import fingerprint, fingerprint_of_items, sha256_of_file, sync_folder, write_json
from forebear.index.building import build_index, check_ids, put_in_place
from forebear.index.codes import CODE_FILES
from forebear.index.description import FORMAT_VERSION, IndexConfig, IndexMetadata
from forebear.index.searching import DESCRIPTION_FILE, PART, VectorIndex, whole_folder
from forebear.index.sharded import SHARDS_FILE, PartRecord, ShardedIndex, ShardsDescription

BUILDING = ".building"

Blocks = Iterable[tuple[int, NDArray[np.float32]]]


def build_sharded_index(
    folder: Path,
    blocks: Callable[[], Blocks],
    dim: int,
    ids: Sequence[str],
    *,
    shard_rows: int,
    config: IndexConfig,
    metadata: IndexMetadata,
    source: Callable[[int, int], str],
) -> ShardedIndex:
    """Build the index of `folder` in parts of `shard_rows` rows, the last one shorter.

    `blocks()` gives (first row, float32[B, dim]) in order and is only called when a part is to be built. `source(first,
    stop)` names what the vectors of these rows are made from: a part of an earlier build whose source, ids, settings
    and checksums are the same is kept. Raises what `build_index` raises; finished parts are then kept for the next try.
    """
    check_ids(ids)
    building = folder.with_name(folder.name + BUILDING)
    building.mkdir(parents=True, exist_ok=True)
    records: list[PartRecord] = []
    stream: _Stream | None = None
    for first in range(0, len(ids), shard_rows):
        stop = min(first + shard_rows, len(ids))
        name = f"{PART}{len(records):05d}"
        place = building / name
        wanted = _source(source(first, stop), ids[first:stop], dim, config, metadata)
        if not _kept(place, wanted) and not _linked(whole_folder(folder) / name, place, wanted):
            shutil.rmtree(place, ignore_errors=True)
            stream = stream or _Stream(blocks(), dim)
            stream.skip_to(first)
            part = stream.take(stop - first)
            build_index(place, part, dim, ids[first:stop], config=config, metadata=metadata, source=wanted)
        records.append(PartRecord(name, first, stop - first, sha256_of_file(place / DESCRIPTION_FILE)))
    _remove_others(building, {record.name for record in records})
    write_json(building / SHARDS_FILE, plain(ShardsDescription(metadata, config, tuple(records))))
    put_in_place(building, folder)
    return ShardedIndex.open(folder, allow_low_recall=True)


def _source(source: str, ids: Sequence[str], dim: int, config: IndexConfig, metadata: IndexMetadata) -> str:
    """Fingerprint of all that decides a part's bytes, without the store's plan: that changes when the store grows."""
    described: dict[str, Any] = {
        "source": source,
        "ids": fingerprint_of_items(ids),
        "dim": dim,
        "config": plain(config),
        "estimator": metadata.estimator,
        "checkpoints": [plain(checkpoint) for checkpoint in metadata.checkpoints],
        "sign": metadata.sign,
        "format": FORMAT_VERSION,
        "codes": CODE_FILES,
    }
    return fingerprint(described)


def _kept(place: Path, source: str) -> bool:
    """Whether a part is there, whole, and made from that source."""
    if not place.is_dir():
        return False
    try:
        part = VectorIndex.open(place, allow_low_recall=True, device="cpu")
        if part.description.source != source:
            return False
        part.verify()
    except SearchIndexError:
        return False
    return True


def _linked(old: Path, new: Path, source: str) -> bool:
    """Take a part of the index in use, if it is the one wanted; its files are shared, where the disk can."""
    if not _kept(old, source):
        return False
    shutil.rmtree(new, ignore_errors=True)
    part = new.with_name(f"{new.name}.part-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        shutil.copytree(old, part, copy_function=os.link)
    except (OSError, shutil.Error):  # no hard links here
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(old, part)
    part.rename(new)
    sync_folder(new.parent)
    return True


class _Stream:
    """Vectors in order, from which any number of rows can be taken."""

    def __init__(self, blocks: Blocks, dim: int) -> None:
        self._blocks, self._dim = iter(blocks), dim
        self._rest = np.empty((0, dim), np.float32)
        self._given = 0

    def skip_to(self, row: int) -> None:
        """The row that is taken next; not one that has been taken."""
        for _ in self.take(row - self._given):
            pass

    def take(self, count: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first row, float32[B, D]), rows counted from the first taken here; fewer than `count` at the end.

        Raises SearchIndexError when a block is of another shape or does not follow on the one before it.
        """
        taken = 0
        while taken < count:
            if not len(self._rest):
                first, self._rest = next(self._blocks, (self._given, self._rest))
                if not len(self._rest):
                    return
                if first != self._given or self._rest.shape[1:] != (self._dim,):
                    raise SearchIndexError(
                        f"a block of shape {list(self._rest.shape)} begins at row {first}; expected row {self._given} "
                        f"and {self._dim} numbers: is every checkpoint's store finished?"
                    )
            block, self._rest = self._rest[: count - taken], self._rest[count - taken :]
            self._given += len(block)
            yield taken, block
            taken += len(block)


def _remove_others(folder: Path, names: set[str]) -> None:
    """What a build in other parts left behind."""
    for path in folder.iterdir():
        if path.name in names:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
