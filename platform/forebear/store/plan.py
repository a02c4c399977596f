"""The plan of a store: everything that decides its numbers and how they are cut into shards."""

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field, JsonValue, model_validator
from pydantic.dataclasses import dataclass

from forebear.config import STRICT, plain
from forebear.files import fingerprint
from forebear.run import differences

FORMAT_VERSION = 1
"""Of the shards and of the manifest; a change of either raises it."""

VECTOR_COLUMNS = ("mean", "unit_mean", "unit_matched")
"""Of the loss alone; other measurements add theirs (gradients.embedding.COLUMNS)."""

CPU = "cpu"

Count = Annotated[int, Field(ge=1)]
FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
ColumnName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


@dataclass(frozen=True, config=STRICT)
class PlannedCheckpoint:
    """A checkpoint whose gradients the store holds."""

    name: FolderName
    """Folder name, `step-00004000`."""
    step: Annotated[int, Field(ge=0)]
    """Of training."""
    fingerprint: str
    """Identifies the weights."""


@dataclass(frozen=True, config=STRICT)
class StorePlan:
    """What a store holds. Two stores with one plan hold the same bytes; what is not here may not change a number."""

    dataset: str
    """Fingerprint of the samples and their order."""
    sample_count: Count
    """N."""
    checkpoints: Annotated[tuple[PlannedCheckpoint, ...], Field(min_length=1)]
    """By rising step."""
    measurement: str
    """The scalar whose gradient is taken."""
    timestep_scheme: str
    """How timesteps are chosen: `stratified`, `recorded` ..."""
    timesteps: tuple[int, ...]
    """The timesteps, when all samples share them; empty when they differ by sample."""
    timesteps_per_sample: Count
    """T: the width of norms, losses and timesteps."""
    draws: Count
    """Noises per timestep."""
    projection: dict[str, JsonValue]
    """The gradient engine's own description of its projection."""
    dim: Count
    """k: numbers in a vector."""
    shard_rows: Count
    """Samples in a shard; the last one of a checkpoint may hold fewer."""
    columns: Annotated[tuple[ColumnName, ...], Field(min_length=1)] = VECTOR_COLUMNS
    """The vector columns."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Whatever else decides the numbers: noise seed and sharing, precision, flips; `device` where it is not the CPU."""
    first_row: Annotated[int, Field(ge=0)] = 0
    """Row of the first sample: 0, or, of a segment that was added later, the number of rows before it."""
    format_version: int = FORMAT_VERSION
    """Of the store."""

    @model_validator(mode="after")
    def _consistent(self) -> "StorePlan":
        steps = [checkpoint.step for checkpoint in self.checkpoints]
        names = {checkpoint.name for checkpoint in self.checkpoints}
        if steps != sorted(set(steps)) or len(names) != len(steps):
            raise ValueError("checkpoints must be named once each and ordered by rising step")
        if len(set(self.columns)) != len(self.columns):
            raise ValueError("a vector column is named twice")
        if self.timesteps and len(self.timesteps) != self.timesteps_per_sample:
            raise ValueError(
                f"{len(self.timesteps)} timesteps are listed, but timesteps_per_sample is {self.timesteps_per_sample}"
            )
        return self

    @cached_property
    def hash(self) -> str:
        """Identifies the plan: 32 hexadecimal digits."""
        values = plain(self)
        if not self.first_row:  # hashes from before there were segments stay what they were
            del values["first_row"]
        return fingerprint(values)

    @property
    def device(self) -> str:
        """The kind of device whose numbers these are: `cpu` or `cuda`. Stores that do not say it are the CPU's."""
        return str(self.settings.get("device", CPU))

    @property
    def checkpoint_names(self) -> tuple[str, ...]:
        return tuple(checkpoint.name for checkpoint in self.checkpoints)

    @property
    def shards_per_checkpoint(self) -> int:
        return -(-self.sample_count // self.shard_rows)

    def shards(self) -> Iterator[tuple[str, int]]:
        """(checkpoint, shard) of all the work, in order."""
        for name in self.checkpoint_names:
            for shard in range(self.shards_per_checkpoint):
                yield name, shard

    def shard_range(self, shard: int) -> range:
        """The store's rows that a shard holds."""
        first, end = self.first_row + shard * self.shard_rows, self.first_row + self.sample_count
        return range(first, min(first + self.shard_rows, end))

    def changes(self, wanted: "StorePlan") -> list[str]:
        """What differs in `wanted`, as `name: old -> new`; empty when the plans are one."""
        return differences(_by_name(self), _by_name(wanted))


def _by_name(plan: StorePlan) -> dict[str, Any]:
    """The plan's values with checkpoints under their names, so that a difference names the checkpoint."""
    checkpoints = {item.name: {"step": item.step, "fingerprint": item.fingerprint} for item in plan.checkpoints}
    return {**plain(plan), "checkpoints": checkpoints, "settings": {**plan.settings, "device": plan.device}}
