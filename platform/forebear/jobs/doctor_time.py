"""Where the time of an embedding goes, from a picture on disk to a row in Parquet."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from forebear.diffusion.noise import stratified_timesteps
from forebear.gradients.embedding import Draws, Embedder, Embeddings
from forebear.gradients.projection import ProjectionConfig
from forebear.gradients.steps import StepClock
from forebear.jobs.doctor_costs import now
from forebear.jobs.doctor_fidelity import Setting
from forebear.jobs.doctor_subject import Subject
from forebear.store import EmbeddingRows, PlannedCheckpoint, StorePlan, write_shard

STEPS = {
    "read": "decode pictures; the autoencoder and the text encoder, where there are any",
    "forward": "the network, as in training",
    "backward": "gradients of activations alone",
    "project": "channels of activations and of their gradients",
    "contract": "both into the gradients of layers",
    "fold": "norms, and the signed hash into k numbers",
    "rest": "noise, normalising, sums over timesteps",
    "write": "half precision, Parquet, checksums",
}
"""By name, what a step does."""
ROUNDS = 3
LONGEST = 10.0
"""Seconds after which no further round begins."""
SHARD_NUMBERS = 2**24
"""Numbers in a vector column of the shard that is written, where the settings' own shard would be larger."""


@dataclass(frozen=True)
class TimeSplit:
    """Of one picture at all of its timesteps, embedded in batches."""

    setting: Setting
    batch_size: int
    timesteps: int
    draws: int
    seconds: dict[str, float]
    """Of each of STEPS, in their order: processor time on a CPU, but for `write`, which waits for the disk."""

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def shares(self) -> dict[str, float]:
        """They add up to 1."""
        return {name: found / self.total for name, found in self.seconds.items()}


def time_split(subject: Subject, patterns: Sequence[str], setting: Setting, batch_size: int) -> TimeSplit:
    """Embed some of the subject's pictures as `forebear embed` would, and write them into a temporary folder."""
    config, model = subject.config, subject.model
    count = 1 if config.scheme == "recorded" else config.timesteps
    draws = 1 if config.scheme == "recorded" else config.draws
    embedder = Embedder(
        model,
        ProjectionConfig(dim=setting.dim, seed=config.projection.seed, mode=setting.mode),
        patterns=patterns,
        loss=config.loss,
        precision=setting.precision,
        batch_size=batch_size,
    )
    pictures = min(len(subject), ceil(batch_size / (count * draws)))
    timesteps = stratified_timesteps(count, model.total_timesteps)
    at = Draws.at(timesteps, subject.owners[:pictures], config.seed, draws)
    condition = subject.condition.rows(torch.arange(pictures))
    found = embedder.embed(subject.x0[:pictures], condition, at)  # warms up
    clock_now = partial(now, next(model.denoiser.parameters()).device)
    rounds, took, started = 0, 0.0, time.monotonic()
    with StepClock(clock_now) as clock:
        while rounds < ROUNDS and (rounds == 0 or time.monotonic() - started < LONGEST):
            start = clock_now()
            embedder.embed(subject.x0[:pictures], condition, at)
            took += clock_now() - start
            rounds += 1
    seconds = {name: clock.seconds.get(name, 0.0) / (rounds * pictures) for name in STEPS}
    seconds["rest"] = max(0.0, took / (rounds * pictures) - sum(seconds.values()))
    seconds["read"] = subject.read_seconds
    seconds["write"] = _writing(config.shard_rows, embedder, found, at, count)
    return TimeSplit(setting, batch_size, count, draws, seconds)


def _writing(shard_rows: int, embedder: Embedder, found: Embeddings, at: Draws, timesteps: int) -> float:
    """Seconds of the clock for one picture of a full shard, which repeats what was found."""
    rows = max(1, min(shard_rows, SHARD_NUMBERS // embedder.dim))
    repeated = partial(_repeated, rows)
    embedded = EmbeddingRows(
        sample_ids=[str(row) for row in range(rows)],
        rows=np.arange(rows, dtype=np.int64),
        vectors={name: repeated(vectors) for name, vectors in found.vectors.items()},
        norms=repeated(found.norms),
        losses=repeated(found.losses),
        timesteps=repeated(at.timesteps.astype(np.int32)),
    )
    plan = StorePlan(
        dataset="doctor",
        sample_count=rows,
        checkpoints=(PlannedCheckpoint(name="doctor", step=0, fingerprint=""),),
        measurement="training loss",
        timestep_scheme="stratified",
        timesteps=(),
        timesteps_per_sample=timesteps,
        draws=1,
        projection=dict(embedder.engine.fingerprint_data()),
        dim=embedder.dim,
        shard_rows=rows,
        columns=tuple(found.vectors),
    )
    took = []
    with TemporaryDirectory(prefix="forebear-doctor-") as folder:
        for _ in range(ROUNDS):
            start = time.perf_counter()
            write_shard(Path(folder), plan, "doctor", 0, embedded)
            took.append(time.perf_counter() - start)
    return median(took) / rows


def _repeated(rows: int, values: Any) -> Any:
    """[B, ...] again and again, to [rows, ...]."""
    return values[np.arange(rows) % len(values)]
