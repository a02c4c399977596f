"""Trains the models of an evaluation, one after another in this process or several at a time on Ray."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

import torch

from forebear.errors import JobError
from forebear.jobs.dispatch import dispatch
from forebear.progress import Progress

Task = TypeVar("Task", bound=Hashable)
Task_contra = TypeVar("Task_contra", bound=Hashable, contravariant=True)


class ModelTrainer(Protocol[Task_contra]):
    """Trains one model for each task and keeps what is wanted of it."""

    @property
    def steps(self) -> int:
        """Optimiser steps of one model."""

    def work(self, task: Task_contra, bar: Progress | None = None) -> bool:
        """Train one model; False when a signal stopped it with its state saved."""


@dataclass
class TrainerWorker(Generic[Task]):
    """Trains models in a Ray actor, by a trainer that it opens itself."""

    make: Callable[[], ModelTrainer[Task]]
    describe: Callable[[Task], str]

    def open(self) -> None:
        torch.set_num_threads(1)
        self._trainer = self.make()

    def work(self, task: Task) -> None:
        if not self._trainer.work(task):
            raise JobError(f"{self.describe(task)} was stopped by a signal; run the same command again to go on")


def train_models(
    trainer: ModelTrainer[Task],
    make: Callable[[], ModelTrainer[Task]],
    tasks: Sequence[Task],
    workers: int,
    bar: Progress,
    describe: Callable[[Task], str],
) -> bool:
    """Train all tasks' models; False when a signal stopped it. `make` opens a trainer in an actor and is pickled.

    Raises JobError when models kept killing their workers, naming them by `describe`, and what `work` raises.
    """
    if not workers or not tasks:
        return _here(trainer, tasks, bar, describe)
    set_aside = dispatch(
        partial(TrainerWorker, make, describe),
        tasks,
        workers,
        lambda task: bar.advance(trainer.steps, describe(task)),
    )
    if set_aside:
        named = ", ".join(describe(failed.task) for failed in set_aside)
        raise JobError(
            f"not trained, because their workers died each time: {named} ({set_aside[-1].reason}); what is done is "
            "kept: run the same command again, with fewer workers if memory is short"
        )
    return True


def _here(trainer: ModelTrainer[Task], tasks: Sequence[Task], bar: Progress, describe: Callable[[Task], str]) -> bool:
    start = bar.done
    for place, task in enumerate(tasks, start=1):
        if not trainer.work(task, bar):
            return False
        # A model that was partly trained before has counted fewer steps.
        bar.advance(start + place * trainer.steps - bar.done, describe(task))
    return True
