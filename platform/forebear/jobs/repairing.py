"""`forebear store repair`: embeds again exactly what of a store is damaged or missing, and nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from forebear.config import parse, plain
from forebear.data import arranged, rows_by_id
from forebear.errors import ForebearError, StoreError
from forebear.files import write_json
from forebear.jobs.embed_config import EmbedConfig
from forebear.jobs.embedding import SECTION, one_thread
from forebear.jobs.planning import plan_embedding
from forebear.jobs.shards import ShardEmbedder
from forebear.progress import progress
from forebear.run import Run
from forebear.store import Manifest, StorePlan, prepare_store, read_manifest, read_samples, shard_path, write_manifest
from forebear.store.manifest import sweep
from forebear.store.replacing import settle
from forebear.store.samples import write_samples
from forebear.store.segments import ListedSegment, list_segments, listed_segments, segment_folders
from forebear.store.shard import ShardRecord, read_sidecar, sidecar_path
from forebear.store.verifying import Checked, check_store, shards_in, store_folders
from forebear.version import __version__

Tell = Callable[[str], None]


@dataclass
class Repaired:
    """What a repair did."""

    shards: int = 0
    """Embedded again."""
    other_bytes: list[str] = field(default_factory=list)
    """Of those, files whose bytes are not those that were recorded."""
    problems: list[str] = field(default_factory=list)
    """What is left, and what to do about it."""


class Repairer:
    """Mends the store of a run from the run's own images and checkpoints, which are opened when they are needed."""

    def __init__(self, run: Run, tell: Tell) -> None:
        self.run, self._tell = run, tell
        self._opened: ShardEmbedder | None = None
        self.done = Repaired()

    def repair(self) -> Repaired:
        """Sweep half-written files, rebuild lost manifests and records, embed damaged shards.

        Raises what opening the run raises when that is needed, and StoreError when a manifest can be rebuilt no more.
        """
        store = self.run.store_folder
        settle(store)
        self._mend_list(store)
        for folder in store_folders(store):
            if swept := sweep(folder):
                self._tell(f"{folder}: {swept} half-written files deleted")
            self._mend_manifest(folder)
        damaged: dict[Path, list[Checked]] = {}
        with progress("verifying", shards_in(store), "shards") as bar:
            for checked in check_store(store):
                if checked.problem:
                    damaged.setdefault(checked.folder, []).append(checked)
                bar.advance(checked.shard >= 0)
        for folder, found in damaged.items():
            self._mend(folder, found)
        return self.done

    def _mend_list(self, store: Path) -> None:
        """Segments that are listed and gone are taken off the list: which images they held is not known any more."""
        try:
            listed = list(listed_segments(store))
        except StoreError as damaged:
            listed = []
            for folder in segment_folders(store):
                plan = read_manifest(folder).plan
                listed.append(ListedSegment(folder.name, plan.hash, plan.sample_count))
            self._tell(f"{damaged}: listed anew, {len(listed)} segments")
            list_segments(store, listed)
            return
        there = [one for one in listed if (store / one.name).is_dir()]
        if there == listed:
            return
        first = next(place for place, one in enumerate(listed) if not (store / one.name).is_dir())
        kept, lost = listed[:first], listed[first:]
        if any((store / one.name).is_dir() for one in lost):
            self.done.problems.append(
                f"{store / lost[0].name} is gone and later segments follow it; restore it from a copy, or embed anew "
                f"with `forebear embed --run {self.run.folder} --restart`"
            )
            return
        list_segments(store, kept)
        self._tell(
            f"{', '.join(one.name for one in lost)}: gone, with {sum(one.rows for one in lost):,} images, taken "
            "off the list. "
            f"`forebear embed --run {self.run.folder} --grow` embeds them again"
        )

    def _mend_manifest(self, folder: Path) -> None:
        """A manifest that is lost is written anew when the run gives the plan that the shards were made by."""
        try:
            manifest = read_manifest(folder)
        except StoreError as damaged:
            self._tell(str(damaged))
            manifest = self._rebuilt(folder)
        if not manifest.shards and _complete(folder, manifest.plan):
            write_manifest(folder)
            self._tell(f"{folder}: the manifest lists every shard again")

    def _rebuilt(self, folder: Path) -> Manifest:
        known = {read_sidecar_hash(path) for path in folder.glob("checkpoint=*/shard-*.json")} - {""}
        if len(known) != 1:
            raise StoreError(
                f"{folder} has no readable manifest, and its shards name {len(known)} plans; restore the manifest, or "
                f"start over with `forebear embed --run {self.run.folder} --restart`"
            )
        shards, records = self._shards(), read_samples(folder)
        shards.use(shards.source)
        plan = plan_embedding(shards)
        if records is not None and plan.hash not in known:
            first_row = 0 if folder == self.run.store_folder else self._rows_before(folder)
            if (rows_by_id(shards.source, records.ids) >= 0).all():
                chosen = arranged(shards.source, records.ids)
                plan = replace(plan, dataset=chosen.fingerprint, sample_count=len(chosen), first_row=first_row)
        if plan.hash not in known:
            raise StoreError(
                f"the manifest of {folder} is lost, and the images, weights or settings of the run are not those that "
                f"its shards were made from (plan {known.pop()}, now {plan.hash}); put them back or restore the "
                f"manifest, or start over with `forebear embed --run {self.run.folder} --restart`"
            )
        weights = {name: checkpoint.weight for name, checkpoint in shards.checkpoints.items()}
        (folder / "manifest.json").unlink(missing_ok=True)
        write_json(folder / "manifest.json", plain(Manifest(plan=plan, plan_hash=plan.hash, weights=weights)))
        self._tell(f"{folder}: the manifest is written anew from the run; its plan is the one of the shards")
        return prepare_store(folder, plan, weights)

    def _rows_before(self, folder: Path) -> int:
        rows = read_manifest(self.run.store_folder).plan.sample_count
        for one in listed_segments(self.run.store_folder):
            if one.name == folder.name:
                break
            rows += one.rows
        return rows

    def _mend(self, folder: Path, found: list[Checked]) -> None:
        manifest = read_manifest(folder)
        shards = self._shards()
        try:
            shards.use_segment(manifest.plan, folder)
        except StoreError as changed:
            self.done.problems.append(str(changed))
            return
        recorded = {(record.checkpoint, record.shard): record for record in manifest.shards}
        todo = [one for one in found if one.shard >= 0]
        if not manifest.shards:
            todo = [
                Checked(folder, name, shard)
                for name, shard in manifest.plan.shards()
                if not sidecar_path(folder, name, shard).exists() or not shard_path(folder, name, shard).exists()
            ]
        with progress("embedding", len(todo), "shards") as bar, one_thread():
            for one in todo:
                if one.problem:
                    self._tell(one.problem)
                try:
                    shards.write(manifest.plan, one.checkpoint, one.shard, folder)
                except (ForebearError, OSError, RuntimeError, ValueError) as problem:
                    self.done.problems.append(f"{shard_path(folder, one.checkpoint, one.shard)}: {problem}")
                    continue
                self._compare(folder, manifest, one, recorded)
                bar.advance()
        if not self.done.problems:
            write_samples(folder, shards.training_set)
            write_manifest(folder)

    def _compare(
        self, folder: Path, manifest: Manifest, one: Checked, recorded: Mapping[tuple[str, int], ShardRecord]
    ) -> None:
        """The same machine type gives the same bytes; another one gives other last digits."""
        self.done.shards += 1
        before = recorded.get((one.checkpoint, one.shard))
        now = read_sidecar(folder, one.checkpoint, one.shard)
        if before is not None and before != now:
            differing = [name for name, value in vars(now).items() if vars(before)[name] != value]
            self.done.other_bytes.append(
                f"{shard_path(folder, one.checkpoint, one.shard)} has other bytes than were recorded "
                f"({', '.join(differing)} differ; the store was begun by Forebear {manifest.forebear_version}, this is "
                f"{__version__}): another machine type or library computes other last digits. It is kept and recorded"
            )

    def _shards(self) -> ShardEmbedder:
        if self._opened is None:
            config = parse(EmbedConfig, self.run.section(SECTION), str(self.run.settings_file))
            self._opened = ShardEmbedder(self.run, config)
        return self._opened


def repair(run: Run, tell: Tell = lambda _: None) -> Repaired:
    """Mend the store of a run; `tell` hears what is found, line by line. Raises what `Repairer.repair` raises."""
    if not run.store_folder.exists() and not run.store_folder.with_name("store.old").exists():
        raise StoreError(f"{run.folder} has no store; make it with `forebear embed --run {run.folder}`")
    with one_thread():
        return Repairer(run, tell).repair()


def read_sidecar_hash(path: Path) -> str:
    """The plan that a sidecar names; empty when it cannot be read."""
    checkpoint = path.parent.name.partition("=")[2]
    try:
        return read_sidecar(path.parent.parent, checkpoint, int(path.stem.rpartition("-")[2])).plan_hash
    except (StoreError, ValueError):
        return ""


def _complete(folder: Path, plan: StorePlan) -> bool:
    return all(sidecar_path(folder, *shard).exists() for shard in plan.shards())
