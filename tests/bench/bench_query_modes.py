"""How few timesteps does a query need for the ranking of paper mode, 100 timesteps with many draws each?

    .venv/bin/python tests/bench/bench_query_modes.py --run runs/demo --queries 8 --draws 4

Queries are pictures that the run's own model makes. For each cheap mode: the mean over queries of Spearman's rank
correlation, over all training images, of its scores with those of paper mode, and the seconds that a query takes. The
line `again` is paper mode under another seed of the noise: no cheap mode can be expected above it.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from forebear.attribution import Attributor, QueryConfig, QueryEmbedder, StoreScorer
from forebear.data import Sample
from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.noise import paper_timesteps
from forebear.diffusion.sampling import generate
from forebear.images import to_picture
from forebear.randomness import keyed_permutation

COUNTS = (4, 8, 16)
ESTIMATORS = ("tracin", "retrac", "cosine", "retrac-ridge", "trak")


def spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Rank correlation of two score vectors float64[N] without ties."""
    ranks = [np.argsort(np.argsort(scores)) for scores in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def modes(draws: int, total: int, plan_timesteps: Sequence[int]) -> dict[str, QueryConfig]:
    """By name, paper mode first."""
    paper = QueryConfig(timesteps=tuple(paper_timesteps(100, total).tolist()), draws=draws)
    found = {"paper": paper, "again": replace(paper, seed=1)}
    if plan_timesteps:
        found[f"store's own {len(plan_timesteps)}"] = QueryConfig()
    found |= {f"stratified {count}": QueryConfig(count=count) for count in COUNTS}
    return found | {f"importance {count}": QueryConfig(count=count, sampling="importance") for count in COUNTS}


def generated(run_folder: Path, samples: Sequence[Sample], count: int) -> list[tuple[Sample, Image.Image]]:
    chosen = [samples[row] for row in keyed_permutation(len(samples), "query modes")[:count]]
    model = DiffusionModel.load(run_folder / "model")
    labels = [sample.label if model.conditioner.kind == "class" else None for sample in chosen]
    pixels = generate(model, [sample.caption for sample in chosen], labels, list(range(count)))
    return [(sample, to_picture(array)) for sample, array in zip(chosen, pixels.numpy(), strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument(
        "--draws", type=int, default=4, help="noises at each of paper mode's timesteps; the paper has 16"
    )
    arguments = parser.parse_args()
    attributor = Attributor.open(arguments.run)
    store, training_set = attributor.store, attributor.training_set
    embedder = QueryEmbedder(attributor.run, store.plan)
    scorer = StoreScorer(attributor.run, store, training_set)
    chosen = modes(arguments.draws, embedder.total_timesteps, store.plan.timesteps)
    agreement: dict[str, dict[str, list[float]]] = {name: {method: [] for method in ESTIMATORS} for name in chosen}
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    for sample, picture in generated(arguments.run, training_set.samples, arguments.queries):
        reference: dict[str, NDArray[np.float64]] = {}
        for name, config in chosen.items():
            started = time.perf_counter()
            query = embedder.embed(picture, sample.caption, sample.label, config, estimators=ESTIMATORS)
            seconds[name].append(time.perf_counter() - started)
            for method in ESTIMATORS:
                scores = scorer.scores(method, [query])[0]
                agreement[name][method].append(spearman(reference.setdefault(method, scores), scores))
    print(
        f"{arguments.queries} generated pictures, {len(training_set):,} images, paper mode with {arguments.draws} draws"
    )
    print(f"{'mode':16} {'seconds':>8} " + " ".join(f"{method:>13}" for method in ESTIMATORS))
    for name in chosen:
        if name != "paper":
            found = " ".join(f"{mean(agreement[name][method]):13.3f}" for method in ESTIMATORS)
            print(f"{name:16} {mean(seconds[name]):8.2f} {found}")


if __name__ == "__main__":
    main()
