"""The manifest of a store: its plan, its sign, and a record of every shard."""

import shutil
from dataclasses import replace
from pathlib import Path

from pydantic import Field
from pydantic.dataclasses import dataclass

from forebear.config import STRICT, parse, plain
from forebear.errors import ForebearError, StoreError
from forebear.estimators import SIGN
from forebear.files import read_json, write_json
from forebear.store.plan import FORMAT_VERSION, StorePlan
from forebear.store.replacing import settle
from forebear.store.samples import SAMPLES_FILE
from forebear.store.shard import ShardRecord, read_sidecar, rebuild, run_folder
from forebear.version import __version__


@dataclass(frozen=True, config=STRICT)
class Manifest:
    """What store/manifest.json holds."""

    plan: StorePlan
    """The part that decides the numbers."""
    plan_hash: str
    """32 hexadecimal digits of the plan."""
    weights: dict[str, float]
    """w_c by checkpoint, as in score = sum over c of w_c <phi_c, psi_c>. It changes no stored number, so no plan."""
    shards: tuple[ShardRecord, ...] = ()
    """By checkpoint and shard; empty until every shard is done."""
    sign: str = SIGN
    """What a positive score means."""
    forebear_version: str = __version__
    """The version that began the store."""
    format_version: int = Field(default=FORMAT_VERSION)
    """Of the manifest and the shards."""

    def check_plan(self, wanted: StorePlan, folder: Path) -> None:
        """Raise StoreError that names what changed, old -> new, unless this store was made by the wanted plan."""
        changes = self.plan.changes(wanted)
        if changes:
            raise StoreError(
                f"the store in {folder} was made by another plan ({'; '.join(changes)}); "
                f"use a new run folder, or start over with `forebear embed --run {run_folder(folder)} --restart`"
            )


def manifest_path(folder: Path) -> Path:
    return folder / "manifest.json"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the store in `folder`; raises StoreError when there is none or it cannot be trusted."""
    path = manifest_path(folder)
    restart = f"start over with `forebear embed --run {run_folder(folder)} --restart`"
    values = read_json(path, StoreError, f"make it with `forebear embed --run {run_folder(folder)}`, or {restart}")
    if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{path} is not a store of format version {FORMAT_VERSION}, the one that this Forebear reads; {restart}"
        )
    try:
        manifest = parse(Manifest, values, str(path))
    except ForebearError as invalid:
        raise StoreError(f"{invalid}; {restart}") from None
    if manifest.plan_hash != manifest.plan.hash:
        raise StoreError(f"{path} was edited: its plan hash does not match its plan; restore the file, or {restart}")
    return manifest


def prepare_store(folder: Path, plan: StorePlan, weights: dict[str, float], *, restart: bool = False) -> Manifest:
    """Begin a store, or take up one that was begun with the same plan. Called once, before any worker writes.

    `weights` is w_c for every checkpoint. `restart` first deletes what is there. Half-written files that a killed
    process left behind are removed. Raises StoreError when finished shards belong to another plan.
    """
    if set(weights) != set(plan.checkpoint_names):
        raise StoreError(
            f"weights are given for {sorted(weights)}, the plan's checkpoints are {list(plan.checkpoint_names)}"
        )
    settle(folder)
    if restart:
        _clear(folder)
    sweep(folder)
    begun = manifest_path(folder).exists() and any(folder.glob("checkpoint=*/shard-*.json"))
    if not begun:
        manifest = Manifest(plan=plan, plan_hash=plan.hash, weights=weights)
    else:
        stored = read_manifest(folder)
        stored.check_plan(plan, folder)
        if stored.weights == weights:
            return stored
        manifest = replace(stored, weights=weights)
    write_json(manifest_path(folder), plain(manifest))
    return manifest


def sweep(folder: Path) -> int:
    """Delete half-written files that killed processes left in a store or segment; returns how many there were."""
    parts = [*folder.glob("*.part"), *folder.glob("checkpoint=*/*.part")]
    for part in parts:
        part.unlink()
    return len(parts)


def write_manifest(folder: Path) -> Manifest:
    """Close a store: gather the sidecars, in order, into the manifest that `prepare_store` began.

    Raises StoreError when a shard is missing, belongs to another plan, or holds other samples than the same shard of
    the first checkpoint.
    """
    manifest = read_manifest(folder)
    plan = manifest.plan
    records = tuple(read_sidecar(folder, checkpoint, shard) for checkpoint, shard in plan.shards())
    check_records(folder, plan, records)
    complete = replace(manifest, shards=records)
    write_json(manifest_path(folder), plain(complete))
    return complete


def check_records(folder: Path, plan: StorePlan, records: tuple[ShardRecord, ...]) -> None:
    """Raise StoreError unless the records are one for each shard of the plan, in order, over the same samples."""
    if [(record.checkpoint, record.shard) for record in records] != list(plan.shards()):
        raise StoreError(f"the store in {folder} does not hold every shard of its plan; {rebuild(folder)}")
    samples = [record.samples for record in records[: plan.shards_per_checkpoint]]
    plan_hash = plan.hash
    for record in records:
        planned = plan.shard_range(record.shard)
        name = f"shard {record.shard} of checkpoint {record.checkpoint} in {folder}"
        if record.plan_hash != plan_hash:
            raise StoreError(f"{name} belongs to another plan; {rebuild(folder)}")
        if (record.first_row, record.rows) != (planned.start, len(planned)) or not record.all_finite:
            raise StoreError(f"{name} does not hold the rows of the plan, all finite; {rebuild(folder)}")
        if record.samples != samples[record.shard]:
            raise StoreError(
                f"{name} holds other samples than the same shard of the first checkpoint; "
                f"start over with `forebear embed --run {run_folder(folder)} --restart`"
            )


def _clear(folder: Path) -> None:
    """Delete a store's own files but for the list of removed samples, which outlives them.

    The manifest goes last: as long as it is there, a second attempt can still clear.
    """
    (folder / "segments.json").unlink(missing_ok=True)
    for part in (*folder.glob("segment-*"), *folder.glob("checkpoint=*")):
        shutil.rmtree(part)
    (folder / SAMPLES_FILE).unlink(missing_ok=True)
    manifest_path(folder).unlink(missing_ok=True)
