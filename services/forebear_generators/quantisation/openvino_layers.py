"""A quantised layer in OpenVINO's operations: products of 8-bit codes where they are exact, else of floats."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from forebear.errors import ConfigError
from forebear_generators.quantisation.grids import per_channel
from forebear_generators.quantisation.layers import INPUT_LEVELS, QuantisedLayer


def layer_graph(layer: QuantisedLayer, shape: tuple[int, ...], x: Any, step: Any, *, exact: bool) -> Any:
    """The output of a layer for the input `x`, of shape `shape` but for its rows, at the sampler's step, int64[1].

    OpenVINO multiplies integers only behind a FakeQuantize of constant range, and ranges here change with the step. So
    inputs are brought to codes 0 .. 255 whatever the step, and its scale s and zero point z come in after the sum:
    s * w_scale * (sum of products - z * sum of the codes that meet an input) + bias, the same number as in
    `QuantisedLayer.simulated`. Without `exact`, products are of floating numbers. Raises ConfigError for groups.
    """
    import openvino.opset13 as op

    if layer.operation.groups != 1:
        raise ConfigError("a grouped convolution has no OpenVINO graph here; use backend simulated")
    if layer.input_scale is None or layer.input_zero is None:
        return _biased(layer, _product(layer, x, _weight(layer, True)))
    dims = len(shape)
    scale, zero = (_at(step, values, dims) for values in (layer.input_scale, layer.input_zero))
    codes = _codes(op.add(op.divide(x, scale), zero), dims)
    summed = op.multiply(_product(layer, codes, _weight(layer, exact)), scale)
    return op.add(summed, _shift(layer, shape, op.multiply(scale, zero))).output(0)


def _codes(x: Any, dims: int) -> Any:
    """x to the nearest of the whole numbers 0 .. 255."""
    import openvino.opset13 as op

    low, high = float(INPUT_LEVELS.low), float(INPUT_LEVELS.high)
    ends = [op.constant(np.full((1,) * dims, end, np.float32)) for end in (low, high)]
    return op.fake_quantize(x, *ends, *ends, INPUT_LEVELS.high - INPUT_LEVELS.low + 1)


def _at(step: Any, values: Tensor, dims: int) -> Any:
    """The step's of numbers [S], or the only one, as [1, ..., 1]."""
    import openvino.opset13 as op

    numbers = op.constant(values.float().view(-1, *(1,) * (dims - 1)).numpy())
    return numbers if len(values) == 1 else op.gather(numbers, step, op.constant(np.int64(0)))


def _weight(layer: QuantisedLayer, as_codes: bool) -> Any:
    """The weights, as int8 codes times their scales or as floating numbers."""
    import openvino.opset13 as op

    if not as_codes:
        return op.constant(layer.weight.numpy())
    codes = op.convert(op.constant(layer.codes.numpy()), np.float32)
    return op.multiply(codes, op.constant(per_channel(layer.scale, layer.codes).numpy()))


def _product(layer: QuantisedLayer, x: Any, weight: Any) -> Any:
    """The operation on an input, without bias."""
    import openvino.opset13 as op

    operation = layer.operation
    if not operation.convolution:
        return op.matmul(x, weight, False, True)
    stride, padding, dilation = (list(each) for each in (operation.stride, operation.padding, operation.dilation))
    return op.convolution(x, weight, stride, padding, padding, dilation)


def _biased(layer: QuantisedLayer, product: Any) -> Any:
    import openvino.opset13 as op

    if layer.bias is not None:
        product = op.add(product, op.constant(_over_outputs(layer, layer.bias).numpy()))
    return product.output(0)


def _over_outputs(layer: QuantisedLayer, channels: Tensor) -> Tensor:
    """[out] to go with an output: [1, out, 1, 1] of a convolution."""
    return channels.float().view(1, -1, 1, 1) if layer.operation.convolution else channels.float()


def _shift(layer: QuantisedLayer, shape: tuple[int, ...], offset: Any) -> Any:
    """bias - offset * w_scale * (sum of the codes that meet an input): by place, since padding meets none."""
    import openvino.opset13 as op

    sums = layer.operation(torch.ones(1, *shape[1:]), layer.codes.float(), None)
    if not layer.operation.convolution:
        sums = sums.flatten(0, -2)[0]  # [out]
    sums = sums * _over_outputs(layer, layer.scale)
    spread = []
    # Rows and columns away from the edges are all alike: one of each is kept.
    for axis in (2, 3) if layer.operation.convolution else ():
        sums, places = torch.unique(sums, dim=axis, return_inverse=True)
        if sums.shape[axis] > 1:
            spread.append((op.constant(places.numpy()), op.constant(np.int64(axis))))
    shift = op.multiply(offset, op.constant((-sums).contiguous().numpy()))
    if layer.bias is not None:
        shift = op.add(shift, op.constant(_over_outputs(layer, layer.bias).numpy()))
    for places, axis in spread:
        shift = op.gather(shift, places, axis)
    return shift
