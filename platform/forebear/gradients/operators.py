"""Linear layers and convolutions as Forebear runs them: output, input gradient, per-sample weight gradients.

An operator holds a layer's geometry and no weights. Its three products are all that a gradient pass needs, so none of
them forms the weight gradient of the batch. `weight_gradients` reads the numbers of channels from its arguments, and so
works just as well on inputs and output gradients whose channels were projected.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Operator(Protocol):
    """y = W x + b over the channels of every position."""

    @property
    def channel_axis(self) -> int:
        """The channels' axis of inputs and outputs."""

    @property
    def out_axis(self) -> int:
        """The output channels' axis of the weight."""

    @property
    def in_axis(self) -> int:
        """The input channels' axis of the weight."""

    @property
    def mixes_all_channels(self) -> bool:
        """False when an output channel sees some of the input channels alone, which rules out projecting them."""

    def prepare(self, x: Tensor) -> Tensor:
        """What autograd does to the input before `apply`, such as padding by reflection."""

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's output."""

    def input_gradient(self, grad: Tensor, shape: Sequence[int], weight: Tensor) -> Tensor:
        """The gradient of an input of `shape`."""

    def weight_gradients(self, x: Tensor, grad: Tensor, samples: int) -> Tensor:
        """[samples, *weight]: each sample's gradient, summed over its rows and positions."""


class LinearOperator:
    """torch.nn.Linear over any number of positions: x [rows, ..., I], weight [O, I]."""

    channel_axis, out_axis, in_axis, mixes_all_channels = -1, 0, 1, True

    def prepare(self, x: Tensor) -> Tensor:
        return x

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def input_gradient(self, grad: Tensor, shape: Sequence[int], weight: Tensor) -> Tensor:  # noqa: ARG002
        return grad @ weight

    def weight_gradients(self, x: Tensor, grad: Tensor, samples: int) -> Tensor:
        x = x.reshape(samples, -1, x.shape[-1])  # [S, P, I]
        grad = grad.reshape(samples, -1, grad.shape[-1])  # [S, P, O]
        # With one position it is an outer product, which matrix libraries do slowly.
        return grad.transpose(1, 2) * x if x.shape[1] == 1 else torch.bmm(grad.transpose(1, 2), x)  # [S, O, I]


@dataclass(frozen=True)
class ConvolutionOperator:
    """torch.nn.Conv2d: x [rows, I, h, w], weight [O, I/groups, kh, kw]."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    """Zeros on both sides, besides what `prepare` adds."""
    dilation: tuple[int, int]
    groups: int
    before: tuple[int, int, int, int] | None
    """What `prepare` adds: left, right, top, bottom; None adds nothing."""
    before_mode: str

    channel_axis, out_axis, in_axis = 1, 0, 1

    @property
    def mixes_all_channels(self) -> bool:
        return self.groups == 1

    @classmethod
    def of(cls, module: nn.Conv2d) -> "ConvolutionOperator":
        padding, before = _paddings(module)
        return cls(
            kernel=_pair(module.kernel_size),
            stride=_pair(module.stride),
            padding=padding,
            dilation=_pair(module.dilation),
            groups=module.groups,
            before=before,
            before_mode="constant" if module.padding_mode == "zeros" else module.padding_mode,
        )

    def prepare(self, x: Tensor) -> Tensor:
        return x if self.before is None else F.pad(x, self.before, mode=self.before_mode)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def input_gradient(self, grad: Tensor, shape: Sequence[int], weight: Tensor) -> Tensor:
        return _input_gradient(grad, shape, weight, self, transposed=False, output_padding=(0, 0))

    def weight_gradients(self, x: Tensor, grad: Tensor, samples: int) -> Tensor:
        return _correlate(self, x, grad, samples)


@dataclass(frozen=True)
class TransposedOperator:
    """torch.nn.ConvTranspose2d: x [rows, I, h, w], weight [I, O/groups, kh, kw]; a convolution read backwards."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    output_padding: tuple[int, int]

    channel_axis, out_axis, in_axis = 1, 1, 0

    @property
    def mixes_all_channels(self) -> bool:
        return self.groups == 1

    @classmethod
    def of(cls, module: nn.ConvTranspose2d) -> "TransposedOperator":
        return cls(
            kernel=_pair(module.kernel_size),
            stride=_pair(module.stride),
            padding=_pair(module.padding),
            dilation=_pair(module.dilation),
            groups=module.groups,
            output_padding=_pair(module.output_padding),
        )

    def prepare(self, x: Tensor) -> Tensor:
        return x

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv_transpose2d(
            x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )

    def input_gradient(self, grad: Tensor, shape: Sequence[int], weight: Tensor) -> Tensor:
        return _input_gradient(grad, shape, weight, self, transposed=True, output_padding=self.output_padding)

    def weight_gradients(self, x: Tensor, grad: Tensor, samples: int) -> Tensor:
        # The output takes the part of a convolution's input, and the input that of its output's gradient.
        return _correlate(self, grad, x, samples)


_Geometry = ConvolutionOperator | TransposedOperator


def _pair(values: Any) -> tuple[int, int]:
    return int(values[0]), int(values[1])


def _paddings(module: nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int, int, int] | None]:
    """(zeros on both sides that the convolution adds itself, [left, right, top, bottom] to add before it)."""
    sides: list[int] = []
    for axis in (1, 0):
        if module.padding == "valid":
            low = high = 0
        elif module.padding == "same":
            total = module.dilation[axis] * (module.kernel_size[axis] - 1)
            low, high = total // 2, total - total // 2
        else:
            low = high = int(module.padding[axis])
        sides += [low, high]
    left, right, top, bottom = sides
    if module.padding_mode == "zeros" and left == right and top == bottom:
        return (top, left), None
    return (0, 0), ((left, right, top, bottom) if any(sides) else None)


def _input_gradient(
    grad: Tensor,
    shape: Sequence[int],
    weight: Tensor,
    geometry: _Geometry,
    *,
    transposed: bool,
    output_padding: tuple[int, int],
) -> Tensor:
    found: tuple[Tensor, Any, Any] = torch.ops.aten.convolution_backward(
        grad,
        # Of the input only the shape is read when no weight gradient is asked for; memory never touched costs nothing.
        torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last),
        weight,
        None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        transposed,
        output_padding,
        geometry.groups,
        (True, False, False),
    )
    return found[0]


def _correlate(geometry: _Geometry, x: Tensor, grad: Tensor, samples: int) -> Tensor:
    """[samples, O, I/groups, kh, kw] from x [rows, I, H, W] and grad [rows, O, h, w]: the weight's gradients."""
    if geometry.groups == 1 and geometry.kernel == (1, 1) and geometry.padding == (0, 0):
        down, right = geometry.stride
        x = x[:, :, : (grad.shape[2] - 1) * down + 1 : down, : (grad.shape[3] - 1) * right + 1 : right]
        x, grad = _positions(x, samples), _positions(grad, samples)  # [S, P, I], [S, P, O]
        return torch.bmm(grad.transpose(1, 2), x)[:, :, :, None, None]
    if geometry.groups == 1 and geometry.stride == (1, 1):
        return _correlate_by_rows(geometry, x, grad, samples)
    return _correlate_by_windows(geometry, x, grad, samples)


def _positions(x: Tensor, samples: int) -> Tensor:
    """[rows, C, h, w] to [samples, rows / samples * h * w, C]; free of copies with the channels last in memory."""
    return x.permute(0, 2, 3, 1).reshape(samples, -1, x.shape[1])


def _correlate_by_rows(geometry: _Geometry, x: Tensor, grad: Tensor, samples: int) -> Tensor:
    """Stride 1: one product for each row of the kernel, over positions numbered along padded rows.

    In that numbering a tap is a shift of the input, by `dilation` for a column and by padded rows for a row; positions
    in the padding get gradient 0. Only the taps of one kernel row are copied, not all of them.
    """
    (high, wide), (down, right) = geometry.kernel, geometry.dilation
    top, left = geometry.padding
    rows, out_channels, out_height, out_width = grad.shape
    # One more row below, because the last taps of the last positions reach past the end.
    x = F.pad(x, (left, left, top, top + 1)).permute(0, 2, 3, 1)  # [rows, H, W, I]
    width = x.shape[2]
    x = x.reshape(rows, -1, x.shape[3])  # [rows, H * W, I]
    grad = F.pad(grad, (0, width - out_width)).permute(0, 2, 3, 1)  # [rows, h, W, O]
    grad = grad.reshape(samples, -1, out_channels).transpose(1, 2)  # [S, O, rows / S * h * W]
    count = out_height * width
    reach = (high - 1) * down * width + count
    taps = torch.cat([x[:, column * right : column * right + reach] for column in range(wide)], 2)  # [rows, ., kw * I]
    found = [
        torch.bmm(grad, taps[:, start : start + count].reshape(samples, -1, taps.shape[2]))  # [S, O, kw * I]
        for start in range(0, high * down * width, down * width)
    ]
    stacked = torch.stack(found, 2).view(samples, out_channels, high, wide, x.shape[2])
    return stacked.permute(0, 1, 4, 2, 3)  # [S, O, I, kh, kw]


def _correlate_by_windows(geometry: _Geometry, x: Tensor, grad: Tensor, samples: int) -> Tensor:
    """Any stride and number of groups: one product for each sample and group, on copied windows."""
    windows = _windows(geometry, x, grad.shape[2], grad.shape[3])  # [rows, I, kh, kw, h, w]
    rows, groups, channels = len(grad), geometry.groups, grad.shape[1]
    per_sample, positions = rows // samples, grad.shape[2] * grad.shape[3]
    windows = windows.view(samples, per_sample, *windows.shape[1:]).permute(0, 2, 3, 4, 1, 5, 6)
    windows = windows.reshape(samples * groups, -1, per_sample * positions)  # [S * G, I / G * kh * kw, P]
    grad = grad.reshape(samples, per_sample, channels, -1).transpose(1, 2)  # [S, O, rows / S, h * w]
    grad = grad.reshape(samples * groups, channels // groups, -1)  # [S * G, O / G, P]
    found = torch.bmm(grad, windows.transpose(1, 2))  # [S * G, O / G, I / G * kh * kw]
    return found.view(samples, channels, -1, *geometry.kernel)


def _windows(geometry: _Geometry, x: Tensor, height: int, width: int) -> Tensor:
    """The input values under each tap of the kernel, a view: [rows, C, kh, kw, height, width]."""
    top, left = geometry.padding
    # With an output padding the input of a transposed convolution may be larger than its windows reach, never smaller.
    x = F.pad(x, (left, left, top, top)) if top or left else x
    row, channel, down, right = x.stride()
    return x.as_strided(
        (x.shape[0], x.shape[1], *geometry.kernel, height, width),
        (
            *(row, channel),
            *(down * geometry.dilation[0], right * geometry.dilation[1]),
            *(down * geometry.stride[0], right * geometry.stride[1]),
        ),
        x.storage_offset(),
    )
