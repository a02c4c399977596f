"""TIAR: rounds the temporal block on its own over all of a sampler's timesteps, and finds its activations' ranges."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from forebear_generators.quantisation.feedback import best_feedback_codes, fitted
from forebear_generators.quantisation.grids import channel_grid, decode, encode, range_grid
from forebear_generators.quantisation.layers import (
    INPUT_LEVELS,
    Clock,
    Operation,
    replace_module,
    weight_levels,
)
from forebear_generators.quantisation.layout import PlannedLayer, removed_at_end
from forebear_generators.quantisation.reconstruction import Rounded, learners, reconstruct_temporal, settle
from forebear_generators.quantisation.settings import QuantisationConfig
from forebear_generators.quantisation.temporal import TemporalBlock

Grid = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Rows:
    """What the temporal block reads: K rows at each of S steps, steps first; K is 1 without classes."""

    times: Tensor
    """[S K]."""
    labels: Tensor | None
    """int64[S K]."""
    steps: int

    def each(self) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """Step, times [K] and labels [K]."""
        width = len(self.times) // self.steps
        for step in range(self.steps):
            part = slice(step * width, (step + 1) * width)
            yield step, self.times[part], None if self.labels is None else self.labels[part]


@torch.no_grad()
def features_by_step(block: TemporalBlock, clock: Clock, rows: Rows) -> dict[str, Tensor]:
    """Features float32[S K, C], each step with its own ranges."""
    found = []
    for step, times, labels in rows.each():
        clock.step = step
        found.append(block.compute(times, labels))
    return {name: torch.cat([features[name] for features in found]) for name in found[0]}


class TemporalRounding:
    """Rounds the block's layers in place: those of one stage read what the stage before gives."""

    def __init__(
        self,
        block: TemporalBlock,
        full_precision: TemporalBlock,
        plans: Sequence[PlannedLayer],
        rows: Rows,
        clock: Clock,
        config: QuantisationConfig,
    ) -> None:
        self._block, self._full, self._rows, self._clock, self._config = block, full_precision, rows, clock, config
        self._plans = {plan.name: plan for plan in plans}
        features = [feature.name for feature in block.features]
        inner = [name for name in self._plans if name not in features]
        endings = list(dict.fromkeys(name.rpartition(".")[2] for name in inner))
        self._stages = [[name for name in inner if name.endswith(f".{ending}")] for ending in endings] + [features]

    def run(self, tick: Callable[[], None]) -> tuple[dict[str, Rounded], dict[str, Grid]]:
        """Roundings and input grids of all layers, which then stand in the denoiser."""
        rounded: dict[str, Rounded] = {}
        method = self._config.temporal.reconstruction
        if method != "feedback":
            rounded = self._by_gradient(method, tick)
        grids: dict[str, Grid] = {}
        wanted = self._outputs()
        for stage in self._stages:
            inputs = self._inputs(stage)
            for name in stage:
                plan = self._plans[name]
                x = inputs[name]
                if plan.integer_inputs:
                    grids[name] = self._input_grid(x)
                    x = self._rounded_inputs(x, grids[name])
                if method == "feedback":
                    rounded[name] = self._by_feedback(plan, x, wanted[name])
                if name in grids:
                    self._module(name).quantise_inputs(*grids[name])
            tick()
        return rounded, grids

    def restore(self, rounded: dict[str, Rounded], grids: dict[str, Grid]) -> None:
        """Put layers that were rounded before in the denoiser."""
        for name, each in rounded.items():
            self._put(name, each)
            if name in grids:
                self._module(name).quantise_inputs(*grids[name])

    def _module(self, name: str) -> Any:
        return self._block.denoiser.get_submodule(name)

    def _put(self, name: str, rounded: Rounded) -> None:
        original = self._module(name)
        layer = rounded.layer(Operation.of(original), original.bias, self._clock)
        replace_module(self._block.denoiser, name, layer)

    def _by_gradient(self, method: str, tick: Callable[[], None]) -> dict[str, Rounded]:
        config = self._config
        with torch.no_grad():
            wanted = self._full.compute(self._rows.times, self._rows.labels)
        learned = learners(self._block.denoiser, list(self._plans.values()), config.weights)
        if method == "adaround":
            rows = self._rows.times, self._rows.labels
            seed = config.calibration.seed
            reconstruct_temporal(self._block, learned, wanted, rows, config.rounding, seed, tick)
        with torch.no_grad():
            how = "adaround" if method == "adaround" else "nearest"
            rounded = {name: each.rounded(how) for name, each in learned.items()}
        settle(self._block.denoiser, learned, rounded, self._clock)
        return rounded

    @torch.no_grad()
    def _by_feedback(self, plan: PlannedLayer, inputs: Tensor, wanted: Tensor) -> Rounded:
        """Round one layer for its rounded inputs float32[R, D], so that it gives the wanted outputs [R, out]."""
        original = self._module(plan.name)
        aim = wanted if original.bias is None else wanted - original.bias
        weight = fitted(original.weight.detach(), inputs, aim)
        codes = weight_levels(plan.bits, plan.symmetric, plan.reduced)
        # The whole range: a cut-off weight is an error that no other column can make up for.
        scale, zero = channel_grid(weight, codes, "minmax")
        rounded = Rounded(best_feedback_codes(weight, inputs, scale, zero, codes), scale, zero)
        self._put(plan.name, rounded)
        return rounded

    def _input_grid(self, x: Tensor) -> Grid:
        """Scale and zero point of inputs float32[S K, D], for each step or for all: their set is finite and known."""
        rows = x.view(self._rows.steps if self._config.temporal.per_step != "none" else 1, -1)
        return range_grid(rows.amin(1), rows.amax(1), INPUT_LEVELS)

    def _rounded_inputs(self, x: Tensor, grid: Grid) -> Tensor:
        scale, zero = (each.repeat_interleave(len(x) // len(each))[:, None] for each in grid)
        return decode(encode(x, scale, zero, INPUT_LEVELS), scale, zero)

    @torch.no_grad()
    def _inputs(self, names: Sequence[str]) -> dict[str, Tensor]:
        """What these layers read behind the rounded ones before them: float32[S K, D]."""
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        with ExitStack() as stack:
            for name in names:

                def note(_: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
                    found[name].append(given[0])

                stack.enter_context(removed_at_end(self._module(name).register_forward_pre_hook(note)))
            features_by_step(self._block, self._clock, self._rows)
        return {name: torch.cat(each) for name, each in found.items()}

    @torch.no_grad()
    def _outputs(self) -> dict[str, Tensor]:
        """What the full-precision layers give: float32[S K, out]."""
        found: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for name in self._plans:

                def note(_: nn.Module, __: Any, output: Tensor, name: str = name) -> None:
                    found[name] = output

                module = self._full.denoiser.get_submodule(name)
                stack.enter_context(removed_at_end(module.register_forward_hook(note)))
            self._full.compute(self._rows.times, self._rows.labels)
        return found
