"""Does a training image, given as the query, come back first? For every estimator of a run.

.venv/bin/python tests/bench/bench_tracing.py --run runs/demo --queries 50
"""

import argparse
from pathlib import Path

from forebear.attribution import Attributor
from forebear.data import TrainingSet
from forebear.estimators import ESTIMATORS
from forebear.randomness import keyed_permutation


def first_ranks(attributor: Attributor, rows: list[int]) -> dict[str, list[bool]]:
    """For each estimator, whether each row's own picture is its first proponent."""
    training_set: TrainingSet = attributor.training_set
    hits: dict[str, list[bool]] = {name: [] for name in ESTIMATORS}
    for row in rows:
        sample, picture = training_set.samples[row], training_set.picture(row, attributor.image_size)
        embedded = attributor.embed_query(picture, caption=sample.caption, label=sample.label)
        for name in ESTIMATORS:
            answer = attributor.score(embedded, name, top_k=1)
            hits[name].append(answer.proponents[0].sample_id == sample.id)
    return hits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--queries", type=int, default=50)
    arguments = parser.parse_args()
    attributor = Attributor.open(arguments.run)
    count = len(attributor.training_set)
    rows = keyed_permutation(count, "tracing queries")[: arguments.queries].tolist()
    print(f"{len(rows)} training images as queries among {count:,}; share whose first proponent is the image itself")
    for name, hits in first_ranks(attributor, rows).items():
        print(f"{name:16} {sum(hits) / len(hits):6.1%}")
    print(f"{'random':16} {1 / count:6.1%}")


if __name__ == "__main__":
    main()
