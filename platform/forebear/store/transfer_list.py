"""The list of what moves with a run's store: each file's name, size and checksum, as transfer.json holds it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from forebear.config import STRICT, parse
from forebear.errors import ConfigError, StoreError
from forebear.files import sha256_of_file
from forebear.run import Run
from forebear.store.manifest import manifest_path
from forebear.store.objects import object_name
from forebear.store.reader import Store
from forebear.store.removed import REMOVED_FILE
from forebear.store.samples import SAMPLES_FILE
from forebear.store.segments import SEGMENTS_FILE
from forebear.store.shard import shard_path, sidecar_path

FORMAT_VERSION = 1
INDEX = "transfer.json"
SETTINGS, REMOVED, SEGMENTS = "run.yaml", f"store/{REMOVED_FILE}", f"store/{SEGMENTS_FILE}"
GROWING = (SETTINGS, SEGMENTS, REMOVED)
"""Files that change while a store stays the same one; all others are written once."""
PART = r"[^/\\\x00]*[^/\\\x00.][^/\\\x00]*"
FILE_NAME = rf"^(run\.yaml|events\.parquet|(model|checkpoints|store)(/{PART})+)$"


@dataclass(frozen=True, config=STRICT)
class TransferredFile:
    """A file of a run, as the list at the address names it."""

    name: Annotated[str, Field(pattern=FILE_NAME)]
    """Below the run's folder, with forward slashes; it leads nowhere else."""
    bytes: Annotated[int, Field(ge=0)]
    """Its size."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Its checksum."""

    @property
    def object(self) -> str:
        return object_name(self.name, self.sha256)


@dataclass(frozen=True, config=STRICT)
class Transfer:
    """What transfer.json holds."""

    plan_hash: str
    """Of the store, all segments together."""
    files: tuple[TransferredFile, ...]
    """In the order in which they are written where they are pulled: the manifest last."""
    format_version: int = FORMAT_VERSION
    """Of transfer.json."""

    @property
    def by_name(self) -> dict[str, TransferredFile]:
        return {file.name: file for file in self.files}


def files_of(run: Run, store: Store) -> Iterator[TransferredFile]:
    """What a run's answers need, in the order of writing. Shards' checksums are those of their records."""

    def hashed(path: Path) -> Iterator[TransferredFile]:
        if path.is_file():
            name = "store" / path.relative_to(store.folder) if path.is_relative_to(store.folder) else None
            name = name or path.relative_to(run.folder)
            yield TransferredFile(name.as_posix(), path.stat().st_size, sha256_of_file(path))

    folders = [run.model_folder, *(run.checkpoints_folder / name for name in store.plan.checkpoint_names)]
    whole = (path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix != ".part")
    for path in (*whole, run.events_file, store.folder / REMOVED_FILE):
        yield from hashed(path)
    for segment in reversed(store.segments):
        below = f"store/{segment.folder.name}" if segment.folder != store.folder else "store"
        for record in segment.manifest.shards:
            shard = shard_path(Path(below), record.checkpoint, record.shard).as_posix()
            yield TransferredFile(shard, record.bytes, record.sha256)
            yield from hashed(sidecar_path(segment.folder, record.checkpoint, record.shard))
        yield from hashed(segment.folder / SAMPLES_FILE)
        if segment.folder != store.folder:
            yield from hashed(manifest_path(segment.folder))
    for path in (run.settings_file, store.folder / SEGMENTS_FILE, manifest_path(store.folder)):
        yield from hashed(path)


def read_transfer(raw: bytes, place: str) -> Transfer:
    """The list at an address; raises StoreError when it cannot be trusted."""
    remedy = "push again with --replace from a run that is whole"
    try:
        values = json.loads(raw)
        if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
            raise StoreError(f"{place} is not of format version {FORMAT_VERSION}; update Forebear, or {remedy}")
        return parse(Transfer, values, place)
    except (ValueError, ConfigError) as invalid:
        raise StoreError(f"{place} is damaged ({invalid}); {remedy}") from None
