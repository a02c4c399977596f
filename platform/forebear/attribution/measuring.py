"""Embeds queries as the store's samples were embedded: same weights, same projection, same noise."""

import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from forebear.attribution.answer import QueryRecord
from forebear.attribution.query import Captioned, EmbeddedQuery, Picture, QueryConfig, losses_of, pixels_of
from forebear.attribution.timesteps import joined
from forebear.config import parse
from forebear.diffusion.checkpoint import attributed_checkpoints, load_checkpoint
from forebear.diffusion.measurement import Loss, Measurement
from forebear.diffusion.model import DiffusionModel, weights_fingerprint
from forebear.diffusion.noise import SHARED
from forebear.errors import ConfigError, StoreError
from forebear.estimators import estimator
from forebear.gradients import Precision, ProjectionConfig
from forebear.gradients.columns import COLUMNS
from forebear.gradients.coverage import select_parameters
from forebear.gradients.embedding import Draws, Embedder, Embeddings
from forebear.run import Run
from forebear.store import PlannedCheckpoint, Store, StorePlan


@dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class MeasurementSettings:
    """What queries need of the settings in a store's plan."""

    seed: int
    loss: Loss
    parameters: tuple[str, ...]
    precision: Precision
    batch_size: int


def missing_measurement(name: str, measurement: Measurement, columns: Sequence[str], run: Run) -> str:
    """What to tell who asks for an estimator whose measurement a store with these columns lacks."""
    held = {other for other, made in COLUMNS.items() if set(made) <= set(columns)} - {"loss"}
    options = " ".join(f"--measurement {other}" for other in sorted({*held, measurement}))
    return (
        f"{name} needs the measurement `{measurement}`, which the store of {run.folder} does not hold; embed anew with "
        f"`forebear embed {options} --run {run.folder} --restart`"
    )


def mask_on_grid(mask: NDArray[np.floating], grid: tuple[int, int]) -> Tensor:
    """A mask float[h, w] in [0, 1] of any resolution, averaged to the model's grid: float32[grid].

    Raises ConfigError when it is not one, or when nothing is left of it.
    """
    values = np.asarray(mask)
    if (
        values.ndim != 2
        or not values.size
        or values.dtype.kind not in "fbiu"
        or not (0 <= values.min() <= values.max() <= 1)
    ):
        raise ConfigError(
            f"a mask must be numbers in [0, 1] of shape [height, width], got {values.dtype}{list(values.shape)}"
        )
    if not values.any():
        raise ConfigError("the mask is 0 everywhere, so nothing would be measured; mark a region with 1")
    found: Tensor = F.interpolate(torch.from_numpy(values.astype(np.float32))[None, None], grid, mode="area")[0, 0]
    return found


def _draws(
    pictures: int,
    timesteps: Sequence[int],
    weights: NDArray[np.float64] | None,
    seed: int,
    draws: int,
    *,
    apart: bool,
) -> Draws:
    """Pictures at T timesteps: a row each, or, `apart`, one for each timestep, whose mean is that of the single row."""
    if not apart:
        return Draws.at(np.array(timesteps), [SHARED] * pictures, seed, draws, weights)
    count = len(timesteps)
    rows = Draws.at(np.zeros(1, np.int64), [SHARED] * pictures * count, seed, draws)
    each = None if weights is None else np.tile(weights[:, None] * count, (pictures, 1))
    return replace(rows, timesteps=np.tile(np.array(timesteps, np.int64)[:, None], (pictures, 1)), weights=each)


def _has_idle_cores() -> bool:
    """By the load of the last minute."""
    return os.getloadavg()[0] < (os.cpu_count() or 1)


class QueryEmbedder:
    """Holds a run's checkpoints, each loaded when it is first needed and then kept.

    `at_each` takes the place of `map` over checkpoints, for a single picture on a machine with idle cores; a thread
    pool's gives the same bits. Raises ConfigError when the plan does not say how its samples were measured.
    """

    def __init__(self, run: Run, plan: StorePlan, at_each: Callable[..., Iterable[Any]] = map) -> None:
        self._run, self._plan, self._at_each = run, plan, at_each
        self._settings = parse(MeasurementSettings, plan.settings, f"the plan of the store in {run.store_folder}")
        self._loaded: dict[str, tuple[DiffusionModel, Embedder]] = {}
        self._partial: dict[tuple[str, tuple[str, ...]], Embedder] = {}

    @property
    def image_size(self) -> int:
        """Pixels along a side of the pictures that the model sees."""
        return self._checkpoint(self._plan.checkpoints[-1])[0].image_size

    @property
    def picture_shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width of the pictures that the model sees; None before a checkpoint is loaded."""
        for model, _ in self._loaded.values():
            return model.image_channels, model.image_size, model.image_size
        return None

    def load(self, parameters: tuple[str, ...] = ()) -> None:
        """Load every checkpoint now, so that no query waits for it, nor one of `parameters` alone.

        Raises StoreError as `embed` does, and ConfigError for parameters of which the store covers none.
        """
        for planned in reversed(self._plan.checkpoints):  # the last is the model's own, of which the others are copies
            self._embedder(planned, parameters)

    @property
    def total_timesteps(self) -> int:
        """Timesteps of the model."""
        return self._checkpoint(self._plan.checkpoints[-1])[0].total_timesteps

    def embed(
        self,
        image: Picture,
        caption: str,
        label: int | None,
        query: QueryConfig,
        *,
        estimators: Sequence[str] | None = None,
        mask: NDArray[np.floating] | None = None,
        features: NDArray[np.float32] | None = None,
        by_timestep: bool = False,
        checkpoints: Collection[str] | None = None,
    ) -> EmbeddedQuery:
        """Embed one picture at every checkpoint, or at the named `checkpoints` alone.

        Only what the named `estimators` need is measured; None: every measurement that the store holds. `mask`
        float[h, w] in [0, 1] weights the elements of what is measured, so that the answer is about a region; it covers
        the square that the model sees, at any resolution. `features` is the query's own vector for `embedding`.
        `by_timestep` keeps each timestep's embeddings too: no more time, T times the memory.

        Raises DataError when it is not a picture, ModelError when the model needs a label and has none, ConfigError for
        an unknown estimator or checkpoint, a measurement that the store lacks, timesteps that the model does not have
        or a mask that is not one, and StoreError when the weights are not those of the store.
        """
        (found,) = self.embed_all(
            [(image, caption, label)],
            query,
            estimators=estimators,
            mask=mask,
            by_timestep=by_timestep,
            checkpoints=checkpoints,
        )
        return found if features is None else replace(found, features=features)

    def embed_all(
        self,
        pictures: Sequence[Captioned],
        query: QueryConfig,
        *,
        estimators: Sequence[str] | None = None,
        mask: NDArray[np.floating] | None = None,
        by_timestep: bool = False,
        checkpoints: Collection[str] | None = None,
    ) -> tuple[EmbeddedQuery, ...]:
        """Embed P >= 1 pictures that are measured alike, together, in less time than one after the other.

        Each comes out as `embed` gives it, up to the rounding of other batch sizes (`GradientEngine.measure`), with the
        seconds of the whole. Raises what `embed` raises when one of them cannot be embedded.
        """
        started = time.perf_counter()
        model, _ = self._checkpoint(self._plan.checkpoints[0])
        pixels = torch.from_numpy(
            np.stack([pixels_of(image, model.image_size, model.image_channels) for image, _, _ in pictures])
        )  # [P, C, H, W]
        captions, labels = [caption for _, caption, _ in pictures], [label for _, _, label in pictures]
        timesteps, weights = self._timesteps(query, model.total_timesteps)
        seed = self._settings.seed if query.seed is None else query.seed
        draws = query.chosen_draws(self._plan)
        wanted = _draws(len(pictures), timesteps, weights, seed, draws, apart=by_timestep)
        each = len(wanted.owners) // len(pictures)  # rows of one picture
        rows = torch.arange(len(pictures)).repeat_interleave(each)
        measurements = self._measurements(estimators)
        grid = None if mask is None else mask_on_grid(mask, model.x0_shape[1:])
        chosen = self._chosen(checkpoints) if measurements else []
        opened = [(self._checkpoint(one)[0], self._embedder(one, query.parameters)) for one in chosen]

        def embedded(each: tuple[DiffusionModel, Embedder]) -> Embeddings:
            model, embedder = each
            with torch.no_grad():
                x0 = model.codec.encode(pixels)  # [P, c, h, w]
            condition = model.condition(captions, labels).rows(rows)
            return embedder.embed(x0[rows], condition, wanted, measurements=measurements, mask=grid)

        # Threads hinder each other on cores that others need: a busy machine embeds half as many pictures by them.
        at_each = self._at_each if len(pictures) == 1 and _has_idle_cores() else map
        embeddings = dict(zip([one.name for one in chosen], at_each(embedded, opened), strict=True))
        seconds = time.perf_counter() - started
        found = []
        for place, (_, caption, label) in enumerate(pictures):
            own = {name: every.rows(place * each, (place + 1) * each) for name, every in embeddings.items()}
            steps = tuple(own.values()) if by_timestep else ()
            if by_timestep:
                own = {name: joined(apart) for name, apart in own.items()}
            record = QueryRecord(caption, label, timesteps, draws, seed, losses_of(own), parameters=query.parameters)
            found.append(EmbeddedQuery(tuple(own.values()), record, seconds, pixels[place].numpy(), steps=steps))
        return tuple(found)

    def _chosen(self, names: Collection[str] | None) -> list[PlannedCheckpoint]:
        unknown = set(names or ()) - set(self._plan.checkpoint_names)
        if unknown:
            raise ConfigError(
                f"the store has no checkpoint {min(unknown)}; it has {', '.join(self._plan.checkpoint_names)}"
            )
        return [planned for planned in self._plan.checkpoints if names is None or planned.name in names]

    def _timesteps(self, query: QueryConfig, total: int) -> tuple[tuple[int, ...], NDArray[np.float64] | None]:
        if query.sampling == "importance":
            return query.placed_timesteps(Store.open(self._run.store_folder), total)
        return query.chosen_timesteps(self._plan, total), None

    def _measurements(self, estimators: Sequence[str] | None) -> tuple[Measurement, ...]:
        """What has to be measured, in the order of the store's own."""
        held = [measurement for measurement, columns in COLUMNS.items() if set(columns) <= set(self._plan.columns)]
        if estimators is None:
            return tuple(held)
        needed = {}
        for name in estimators:
            method = estimator(name)
            if method.measurement is not None:
                needed[method.measurement] = name
        for measurement, name in needed.items():
            if measurement not in held:
                raise ConfigError(missing_measurement(name, measurement, self._plan.columns, self._run))
        return tuple(measurement for measurement in held if measurement in needed)

    def apart(self, pattern: str) -> bool:
        """Whether gradients of parameters that match can be measured alone: the store covers one, and projects."""
        if self._projection().dim is None:
            return False
        _, embedder = self._checkpoint(self._plan.checkpoints[-1])
        return any(fnmatchcase(share.name, pattern.lstrip("!")) for share in embedder.engine.coverage.covered)

    def _embedder(self, planned: PlannedCheckpoint, parameters: tuple[str, ...]) -> Embedder:
        """Of a checkpoint, for the gradients of these parameters alone."""
        model, embedder = self._checkpoint(planned)
        if not parameters:
            return embedder
        if self._projection().dim is None:
            raise ConfigError("the store holds whole gradients, of which no part can be measured; leave out parameters")
        place = planned.name, parameters
        if place not in self._partial:
            covered = {share.name for share in embedder.engine.coverage.covered}
            names = [name for name in select_parameters(model.denoiser, parameters) if name in covered]
            if not names:
                raise ConfigError(
                    f"the store covers none of the parameters {', '.join(parameters)}; name others, or none for all"
                )
            self._partial[place] = self._made(model, names)
        return self._partial[place]

    def _made(self, model: DiffusionModel, part: Sequence[str] | None = None) -> Embedder:
        return Embedder(
            model,
            self._projection(),
            patterns=self._settings.parameters,
            part=part,
            loss=self._settings.loss,
            precision=self._settings.precision,
            batch_size=self._settings.batch_size,
        )

    def _checkpoint(self, planned: PlannedCheckpoint) -> tuple[DiffusionModel, Embedder]:
        if planned.name not in self._loaded:
            self._loaded[planned.name] = self._load(planned)
        return self._loaded[planned.name]

    def _load(self, planned: PlannedCheckpoint) -> tuple[DiffusionModel, Embedder]:
        known = {checkpoint.name: checkpoint for checkpoint in attributed_checkpoints(self._run)}
        remedy = f"restore it, or embed anew with `forebear embed --run {self._run.folder} --restart`"
        if planned.name not in known:
            raise StoreError(f"checkpoint {planned.name} of {self._run.folder} is gone; {remedy}")
        model = load_checkpoint(self._run, known[planned.name], next((one for one, _ in self._loaded.values()), None))
        if weights_fingerprint(model.trained_parts()) != planned.fingerprint:
            raise StoreError(
                f"the weights of checkpoint {planned.name} are not those that {self._run.store_folder} was made with; "
                f"{remedy}"
            )
        embedder = self._made(model)
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
