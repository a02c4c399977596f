"""A query: a picture, and how it is measured."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from pydantic.dataclasses import dataclass as validated_dataclass

from forebear.attribution.answer import QueryRecord
from forebear.attribution.importance import importance_timesteps, norm_density
from forebear.config import STRICT
from forebear.diffusion.noise import paper_timesteps, stratified_timesteps
from forebear.errors import ConfigError, DataError
from forebear.gradients.embedding import Embeddings
from forebear.images import on_white, read_picture, to_picture, to_pixels
from forebear.store import Store, StorePlan

PAPER_TIMESTEPS, PAPER_DRAWS = 100, 16
"""Of Diffusion-TracIn's queries (Xie et al., arXiv 2401.09031, in the paper's code)."""

Picture = Image.Image | Path | str | NDArray[np.floating]
"""A picture, the path of one, or its pixels in [-1, 1] as float[channels, H, W]."""


Captioned = tuple[Picture, str, int | None]
"""A picture, its caption and its class."""


@validated_dataclass(frozen=True, config=STRICT)
class QueryConfig:
    """At which timesteps and noises a query is measured; by default exactly where the store's samples were."""

    timesteps: tuple[int, ...] | None = None
    """None: the store's own, or the paper's 100 when each sample was measured at recorded timesteps of its own."""
    draws: Annotated[int, Field(ge=1)] | None = None
    """Noises at each timestep; None: as many as the store has."""
    seed: int | None = None
    """Of the noise; None: the store's, so that query and samples meet the same noise and its chance cancels out."""
    count: Annotated[int, Field(ge=1)] | None = None
    """Cheap mode: this many timesteps, placed by `sampling`, in place of the store's own."""
    sampling: Literal["stratified", "importance"] = "stratified"
    """`importance` places `count` timesteps where the store's gradients are long and weights them to the same mean: for
    `tracin` and other estimators that read means of gradients as they are (docs/estimators.md has the measurements)."""
    parameters: tuple[str, ...] = ()
    """Patterns of the model's parameters: gradients of these alone, of those that the store covers, are measured; none:
    all. Those near the output, such as `up_blocks.*` of a UNet, need a part of the time; scores are then sums over
    these parameters."""
    paper: bool = False
    """Measure as the paper does: 100 timesteps x 16 noises. Slow, and not for `retrac-matched`."""

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other or measure nothing."""
        if self.paper and (self.timesteps is not None or self.draws is not None):
            raise ConfigError("paper sets timesteps and draws itself; leave them out, or leave paper out")
        if self.count is not None and (self.paper or self.timesteps is not None):
            raise ConfigError("count places the timesteps itself; leave out timesteps and paper, or leave out count")
        if self.sampling == "importance" and self.count is None:
            raise ConfigError("sampling by importance needs a count of timesteps, such as count: 8")
        if self.timesteps is not None and (not self.timesteps or len(set(self.timesteps)) != len(self.timesteps)):
            raise ConfigError("timesteps must name at least one timestep, and each only once")

    def chosen_timesteps(self, plan: StorePlan, total: int) -> tuple[int, ...]:
        """The query's timesteps for a store and a model of `total` timesteps, unless they are placed by importance."""
        if self.count is not None:
            self._check_count(total)
            return tuple(stratified_timesteps(self.count, total).tolist())
        chosen = self.timesteps if self.timesteps is not None else plan.timesteps
        if self.paper or not chosen:
            return tuple(dict.fromkeys(paper_timesteps(PAPER_TIMESTEPS, total).tolist()))
        return chosen

    def placed_timesteps(self, store: Store, total: int) -> tuple[tuple[int, ...], NDArray[np.float64] | None]:
        """The query's timesteps, and their weights in means over timesteps, float64[T]; None: all alike.

        Raises ConfigError when more timesteps are asked for than there are.
        """
        if self.count is None or self.sampling == "stratified":
            return self.chosen_timesteps(store.plan, total), None
        self._check_count(total)
        timesteps, weights = importance_timesteps(norm_density(store, total), self.count)
        return tuple(timesteps.tolist()), weights

    def _check_count(self, total: int) -> None:
        if self.count is not None and self.count > total:
            raise ConfigError(f"count: {self.count} timesteps are asked for, the model has {total}; choose fewer")

    def chosen_draws(self, plan: StorePlan) -> int:
        return PAPER_DRAWS if self.paper else self.draws or plan.draws


@dataclass(frozen=True)
class EmbeddedQuery:
    """A query's embeddings: all that the estimators it was embedded for need, so that one pass serves every one."""

    embeddings: tuple[Embeddings, ...]
    """By checkpoint, in the store's order; each holds one picture. Empty when only baselines are asked for."""
    record: QueryRecord
    seconds: float
    """Wall-clock time of embedding."""
    pixels: NDArray[np.float32]
    """float32[C, H, W] in [-1, 1], as the model sees the picture: what `pixel` compares."""
    features: NDArray[np.float32] | None = None
    """float32[d]: the user's own vector of the picture, for `embedding`."""
    steps: tuple[Embeddings, ...] = ()
    """By checkpoint, T rows that were measured at one timestep each, when they were asked for; else empty."""

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Those at which it was embedded."""
        return tuple(self.record.losses)

    def completed(self, later: "EmbeddedQuery") -> "EmbeddedQuery":
        """This query, embedded at the first checkpoints while its picture was still being made, with the others' part.

        `later` is the final picture's, embedded at the checkpoints that follow; the record names those of this one.
        Raises ConfigError when the two were measured in other ways or at a checkpoint in common.
        """
        mine, theirs = (replace(one.record, losses={}, preliminary=()) for one in (self, later))
        if mine != theirs or bool(self.steps) != bool(later.steps):
            raise ConfigError("the two parts of a query were measured in different ways; embed both alike")
        if twice := set(self.checkpoints) & set(later.checkpoints):
            raise ConfigError(f"both parts of the query were embedded at {min(twice)}; embed each checkpoint once")
        losses = {**self.record.losses, **later.record.losses}
        return replace(
            later,
            embeddings=self.embeddings + later.embeddings,
            steps=self.steps + later.steps,
            seconds=self.seconds + later.seconds,
            record=replace(later.record, losses=losses, preliminary=self.checkpoints),
        )


def picture_of(image: Picture) -> Image.Image:
    """The query as an RGB picture; raises DataError when it is not one."""
    if isinstance(image, Image.Image):
        return on_white(image)
    if isinstance(image, str | Path):
        return read_picture(image, "a query")
    return to_picture(_checked(image))


def pixels_of(image: Picture, size: int, channels: int) -> NDArray[np.float32]:
    """The query as the model sees it, float32[channels, size, size] in [-1, 1].

    An array that has this shape is taken as it is; everything else is cropped and resized as training images are.
    Raises DataError when it is not a picture.
    """
    if isinstance(image, np.ndarray) and image.shape == (channels, size, size):
        return _checked(image)
    return to_pixels(picture_of(image), size, channels)


def _checked(array: NDArray[np.floating]) -> NDArray[np.float32]:
    pixels = np.asarray(array)
    if pixels.ndim != 3 or pixels.shape[0] not in {1, 3} or not pixels.size or pixels.dtype.kind != "f":
        raise DataError(
            f"a query array must be float[channels, height, width] with 1 or 3 channels, got {pixels.dtype}"
            f"{list(pixels.shape)}; give pixels in [-1, 1], a PIL picture or a path"
        )
    # Written so that NaN fails too. Generators overshoot a little: that is clipped, a range of 0 .. 255 is a mistake.
    if not np.abs(pixels).max() <= 2:
        raise DataError("a query array must hold pixels in [-1, 1]; divide 8-bit levels by 127.5 and subtract 1")
    return np.clip(pixels, -1.0, 1.0).astype(np.float32)


def losses_of(checkpoints: Mapping[str, Embeddings]) -> dict[str, tuple[float, ...]]:
    """By checkpoint, the losses of its only picture at each timestep."""
    return {name: tuple(embeddings.losses[0].tolist()) for name, embeddings in checkpoints.items()}
