"""How long does a question take? One 32-pixel picture at 16 timesteps and four checkpoints, against 4,000 images.

    OMP_NUM_THREADS=1 python tests/bench/bench_query.py --dataset cifar2-train.parquet

The model is the smaller UNet of bench_gradients (1.1 M parameters), trained for 80 steps: what a question costs does
not depend on what the model has learnt, nor on how many timesteps the store's vectors are means of (one here, so that
they are made in minutes). Training and embedding go on where they stopped; later calls time questions alone.

All is done in one process by one thread. Seconds are its processor time: what a core takes that nobody else uses,
though other work on the machine still slows memory down. The attributor is open, as in a service: checkpoints are
loaded, calibrations computed. `embed` measures the picture, `side` makes the estimator's vector from it (a ridge is
solved here), `search` is the exact inner product with every image's vector. `quick` is the whole answer without an
audit, `full` the one with percentiles, intervals, p-values and the search for near copies.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from gradient_bench.models import IMAGE_SIZE, TINY, Architecture, S, one_thread
from numpy.typing import NDArray
from processor import description

from forebear.attribution import Attributor, QueryConfig
from forebear.attribution.sides import Sides
from forebear.data import Columns, DataConfig, open_training_set
from forebear.diffusion.building import ModelConfig
from forebear.diffusion.checkpoint import attributed_checkpoints, load_checkpoint
from forebear.diffusion.noise import stratified_timesteps
from forebear.diffusion.training import TrainConfig, TrainingConfig, train
from forebear.errors import ForebearError
from forebear.estimators import estimator
from forebear.index import IndexConfig
from forebear.jobs import EmbedConfig, build_indexes, embed
from forebear.run import Run

ESTIMATORS = ("tracin", "retrac", "retrac-ridge")
CHECKPOINTS = 4
STEPS_BETWEEN = 20
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Timed:
    """Seconds of one query's stages, all of them processor time."""

    embed: float
    side: float
    search: float
    quick: float
    full: float


def prepared(folder: Path, architecture: Architecture, data: DataConfig) -> Run:
    """The trained, embedded and indexed run in `folder`; what is there already is kept."""
    run = Run(folder)
    training_set = open_training_set(data)
    config = TrainConfig(
        data=data,
        model=ModelConfig(image_size=IMAGE_SIZE, unet=architecture.unet),
        training=TrainingConfig(
            epochs=CHECKPOINTS,
            batch_size=architecture.batch_size,
            learning_rate=architecture.learning_rate,
            warmup_steps=architecture.warmup_steps,
            ema_decay=0.0,
        ),
    )
    few = [sample.id for sample in training_set.samples[: STEPS_BETWEEN * architecture.batch_size]]
    if not train(run, config, training_set, subset=few):
        raise ForebearError("training was stopped; the same command goes on with it")
    embed(run, EmbedConfig(timesteps=1))
    if not run.index_folder("tracin").is_dir():
        build_indexes(run, ESTIMATORS, IndexConfig())
    return run


def timed(call: Callable[[], Answer]) -> tuple[Answer, float]:
    """What the call returns, and its seconds of processor time."""
    started = time.process_time()
    answer = call()
    return answer, time.process_time() - started


def measure(attributor: Attributor, sides: Sides, name: str, picture: NDArray[np.float32], query: QueryConfig) -> Timed:
    """One picture through every stage, and through the two calls that a user makes."""
    embedded, embedding = timed(
        lambda: attributor.embed_query(picture, query=query, estimators=[name], by_timestep=False)
    )
    psi, side = timed(lambda: sides.query_vector(estimator(name), [embedded]))
    _, search = timed(lambda: attributor.index(name).scores(psi))
    _, quick = timed(lambda: attributor.attribute(picture, estimator=name, query=query, audit=None))
    _, full = timed(lambda: attributor.attribute(picture, estimator=name, query=query))
    return Timed(embedding, side, search, quick, full)


def training_steps(run: Run, picture: NDArray[np.float32], timesteps: int) -> float:
    """Seconds of plain training steps, forward and backward, on as many rows as a query has gradients."""
    model = load_checkpoint(run, attributed_checkpoints(run)[-1])
    model.denoiser.requires_grad_(True)
    x0 = torch.from_numpy(picture)[None].expand(timesteps, -1, -1, -1)
    at, noise = torch.from_numpy(stratified_timesteps(timesteps, model.total_timesteps)), torch.randn(x0.shape)
    condition = model.condition([""] * timesteps, [None] * timesteps)

    def step() -> None:
        model.denoiser.zero_grad(set_to_none=True)
        model.per_sample_loss(x0, at, noise, condition).sum().backward()

    step()
    return CHECKPOINTS * median(timed(step)[1] for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="Parquet or a folder: the images, and others as queries")
    parser.add_argument("--run", type=Path, default=Path("runs/bench-query"), help="keeps the model and the store")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--timesteps", type=int, default=16)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="a tiny model: does the benchmark work?")
    chosen = parser.parse_args()
    one_thread()
    columns = Columns(group_columns=("group",))
    run = prepared(
        chosen.run, TINY if chosen.quick else S, DataConfig(chosen.dataset, columns=columns, limit=chosen.images)
    )
    attributor = Attributor.open(run.folder)
    attributor.prepare(ESTIMATORS)
    sides = Sides(run, attributor.store, attributor.training_set)
    others = open_training_set(DataConfig(chosen.dataset, columns=columns))
    known = attributor.training_set.rows
    rows = [row for row, sample in enumerate(others.samples) if sample.id not in known][: chosen.queries]
    pictures = others.pixels(rows, IMAGE_SIZE)
    query = QueryConfig(count=chosen.timesteps)
    plan = attributor.store.plan
    print(
        f"{description().get('model name', 'unknown processor')}, one thread; {plan.sample_count:,} images, "
        f"{len(plan.checkpoints)} checkpoints, k = {plan.dim}; {len(rows)} queries at {chosen.timesteps} timesteps"
    )
    steps = training_steps(run, pictures[0], chosen.timesteps)
    print(f"as many plain training steps, for comparison: {steps:.3f} s")
    print(f"{'seconds, median (largest)':26}" + "".join(f"{stage:>17}" for stage in Timed.__dataclass_fields__))
    for name in ESTIMATORS:
        measure(attributor, sides, name, pictures[0], query)  # loads what is loaded once
        found = [measure(attributor, sides, name, picture, query) for picture in pictures]
        stages = [[getattr(one, stage) for one in found] for stage in Timed.__dataclass_fields__]
        print(f"{name:26}" + "".join(f"{median(stage):9.3f} ({max(stage):.3f})" for stage in stages), flush=True)


if __name__ == "__main__":
    main()
