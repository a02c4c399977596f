"""Opens an index, whichever kind lies in a folder."""

from pathlib import Path

from forebear.index.interface import Device, SearchIndex
from forebear.index.searching import VectorIndex
from forebear.index.sharded import ShardedIndex, is_sharded


def open_search_index(
    folder: Path, plan_hash: str | None = None, *, allow_low_recall: bool = False, device: Device = "auto"
) -> SearchIndex:
    """A VectorIndex, or a ShardedIndex with its parts in this process; raises what their `open` raises."""
    if is_sharded(folder):
        return ShardedIndex.open(folder, plan_hash, allow_low_recall=allow_low_recall, device=device)
    return VectorIndex.open(folder, plan_hash, allow_low_recall=allow_low_recall, device=device)
