"""Moving a run's store, and what answers from it need, to and from object storage (docs/store.md).

At the address lies one object for each file, named by its content, and `transfer.json`, the list of them. Objects are
never changed. The list is written last and in one step: a reader finds the store that was pushed before, or the new one.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from forebear.config import STRICT, parse, plain
from forebear.errors import ForebearError, StoreError
from forebear.files import sha256_of_file
from forebear.progress import Progress, progress
from forebear.run import Run
from forebear.store.manifest import manifest_path
from forebear.store.objects import ObjectFolder, object_name
from forebear.store.reader import Store
from forebear.store.removed import REMOVED_FILE, listed_in, merge_removed
from forebear.store.replacing import settle
from forebear.store.samples import SAMPLES_FILE
from forebear.store.segments import SEGMENTS_FILE
from forebear.store.shard import shard_path, sidecar_path, some_of

INDEX = "transfer.json"
FORMAT_VERSION = 1
AT_ONCE = 8
"""Files under way at a time: what a small object costs is the wait for an answer."""
SETTINGS, REMOVED, SEGMENTS = "run.yaml", f"store/{REMOVED_FILE}", f"store/{SEGMENTS_FILE}"
GROWING = (SETTINGS, SEGMENTS, REMOVED)
"""Files that change while a store stays the same one; all others are written once."""
OURS = re.compile(r"(run|events|(model|checkpoints|store)/.+)-[0-9a-f]{16}(\.[^/]*)?|transfer\.json(\.\d+\.part)?")
"""What a push has made at an address, and no other file."""


PART = r"[^/\\\x00]*[^/\\\x00.][^/\\\x00]*"
FILE_NAME = rf"^(run\.yaml|events\.parquet|(model|checkpoints|store)(/{PART})+)$"


@dataclass(frozen=True, config=STRICT)
class TransferredFile:
    """A file of a run, as the list at the address names it."""

    name: Annotated[str, Field(pattern=FILE_NAME)]
    """Below the run's folder, with forward slashes; it leads nowhere else."""
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

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

    @property
    def by_name(self) -> dict[str, TransferredFile]:
        return {file.name: file for file in self.files}


@plain_dataclass
class Moved:
    """What a push or pull has done."""

    files: int = 0
    bytes: int = 0
    kept: int = 0
    """Files that were there already."""
    removed: tuple[str, ...] = field(default=())
    """Ids whose removal came with a pull."""


def push(run: Run, address: str, *, replace: bool = False) -> Moved:
    """Put the finished store of a run, its settings, model and checkpoints at an address.

    What is there already is not sent again, so that a killed push goes on. A later push of the same store adds what
    came since. Raises StoreError when the store is not whole, or when another one is there and is not to be replaced;
    DataError when the storage does not answer or refuses.
    """
    store, remote = Store.open(run.store_folder), ObjectFolder.of(address)
    transfer = Transfer(store.plan.hash, tuple(_files(run, store)))
    before, there = remote.content(INDEX), remote.sizes()
    if foreign := sorted(name for name in there if not OURS.fullmatch(name)):
        raise StoreError(
            f"{remote.place()} holds {len(foreign)} files that no push has made, such as {some_of(foreign[:1])}; give an "
            "address of the store's own"
        )
    if before is not None and not replace:
        _refuse_other(_read(before, remote), transfer, remote, run)
    done = Moved()
    missing = [file for file in transfer.files if there.get(file.object) != file.bytes]
    done.kept = len(transfer.files) - len(missing)
    with progress("pushing", len(transfer.files), "files") as bar:
        bar.found(done.kept)
        _all(missing, lambda file: _send(run, store, remote, file), bar, done)
    listed = (json.dumps(plain(transfer), indent=1) + "\n").encode()
    if remote.content(INDEX) not in (before, listed):
        raise StoreError(
            f"another push to {remote.place()} ended meanwhile; its store is there, this one is not. Give another "
            "address, or the same command again: what was sent is not sent twice"
        )
    if before != listed:
        remote.write(INDEX, listed)
    _settle_objects(remote, transfer)
    return done


def pull(address: str, run: Run) -> Moved:
    """Bring a pushed store, its settings, model and checkpoints into a run's folder, every checksum compared.

    What is there already stays, so that a killed pull goes on; a later pull brings what came since. Removed samples are
    those of both sides. Raises StoreError when an object is damaged or missing, when the folder holds another run or
    cannot be written; DataError when the storage does not answer or refuses.
    """
    remote = ObjectFolder.of(address)
    raw = remote.content(INDEX)
    if raw is None:
        raise StoreError(
            f"{remote.place()} has no {INDEX}: nothing was pushed there, or the push has not ended; push with "
            f"`forebear store push --run RUN {address}`"
        )
    transfer = _read(raw, remote)
    done = Moved()
    try:
        settle(run.store_folder)
        for part in {(run.folder / file.name).parent for file in transfer.files}:
            for left in part.glob("*.part"):
                left.unlink()
        missing = _missing(run, transfer, remote)
        # Before any embedding comes that the list keeps out of answers.
        done.removed = _pull_removed(run, transfer, remote)
        done.kept = sum(file.name != REMOVED for file in transfer.files) - len(missing)
        final = [file for file in missing if file.name in GROWING or file.name.endswith("/manifest.json")]
        with progress("pulling", done.kept + len(missing), "files") as bar:
            bar.found(done.kept)
            _all([file for file in missing if file not in final], lambda file: _fetch(run, remote, file), bar, done)
            for file in final:  # the store's manifest is the last of them: with it, this is a store
                _all([file], lambda one: _fetch(run, remote, one), bar, done)
    except OSError as refused:
        raise StoreError(
            f"{run.folder} cannot be written ({refused.strerror or refused}); mend that and run the same command, which "
            "goes on where it stopped"
        ) from None
    Store.open(run.store_folder)
    return done


def _files(run: Run, store: Store) -> Iterator[TransferredFile]:
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


def _read(raw: bytes, remote: ObjectFolder) -> Transfer:
    """The list at an address; raises StoreError when it cannot be trusted."""
    remedy = "push again with --replace from a run that is whole"
    try:
        values = json.loads(raw)
        if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
            raise StoreError(f"{remote.place(INDEX)} is not of format version {FORMAT_VERSION}; update Forebear, or {remedy}")
        return parse(Transfer, values, remote.place(INDEX))
    except (ValueError, ConfigError) as invalid:
        raise StoreError(f"{remote.place(INDEX)} is damaged ({invalid}); {remedy}") from None


def _refuse_other(there: Transfer, here: Transfer, remote: ObjectFolder, run: Run) -> None:
    """Raise StoreError unless pushing only adds to what is there, and forgets no removal."""
    files = here.by_name
    other = [file.name for file in there.files if file.name not in GROWING and files.get(file.name) != file]
    if other:
        raise StoreError(
            f"{remote.place()} holds another store, or another state of this one: {some_of(other)} "
            f"{'is' if len(other) == 1 else 'are'} not what {run.folder} has. Nothing was overwritten; give another "
            "address, or --replace"
        )
    known = _removed_there(there, remote)
    if back := sorted(set(known) - set(read_removed(present(run.store_folder)))):
        raise StoreError(
            f"{len(back)} samples are removed at {remote.place()} and not in {run.folder}: {some_of(back)}. Nothing was "
            f"overwritten; remove them here too with `forebear store pull {remote.place()} --run {run.folder}`, or let "
            "them answer again with --replace"
        )


def _removed_there(transfer: Transfer, remote: ObjectFolder) -> Removed:
    """The removed samples of the store at an address."""
    file = transfer.by_name.get(REMOVED)
    if file is None:
        return {}
    raw = remote.content(file.object)
    if raw is None or hashlib.sha256(raw).hexdigest() != file.sha256:
        raise StoreError(
            f"{remote.place(file.object)} is missing or damaged, so it is not known what was removed; push again with "
            "--replace from a run that has the whole list of removed samples"
        )
    return listed_in(raw, remote.place(file.object))


def _missing(run: Run, transfer: Transfer, remote: ObjectFolder) -> list[TransferredFile]:
    """Files to be fetched, in order; raises StoreError when others are in their places."""
    missing, other = [], []
    for file in transfer.files:
        path = run.folder / file.name
        if file.name == REMOVED or (file.name == SETTINGS and path.exists()):
            continue  # a list is merged; settings may have been adapted, to where the images lie
        if not path.exists() or (file.name == SEGMENTS and _continues(path, remote, file)):
            missing.append(file)
        elif file.name != SEGMENTS and (path.stat().st_size != file.bytes or sha256_of_file(path) != file.sha256):
            other.append(file.name)
    if other:
        raise StoreError(
            f"{run.folder} holds another run, or this one damaged: {some_of(other)} "
            f"{'is' if len(other) == 1 else 'are'} not what {remote.place()} has. Nothing was changed; pull into a new "
            "run folder, or delete a damaged file to have it fetched again"
        )
    return missing
