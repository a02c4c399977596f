"""The ground truth of an LDS evaluation: a full model, models of random halves, and their losses on the queries.

    OMP_NUM_THREADS=1 python tests/bench/bench_lds.py digits --run runs/lds-digits
    OMP_NUM_THREADS=1 python tests/bench/bench_lds.py cifar2 --run runs/lds-cifar2 \
        --dataset cifar2-train.parquet --validation cifar2-test.parquet

Stopped or killed, the same command goes on. One process uses one core; --workers N trains N models at a time.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from forebear.config import parse, read_yaml
from forebear.diffusion.training import TrainConfig, train
from forebear.evaluation.lds_config import LdsConfig
from forebear.evaluation.retraining import make_ground_truth
from forebear.run import Run

CONFIGS = Path(__file__).with_name("lds")
STOPPED = 130


def configurations(name: str, dataset: str | None, validation: str | None) -> tuple[TrainConfig, LdsConfig]:
    """The committed configurations NAME-train.yaml and NAME-lds.yaml with the paths of their data put in."""
    training, lds = (read_yaml(CONFIGS / f"{name}-{part}.yaml") for part in ("train", "lds"))
    with_source(training["data"], dataset)
    if "data" in lds["validation"]:
        with_source(lds["validation"]["data"], validation)
    return parse(TrainConfig, training, f"{name}-train.yaml"), parse(LdsConfig, lds, f"{name}-lds.yaml")


def with_source(data: dict[str, Any], path: str | None) -> None:
    if path is not None:
        data["source"] = path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "name", choices=sorted(path.name[: -len("-train.yaml")] for path in CONFIGS.glob("*-train.yaml"))
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--dataset", help="Parquet file or folder to train on, where the configuration names none")
    parser.add_argument("--validation", help="Parquet file or folder of held-out pictures")
    parser.add_argument("--workers", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    training, lds = configurations(chosen.name, chosen.dataset, chosen.validation)
    run = Run(chosen.run)
    if not train(run, training):
        return STOPPED
    truth = make_ground_truth(run, replace(lds, workers=chosen.workers))
    if truth is None:
        return STOPPED
    print(f"{len(truth.trained)} models measured in {truth.folder}; full model: {truth.by_timestep(None).mean():.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
