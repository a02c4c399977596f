"""Keeps temporal features: in the quantised block or in a cache, chosen by each feature's own error."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forebear.errors import ConfigError, ModelError
from forebear_generators.quantisation.grids import decode, encode, levels, range_grid
from forebear_generators.quantisation.layers import Clock
from forebear_generators.quantisation.settings import TemporalConfig

CACHE_LEVELS = levels(8, symmetric=False)
WIDTHS = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class Cache:
    """A feature at some of a sampler's steps, for each class."""

    values: Tensor
    """float32, float16 or uint8 codes [N, K, C], of the N cached steps and K classes (1 without classes)."""
    scale: Tensor | None
    """float32[N], where the values are codes."""
    zero: Tensor | None
    """uint8[N]."""

    @staticmethod
    def of(features: Tensor, width: str) -> "Cache":
        """Features float32[N, K, C] at a width: `float32`, `float16` or `int8`, which has one range for each step."""
        if width in WIDTHS:
            return Cache(features.to(WIDTHS[width]), None, None)
        rows = features.flatten(1)
        scale, zero = range_grid(rows.amin(1), rows.amax(1), CACHE_LEVELS)
        codes = encode(features, scale[:, None, None], zero[:, None, None], CACHE_LEVELS)
        return Cache(codes.to(torch.uint8), scale, zero.to(torch.uint8))

    def read(self, place: int | slice = slice(None)) -> Tensor:
        """Features float32[K, C] at a place, or [N, K, C] at all."""
        values = self.values[place].float()
        if self.scale is None or self.zero is None:
            return values
        wide = self.scale[place], self.zero[place].float()
        if isinstance(place, slice):
            wide = wide[0][:, None, None], wide[1][:, None, None]
        return decode(values, *wide)


class KeptFeature(nn.Module):
    """Stands in for a layer whose output is a temporal feature: reads the cache where it has the step."""

    values: Tensor
    scale: Tensor | None
    zero: Tensor | None
    place: Tensor

    def __init__(self, cache: Cache, place: Tensor, layer: nn.Module | None, clock: Clock) -> None:
        """`place` int32[S] is each step's row in the cache, or -1 where `layer` computes the feature."""
        super().__init__()
        self.layer, self.clock = layer, clock
        for name, tensor in (("values", cache.values), ("scale", cache.scale), ("zero", cache.zero), ("place", place)):
            self.register_buffer(name, tensor)

    @property
    def cache(self) -> Cache:
        return Cache(self.values, self.scale, self.zero)

    def forward(self, x: Tensor) -> Tensor:
        """The feature for each row of the time embedding x [B, D], which only computed features read."""
        place = int(self.place[self.clock.step])
        if place < 0:
            if self.layer is None:
                raise ModelError("a feature is neither in the cache nor computed; quantise the model again")
            computed: Tensor = self.layer(x)
            return computed
        found = self.cache.read(place)  # [K, C]
        return found.expand(len(x), -1) if self.clock.labels is None or len(found) == 1 else found[self.clock.labels]


class Dropped(nn.Module):
    """Stands in for a time or class embedding that nothing reads any more: one column of zeros."""

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return torch.zeros(x.shape[0], 1)  # not len(x), which a trace takes for a constant


def choose(
    block_errors: dict[str, Tensor], cache_errors: dict[str, Tensor], config: TemporalConfig, possible: bool
) -> dict[str, Tensor]:
    """Which steps of which feature are read from the cache: bool[S] by name.

    Errors are ||feature - kept feature||^2, float32[S], summed over classes. With `selected`, the way of the lower
    error is taken for each module over all steps, or for each step, and the cache at equal errors. `possible` says
    whether a cache of this model's classes is small enough; ConfigError when one is asked for that is not.
    """
    if config.maintenance == "cache" and not possible:
        raise ConfigError(
            "this model has a temporal feature for each of more classes than temporal.cache_classes; raise that "
            "setting, or set temporal.maintenance to selected or block"
        )
    chosen = {}
    for name, by_block in block_errors.items():
        by_cache = cache_errors[name]
        if config.maintenance == "block" or not possible:
            chosen[name] = torch.zeros(len(by_block), dtype=torch.bool)
        elif config.maintenance == "cache":
            chosen[name] = torch.ones(len(by_block), dtype=torch.bool)
        elif config.granularity == "module":
            chosen[name] = (by_cache.sum() <= by_block.sum()).expand(len(by_block)).clone()
        else:
            chosen[name] = by_cache <= by_block
    return chosen


def places(cached: Tensor) -> Tensor:
    """Each step's row in a cache of the steps where `cached`, bool[S], is true: int32[S], -1 elsewhere."""
    rows = torch.cumsum(cached.int(), 0) - 1
    return torch.where(cached, rows, -1).to(torch.int32)


def unread(features: Sequence[tuple[str, str]], chosen: dict[str, Tensor]) -> list[str]:
    """Time embeddings, of (feature, embedding) pairs, whose features are all in the cache at all steps."""
    needed = {embedding for feature, embedding in features if not bool(chosen[feature].all())}
    return [name for name in dict.fromkeys(embedding for _, embedding in features) if name not in needed]
