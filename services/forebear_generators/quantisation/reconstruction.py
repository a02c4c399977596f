"""Learns how weights are rounded: the temporal block on its own (TIAR), and the other blocks one after the other."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from forebear.randomness import keyed_integers
from forebear_generators.quantisation.adaround import SoftRounding, annealed
from forebear_generators.quantisation.grids import channel_grid, encode, per_channel
from forebear_generators.quantisation.layers import Clock, Operation, QuantisedLayer, replace_module, weight_levels
from forebear_generators.quantisation.layout import PlannedLayer
from forebear_generators.quantisation.settings import RoundingConfig, WeightsConfig
from forebear_generators.quantisation.temporal import TemporalBlock

TEMPORAL_ROWS = 1024
"""As many timesteps, or pairs of timestep and class, as one iteration of TIAR looks at."""


@dataclass(frozen=True)
class Rounded:
    """A layer's weights as integers."""

    codes: Tensor
    """int16[out, ...], with the zero point in them."""
    scale: Tensor
    """float32[out]."""
    zero: Tensor
    """int32[out]."""
    bias: Tensor | None = None
    """float32[out] in place of the layer's own, where rounding made up for a mean error."""

    def layer(self, operation: Operation, bias: Tensor | None, clock: Clock) -> QuantisedLayer:
        centred = self.codes - per_channel(self.zero, self.codes).to(torch.int16)
        return QuantisedLayer(operation, centred, self.scale, bias if self.bias is None else self.bias, clock)


class LearnedLayer(nn.Module):
    """A linear layer or convolution while its rounding is learned."""

    def __init__(self, layer: Any, plan: PlannedLayer, config: WeightsConfig) -> None:
        super().__init__()
        self.operation = Operation.of(layer)
        codes = weight_levels(plan.bits, plan.symmetric, plan.reduced)
        weight = layer.weight.detach()
        self.grid = channel_grid(weight, codes, config.search, config.candidates, config.exponent)
        self.soft = SoftRounding(weight, *self.grid, codes)
        self.original, self.levels = weight, codes
        self.bias = None if layer.bias is None else layer.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(x, self.soft.weight(), self.bias)

    def rounded(self, method: str) -> Rounded:
        """The codes as learned, or the nearest ones."""
        scale, zero = self.grid
        if method == "nearest":
            wide = per_channel(scale, self.original), per_channel(zero, self.original)
            return Rounded(encode(self.original, *wide, self.levels).to(torch.int16), scale, zero)
        return Rounded(self.soft.codes(), scale, zero)


def learners(denoiser: nn.Module, plans: Sequence[PlannedLayer], config: WeightsConfig) -> dict[str, LearnedLayer]:
    """Put a LearnedLayer in the place of each planned layer."""
    found = {}
    for plan in plans:
        found[plan.name] = LearnedLayer(denoiser.get_submodule(plan.name), plan, config)
        replace_module(denoiser, plan.name, found[plan.name])
    return found


def settle(denoiser: nn.Module, learned: dict[str, LearnedLayer], rounded: dict[str, Rounded], clock: Clock) -> None:
    """Put layers with the rounded weights in the place of those that learned them."""
    for name, layer in learned.items():
        replace_module(denoiser, name, rounded[name].layer(layer.operation, layer.bias, clock))


def reconstruct_temporal(
    block: TemporalBlock,
    learned: dict[str, LearnedLayer],
    wanted: dict[str, Tensor],
    rows: tuple[Tensor, Tensor | None],
    config: RoundingConfig,
    seed: int,
    on_iteration: Callable[[], None] | None = None,
) -> None:
    """TIAR: learn all roundings of the temporal block together, from the features alone.

    The loss is sum_i ||g_i(h(t)) - ghat_i(hhat(t))||^2 in the mean over times [R] and labels int64[R] or None (TFMQ-DM,
    equation of section 4.1); `wanted` are the full-precision features float32[R, C_i].
    """
    times, labels = rows

    def loss(iteration: int) -> Tensor:
        pick = _picked(len(times), TEMPORAL_ROWS, seed, "temporal", iteration)
        found = block.compute(times[pick], None if labels is None else labels[pick])
        each = [(found[name] - wanted[name][pick]).square().sum() for name in wanted]
        return torch.stack(each).sum() / len(pick)

    _learn(list(learned.values()), loss, config, on_iteration)


def reconstruct_unit(
    unit: nn.Module,
    name: str,
    learned: dict[str, LearnedLayer],
    inputs: "Inputs",
    wanted: Tensor,
    config: RoundingConfig,
    seed: int,
    on_iteration: Callable[[], None] | None = None,
) -> None:
    """Learn a block's roundings from its inputs behind the quantised layers before it and its full-precision outputs.

    The loss is the squared error summed over axis 1 and in the mean over the others (BRECQ's and TFMQ-DM's code).
    `wanted` is float32[N, ...].
    """

    def loss(iteration: int) -> Tensor:
        pick = _picked(len(wanted), config.batch, seed, name, iteration)
        found = inputs.call(unit, pick)
        return (found - wanted[pick]).square().sum(1).mean()

    _learn(list(learned.values()), loss, config, on_iteration)


def _picked(count: int, batch: int, seed: int, name: str, iteration: int) -> Tensor:
    """Rows of an iteration: all when they fit, else drawn by the key, with replacement."""
    if count <= batch:
        return torch.arange(count)
    return torch.from_numpy(keyed_integers(count, (batch,), "rounding", seed, name, iteration))


def _learn(
    learned: list[LearnedLayer],
    loss: Callable[[int], Tensor],
    config: RoundingConfig,
    on_iteration: Callable[[], None] | None,
) -> None:
    optimiser = torch.optim.Adam([layer.soft.logits for layer in learned], lr=config.learning_rate)
    with torch.enable_grad():
        for iteration in range(config.iterations):
            total = loss(iteration)
            beta = annealed(iteration, config.iterations, config.warmup, config.beta)
            if beta is not None:
                total = total + config.weight * torch.stack([layer.soft.regulariser(beta) for layer in learned]).sum()
            optimiser.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if on_iteration is not None:
                on_iteration()


class _Reached(Exception):  # noqa: N818 - a signal, not an error
    """The unit has been called; what follows it is not needed."""


class Inputs:
    """What a module was called with, over N rows: tensors joined along the batch, everything else as it was.

    With a clock they come from several steps of it, int64[N]: a layer's grid is that of each row's step.
    """

    def __init__(
        self,
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]],
        clock: Clock | None = None,
        steps: Tensor | None = None,
    ) -> None:
        self._clock, self._steps = clock, steps
        positional, named = calls[0]
        self._positional = [_joined([call[0][place] for call in calls]) for place in range(len(positional))]
        self._named = {name: _joined([call[1][name] for call in calls]) for name in named}

    @property
    def rows(self) -> int:
        """N, the length of the first tensor that has one."""
        each = (*self._positional, *self._named.values())
        return next(len(value) for value in each if isinstance(value, Tensor) and value.dim())

    def call(self, module: nn.Module, rows: Tensor) -> Tensor:
        """The module's output for the chosen rows, int64[R]."""
        positional = [_chosen(value, rows) for value in self._positional]
        named = {name: _chosen(value, rows) for name, value in self._named.items()}
        if self._clock is None or self._steps is None:
            return module(*positional, **named)  # type: ignore[no-any-return]
        with self._clock.at(self._steps[rows]):
            return module(*positional, **named)  # type: ignore[no-any-return]


def _joined(values: list[Any]) -> Any:
    return torch.cat(values) if isinstance(values[0], Tensor) and values[0].dim() else values[0]


def _chosen(value: Any, rows: Tensor) -> Any:
    return value[rows] if isinstance(value, Tensor) and value.dim() else value


@torch.no_grad()
def inputs_of(
    denoiser: nn.Module, name: str, passes: Iterable[Callable[[], Any]], clock: Clock | None = None
) -> Inputs:
    """What the module `name` is given in each of the denoiser's forward passes, which end there.

    `clock` is that of a denoiser with rounded layers: which step each row belongs to is noted by it.
    """
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    steps: list[Tensor] = []

    def note(_: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        calls.append((positional, named))
        if clock is not None:
            steps.append(torch.full((Inputs(calls[-1:]).rows,), int(clock.step)))
        raise _Reached

    _run_to_hook(denoiser.get_submodule(name).register_forward_pre_hook(note, with_kwargs=True), passes)
    return Inputs(calls, clock, torch.cat(steps) if steps else None)


@torch.no_grad()
def outputs_of(denoiser: nn.Module, name: str, passes: Iterable[Callable[[], Any]]) -> Tensor:
    """What the module `name` gives in each of the denoiser's forward passes, which end there: float32[N, ...]."""
    found: list[Tensor] = []

    def note(_: nn.Module, __: Any, output: Tensor) -> None:
        found.append(output)
        raise _Reached

    _run_to_hook(denoiser.get_submodule(name).register_forward_hook(note), passes)
    return torch.cat(found)


def _run_to_hook(hook: RemovableHandle, passes: Iterable[Callable[[], Any]]) -> None:
    """Begin each forward pass, which ends where the hook raises _Reached, and take the hook away."""
    try:
        for forward in passes:
            with suppress(_Reached):
                forward()
    finally:
        hook.remove()
