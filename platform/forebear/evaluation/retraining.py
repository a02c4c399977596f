"""Trains a model on each subset and keeps its losses on the queries: the ground truth that attributions predict."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from forebear.data import open_training_set
from forebear.diffusion.measurement import Loss
from forebear.diffusion.model import DiffusionModel, put_channels_last, weights_fingerprint
from forebear.diffusion.noise import draw_noise, stratified_timesteps
from forebear.diffusion.training import TrainConfig, train
from forebear.errors import ConfigError, ModelError
from forebear.evaluation.fleet import train_models
from forebear.evaluation.ground_truth import (
    FORMAT_VERSION,
    GroundTruth,
    evaluation_folder,
    keep_plan,
    losses_file,
    training_name,
    write_losses,
)
from forebear.evaluation.lds_config import LdsConfig, Training
from forebear.evaluation.queries import (
    TABLE,
    Queries,
    generated_queries,
    held_out,
    read_queries,
    validation_queries,
    write_queries,
)
from forebear.evaluation.subsets import draw_subsets, write_subsets
from forebear.jobs.embedding import one_thread
from forebear.progress import Progress, progress
from forebear.run import Run


def make_ground_truth(run: Run, config: LdsConfig, name: str = "lds") -> GroundTruth | None:
    """Retrain what is missing and measure it, in RUN/evaluation/NAME; None when a signal stopped it, all state saved.

    The run is one of `forebear train`, and a model differs from the run's own in its subset and its seed alone. Each
    model is trained in a folder of its own, which is deleted once its losses are written (unless `keep_models`). Killed
    at any moment, the same call goes on, and the losses are those of a run that was never interrupted, for any number
    of workers. Raises ConfigError when the folder was made from other inputs, naming them; JobError when models kept
    killing their workers; and what opening the run and training raise.
    """
    with one_thread():
        retrainer = Retrainer(run, config, name)
        retrainer.prepare()
        missing = retrainer.missing()
        each = retrainer.steps
        total = len(config.trainings()) * each
        with progress("retraining", total, "steps", total - len(missing) * each) as bar:
            here = Run(run.folder.resolve())
            make = partial(opened, here, config, name, retrainer.plan)
            if not train_models(retrainer, make, missing, config.workers, bar, training_name):
                return None
    return GroundTruth.open(run, name)


def opened(run: Run, config: LdsConfig, name: str, plan: Mapping[str, Any]) -> "Retrainer":
    """A retrainer for models of an evaluation that is prepared."""
    retrainer = Retrainer(run, config, name)
    retrainer.load(plan)
    return retrainer


class Retrainer:
    """A run's training set and settings, and the models that an evaluation trains from them, one at a time.

    `prepare` makes subsets and queries, or `load` reads those that are there; one of them comes before `work`.
    """

    def __init__(self, run: Run, config: LdsConfig, name: str) -> None:
        self.run, self.config, self.name = run, config, name
        self.folder = evaluation_folder(run, name)
        if not run.has_section("training"):
            raise ConfigError(
                f"{run.folder} was not made by `forebear train`, so its model cannot be trained again on other "
                "samples; train one to evaluate estimators on it"
            )
        self.training = TrainConfig.of_run(run)
        self.training_set = open_training_set(self.training.data)
        self.subsets = draw_subsets(self.training_set, config.subsets, config.fraction, config.seed, config.stratify)

    @property
    def steps(self) -> int:
        """Optimiser steps of one model."""
        settings = self.training.training
        return settings.epochs * -(-int(self.subsets.members[0].sum()) // settings.batch_size)

    def prepare(self) -> None:
        """Write the plan, the subsets, the queries and the run's own model's losses, as far as they are missing."""
        if not self.run.model_folder.is_dir():
            raise ModelError(f"{self.run.folder} has no model yet; finish `forebear train`")
        model = DiffusionModel.load(self.run.model_folder)
        pool = held_out(self.config.validation, self.training.data, self.training_set)
        self.plan: Mapping[str, Any] = {
            "format_version": FORMAT_VERSION,
            "settings": self.config.decisive(),
            "model": weights_fingerprint(model.trained_parts()),
            "training": {"model": self.run.section("model"), "training": self.run.section("training")},
            "validation": pool.fingerprint,
            "timesteps": stratified_timesteps(self.config.timesteps, model.total_timesteps).tolist(),
            "training_set": self.training_set.fingerprint,
        }
        keep_plan(self.folder, self.plan)
        write_subsets(self.folder / "subsets.parquet", self.subsets)
        if not (self.folder / TABLE).is_file():
            seed = self.config.seed
            held, held_pixels = validation_queries(self.config.validation, pool, model, seed)
            made, made_pixels = generated_queries(self.config.generated, self.training_set, model, seed)
            write_queries(self.folder, Queries((*held, *made), np.concatenate([held_pixels, made_pixels])))
        self.load(self.plan)
        if not losses_file(self.folder, None).is_file():
            write_losses(self.folder, self.plan, None, self._measured(model))

    def load(self, plan: Mapping[str, Any]) -> None:
        """Read the queries that are there; `plan` is the evaluation's."""
        self.plan = plan
        self.queries = read_queries(self.folder)

    def missing(self) -> list[Training]:
        return [item for item in self.config.trainings() if not losses_file(self.folder, item).is_file()]

    def work(self, task: Training, bar: Progress | None = None) -> bool:
        """Train one model and write its losses; False when a signal stopped it with its state saved."""
        subset, seed = task
        own = Run(self.folder / "models" / training_name(task))
        if not losses_file(self.folder, task).is_file():
            config = replace(self.training, training=replace(self.training.training, seed=seed))
            ids = self.subsets.of(subset)
            if not train(own, config, self.training_set, subset=ids, checkpoints=False, bar=bar):
                return False
            write_losses(self.folder, self.plan, task, self._measured(DiffusionModel.load(own.model_folder)))
        if not self.config.keep_models:
            shutil.rmtree(own.folder, ignore_errors=True)
        return True

    def _measured(self, model: DiffusionModel) -> NDArray[np.float32]:
        return query_losses(
            model,
            self.queries,
            self.plan["timesteps"],
            draws=self.config.draws,
            seed=self.config.seed,
            loss=self.training.training.loss,
            batch_size=self.config.batch_size,
        )


@torch.no_grad()
def query_losses(
    model: DiffusionModel,
    queries: Queries,
    timesteps: Sequence[int],
    *,
    draws: int = 1,
    seed: int = 0,
    loss: Loss = "mse",
    batch_size: int = 64,
) -> NDArray[np.float32]:
    """Each query's loss at each timestep, the mean over draws: float32[Q, T].

    The noise is keyed by the query, the timestep and the draw, so that every model meets the same.
    """
    put_channels_last(model.denoiser)
    x0 = torch.cat([model.codec.encode(torch.from_numpy(pixels[None])) for pixels in queries.pixels])
    places = [(query, time, draw) for query in range(len(queries)) for time in timesteps for draw in range(draws)]
    found = np.empty(len(places), np.float32)
    for start in range(0, len(places), batch_size):
        rows, times, numbers = zip(*places[start : start + batch_size], strict=True)
        asked = [queries.table[row] for row in rows]
        noise = draw_noise(model.x0_shape, seed, [query.id for query in asked], times, numbers)
        condition = model.condition([query.caption for query in asked], [query.label for query in asked])
        losses = model.per_sample_loss(x0[list(rows)], torch.tensor(times), noise, condition, loss)
        found[start : start + batch_size] = losses.numpy()
    mean: NDArray[np.float32] = found.reshape(len(queries), len(timesteps), draws).mean(2, dtype=np.float64)
    return mean.astype(np.float32)
