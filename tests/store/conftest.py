"""A small store to write, read and damage."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebear.randomness import keyed_normal
from forebear.store import EmbeddingRows, PlannedCheckpoint, StorePlan, prepare_store, write_manifest, write_shard

PLAN = StorePlan(
    dataset="d1",
    sample_count=10,
    checkpoints=(PlannedCheckpoint("step-00000010", 10, "w10"), PlannedCheckpoint("step-00000020", 20, "w20")),
    measurement="loss",
    timestep_scheme="stratified",
    timesteps=(100, 500, 900),
    timesteps_per_sample=3,
    draws=1,
    projection={"kind": "sketch", "seed": 0},
    dim=8,
    shard_rows=4,
    settings={"noise_seed": 0},
)
WEIGHTS = {"step-00000010": 0.5, "step-00000020": 0.25}


def embed(plan: StorePlan, checkpoint: str, shard: int) -> EmbeddingRows:
    """Stand-in for the gradient engine: numbers that depend on checkpoint and row alone."""
    rows = plan.shard_range(shard)

    def draw(column: str, width: int) -> np.ndarray:
        return np.stack([keyed_normal((width,), column, checkpoint, row) for row in rows])

    return EmbeddingRows(
        sample_ids=[f"sample-{row}" for row in rows],
        rows=np.arange(rows.start, rows.stop),
        vectors={name: draw(name, plan.dim) for name in plan.columns},
        norms=np.abs(draw("norms", plan.timesteps_per_sample)),
        losses=draw("losses", plan.timesteps_per_sample),
        timesteps=np.tile(np.array([100, 500, 900], np.int32), (len(rows), 1)),
    )


def fill(folder: Path, plan: StorePlan) -> None:
    prepare_store(folder, plan, WEIGHTS)
    for checkpoint, shard in plan.shards():
        write_shard(folder, plan, checkpoint, shard, embed(plan, checkpoint, shard))
    write_manifest(folder)


@pytest.fixture
def plan() -> StorePlan:
    return PLAN


@pytest.fixture
def changed(plan: StorePlan) -> Callable[..., StorePlan]:
    """The plan with some values replaced."""

    def change(**values: Any) -> StorePlan:
        return replace(plan, **values)

    return change


@pytest.fixture
def weights() -> dict[str, float]:
    return dict(WEIGHTS)


@pytest.fixture
def rows_of() -> Callable[[StorePlan, str, int], EmbeddingRows]:
    return embed


@pytest.fixture
def fill_store() -> Callable[[Path, StorePlan], None]:
    return fill


@pytest.fixture
def store_folder(tmp_path: Path, plan: StorePlan) -> Path:
    """A finished store in a run folder."""
    folder = tmp_path / "run" / "store"
    fill(folder, plan)
    return folder
