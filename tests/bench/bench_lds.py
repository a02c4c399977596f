"""The LDS of all estimators: trains a model and models of random halves, embeds, judges, and publishes what was found.

    OMP_NUM_THREADS=1 python tests/bench/bench_lds.py digits --run runs/lds-digits --publish docs/lds/digits
    OMP_NUM_THREADS=1 python tests/bench/bench_lds.py cifar2 --run runs/lds-cifar2 --publish docs/lds/cifar2 \
        --dataset cifar2-train.parquet --validation cifar2-test.parquet

Stopped or killed, the same command goes on. One process uses one core; --workers N trains N models at a time.
"""

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from forebear.config import parse, read_yaml
from forebear.diffusion.training import TrainConfig, train
from forebear.evaluation.evaluated_run import EvaluatedRun
from forebear.evaluation.ground_truth import GroundTruth
from forebear.evaluation.lds_config import LdsConfig
from forebear.evaluation.lds_results import judge
from forebear.evaluation.retraining import make_ground_truth
from forebear.jobs import EmbedConfig, embed
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


def publish(truth: GroundTruth, folder: Path) -> None:
    """What scores can be judged by again without any training: losses and subsets, beside the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(truth.table(), folder / "losses.parquet", compression="zstd")
    for name in ("subsets.parquet", "figures.parquet", "result.json"):
        shutil.copy(truth.folder / name, folder / name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "name", choices=sorted(path.name[: -len("-train.yaml")] for path in CONFIGS.glob("*-train.yaml"))
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--dataset", help="Parquet file or folder to train on, where the configuration names none")
    parser.add_argument("--validation", help="Parquet file or folder of held-out pictures")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--publish", type=Path, help="Folder for figures, losses and subsets")
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
    embed(run, parse(EmbedConfig, read_yaml(CONFIGS / f"{chosen.name}-embed.yaml"), f"{chosen.name}-embed.yaml"))
    for figure in judge(EvaluatedRun.open(run), lds).figures:
        print(f"{figure.estimator:16}{figure.variant:24}{figure.value:8.4f}  {figure.low:.4f} to {figure.high:.4f}")
    if chosen.publish is not None:
        publish(truth, chosen.publish)
    return 0


if __name__ == "__main__":
    sys.exit(main())
