"""Do the scores that are served rank samples as plain autograd does, one sample at a time and without a projection?

    OMP_NUM_THREADS=1 python tests/bench/bench_oracle.py --run runs/lds-digits

Some training images are queries, others are scored; timesteps, noise and checkpoints are the store's.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from forebear.attribution import Attributor
from forebear.attribution.scoring import StoreScorer
from forebear.diffusion.checkpoint import attributed_checkpoints, load_checkpoint
from forebear.diffusion.noise import SHARED, draw_noise
from forebear.diffusion.pictures import Pictures
from forebear.progress import progress
from forebear.randomness import keyed_permutation

Rows = NDArray[np.float32]


def whole_gradients(attributor: Attributor, name: str, rows: list[int]) -> tuple[Rows, Rows]:
    """(mean over timesteps, mean of unit gradients), both [len(rows), P], at one checkpoint."""
    run, plan = attributor.run, attributor.store.plan
    checkpoint = next(one for one in attributed_checkpoints(run) if one.name == name)
    model = load_checkpoint(run, checkpoint)
    pictures = Pictures(attributor.training_set, model)
    parameters = [parameter.requires_grad_(True) for parameter in model.denoiser.parameters()]
    means, units = [], []
    with progress(name, len(rows), "samples") as bar:
        for row in rows:
            with torch.no_grad():
                x0, condition = pictures.x0([row]), pictures.condition([row])
            gradients = []
            for timestep in plan.timesteps:
                noise = draw_noise(model.x0_shape, int(plan.settings["seed"]), [SHARED], [timestep], [0])
                loss = model.per_sample_loss(x0, torch.tensor([timestep]), noise, condition).sum()
                gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
            stacked = torch.stack(gradients)  # [T, P]
            means.append(stacked.mean(0).numpy())
            units.append((stacked / stacked.norm(dim=1, keepdim=True)).mean(0).numpy())
            bar.advance(1)
    return np.stack(means), np.stack(units)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--queries", type=int, default=8)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    attributor = Attributor.open(chosen.run)
    store, training_set = attributor.store, attributor.training_set
    rows = keyed_permutation(len(training_set), "oracle")[: chosen.samples + chosen.queries].tolist()
    expected = {name: np.zeros((chosen.queries, chosen.samples)) for name in ("tracin", "retrac")}
    for name in store.plan.checkpoint_names:
        for estimator, vectors in zip(expected, whole_gradients(attributor, name, rows), strict=True):
            exact = vectors.astype(np.float64)
            products = exact[: chosen.queries] @ exact[chosen.queries :].T
            expected[estimator] += store.manifest.weights[name] * products
    queries = []
    for row in rows[: chosen.queries]:
        sample = training_set.samples[row]
        pixels = training_set.pixels([row], attributor.image_size)[0]
        queries.append(attributor.embed_query(pixels, sample.caption, sample.label))
    scorer = StoreScorer(attributor.run, store, training_set)
    for estimator, wanted in expected.items():
        found = scorer.scores(estimator, queries)[:, rows[chosen.queries :]]
        ranks = [spearmanr(one, other).statistic for one, other in zip(found, wanted, strict=True)]
        error = np.sqrt(np.mean((found - wanted) ** 2)) / wanted.std()
        print(f"{estimator}: Spearman {np.mean(ranks):.4f} (lowest {min(ranks):.4f}); error {error:.4f} of the spread")


if __name__ == "__main__":
    main()
