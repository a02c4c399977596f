"""The segments of a store: the first embedding, and what was added to it later, in the order of being added.

The first segment lies in the store's folder itself; STORE/segment-0001, ... hold a plan, a manifest and shards of their
own, for rows that follow those before. STORE/segments.json lists the segments that are finished.
"""

from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from pydantic.dataclasses import dataclass

from forebear.config import STRICT, parse, plain
from forebear.errors import ForebearError, StoreError
from forebear.files import fingerprint, read_json, write_json
from forebear.store.manifest import Manifest, check_records, read_manifest
from forebear.store.plan import StorePlan
from forebear.store.shard import SEGMENT_NAME, rebuild, run_folder

SEGMENTS_FILE = "segments.json"


@dataclass(frozen=True, config=STRICT)
class ListedSegment:
    """A finished segment, as segments.json names it."""

    name: str
    """Of its folder within the store."""
    plan_hash: str
    """Of its own plan."""
    rows: int
    """In it."""


@dataclass(frozen=True, config=STRICT)
class _File:
    segments: tuple[ListedSegment, ...]


@plain_dataclass(frozen=True)
class Segment:
    """A part of a store with a plan of its own."""

    folder: Path
    manifest: Manifest

    @property
    def plan(self) -> StorePlan:
        return self.manifest.plan

    @cached_property
    def rows(self) -> range:
        """Of the store."""
        return range(self.plan.first_row, self.plan.first_row + self.plan.sample_count)


def listed_segments(folder: Path) -> tuple[ListedSegment, ...]:
    """The segments that were added to the store in `folder`; raises StoreError when the list is damaged."""
    path = folder / SEGMENTS_FILE
    if not path.exists():
        return ()
    remedy = f"run `forebear store repair --run {run_folder(folder)}`, which lists the segments that are there"
    try:
        return parse(_File, read_json(path, StoreError, remedy), str(path)).segments
    except ForebearError as invalid:
        raise StoreError(f"{invalid}; {remedy}") from None


def list_segments(folder: Path, segments: Sequence[ListedSegment]) -> None:
    """Write the list: from now on these segments are parts of the store."""
    write_json(folder / SEGMENTS_FILE, {"segments": [plain(one) for one in segments]})


def segment_folders(folder: Path) -> list[Path]:
    """Folders of segments that are there, finished or not, in order."""
    return sorted((path for path in folder.glob("segment-*") if SEGMENT_NAME.fullmatch(path.name)), key=_number)


def next_segment(folder: Path) -> Path:
    """The folder that what is added next is written to."""
    taken = [_number(folder / one.name) for one in listed_segments(folder)]
    return folder / f"segment-{max(taken, default=0) + 1:04d}"


def open_segments(folder: Path) -> tuple[Segment, ...]:
    """The finished segments of a store, checked against each other but for their shards' files.

    Raises StoreError when one is missing, unfinished, or does not continue those before it.
    """
    segments = [_finished(folder)]
    for listed in listed_segments(folder):
        part = folder / listed.name
        if not part.is_dir():
            raise StoreError(
                f"{part}, {listed.rows:,} images that were added to the store, is missing; restore it, or run "
                f"`forebear store repair --run {run_folder(folder)}`, which says how they are embedded again"
            )
        segment = _finished(part)
        wanted = following(segments, segment.plan.dataset, segment.plan.sample_count)
        if segment.plan != wanted or segment.plan.hash != listed.plan_hash:
            changes = "; ".join(wanted.changes(segment.plan)) or "the list names another plan"
            raise StoreError(f"{part} does not continue the segments before it ({changes}); restore its manifest")
        segments.append(segment)
    return tuple(segments)


def following(segments: Sequence[Segment], dataset: str, count: int) -> StorePlan:
    """The plan of a segment of `count` samples after others: theirs but for the samples."""
    return replace(segments[0].plan, dataset=dataset, sample_count=count, first_row=segments[-1].rows.stop)


def joint_manifest(segments: Sequence[Segment]) -> Manifest:
    """What several segments are together; the one segment's own manifest where there is one.

    The joint plan's hash identifies the segments and their order. Shards are listed by segment.
    """
    first = segments[0]
    if len(segments) == 1:
        return first.manifest
    dataset = fingerprint([segment.plan.dataset for segment in segments])
    plan = replace(first.plan, dataset=dataset, sample_count=segments[-1].rows.stop)
    shards = tuple(record for segment in segments for record in segment.manifest.shards)
    return replace(first.manifest, plan=plan, plan_hash=plan.hash, shards=shards)


def _finished(folder: Path) -> Segment:
    manifest = read_manifest(folder)
    if not manifest.shards:
        raise StoreError(f"the store in {folder} is not finished; {rebuild(folder)}")
    check_records(folder, manifest.plan, manifest.shards)
    return Segment(folder, manifest)


def _number(folder: Path) -> int:
    return int(folder.name.removeprefix("segment-"))
