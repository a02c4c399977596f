"""How far does a generated picture move when its top n training images are gone?

For each picture and estimator a model is trained anew, with the same settings and seed, on everything but the n samples
that score highest, and the picture is made again from the same noise (the counterfactual test of Zheng et al., arXiv
2311.00500). The estimator `random` removes n samples by chance, which is what the others have to beat.
"""

import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from forebear.config import STRICT, plain
from forebear.data import TrainingSet, open_training_set
from forebear.diffusion.model import DiffusionModel, weights_fingerprint
from forebear.diffusion.sampling import generate
from forebear.diffusion.training import TrainConfig, train
from forebear.errors import ConfigError, JobError
from forebear.evaluation.asking import generated_queries, training_rows
from forebear.evaluation.evaluated_run import Asked, EvaluatedRun
from forebear.evaluation.figures import Figure, Result, check_name, write_result
from forebear.evaluation.fleet import train_models
from forebear.evaluation.ground_truth import evaluation_folder, keep_plan
from forebear.evaluation.metrics import bootstrap_mean, bootstrap_median, top_rows
from forebear.files import read_json, whole_file, write_json
from forebear.jobs.embedding import one_thread
from forebear.progress import Progress, progress
from forebear.run import Run

Count = Annotated[int, Field(ge=1)]
Task = tuple[int, str]
"""A picture's number, and the estimator whose top n is removed for it."""
TASKS = "removed.json"


@dataclass(frozen=True, config=STRICT)
class RemovalConfig:
    """Every (picture, estimator) trains one model."""

    queries: Annotated[int, Field(ge=2)] = 8
    """Pictures, each for the caption and label of a training sample chosen by key."""
    estimators: tuple[str, ...] = ("tracin", "retrac", "retrac-ridge")
    """The baselines `pixel` and `random` are always added."""
    remove: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training set that is removed: n."""
    seed: int = 0
    """Of the choice of captions, and of the first picture; the others count up."""
    steps: Count = 50
    """Of the pictures."""
    guidance: float = 1.0
    """Of the pictures; 1 is none."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Single-threaded Ray actors, each with a model of its own; 0 works in this process."""


def run_removal(run: Run, config: RemovalConfig, name: str = "removal") -> Result | None:
    """Retrain what is missing, evaluate and write RUN/evaluation/NAME; None when a signal stopped it, its state saved.

    The run is one of `forebear train`. Killed at any moment, the same call goes on. Raises ConfigError when the folder
    was made from other inputs, JobError when models kept killing their workers, and what EvaluatedRun raises.
    """
    with one_thread():
        evaluated = EvaluatedRun.open(run)
        estimators = evaluated.estimators(config.estimators)
        rows = training_rows(evaluated, config.queries, "removal prompts", config.seed)
        asked = generated_queries(evaluated, rows, seed=config.seed, steps=config.steps, guidance=config.guidance)
        removed = removed_samples(evaluated, asked, estimators, config)
        _keep(evaluated, config, name, estimators, asked, removed)
        retrainer = Retrainer(run, config, name)
        # Picture after picture, so that what is done at any moment compares all estimators.
        tasks = [(number, estimator) for number in range(config.queries) for estimator in estimators]
        missing = [task for task in tasks if not retrainer.picture_file(task).is_file()]
        done = (len(tasks) - len(missing)) * retrainer.steps
        with progress("retraining", len(tasks) * retrainer.steps, "steps", done) as bar:
            make = partial(Retrainer, Run(run.folder.resolve()), config, name)
            if not train_models(retrainer, make, missing, config.workers, bar, task_name):
                return None
    pictures = {
        estimator: [retrainer.picture((n, estimator)) for n in range(config.queries)] for estimator in estimators
    }
    figures, details = _measured(asked, pictures)
    facts = evaluated.facts([], estimators) | {"queries": len(asked), "removed": retrainer.count}
    result = Result("removal", name, plain(config), tuple(figures), facts)
    write_result(run, result, details)
    return result


def removed_samples(
    evaluated: EvaluatedRun, asked: Sequence[Asked], estimators: Sequence[str], config: RemovalConfig
) -> dict[str, list[list[str]]]:
    """By estimator and picture, the ids of the top n samples."""
    samples = evaluated.training_set.samples
    count = round(config.remove * len(samples))
    if not 0 < count < len(samples):
        raise ConfigError(f"remove {config.remove:g} of {len(samples)} samples is {count}; choose another share")
    queries = evaluated.embed(asked, estimators)
    return {
        estimator: [
            [samples[row].id for row in line] for line in top_rows(evaluated.scores(estimator, queries), count).tolist()
        ]
        for estimator in estimators
    }


def distances(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    """Euclidean distance of each pair of pictures [n, C, H, W], in levels from -1 to 1: float64[n]."""
    change = one.astype(np.float64) - other.astype(np.float64)
    return np.asarray(np.sqrt((change**2).reshape(len(change), -1).sum(1)))


def removal_figures(moved: Mapping[str, NDArray[np.float64]]) -> list[Figure]:
    """Mean and median distance, and the mean difference from random removal of the same picture, by estimator."""
    figures = []
    for estimator, values in moved.items():
        count = len(values)
        figures += [
            Figure.of(estimator, "L2, median", bootstrap_median(values, "removal"), count),
            Figure.of(estimator, "L2, mean", bootstrap_mean(values, "removal"), count),
        ]
        if estimator != "random":
            beyond = values - moved["random"]
            figures.append(Figure.of(estimator, "L2 beyond random", bootstrap_mean(beyond, "removal"), count))
    return figures


def _measured(
    asked: Sequence[Asked], pictures: Mapping[str, list[NDArray[np.float32]]]
) -> tuple[list[Figure], pa.Table]:
    original = np.stack([one.pixels for one in asked])
    moved = {estimator: distances(np.stack(made), original) for estimator, made in pictures.items()}
    details = [
        pa.table({"estimator": [estimator] * len(asked), "query": [one.id for one in asked], "l2": values})
        for estimator, values in moved.items()
    ]
    return removal_figures(moved), pa.concat_tables(details)


def _keep(
    evaluated: EvaluatedRun,
    config: RemovalConfig,
    name: str,
    estimators: Sequence[str],
    asked: Sequence[Asked],
    removed: Mapping[str, list[list[str]]],
) -> None:
    """Write the plan and what each model leaves out, or refuse when the folder has other ones."""
    folder = evaluation_folder(evaluated.run, check_name(name))
    plan = {
        "settings": {key: value for key, value in plain(config).items() if key != "workers"},
        "estimators": list(estimators),
        "model": weights_fingerprint(evaluated.model.trained_parts()),
        "training": evaluated.run.section("training"),
        "store_plan": evaluated.store.plan.hash,
        "dataset": evaluated.training_set.fingerprint,
    }
    keep_plan(folder, plan)
    if not (folder / TASKS).is_file():
        queries = [{"id": one.id, "caption": one.caption, "label": one.label} for one in asked]
        write_json(folder / TASKS, {"queries": queries, "removed": dict(removed)})


def task_name(task: Task) -> str:
    return f"picture {task[0]} of {task[1]}"


class Retrainer:
    """Trains a run's model without some samples, and makes a picture with it."""

    def __init__(self, run: Run, config: RemovalConfig, name: str) -> None:
        self.run, self.config, self.name = run, config, name
        self.folder = evaluation_folder(run, name)
        self._settings = TrainConfig.of_run(run)

    @property
    def count(self) -> int:
        """n."""
        first: list[str] = next(iter(self._tasks["removed"].values()))[0]
        return len(first)

    @property
    def steps(self) -> int:
        """Optimiser steps of one model."""
        settings = self._settings.training
        return settings.epochs * -(-(len(self._training_set) - self.count) // settings.batch_size)

    def picture_file(self, task: Task) -> Path:
        return self.folder / "pictures" / f"{task[1]}-{task[0]:05d}.npy"

    def picture(self, task: Task) -> NDArray[np.float32]:
        """float32[C, H, W], made by the model of a task that is done."""
        found: NDArray[np.float32] = np.load(self.picture_file(task), allow_pickle=False)
        return found

    def work(self, task: Task, bar: Progress | None = None) -> bool:
        """Train one model and write its picture; False when a signal stopped it with its state saved."""
        number, estimator = task
        without = set(self._tasks["removed"][estimator][number])
        own = Run(self.folder / "models" / f"{estimator}-{number:05d}")
        kept = [sample.id for sample in self._training_set.samples if sample.id not in without]
        if not train(own, self._settings, self._training_set, subset=kept, checkpoints=False, bar=bar):
            return False
        query = self._tasks["queries"][number]
        pixels = generate(
            DiffusionModel.load(own.model_folder),
            [query["caption"]],
            [query["label"]],
            [self.config.seed + number],
            steps=self.config.steps,
            guidance=self.config.guidance,
        )
        with whole_file(self.picture_file(task)) as part, part.open("wb") as handle:
            np.save(handle, pixels[0].numpy())
        shutil.rmtree(own.folder, ignore_errors=True)
        return True

    @cached_property
    def _tasks(self) -> dict[str, Any]:
        values: dict[str, Any] = read_json(self.folder / TASKS, JobError, "run the evaluation again")
        return values

    @cached_property
    def _training_set(self) -> TrainingSet:
        return open_training_set(self._settings.data)
