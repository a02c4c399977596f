"""Runs one layer by its operator inside a gradient pass, and keeps no more of the pass than its gradient needs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from forebear.errors import ModelError
from forebear.gradients.coverage import Layer
from forebear.gradients.operators import Operator
from forebear.gradients.projection import ChannelProjection, Projection, project_channels

Precision = Literal["float32", "bfloat16"]
"""What linear layers and convolutions multiply in, but for the output layer. Sums, normalisations and attention stay in
float32."""

Receive = Callable[[Tensor, Tensor | None], None]
"""Takes the output's projected gradient, and its sum over positions for the bias."""


def refuse_inference_tensor(inputs: Tensor, name: str) -> None:
    """Raise ModelError for a tensor that autograd cannot follow."""
    if inputs.is_inference():
        raise ModelError(f"the input of the layer {name} was made under torch.inference_mode; use torch.no_grad there")


@dataclass(frozen=True)
class RunningOperator:
    """A layer's operator with its weights, and the type that it computes in."""

    name: str
    operator: Operator
    weight: Tensor
    bias: Tensor | None
    dtype: torch.dtype
    channels: ChannelProjection
    wants_weight: bool
    wants_bias: bool

    @classmethod
    def of(cls, layer: Layer, operator: Operator, projection: Projection, precision: Precision) -> "RunningOperator":
        weight = layer.module.get_parameter("weight").detach()
        bias: Tensor | None = getattr(layer.module, "bias", None)
        dtype = torch.bfloat16 if precision == "bfloat16" and weight.dtype == torch.float32 else weight.dtype
        return cls(
            name=layer.name,
            operator=operator,
            weight=weight,
            bias=None if bias is None else bias.detach(),
            dtype=dtype,
            channels=projection.channels(layer.parameters.get("weight", ""), weight.new_empty(0, dtype=dtype)),
            wants_weight="weight" in layer.parameters,
            wants_bias="bias" in layer.parameters,
        )

    def prepare(self, x: Tensor) -> Tensor:
        return self.operator.prepare(x)

    def output(self, x: Tensor) -> Tensor:
        """The layer's output on a prepared input, in the input's own type."""
        return self._apply(self._low(x)).to(x.dtype)

    def record(self, x: Tensor, receive: Receive) -> tuple[Tensor, Tensor, int]:
        """(output, what is kept of the input, its version); `receive` is called in the backward pass."""
        refuse_inference_tensor(x, self.name)
        # The output needs a gradient even where the input does not: the chain starts at the lowest covered layer.
        anchor = torch.empty(0, requires_grad=True)
        kept: list[Tensor] = []
        output: Tensor = _Run.apply(anchor, self.prepare(x), self, kept.append, receive)  # type: ignore[no-untyped-call]
        return output, kept[0], kept[0]._version

    def _low(self, x: Tensor) -> Tensor:
        return _channels_last(x.to(self.dtype))

    def _apply(self, low: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(self.dtype)
        return self.operator.apply(low, self._weight(), bias)

    def carry(self, low: Tensor, shape: torch.Size) -> Tensor:
        """The gradient of an input of `shape` from that of the output."""
        return self.operator.input_gradient(low, shape, self._weight())

    def _weight(self) -> Tensor:
        # Cast twice, on the way there and back, rather than kept: a copy of every weight would outweigh what is saved.
        return self.weight.to(self.dtype)

    def _keep(self, low: Tensor) -> Tensor:
        if not self.wants_weight:
            return low.new_empty(len(low), 0)
        return project_channels(low, self.channels.inputs, self.operator.channel_axis)

    def _hand_over(self, grad: Tensor, low: Tensor, receive: Receive) -> None:
        axis = self.operator.channel_axis
        bias_grad = None
        if self.wants_bias:
            positions = [place for place in range(1, grad.dim()) if place != axis % grad.dim()]
            bias_grad = grad.float().sum(positions) if positions else grad.float()  # [rows, channels]
        receive(project_channels(low, self.channels.outputs, axis), bias_grad)


class _Run(torch.autograd.Function):
    """The layer; its backward pass hands the output's gradient over and carries the input's on."""

    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,  # noqa: ARG004
        x: Tensor,
        running: RunningOperator,
        keep: Callable[[Tensor], None],
        receive: Receive,
    ) -> Tensor:
        low = running._low(x)
        keep(running._keep(low))
        ctx.running, ctx.receive, ctx.shape, ctx.dtype = running, receive, low.shape, x.dtype
        return running._apply(low).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        running: RunningOperator = ctx.running
        low = running._low(grad)
        running._hand_over(grad, low, ctx.receive)
        carried = None
        if ctx.needs_input_grad[1]:
            carried = running.carry(low, ctx.shape).to(ctx.dtype)
        return None, carried, None, None, None


def _channels_last(x: Tensor) -> Tensor:
    """With the channels of a picture side by side in memory, where projecting them is one plain matrix product."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
