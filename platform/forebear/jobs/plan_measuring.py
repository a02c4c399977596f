"""What a plan is calculated from: a few batches of the user's own model and data, and a search, on this machine."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np

from forebear.config import plain
from forebear.data import DataConfig
from forebear.errors import ModelError
from forebear.index import IndexConfig, IndexMetadata, build_index
from forebear.index.description import WeightedCheckpoint
from forebear.jobs.doctor_costs import now
from forebear.jobs.embed_config import EmbedConfig
from forebear.jobs.embedding import one_thread
from forebear.jobs.planning import plan_embedding
from forebear.jobs.shards import ShardEmbedder
from forebear.progress import progress
from forebear.run import Run

SEARCH_ROWS = (20_000, 80_000)
"""Rows of the two small indexes that a search is timed in: many more than the candidates that are ranked exactly."""
SEARCH_DIM = 512
"""Longest vectors of those; a scan's time goes with their length."""
BLOCK_ROWS = 10_000
SEARCHES = 9
FEWEST_SHARDS = 3


@dataclass(frozen=True)
class MeasuredWork:
    """One worker of this machine on the user's model and data."""

    device: str
    rate: float
    """Pictures in a second at one checkpoint, with reading and writing; of processor time on a CPU."""
    pictures: int
    """That were measured."""
    opening: float
    """Seconds to open the run: list the images and load the model."""
    loading: float
    """Seconds to load another checkpoint."""
    memory: int
    """Bytes of the process at its peak."""
    samples: int
    """In the run's training set."""
    checkpoints: int
    dim: int


@dataclass(frozen=True)
class MeasuredSearch:
    """One thread of this machine in a small index of random vectors."""

    kind: Literal["exact", "rabitq"]
    dim: int
    seconds: tuple[float, ...]
    """Median of a query for 100 rows, in indexes of SEARCH_ROWS."""

    @property
    def per_row(self) -> float:
        """Seconds of a scan for each row."""
        return max(0.0, (self.seconds[1] - self.seconds[0]) / (SEARCH_ROWS[1] - SEARCH_ROWS[0]))

    @property
    def fixed(self) -> float:
        """Seconds whatever the number of rows: candidates are ranked exactly."""
        return max(0.0, self.seconds[0] - self.per_row * SEARCH_ROWS[0])


def measure_work(run: Run, config: EmbedConfig, seconds: float = 20.0) -> MeasuredWork:
    """Embed pictures of the run for about `seconds`, after a warm-up, and write them into a temporary store.

    Raises what ShardEmbedder and the gradient engine raise.
    """
    rows = max(1, -(-config.batch_size // (config.timesteps * config.draws)))
    config = replace(config, shard_rows=rows, workers=0)
    with one_thread(), _shadow(run) as shadow:
        start = time.perf_counter()
        shards = ShardEmbedder(shadow, config)
        opening = time.perf_counter() - start
        device = next(shards.model.denoiser.parameters()).device
        start = time.perf_counter()
        plan = plan_embedding(shards)
        loading = (time.perf_counter() - start) / len(plan.checkpoints)
        name = plan.checkpoint_names[-1]
        took: list[float] = []
        began = time.monotonic()
        with progress("measuring", plan.shards_per_checkpoint, "batches") as bar:
            for shard in range(plan.shards_per_checkpoint):
                start = now(device)
                shards.write(plan, name, shard)
                took.append((now(device) - start) / len(plan.shard_range(shard)))
                bar.advance()
                if len(took) > FEWEST_SHARDS and time.monotonic() - began > seconds:
                    break
            bar.total = bar.done
        measured = took[1:] or took  # the first one warms up
        return MeasuredWork(
            device=str(device),
            rate=1 / median(measured),
            pictures=rows * len(measured),
            opening=opening,
            loading=loading,
            memory=_peak(),
            samples=plan.sample_count,
            checkpoints=len(plan.checkpoints),
            dim=plan.dim,
        )


@contextmanager
def run_of_model(model: Path, data: DataConfig) -> Iterator[Run]:
    """A run that lasts as long as the block, of a model directory and images; nothing is copied."""
    if not model.is_dir():
        raise ModelError(f"{model} does not exist; give a diffusers directory")
    with TemporaryDirectory(prefix="forebear-plan-") as folder:
        run = Run(Path(folder))
        run.record("data", plain(data))
        run.model_folder.symlink_to(model.resolve())
        yield run


@contextmanager
def _shadow(run: Run) -> Iterator[Run]:
    """The run with a store of its own in a temporary folder: measuring leaves no trace in the run."""
    run.settings()
    with TemporaryDirectory(prefix="forebear-plan-") as folder:
        shadow = Run(Path(folder))
        for path in run.folder.resolve().iterdir():
            if path.name not in ("store", "index", "progress", "quarantine.json"):
                (shadow.folder / path.name).symlink_to(path)
        yield shadow


def measure_search(kind: Literal["exact", "rabitq"], dim: int) -> MeasuredSearch:
    """Time searches for 100 rows in two small indexes of random vectors. Raises SearchIndexError without FAISS."""
    dim = min(dim, SEARCH_DIM)
    chance = np.random.default_rng(0)
    seconds: list[float] = []
    metadata = IndexMetadata("plan", "", (WeightedCheckpoint("plan", 1.0),))
    with TemporaryDirectory(prefix="forebear-plan-") as folder:
        for rows in SEARCH_ROWS:
            queries = chance.standard_normal((SEARCHES, dim), np.float32)
            starts = range(0, rows, BLOCK_ROWS)
            blocks = ((start, chance.standard_normal((BLOCK_ROWS, dim), np.float32)) for start in starts)
            place = Path(folder) / kind / str(rows)
            ids = [f"sample-{row:010d}" for row in range(rows)]
            # Whether short codes are kept shows on real vectors alone; without them a query takes longer.
            config = IndexConfig(kind=kind, recall_queries=1, short_codes_from=rows + 1)
            index = build_index(place, blocks, dim, ids, config=config, metadata=metadata)
            took = []
            for query in queries:
                start = time.process_time()
                index.search(query[None], 100)
                took.append(time.process_time() - start)
            seconds.append(median(took))
    return MeasuredSearch(kind, dim, tuple(seconds))


def _peak() -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if os.uname().sysname == "Darwin" else 1024)
