"""Moving a run's store, and what answers from it need, to and from object storage (docs/store.md).

At the address lies one object for each file, named by its content, and `transfer.json`, the list of them. Objects are
never changed. The list is written last and in one step: a reader finds the store pushed before, or the new one.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from fnmatch import fnmatchcase

from forebear.config import plain
from forebear.errors import StoreError
from forebear.files import sha256_of_file
from forebear.progress import Progress, progress
from forebear.run import Run
from forebear.store.objects import ObjectFolder
from forebear.store.reader import Store
from forebear.store.removed import Removed, listed_in, merge_removed, read_removed
from forebear.store.replacing import settle
from forebear.store.segments import listed_segments
from forebear.store.shard import some_of
from forebear.store.transfer_list import (
    GROWING,
    INDEX,
    REMOVED,
    SEGMENTS,
    SETTINGS,
    Transfer,
    TransferredFile,
    files_of,
    read_transfer,
)

AT_ONCE = 8
"""Files under way at a time: what a small object costs is the wait for an answer."""
OURS = re.compile(r"(run|events|(model|checkpoints|store)/.+)-[0-9a-f]{16}(\.[^/]*)?|transfer\.json(\.\d+\.part)?")
"""What a push has made at an address, and no other file."""


@dataclass
class Moved:
    """What a push or pull has done."""

    files: int = 0
    bytes: int = 0
    kept: int = 0
    """Files that were there already."""
    removed: tuple[str, ...] = ()
    """Ids whose removal came with a pull."""


def push(run: Run, address: str, *, replace: bool = False) -> Moved:
    """Put the finished store of a run, its settings, model and checkpoints at an address.

    What is there already is not sent again, so that a killed push goes on. A later push of the same store adds what
    came since. Raises StoreError when the store is not whole, or when another one is there and is not to be replaced;
    DataError when the storage does not answer or refuses.
    """
    store, remote = Store.open(run.store_folder), ObjectFolder.of(address)
    transfer = Transfer(store.plan.hash, tuple(files_of(run, store)))
    before, there = remote.content(INDEX), remote.sizes()
    if foreign := sorted(name for name in there if not OURS.fullmatch(name)):
        raise StoreError(
            f"{remote.place()} holds {len(foreign)} files that no push has made, such as {foreign[0]}; give an "
            "address of the store's own"
        )
    if before is not None and not replace:
        _refuse_other(read_transfer(before, remote.place(INDEX)), transfer, remote, store, run)
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
    _sweep(remote, transfer)
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
    transfer = read_transfer(raw, remote.place(INDEX))
    try:
        settle(run.store_folder)
        done = _pull(run, transfer, remote)
    except OSError as refused:
        raise StoreError(
            f"{run.folder} cannot be written ({refused.strerror or refused}); mend that and run the same command, "
            "which goes on where it stopped"
        ) from None
    Store.open(run.store_folder)
    return done


def _pull(run: Run, transfer: Transfer, remote: ObjectFolder) -> Moved:
    missing = _missing(run, transfer, remote)
    for folder in {(run.folder / file.name).parent for file in missing} - {run.folder}:
        for left in folder.glob("*.part"):
            left.unlink()
    # The list of removed samples first: no embedding comes before it that it keeps out of answers.
    done = Moved(removed=_pull_removed(run, transfer, remote))
    done.kept = sum(file.name != REMOVED for file in transfer.files) - len(missing)

    def fetch(file: TransferredFile) -> None:
        remote.fetch(file.object, run.folder / file.name, file.bytes, file.sha256)

    def closes(file: TransferredFile) -> bool:
        return file.name in GROWING or file.name.endswith("/manifest.json")

    with progress("pulling", done.kept + len(missing), "files") as bar:
        bar.found(done.kept)
        _all([file for file in missing if not closes(file)], fetch, bar, done)
        for file in filter(closes, missing):  # one by one: with the last, the store's manifest, this is a store
            _all([file], fetch, bar, done)
    return done


def _refuse_other(there: Transfer, here: Transfer, remote: ObjectFolder, store: Store, run: Run) -> None:
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
    if back := sorted(set(known) - set(read_removed(store.folder))):
        raise StoreError(
            f"{len(back)} samples are removed at {remote.place()} and not in {run.folder}: {some_of(back)}. "
            "Nothing was overwritten; remove them here too with "
            f"`forebear store pull {remote.place()} --run {run.folder}`, or let them answer again with --replace"
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
    # Where their files agree, one list of segments begins with the other.
    segments = sum(fnmatchcase(file.name, "store/segment-*/manifest.json") for file in transfer.files)
    for file in transfer.files:
        path = run.folder / file.name
        if file.name == REMOVED or (file.name == SETTINGS and path.exists()):
            continue  # a list is merged; settings may have been adapted, to where the images lie
        if not path.exists() or (file.name == SEGMENTS and len(listed_segments(run.store_folder)) < segments):
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


def _pull_removed(run: Run, transfer: Transfer, remote: ObjectFolder) -> tuple[str, ...]:
    """Remove here what is removed at the address; returns the ids that were not removed here before."""
    listed = _removed_there(transfer, remote)
    if not listed:
        return ()
    run.store_folder.mkdir(parents=True, exist_ok=True)
    return merge_removed(run.store_folder, listed)


def _send(run: Run, store: Store, remote: ObjectFolder, file: TransferredFile) -> None:
    inside = file.name.removeprefix("store/")
    path = run.folder / file.name if inside == file.name else store.folder / inside
    if path.stat().st_size != file.bytes or sha256_of_file(path) != file.sha256:
        raise StoreError(
            f"{path} is damaged, or was changed while it was pushed; run `forebear store repair --run {run.folder}` "
            "and push again: what was sent is not sent twice"
        )
    remote.send(file.object, path)


def _all(files: Sequence[TransferredFile], work: Callable[[TransferredFile], None], bar: Progress, done: Moved) -> None:
    """Do the work for every file, several at a time; the first error ends it when those under way are through."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        under_way = {pool.submit(work, file): file for file in files}
        try:
            for ended in as_completed(under_way):
                ended.result()
                done.files += 1
                done.bytes += under_way[ended].bytes
                bar.advance(note=f"{done.bytes / 1e6:,.1f} MB")
        finally:
            pool.shutdown(cancel_futures=True)


def _sweep(remote: ObjectFolder, transfer: Transfer) -> None:
    """Delete what the new list does not name; raises StoreError when something that it names is gone."""
    there = remote.sizes()
    wanted = {INDEX, *(file.object for file in transfer.files)}
    if gone := [file.object for file in transfer.files if there.get(file.object) != file.bytes]:
        raise StoreError(
            f"{some_of(gone)} vanished from {remote.place()} during the push, perhaps by another one; the same command "
            "again sends what is missing"
        )
    for name in there:
        if name not in wanted and OURS.fullmatch(name):
            remote.delete(name)
