"""What does a projected per-sample gradient cost, and how true is it? Beside a training step, vmap and other libraries.

    .venv/bin/python tests/bench/bench_gradients.py --dataset ../shared/data/cifar2-train.parquet

Trains two UNets of 1.1 and 35.7 million parameters for some minutes, kept in the cache for the next time, then measures
speed, memory and fidelity of every setting. Writes a page, its figures as JSON, and a picture. About 25 minutes.
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import publishing
import torch
from gradient_bench import fidelity, models, report
from gradient_bench.memory import extra_memory
from gradient_bench.peers import Peers, earlier, environment
from gradient_bench.variants import DIMS, STEP, sketches, works

from forebear.data import DataConfig, TrainingSet, open_training_set
from forebear.diffusion.model import DiffusionModel
from forebear.jobs.doctor_costs import interleave
from forebear.progress import progress


@dataclass(frozen=True)
class Plan:
    """How one model is measured."""

    architecture: models.Architecture
    rows: int
    rounds: int
    pictures: int
    timesteps: tuple[int, ...]
    seeds: int
    dims: tuple[int, ...] = DIMS


FULL = {
    "S": Plan(models.S, rows=32, rounds=9, pictures=64, timesteps=(50, 200, 500, 850), seeds=3),
    "M": Plan(models.M, rows=8, rounds=4, pictures=12, timesteps=(200, 500), seeds=1),
}
QUICK = {"tiny": Plan(models.TINY, rows=4, rounds=2, pictures=8, timesteps=(200,), seeds=1, dims=(256,))}
PEERS_ON, PEER_TIMESTEPS = "S", (200, 500)
"""Peers are slow, so they get some of the timesteps of one model."""
NOISES = ("own", "shared")
"""Each picture under a noise of its own, and all under one, as `forebear embed` does unless told otherwise."""


class Bench:
    """One model on its way through the measurements."""

    def __init__(self, name: str, plan: Plan, cache: Path, source: str) -> None:
        self.name, self.plan, self.cache = name, plan, cache
        self.folder = models.trained(plan.architecture, cache / name, source)
        training_set: TrainingSet = open_training_set(DataConfig(source))
        self.model = DiffusionModel.load(self.folder)
        pictures = models.chosen_pictures(training_set, max(plan.pictures, plan.rows))
        self.timed = pictures[: plan.rows]
        self.sketches = sketches(plan.dims)
        self.pictures = pictures[: plan.pictures]
        self.results: dict[str, dict[str, Any]] = {}

    def speed(self) -> None:
        batch = models.timing_batch(self.model, self.timed)
        ready = {name: prepare() for name, prepare in works(batch, self.sketches).items()}
        with progress(f"{self.name}: speed", (self.plan.rounds + 1) * len(ready), "runs") as bar:
            costs = interleave(ready, self.plan.rows, torch.device("cpu"), bar, self.plan.rounds, longest=inf)
        self.results = {name: asdict(cost) for name, cost in costs.items()}

    def truth(self) -> None:
        """Whole gradients at every timestep, for `fidelity` and for the peers."""
        self.batches = {
            noise: {
                t: models.timestep_batch(self.model, self.pictures, t, shared=noise == "shared")
                for t in self.plan.timesteps
            }
            for noise in NOISES
        }
        self.truths = {
            noise: {t: fidelity.exact(batch) for t, batch in batches.items()} for noise, batches in self.batches.items()
        }

    def fidelity(self) -> None:
        with progress(f"{self.name}: fidelity", len(self.sketches) * len(NOISES), "sketches") as bar:
            for sketch in self.sketches:
                for noise in NOISES:
                    batches, truths = self.batches[noise], self.truths[noise]
                    found = fidelity.measure(batches, truths, sketch, self.plan.seeds, self.plan.rows)
                    self.results[sketch.name][noise] = found
                    bar.advance(1, sketch.name)

    def memory(self, only: set[str] | None = None) -> None:
        """In child processes, of all variants or of `only`, where Linux says what a process takes."""
        if not Path("/proc/self/clear_refs").exists():
            return
        pictures = self.cache / f"{self.name}-pictures.npy"
        np.save(pictures, self.timed.numpy())
        names = [name for name in self.results if only is None or name in only]
        extra = extra_memory(self.folder, pictures, names, f"{self.name}: memory")
        for name, size in extra.items():
            self.results[name] |= {"memory": size / extra[STEP], "memory_bytes": size}

    def summary(self) -> dict[str, Any]:
        pairs = np.triu_indices(self.plan.pictures, 1)
        cosines = {noise: [true.cosines[pairs] for true in truths.values()] for noise, truths in self.truths.items()}
        with torch.no_grad():
            losses = [float(batch.losses().mean()) for batch in self.batches["own"].values()]
        return {
            "parameters": sum(parameter.numel() for parameter in self.model.denoiser.parameters()),
            **{key: getattr(self.plan, key) for key in ("rows", "rounds", "pictures", "timesteps", "seeds")},
            "loss": fmean(losses),
            "cosine_mean": {noise: [float(one.mean()) for one in found] for noise, found in cosines.items()},
            "cosine_spread": {noise: [float(one.std()) for one in found] for noise, found in cosines.items()},
            "variants": self.results,
        }


def run(plans: Mapping[str, Plan], source: str, cache: Path, python: Path | None, *, quick: bool) -> dict[str, Any]:
    benches = [Bench(name, plan, cache, source) for name, plan in plans.items()]
    before = os.getloadavg()[0]
    for bench in benches:
        bench.speed()
    for bench in benches:
        bench.truth()
    peers = _start_peers(benches, cache, python)  # what follows is not timed
    for bench in benches:
        bench.fidelity()
        bench.memory({STEP, bench.sketches[0].name} if quick else None)
    return {
        "command": publishing.command(),
        "machine": publishing.machine(report.PACKAGES),
        "load": [before, os.getloadavg()[0]],
        "models": {bench.name: bench.summary() for bench in benches},
        **({"peers": {"model": PEERS_ON, "kept": False, **peers.finish()}} if peers else {}),
    }


def _start_peers(benches: list[Bench], cache: Path, python: Path | None) -> Peers | None:
    for bench in benches:
        if python and bench.name == PEERS_ON:
            batches, truths = ({t: part["own"][t] for t in PEER_TIMESTEPS} for part in (bench.batches, bench.truths))
            return Peers.start(python, bench.folder, batches, truths, cache / "work")
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="openmoji", help="Parquet, a folder of images, openmoji or digits")
    parser.add_argument("--cache", type=Path, default=Path("runs/bench-gradients"), help="keeps models and peers")
    parser.add_argument("--output", type=Path, help="without suffix; default: gradients-benchmark in the cache")
    parser.add_argument(
        "--without-peers", action="store_true", help="run no other libraries, and keep what the output says of them"
    )
    parser.add_argument("--quick", action="store_true", help="one tiny model, no peers: does the benchmark work?")
    arguments = parser.parse_args()
    models.one_thread()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    stem = arguments.output or arguments.cache / "gradients-benchmark"
    without_peers = arguments.quick or arguments.without_peers
    python = None if without_peers else environment(arguments.cache / "peers")
    plans = QUICK if arguments.quick else FULL
    results = run(plans, arguments.dataset, arguments.cache, python, quick=arguments.quick)
    if without_peers and (kept := earlier(stem.with_suffix(".json"))):
        results["peers"] = {**kept, "kept": True}
    report.write(results, stem)
    print(stem.with_suffix(".md").read_text(encoding="utf-8"))
    if not report.draw(stem, arguments.cache / "peers/bin/python"):
        print("no picture: matplotlib is not there; it comes with the peers")


if __name__ == "__main__":
    main()
