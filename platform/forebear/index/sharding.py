"""Building an index in parts: finished parts outlive an interruption, and serve the next build when nothing changed."""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Part:
    """Consecutive rows of an index that are built as an index of their own, by any process that sees the folder."""

    folder: Path
    """Where it is built."""
    first: int
    """Its first row, of all of the index."""
    ids: tuple[str, ...]
    """Of its rows."""
    dim: int
    """Numbers in a vector."""
    config: IndexConfig
    """How the index is asked for."""
    metadata: IndexMetadata
    """What the index is built from."""
    source: str
    """Fingerprint of all that decides its bytes."""

    @property
    def rows(self) -> slice:
        """Of all of the index."""
        return slice(self.first, self.first + len(self.ids))

    def build(self, blocks: Iterable[tuple[int, NDArray[np.float32]]]) -> None:
        """Build it, in place of what is there, from (first row, float32[B, dim]) blocks in order.

        Blocks count rows as the whole index does. The same vectors give the same bytes. Raises what `build_index`
        raises.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        own = ((first - self.first, block) for first, block in blocks)
        build_index(
            self.folder, own, self.dim, self.ids, config=self.config, metadata=self.metadata, source=self.source
        )


class ShardedBuild:
    """The index of a folder while it is built in parts, which wait in FOLDER.building until all are there."""

    def __init__(
        self,
        folder: Path,
        dim: int,
        ids: Sequence[str],
        *,
        shard_rows: int,
        config: IndexConfig,
        metadata: IndexMetadata,
        source: Callable[[int, int], str],
    ) -> None:
        """`ids` names every row; parts have `shard_rows` of them, the last one fewer.

        `source(first, stop)` names what the vectors of these rows are made from: a part of an earlier build whose
        source, ids, settings and checksums are the same is kept. Raises SearchIndexError when ids repeat.
        """
        check_ids(ids)
        self._folder, self._config, self._metadata = folder, config, metadata
        self._building = folder.with_name(folder.name + BUILDING)
        self.parts: list[Part] = []
        for first in range(0, len(ids), shard_rows):
            own = tuple(ids[first : first + shard_rows])
            made_from = _source(source(first, first + len(own)), own, dim, config, metadata)
            place = self._building / f"{PART}{len(self.parts):05d}"
            self.parts.append(Part(place, first, own, dim, config, metadata, made_from))

    def keeps(self, part: Part) -> bool:
        """Whether the part need not be built: it waits for the others, or is taken from the index in use."""
        used = whole_folder(self._folder) / part.folder.name
        return _kept(part.folder, part.source) or _linked(used, part.folder, part.source)

    def finish(self) -> ShardedIndex:
        """Put the index in place, and open it; every part has to be there. Look at its `description.recall`."""
        _remove_others(self._building, {part.folder.name for part in self.parts})
        records = tuple(
            PartRecord(part.folder.name, part.first, len(part.ids), sha256_of_file(part.folder / DESCRIPTION_FILE))
            for part in self.parts
        )
        write_json(self._building / SHARDS_FILE, plain(ShardsDescription(self._metadata, self._config, records)))
        put_in_place(self._building, self._folder)
        return ShardedIndex.open(self._folder, allow_low_recall=True)


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
    new.parent.mkdir(parents=True, exist_ok=True)
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


def _remove_others(folder: Path, names: set[str]) -> None:
    """What a build in other parts left behind."""
    for path in folder.iterdir():
        if path.name in names:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
