"""Shards that were given up, with their reasons: kept in the run until they are asked for again."""

from collections.abc import Sequence
from pathlib import Path

from pydantic.dataclasses import dataclass

from forebear.config import STRICT, parse, plain
from forebear.errors import ForebearError, StoreError
from forebear.files import read_json, write_json
from forebear.store import StorePlan

Shard = tuple[str, int]
"""Checkpoint and number."""
REMEDY = "delete it; its shards are then tried again"
NAMED_IN_ERRORS = 5


@dataclass(frozen=True, config=STRICT)
class QuarantinedShard:
    """A shard that could not be embedded."""

    checkpoint: str
    """Its name."""
    shard: int
    """Number within the checkpoint."""
    first_row: int
    """Of the store."""
    last_row: int
    """Of the store, included."""
    samples: tuple[str, ...]
    """Ids of all of its samples: one or more of them is to blame."""
    reason: str
    """What went wrong, the last time."""
    tries: int
    """How often it was tried."""

    @property
    def key(self) -> Shard:
        return self.checkpoint, self.shard

    def __str__(self) -> str:
        named = ", ".join(self.samples[:NAMED_IN_ERRORS])
        more = f" and {len(self.samples) - NAMED_IN_ERRORS} more" if len(self.samples) > NAMED_IN_ERRORS else ""
        rows = f"rows {self.first_row} to {self.last_row}: {named}{more}"
        return f"shard {self.shard} of {self.checkpoint} ({rows}; {self.reason})"


@dataclass(frozen=True, config=STRICT)
class _File:
    plan_hash: str
    shards: tuple[QuarantinedShard, ...]


class Quarantine:
    """The quarantined shards of a store's plan, in a file that is there only while there are some."""

    def __init__(self, path: Path, plan: StorePlan) -> None:
        """Raises StoreError when the file cannot be read. Shards of another plan are forgotten."""
        self._path, self._plan = path, plan
        self._shards: dict[Shard, QuarantinedShard] = {}
        if not path.exists():
            return
        try:
            kept = parse(_File, read_json(path, StoreError, REMEDY), str(path))
        except ForebearError as invalid:
            raise StoreError(f"{invalid}; {REMEDY}") from None
        if kept.plan_hash == plan.hash:
            self._shards = {shard.key: shard for shard in kept.shards}

    def __contains__(self, shard: Shard) -> bool:
        return shard in self._shards

    def __len__(self) -> int:
        return len(self._shards)

    @property
    def shards(self) -> list[QuarantinedShard]:
        """By checkpoint and number."""
        return [self._shards[key] for key in sorted(self._shards)]

    def add(self, shard: Shard, samples: Sequence[str], reason: str, tries: int) -> None:
        """Written at once: it outlives this process."""
        rows = self._plan.shard_range(shard[1])
        self._shards[shard] = QuarantinedShard(*shard, rows.start, rows.stop - 1, tuple(samples), reason, tries)
        self._write()

    def release(self, shard: Shard) -> None:
        """Of a shard that is done after all."""
        if self._shards.pop(shard, None):
            self._write()

    def _write(self) -> None:
        if self._shards:
            write_json(self._path, {"plan_hash": self._plan.hash, "shards": [plain(one) for one in self.shards]})
        else:
            self._path.unlink(missing_ok=True)
