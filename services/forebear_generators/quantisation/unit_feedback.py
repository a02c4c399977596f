"""Rounds a block's layers one after the other in closed form: fitted behind rounded inputs, then by error feedback."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forebear_generators.quantisation.feedback import codes_by_gram
from forebear_generators.quantisation.grids import Levels, channel_grid, range_grid
from forebear_generators.quantisation.layers import Clock, Operation, SplitLayer, replace_module, weight_levels
from forebear_generators.quantisation.layout import PlannedLayer, removed_at_end
from forebear_generators.quantisation.reconstruction import Inputs, LearnedLayer, Rounded
from forebear_generators.quantisation.settings import WeightsConfig

SHRINKS = (1.0, 0.9, 0.8)
"""Parts of a channel's range that are tried: a narrower one has finer steps and cuts off its ends."""
FIT = 1e-2
"""Added to the diagonal of X'X, times its mean, where weights are fitted to the full-precision outputs."""
DAMPING = 1e-2
"""The same, where errors are fed back (GPTQ)."""
UNFOLDED = 2**24
"""Numbers of unfolded inputs that are held at once, about."""


@dataclass(frozen=True)
class Moments:
    """Sums over all rows of a layer's unfolded inputs x [R, D] and wanted outputs y [R, out]."""

    gram: Tensor
    """x' x about the mean (of a layer with a bias), float64[D, D]."""
    cross: Tensor
    """x' y about the means, float64[D, out]."""
    input_mean: Tensor
    """float64[D]; 0 without a bias."""
    output_mean: Tensor
    """float64[out]; 0 without a bias."""


@torch.no_grad()
def round_unit(
    denoiser: nn.Module,
    full: nn.Module,
    unit: str,
    plans: Sequence[PlannedLayer],
    inputs: tuple[Inputs, Inputs],
    config: WeightsConfig,
    clock: Clock,
) -> dict[str, Rounded]:
    """Round a unit's layers in their order and put them in the denoiser; each reads what those before it give.

    `inputs` are the unit's behind the rounded units before it, and those of the `full` precision denoiser's unit.
    """
    wanted = _full_inputs(denoiser, full, unit, [plan.name for plan in plans], inputs[1])
    rounded: dict[str, Rounded] = {}
    for plan in plans:
        layer: Any = denoiser.get_submodule(plan.name)
        read = _layer_inputs(denoiser, unit, [plan.name], inputs[0])[plan.name]
        rounded[plan.name] = round_layer(layer, plan, read, wanted.pop(plan.name), config)
        replace_module(denoiser, plan.name, rounded[plan.name].layer(Operation.of(layer), layer.bias, clock))
    return rounded


def round_layer(layer: Any, plan: PlannedLayer, read: Tensor, wanted: Tensor, config: WeightsConfig) -> Rounded:
    """A layer rounded so that on inputs `read` [N, ...] it gives what it gave on `wanted` [N, ...].

    Its weights are first fitted to that (ridge regression), then rounded by error feedback on ranges shrunk by each of
    SHRINKS; each output channel takes the range of the least error, and the scale that fits its codes best. The bias
    makes up for the mean error. Convolutions in groups are rounded to the nearest.
    """
    if Operation.of(layer).groups != 1:
        return LearnedLayer(layer, plan, config).rounded("nearest")
    seen = moments(layer, read, wanted)
    codes = weight_levels(plan.bits, plan.symmetric, plan.reduced)
    weight = fitted_by_moments(layer.weight.detach().flatten(1).double(), seen)
    tried = []
    for start, zero in _grids(weight.float(), codes, config):
        code = codes_by_gram(weight, seen.gram, start, zero, codes, DAMPING)
        scale, error = fitted_scale(code - zero[:, None], start, seen)
        tried.append((error, code, scale, zero))
    errors, *parts = (torch.stack(each) for each in zip(*tried, strict=True))
    best, channels = errors.argmin(0), torch.arange(len(weight))
    code, scale, zero = (each[best, channels] for each in parts)
    bias = None
    if layer.bias is not None:
        given = decoded(code, scale, zero).double() @ seen.input_mean
        bias = layer.bias.detach() + (seen.output_mean - given).float()
    return Rounded(code.view(layer.weight.shape), scale, zero, bias)


def decoded(code: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Weights float32[out, D] of codes int16[out, D]."""
    return (code - zero[:, None]) * scale[:, None]


def moments(layer: Any, read: Tensor, wanted: Tensor) -> Moments:
    """Of inputs `read` and of the layer's outputs, without its bias, on `wanted`, each [N, ...]."""
    operation, weight = Operation.of(layer), layer.weight.detach()
    wide, high = weight[0].numel(), len(weight)
    gram, cross = torch.zeros(wide, wide, dtype=torch.float64), torch.zeros(wide, high, dtype=torch.float64)
    sum_in, sum_out = torch.zeros(wide, dtype=torch.float64), torch.zeros(high, dtype=torch.float64)
    count = 0
    for rows in _chunks(read, wide):
        x = _unfolded(operation, read[rows], weight.shape[2:])
        y = operation(wanted[rows], weight, None)
        y = y.flatten(2).transpose(1, 2).reshape(-1, high) if operation.convolution else y.reshape(-1, high)
        gram += (x.T @ x).double()
        cross += (x.T @ y).double()
        sum_in += x.sum(0).double()
        sum_out += y.sum(0).double()
        count += len(x)
    if layer.bias is None:
        return Moments(gram, cross, torch.zeros_like(sum_in), torch.zeros_like(sum_out))
    means = sum_in / count, sum_out / count
    return Moments(gram - count * means[0].outer(means[0]), cross - count * means[0].outer(means[1]), *means)


def fitted_by_moments(weight: Tensor, seen: Moments) -> Tensor:
    """The weights near `weight`, float64[out, D], of the least squared error: ridge regression towards it."""
    gram = seen.gram.clone()
    gram.diagonal().add_(FIT * float(gram.diagonal().mean()) + 1e-12)
    change = torch.linalg.solve(gram, seen.cross - seen.gram @ weight.T).T
    nearest: Tensor = weight + change
    return nearest


def fitted_scale(code: Tensor, scale: Tensor, seen: Moments) -> tuple[Tensor, Tensor]:
    """The scale float32[out] that fits codes [out, D] without zero points best, and the error, less a constant.

    The squared error is s^2 c'Gc - 2 s c'b for a row's codes c, least at s = c'b / c'Gc; a scale is never negative.
    """
    whole = code.double()
    square = ((whole @ seen.gram) * whole).sum(1)
    along = (whole * seen.cross.T).sum(1)
    best = torch.where((square > 0) & (along > 0), along / square.clamp(min=1e-300), scale.double())
    return best.float(), best.square() * square - 2.0 * best * along


def _grids(weight: Tensor, codes: Levels, config: WeightsConfig) -> Iterator[tuple[Tensor, Tensor]]:
    if config.search == "minmax":
        yield channel_grid(weight, codes, "minmax")
        return
    least, most = weight.amin(1), weight.amax(1)
    for shrink in SHRINKS:
        yield range_grid(least * shrink, most * shrink, codes)


def _chunks(x: Tensor, wide: int) -> Iterator[slice]:
    places = x[0].numel() // (x.shape[1] if x.dim() == 4 else x.shape[-1])
    rows = max(1, UNFOLDED // (places * wide))
    for first in range(0, len(x), rows):
        yield slice(first, first + rows)


def _unfolded(operation: Operation, x: Tensor, kernel: Sequence[int]) -> Tensor:
    """What each output is a weighted sum of: [N, ...] as [R, D]."""
    if not operation.convolution:
        return x.reshape(-1, x.shape[-1])
    columns = F.unfold(x, tuple(kernel), operation.dilation, operation.padding, operation.stride)  # [N, D, places]
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


def _layer_inputs(denoiser: nn.Module, unit: str, names: Sequence[str], inputs: Inputs) -> dict[str, Tensor]:
    """What layers of a unit read when it is given these inputs: [N, ...] by name."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    module = denoiser.get_submodule(unit)
    with ExitStack() as stack:
        for name, calls in found.items():

            def note(_: nn.Module, given: tuple[Tensor, ...], calls: list[Tensor] = calls) -> None:
                calls.append(given[0])

            stack.enter_context(removed_at_end(denoiser.get_submodule(name).register_forward_pre_hook(note)))
        inputs.call(module, torch.arange(inputs.rows))
    return {name: torch.cat(each) for name, each in found.items()}


def _full_inputs(
    denoiser: nn.Module, full: nn.Module, unit: str, names: Sequence[str], inputs: Inputs
) -> dict[str, Tensor]:
    """The same of the full-precision unit, whose shortcuts are whole: each half of one that is split has its part."""
    whole = {name: name.rpartition(".")[0] for name in names if isinstance(_parent(denoiser, name), SplitLayer)}
    found = _layer_inputs(full, unit, list(dict.fromkeys(whole.get(name, name) for name in names)), inputs)
    wanted = {}
    for name in names:
        x = found[whole.get(name, name)]
        if name in whole:
            at = int(denoiser.get_submodule(whole[name]).at)  # type: ignore[arg-type]
            x = x[:, :at] if name.endswith(".first") else x[:, at:]
        wanted[name] = x
    return wanted


def _parent(root: nn.Module, name: str) -> nn.Module:
    return root.get_submodule(name.rpartition(".")[0])
