"""Layers with integer weights: convolutions and linear layers whose inputs may be integers too."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forebear.errors import ConfigError, ModelError
from forebear_generators.quantisation.grids import Levels, encode, levels, per_channel

Kernel = Callable[[Tensor], Tensor]
INPUT_LEVELS = levels(8, symmetric=False)
EXACT_IN_FLOAT = 2.0**24
"""Whole numbers up to here are exact in float32, and so are their sums in any order."""


class Clock:
    """Which step of its sampler a denoiser is at: what per-step ranges and cached features are chosen by."""

    def __init__(self, times: tuple[float, ...]) -> None:
        self.times = times
        self.step: int | Tensor = 0
        """Of a batch; while blocks are rounded, of each of its rows: int64[B]."""
        self.labels: Tensor | None = None
        """Class labels int64[B] of the present batch, for class-conditional models."""
        self._steps = {time: step for step, time in enumerate(times)}

    def set(self, timestep: Tensor, labels: Tensor | None) -> None:
        """Take the step at a batch's one time; raises ConfigError for a time that the generator is not made for."""
        time = float(timestep.flatten()[0])
        if timestep.numel() > 1 and not bool((timestep == timestep.flatten()[0]).all()):
            raise ModelError("a quantised denoiser reads batches of one timestep; call it once for each timestep")
        if time not in self._steps:
            raise ConfigError(
                f"this quantised generator knows nothing of timestep {time:g}: generate with the sampler and number of "
                "steps that it was made for, or quantise the model again for these"
            )
        self.step, self.labels = self._steps[time], labels

    @contextmanager
    def at(self, steps: Tensor) -> Iterator[None]:
        """Meanwhile each row of a batch is at a step of its own, int64[B]."""
        before, self.step = self.step, steps
        try:
            yield
        finally:
            self.step = before


@dataclass(frozen=True)
class Operation:
    """What a layer does with its input and weights: a linear map or a convolution."""

    convolution: bool
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @staticmethod
    def of(layer: nn.Module) -> "Operation":
        """That of an nn.Linear or nn.Conv2d; raises ModelError for padding that is not zeros of a fixed width."""
        if isinstance(layer, nn.Linear):
            return Operation(False)
        if not isinstance(layer, nn.Conv2d):
            raise TypeError(f"{type(layer).__name__} is neither Linear nor Conv2d")
        if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
            raise ModelError("a convolution pads with other than zeros; such a model cannot be quantised")
        padding = tuple(int(width) for width in layer.padding)
        return Operation(True, layer.stride, padding, layer.dilation, layer.groups)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.convolution:
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def scaled(self, summed: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """Sums of code products times their scales [out], plus the bias [out]."""
        if not self.convolution:
            return summed * scale if bias is None else summed * scale + bias
        wide = scale.view(-1, 1, 1)
        return summed * wide if bias is None else summed * wide + bias.view(-1, 1, 1)


class QuantisedLayer(nn.Module):
    """y = operation(x, (code - zero) * scale) + bias, by a kernel that a backend may replace.

    The weights' zero points are taken out of the codes when it is made, so that every kernel multiplies plain integers.
    """

    codes: Tensor
    scale: Tensor
    bias: Tensor | None
    input_scale: Tensor | None
    input_zero: Tensor | None

    def __init__(self, operation: Operation, codes: Tensor, scale: Tensor, bias: Tensor | None, clock: Clock) -> None:
        """Codes int[out, ...] without zero points, scale float32[out], bias float32[out]."""
        super().__init__()
        self.operation, self.clock = operation, clock
        narrow = bool(codes.amin() >= -128) and bool(codes.amax() <= 127)
        self.register_buffer("codes", codes.to(torch.int8 if narrow else torch.int16))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)
        self.register_buffer("input_scale", None)
        self.register_buffer("input_zero", None)
        self.kernel: Kernel = self.simulated
        self.packed_bytes = 0
        """Of codes that a kernel has taken into a form of its own."""

    @property
    def weight(self) -> Tensor:
        """The weights that the codes stand for, float32[out, ...]."""
        return self.codes.float() * per_channel(self.scale, self.codes)

    def quantise_inputs(self, scale: Tensor, zero: Tensor) -> None:
        """Give the layer 8-bit inputs: scale float32[S] and zero point int32[S], S being 1 or the sampler's steps."""
        self.input_scale, self.input_zero = scale, zero

    def input_grid(self) -> tuple[Tensor, Tensor]:
        """The present step's scale and zero point, one number each, or [B, 1] of rows that are at several steps.

        Raises ModelError when inputs are not 8-bit.
        """
        if self.input_scale is None or self.input_zero is None:
            raise ModelError("a layer of integer inputs has no grid for them; give it one with quantise_inputs")
        place = self.clock.step if len(self.input_scale) > 1 else 0
        scale, zero = self.input_scale[place], self.input_zero[place]
        return (scale[:, None], zero[:, None]) if scale.dim() else (scale, zero)

    def forward(self, x: Tensor) -> Tensor:
        return self.kernel(x)

    def simulated(self, x: Tensor) -> Tensor:
        """The reference: integers held in floating numbers, wide enough for every sum to be exact."""
        if self.input_scale is None:
            return self.operation(x, self.weight, self.bias)
        scale, zero = self.input_grid()
        whole = encode(x, scale, zero, INPUT_LEVELS) - zero
        kind = torch.float32 if self.exact_in_float else torch.float64
        summed = self.operation(whole.to(kind), self.codes.to(kind), None).float()
        return self.operation.scaled(summed, scale * self.scale, self.bias)

    @property
    def exact_in_float(self) -> bool:
        """Whether no sum of code products can leave float32's whole numbers."""
        if not hasattr(self, "_exact"):
            largest = self.codes.flatten(1).abs().sum(1, dtype=torch.int64).amax()
            self._exact = float(largest) * INPUT_LEVELS.high < EXACT_IN_FLOAT
        return self._exact


class SplitLayer(nn.Module):
    """A convolution over two joined inputs as the sum of one over each, with grids for each half (Q-Diffusion)."""

    def __init__(self, first: nn.Module, second: nn.Module, at: int) -> None:
        super().__init__()
        self.first, self.second, self.at = first, second, at

    @staticmethod
    def of(layer: nn.Conv2d, at: int) -> "SplitLayer":
        """The same convolution, its input channels taken apart before channel `at`."""
        halves = []
        for begin, end, bias in ((0, at, layer.bias is not None), (at, layer.in_channels, False)):
            half = nn.Conv2d(
                end - begin,
                layer.out_channels,
                layer.kernel_size,  # type: ignore[arg-type]
                layer.stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                layer.dilation,  # type: ignore[arg-type]
                bias=bias,
                device=layer.weight.device,
            )
            half.weight = nn.Parameter(layer.weight.detach()[:, begin:end].clone())
            if bias and layer.bias is not None:
                half.bias = nn.Parameter(layer.bias.detach().clone())
            halves.append(half)
        return SplitLayer(halves[0], halves[1], at)

    def forward(self, x: Tensor) -> Tensor:
        joined: Tensor = self.first(x[:, : self.at]) + self.second(x[:, self.at :])
        return joined


def replace_module(root: nn.Module, name: str, new: nn.Module) -> None:
    """Put `new` in the place of the submodule `name`."""
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, new)


def weight_levels(bits: int, symmetric: bool, reduced: bool) -> Levels:
    return levels(bits, symmetric, reduced and bits == 8)


def layer_bytes(layer: Any) -> int:
    """Bytes of a module's parameters and buffers in memory."""
    return sum(each.numel() * each.element_size() for each in [*layer.parameters(), *layer.buffers()])
