"""Embeds queries as the store's samples were embedded: same weights, same projection, same noise."""

import time
from typing import Any

import numpy as np
import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from forebear.attribution.answer import QueryRecord
from forebear.attribution.query import EmbeddedQuery, Picture, QueryConfig, losses_of, pixels_of
from forebear.config import parse
from forebear.diffusion.checkpoint import attributed_checkpoints, load_checkpoint
from forebear.diffusion.model import DiffusionModel, Loss, weights_fingerprint
from forebear.diffusion.noise import SHARED
from forebear.errors import StoreError
from forebear.gradients import Precision, ProjectionConfig
from forebear.gradients.embedding import Draws, Embedder, Embeddings
from forebear.run import Run
from forebear.store import PlannedCheckpoint, StorePlan


@dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class MeasurementSettings:
    """What queries need of the settings in a store's plan."""

    seed: int
    loss: Loss
    parameters: tuple[str, ...]
    precision: Precision
    batch_size: int


class QueryEmbedder:
    """Holds a run's checkpoints, each loaded when it is first needed and then kept.

    Raises ConfigError when the plan does not say how its samples were measured.
    """

    def __init__(self, run: Run, plan: StorePlan) -> None:
        self._run, self._plan = run, plan
        self._settings = parse(MeasurementSettings, plan.settings, f"the plan of the store in {run.store_folder}")
        self._loaded: dict[str, tuple[DiffusionModel, Embedder]] = {}

    @property
    def image_size(self) -> int:
        """Pixels along a side of the pictures that the model sees."""
        return self._checkpoint(self._plan.checkpoints[-1])[0].image_size

    def embed(self, image: Picture, caption: str, label: int | None, query: QueryConfig) -> EmbeddedQuery:
        """Embed one picture at every checkpoint.

        Raises DataError when it is not a picture, ModelError when the model needs a label and has none, ConfigError for
        timesteps that the model does not have, and StoreError when the weights are not those of the store.
        """
        started = time.perf_counter()
        model, _ = self._checkpoint(self._plan.checkpoints[0])
        pixels = torch.from_numpy(pixels_of(image, model.image_size, model.image_channels))[None]  # [1, C, H, W]
        timesteps = query.chosen_timesteps(self._plan, model.total_timesteps)
        seed = self._settings.seed if query.seed is None else query.seed
        draws = query.chosen_draws(self._plan)
        wanted = Draws.at(np.array(timesteps), [SHARED], seed, draws)
        embeddings: dict[str, Embeddings] = {}
        for planned in self._plan.checkpoints:
            model, embedder = self._checkpoint(planned)
            with torch.no_grad():
                x0 = model.codec.encode(pixels)  # [1, c, h, w]
            embeddings[planned.name] = embedder.embed(x0, model.condition([caption], [label]), wanted)
        record = QueryRecord(caption, label, timesteps, draws, seed, losses_of(embeddings))
        return EmbeddedQuery(tuple(embeddings.values()), record, time.perf_counter() - started)

    def _checkpoint(self, planned: PlannedCheckpoint) -> tuple[DiffusionModel, Embedder]:
        if planned.name not in self._loaded:
            self._loaded[planned.name] = self._load(planned)
        return self._loaded[planned.name]

    def _load(self, planned: PlannedCheckpoint) -> tuple[DiffusionModel, Embedder]:
        known = {checkpoint.name: checkpoint for checkpoint in attributed_checkpoints(self._run)}
        remedy = f"restore it, or embed anew with `forebear embed --run {self._run.folder} --restart`"
        if planned.name not in known:
            raise StoreError(f"checkpoint {planned.name} of {self._run.folder} is gone; {remedy}")
        model = load_checkpoint(self._run, known[planned.name])
        if weights_fingerprint(model.trained_parts()) != planned.fingerprint:
            raise StoreError(
                f"the weights of checkpoint {planned.name} are not those that {self._run.store_folder} was made with; "
                f"{remedy}"
            )
        embedder = Embedder(
            model,
            self._projection(),
            patterns=self._settings.parameters,
            loss=self._settings.loss,
            precision=self._settings.precision,
            batch_size=self._settings.batch_size,
        )
        if embedder.engine.fingerprint_data() != self._plan.projection:
            raise StoreError(
                f"the store in {self._run.store_folder} holds another projection of the gradients than this Forebear "
                f"makes; embed anew with `forebear embed --run {self._run.folder} --restart`"
            )
        return model, embedder

    def _projection(self) -> ProjectionConfig:
        described = self._plan.projection
        values: dict[str, Any] = {
            "dim": described.get("dim"),
            "seed": described.get("seed") or 0,
            "mode": described.get("mode", "exact"),
        }
        return parse(ProjectionConfig, values, f"the plan of the store in {self._run.store_folder}")
