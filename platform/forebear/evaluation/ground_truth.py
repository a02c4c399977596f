"""The ground truth of an LDS evaluation on disk: subsets, queries, and every model's losses on every query."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forebear.errors import ConfigError, StoreError
from forebear.evaluation.lds_config import Training
from forebear.evaluation.queries import Queries, read_queries
from forebear.evaluation.subsets import Subsets, read_subsets
from forebear.files import fingerprint, read_json, whole_file, write_json
from forebear.run import Run, differences

FORMAT_VERSION = 1
"""Of the files; a change raises it."""

REMEDY = "run the evaluation again, which goes on where it stopped"
PLAN = "plan.json"


@dataclass(frozen=True)
class GroundTruth:
    """A folder RUN/evaluation/NAME and what is read from it; losses may still be missing."""

    folder: Path
    plan: Mapping[str, Any]
    """Everything that decides the numbers."""
    subsets: Subsets
    queries: Queries

    @classmethod
    def open(cls, run: Run, name: str = "lds") -> "GroundTruth":
        """Raises StoreError when there is none of that name, or it is damaged."""
        folder = evaluation_folder(run, name)
        plan = read_json(folder / PLAN, StoreError, f"{REMEDY}, or starts it")
        return cls(folder, plan, read_subsets(folder / "subsets.parquet"), read_queries(folder))

    @cached_property
    def trained(self) -> tuple[Training, ...]:
        """The models whose losses are there, by seed and subset."""
        found = [_training(path) for path in (self.folder / "losses").glob("subset-*-seed-*.parquet")]
        return tuple(sorted((t for t in found if t[0] < len(self.subsets.members)), key=lambda t: (t[1], t[0])))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Training seeds, the one with most models first: its losses are the ground truth."""
        models = Counter(seed for _, seed in self.trained)
        return tuple(sorted(models, key=lambda seed: (-models[seed], seed)))

    def subsets_of(self, seed: int) -> NDArray[np.int64]:
        """The subsets whose models of a training seed are there, ascending: int64[m]."""
        return np.array([subset for subset, its_seed in self.trained if its_seed == seed], np.int64)

    def losses(self, seed: int, timesteps: slice = slice(None)) -> NDArray[np.float64]:
        """Each query's loss under each model of a training seed, by rising subset: float64[m, Q].

        `timesteps` chooses among the T measured ones, by position, for the loss in a band of noise levels.
        """
        found = [self.by_timestep((int(s), seed))[:, timesteps].mean(1, np.float64) for s in self.subsets_of(seed)]
        return np.stack(found) if found else np.zeros((0, len(self.queries)))

    def table(self) -> pa.Table:
        """Every model's loss on every query, one row each: what attributions are judged by, small enough to publish."""
        ids = [query.id for query in self.queries.table]
        parts = [
            pa.table(
                {
                    "subset": np.full(len(ids), subset, np.int32),
                    "seed": np.full(len(ids), seed, np.int64),
                    "query": ids,
                    "loss": self.by_timestep((subset, seed)).mean(1, np.float64),
                }
            )
            for subset, seed in self.trained
        ]
        return pa.concat_tables(parts)

    def by_timestep(self, training: Training | None) -> NDArray[np.float32]:
        """Losses of one model at each timestep, mean over draws: float32[Q, T]; None is the run's own model."""
        path = losses_file(self.folder, training)
        try:
            table = pq.read_table(path)
            losses = np.stack(table["losses"].to_numpy()).astype(np.float32)
        except (pa.ArrowException, OSError, KeyError, ValueError) as broken:
            raise StoreError(f"{path} cannot be read ({broken}); remove it, and {REMEDY}") from None
        if (table.schema.metadata or {}).get(b"plan") != plan_hash(self.plan) or len(losses) != len(self.queries):
            raise StoreError(f"{path} was measured with other settings; remove it, and {REMEDY}")
        return losses


def evaluation_folder(run: Run, name: str) -> Path:
    return run.folder / "evaluation" / name


def losses_file(folder: Path, training: Training | None) -> Path:
    """None is the run's own model."""
    return folder / "losses" / ("full.parquet" if training is None else f"{training_name(training)}.parquet")


def training_name(training: Training) -> str:
    return f"subset-{training[0]:04d}-seed-{training[1]}"


def _training(path: Path) -> Training:
    _, subset, _, seed = path.stem.split("-", 3)
    return int(subset), int(seed)


def plan_hash(plan: Mapping[str, Any]) -> bytes:
    return fingerprint(plan).encode()


def write_losses(folder: Path, plan: Mapping[str, Any], training: Training | None, losses: NDArray[np.float32]) -> None:
    """One row for each query with its losses float32[T]; whole or not at all."""
    flat = pa.array(losses.astype(np.float32).ravel())
    table = pa.table({"losses": pa.FixedSizeListArray.from_arrays(flat, losses.shape[1])})
    with whole_file(losses_file(folder, training)) as part:
        pq.write_table(table.replace_schema_metadata({"plan": plan_hash(plan)}), part)


def keep_plan(folder: Path, plan: Mapping[str, Any]) -> None:
    """Write the plan, or raise ConfigError naming what changed when another one is there."""
    path = folder / PLAN
    if not path.is_file():
        write_json(path, dict(plan))
        return
    changed = differences(read_json(path, StoreError, "remove the folder to start anew"), plan)
    if changed:
        raise ConfigError(
            f"{folder} was made from other inputs ({'; '.join(changed)[:2000]}); put them back, or give the evaluation "
            "a new name"
        )
