"""What training draws in an epoch, decided before the epoch and recorded with the checkpoint that closes it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forebear.errors import StoreError
from forebear.files import whole_file
from forebear.randomness import keyed_permutation, keyed_uniform
from forebear.run import Run

SCHEMA = pa.schema(
    [
        ("checkpoint", pa.string()),
        ("sample_id", pa.string()),
        ("epoch", pa.int32()),
        ("timestep", pa.int32()),
        # With the sample id and the timestep these two are the key of the noise (diffusion.noise.draw_noise).
        ("noise_seed", pa.int64()),
        ("noise_draw", pa.int32()),
        ("flipped", pa.bool_()),
        ("caption_dropped", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class EpochPlan:
    """Everything that training draws in one epoch, as a function of (seed, epoch): resuming needs no stored state.

    Arrays are indexed by the sample's row in the training set, except `order`, the rows in the order of training.
    """

    seed: int
    epoch: int
    order: NDArray[np.int64]
    timesteps: NDArray[np.int64]
    flipped: NDArray[np.bool_]
    caption_dropped: NDArray[np.bool_]

    @classmethod
    def draw(
        cls,
        seed: int,
        epoch: int,
        count: int,
        total_timesteps: int,
        *,
        power: float = 1.0,
        flip: bool = False,
        caption_dropout: float = 0.0,
    ) -> "EpochPlan":
        """Draw an epoch of `count` samples; timesteps have a density proportional to t ** (power - 1)."""
        uniform = keyed_uniform((2, count), "augmentation", seed, epoch)
        heights = keyed_uniform((count,), "timestep", seed, epoch) ** (1.0 / power)
        return cls(
            seed=seed,
            epoch=epoch,
            order=keyed_permutation(count, "order", seed, epoch),
            timesteps=np.minimum((heights * total_timesteps).astype(np.int64), total_timesteps - 1),
            flipped=uniform[0] < (0.5 if flip else 0.0),
            caption_dropped=uniform[1] < caption_dropout,
        )

    def table(self, checkpoint: str, sample_ids: list[str]) -> pa.Table:
        """The events of this epoch under the name of the checkpoint that closes it."""
        count = len(sample_ids)
        columns: list[Any] = [
            [checkpoint] * count,
            sample_ids,
            np.full(count, self.epoch, np.int32),
            self.timesteps.astype(np.int32),
            np.full(count, self.seed, np.int64),
            np.full(count, self.epoch, np.int32),
            self.flipped,
            self.caption_dropped,
        ]
        return pa.table(columns, schema=SCHEMA)


def record_events(run: Run, events: pa.Table) -> None:
    """Add one checkpoint's events to the run's file, replacing any of the same checkpoint."""
    tables = [events]
    if run.events_file.is_file():
        before = read_events(run)
        tables.insert(0, before.filter(pc.not_equal(before["checkpoint"], events["checkpoint"][0])))
    with whole_file(run.events_file) as part:
        pq.write_table(pa.concat_tables(tables), part)


def read_events(run: Run) -> pa.Table:
    """The run's events; raises StoreError when there are none or the file is damaged."""
    try:
        return pq.read_table(run.events_file, schema=SCHEMA)
    except FileNotFoundError:
        raise StoreError(
            f"{run.events_file} does not exist; only `forebear train` records events, use stratified timesteps"
        ) from None
    except (pa.ArrowException, OSError) as broken:
        raise StoreError(f"{run.events_file} is damaged ({broken}); use stratified timesteps or train again") from None
