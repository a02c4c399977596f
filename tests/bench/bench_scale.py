"""What do more workers, Ray, storage and the scheduler cost? Two actors against one, one against none, 100M samples.

    .venv/bin/python tests/bench/bench_scale.py --dataset openmoji

Embeds real pictures for about a minute in this process, with one Ray actor and with two, in turn; writes and reads real
shards; runs the scheduler against simulated workers. Writes a page, its figures as JSON, and a picture. 10 minutes.
"""

import argparse
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import publishing
from gradient_bench import models
from scale_bench import growth, job, page, storage

from forebear.data import DataConfig, open_training_set
from forebear.diffusion.model import DiffusionModel
from forebear.gradients import ProjectionConfig
from forebear.jobs import EmbedConfig, start_run
from forebear.jobs.plan_measuring import measure_work
from forebear.progress import progress
from forebear.run import Run
from forebear.store import Store

WORKERS = (0, 1, 2)
PLANNED = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
PLAN_WORKERS = 64


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    architecture: models.Architecture
    config: EmbedConfig
    seconds: float
    """Of the in-process job; its pictures are chosen by a rate that is measured first."""
    rounds: int
    shard_rows: int
    """Of the shards whose writing and reading is timed."""
    repeats: int
    simulated: tuple[int, ...]


FULL = Plan(
    # Speed does not depend on how well a model is trained.
    architecture=replace(models.S, steps=4, batch_size=8, warmup_steps=1),
    config=EmbedConfig(timesteps=2, projection=ProjectionConfig(dim=4096), batch_size=32, shard_rows=16),
    seconds=60.0,
    rounds=3,
    shard_rows=8192,
    repeats=5,
    simulated=(100_000, 1_000_000, 10_000_000, 100_000_000),
)
QUICK = Plan(
    architecture=models.TINY,
    config=EmbedConfig(timesteps=1, projection=ProjectionConfig(dim=64), batch_size=8, shard_rows=4),
    seconds=0.5,
    rounds=1,
    shard_rows=256,
    repeats=1,
    simulated=(10_000, 100_000),
)


def make_run(plan: Plan, cache: Path, source: str, name: str, limit: int) -> Run:
    """A new run of the benchmark's model and so many pictures."""
    model = models.trained(plan.architecture, cache / "model", source)
    shutil.rmtree(cache / name, ignore_errors=True)
    return start_run(cache / name, model, DataConfig(source, limit=limit))


def embedded(plan: Plan, cache: Path, source: str) -> tuple[list[job.Timed], list[list[float]], Run]:
    """For each number of workers the median run, the rates of all, and the last run."""
    available = len(open_training_set(DataConfig(source)))
    trial = make_run(plan, cache, source, "trial", available)
    rate = measure_work(trial, plan.config, min(15.0, plan.seconds)).rate
    limit = min(available, max(8 * plan.config.shard_rows, int(plan.seconds * rate)))
    found: dict[int, list[job.Timed]] = {workers: [] for workers in WORKERS}
    with progress(f"embedding {limit:,} pictures", plan.rounds * len(WORKERS), "runs") as bar:
        for number in range(plan.rounds):
            for workers in WORKERS:
                run = make_run(plan, cache, source, f"workers-{workers}", limit)
                found[workers].append(job.timed(run, plan.config, workers))
                bar.advance(1, f"round {number + 1}, {workers} workers")
    return [job.middle(runs) for runs in found.values()], [[one.rate for one in runs] for runs in found.values()], run


def ratios(timed: list[job.Timed]) -> dict[str, float]:
    here, one, two = timed
    return {
        "efficiency": two.rate / one.rate,
        "efficiency_whole": one.seconds / two.seconds,
        "overhead": here.rate / one.rate - 1,
        "overhead_whole": one.seconds / here.seconds - 1,
        "base_seconds": here.seconds,
        "start_up": one.start_up - here.start_up,
    }


def measure(plan: Plan, cache: Path, source: str) -> dict[str, Any]:
    before = os.getloadavg()[0]
    timed, rates, run = embedded(plan, cache, source)
    store = Store.open(run.store_folder)
    model = DiffusionModel.load(run.model_folder)
    shape = {
        "checkpoints": 1,
        "timesteps": plan.config.timesteps,
        "dim": store.plan.dim,
        "columns": len(store.plan.columns),
        "shard_rows": EmbedConfig().shard_rows,
    }
    return {
        "command": publishing.command(),
        "machine": publishing.machine(page.PACKAGES),
        "job": {
            "dataset": Path(source).name,
            "pictures": len(store),
            "parameters": sum(parameter.numel() for parameter in model.denoiser.parameters()),
            "timesteps": plan.config.timesteps,
            "dim": store.plan.dim,
            "shard_rows": plan.config.shard_rows,
            "rounds": plan.rounds,
        },
        "workers": [
            {**asdict(one), "rate": one.rate, "start_up": one.start_up, "rates": its}
            for one, its in zip(timed, rates, strict=True)
        ],
        "ratios": ratios(timed),
        "storage": storage.measure(store, plan.shard_rows, plan.repeats),
        "simulation": {
            "workers": growth.WORKERS,
            "rate": growth.RATE,
            "rows": growth.SHARD_ROWS,
            "hours": growth.MACHINE_HOURS,
            "runs": [growth.simulated(samples) for samples in plan.simulated],
        },
        "plan_workers": PLAN_WORKERS,
        "growth": [growth.planned(samples, timed[1].rate, PLAN_WORKERS, shape) for samples in PLANNED],
        "load": [before, os.getloadavg()[0]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="openmoji", help="Parquet, a folder of images, openmoji or digits")
    parser.add_argument("--cache", type=Path, default=Path("runs/bench-scale"), help="keeps the model and the runs")
    parser.add_argument("--output", type=Path, help="without suffix; default: scale-benchmark in the cache")
    parser.add_argument(
        "--plotter",
        type=Path,
        default=Path("runs/bench-gradients/peers/bin/python"),
        help="a Python that has matplotlib, for the picture, when this one has none",
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model and job: does the benchmark work?")
    arguments = parser.parse_args()
    models.one_thread()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    stem = arguments.output or arguments.cache / "scale-benchmark"
    results = measure(QUICK if arguments.quick else FULL, arguments.cache, arguments.dataset)
    page.write(results, stem)
    print(stem.with_suffix(".md").read_text(encoding="utf-8"))
    if not page.draw(stem, arguments.plotter):
        print("no picture: matplotlib is not there; name a Python that has it by --plotter")


if __name__ == "__main__":
    main()
