"""Do the proponents of a generated picture belong to its prompt's family or Unicode subgroup?

    .venv/bin/python tests/bench/bench_families.py --run runs/demo --prompts 40

Prompts are captions of training images, chosen by key. The share of the top 10 that is related stands beside the share
that a random ranking has, which is the related share of the whole training set.
"""

import argparse
from pathlib import Path
from statistics import mean

from forebear.attribution import Attributor
from forebear.data import Sample
from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.sampling import generate
from forebear.estimators import ESTIMATORS
from forebear.images import grid, to_picture
from forebear.randomness import keyed_permutation

TOP = 10


def related(one: Sample, other: Sample) -> bool:
    """Whether two samples share the family or the Unicode subgroup."""
    shared = [one.groups[name] for name in ("family", "subgroup") if one.groups[name] == other.groups[name]]
    return any(value != "unknown" for value in shared)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--grid", type=Path, help="write the generated pictures here as one PNG")
    arguments = parser.parse_args()
    attributor = Attributor.open(arguments.run)
    samples = attributor.training_set.samples
    chosen = [samples[row] for row in keyed_permutation(len(samples), "family prompts")[: arguments.prompts]]
    model = DiffusionModel.load(arguments.run / "model")
    captions = [sample.caption for sample in chosen]
    pixels = generate(model, captions, [None] * len(chosen), list(range(len(chosen))))
    pictures = [to_picture(array) for array in pixels.numpy()]
    if arguments.grid:
        grid(pictures, columns=8, scale=3).save(arguments.grid)
    shares: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    for sample, picture in zip(chosen, pictures, strict=True):
        embedded = attributor.embed_query(picture, caption=sample.caption)
        for name in ESTIMATORS:
            top = attributor.score(embedded, name, top_k=TOP).proponents
            shares[name].append(mean(related(sample, samples[influence.row]) for influence in top))
    print(f"{len(chosen)} generated pictures; share of the top {TOP} proponents in the prompt's family or subgroup")
    for name, values in shares.items():
        print(f"{name:16} {mean(values):6.1%}")
    print(f"{'random':16} {mean(mean(related(one, other) for other in samples) for one in chosen):6.1%}")


if __name__ == "__main__":
    main()
