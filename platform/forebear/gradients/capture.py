"""Watches the covered layers during one forward and backward pass and hands over what each layer's rule needs.

Parameters are frozen for the pass, so the backward pass carries activations only and no weight gradient of the batch is
formed. Layers with an operator are run by it: of their input it keeps the projected channels alone, and it may compute
in bfloat16. All others run as they are, under hooks. Everything is undone when the pass ends, also by an exception:
replaced forwards, hooks, frozen parameters, kept tensors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from forebear.errors import ModelError
from forebear.gradients.coverage import Layer, LayerGroup
from forebear.gradients.operators import Operator
from forebear.gradients.projection import Projection
from forebear.gradients.running import Precision, RunningOperator, refuse_inference_tensor


@dataclass
class Call:
    """One use of a layer in the forward pass."""

    layer: Layer
    inputs: Tensor
    """[rows, ...], without history; of an operator with its channels projected."""
    version: int
    """Of `inputs`; it rises when they are overwritten in place."""
    rows: int
    """Leading dimension of the output."""
    grad: Tensor | None = None
    """[rows, ...]: gradient of the output, projected likewise; None until the backward pass has come by."""
    bias_grad: Tensor | None = None
    """float32[rows, channels]: the output's gradient summed over positions, for an operator's bias."""


Completed = Callable[[LayerGroup, Sequence[Call]], None]
"""Called once for each group, with its calls that have a gradient, as soon as all of them are there."""


class Capture:
    """Context manager: run the forward pass inside, call `start`, run the backward pass, call `finish`."""

    def __init__(
        self, module: nn.Module, groups: Sequence[LayerGroup], projection: Projection, precision: Precision
    ) -> None:
        self._module = module
        self._groups = groups
        self._projection = projection
        self._precision = precision
        operators = [layer for group in groups for layer in group.layers if layer.operator is not None]
        # What the output layer rounds off goes into the loss unaveraged: most of a bfloat16 gradient's error.
        self._in_float32 = operators[-1:]
        self._replaced: list[nn.Module] = []
        self._calls: dict[LayerGroup, list[Call]] = {group: [] for group in groups}
        self._waiting: dict[LayerGroup, int] = {}
        self._handles: list[RemovableHandle] = []
        self._trainable: list[nn.Parameter] = []
        self._completed: Completed | None = None

    def __enter__(self) -> Self:
        self._trainable = [parameter for parameter in self._module.parameters() if parameter.requires_grad]
        for parameter in self._trainable:
            parameter.requires_grad_(False)
        for group in self._groups:
            for layer in group.layers:
                if layer.operator is not None:
                    self._replace(group, layer, layer.operator)
                    continue
                # First in line: hooks of the user's own may change the output, and its gradient would be another one.
                recorder = self._recorder(group, layer)
                self._handles.append(layer.module.register_forward_hook(recorder, with_kwargs=True, prepend=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        for replaced in self._replaced:
            del replaced.forward
        for parameter in self._trainable:
            parameter.requires_grad_(True)
        self._calls.clear()

    def start(self, rows: int, completed: Completed) -> None:
        """Check that every layer ran over `rows` rows; from now on, hand each group over to `completed`."""
        for group, calls in self._calls.items():
            for layer in group.layers:
                if not any(call.layer is layer for call in calls):
                    raise ModelError(
                        f"the layer {layer.name} was not called with gradients on, so its gradient cannot be seen; "
                        "switch gradient checkpointing off, or leave it out with a pattern such as "
                        f"'!{next(iter(layer.parameters.values()))}'"
                    )
            for call in calls:
                if call.rows != rows or len(call.inputs) != rows:
                    raise ModelError(
                        f"the layer {call.layer.name} ran over {call.rows} rows where the batch has {rows}; "
                        "give every sample its own row of every input, timesteps included"
                    )
        self._waiting = {group: len(calls) for group, calls in self._calls.items()}
        self._completed = completed

    def finish(self) -> None:
        """Hand over the groups of which some output was not used in the measurement; its gradient is zero."""
        for group, calls in self._calls.items():
            if calls:
                self._hand_over(group)

    def _replace(self, group: LayerGroup, layer: Layer, operator: Operator) -> None:
        """Run a layer by its operator until the pass ends."""
        if "forward" in vars(layer.module):
            raise ModelError(
                f"the forward method of the layer {layer.name} has been replaced, so what it computes is not known; "
                "undo that, or leave it out with a pattern such as "
                f"'!{next(iter(layer.parameters.values()))}'"
            )
        precision = "float32" if layer in self._in_float32 else self._precision
        running = RunningOperator.of(layer, operator, self._projection, precision)

        def forward(input: Tensor) -> Tensor:  # noqa: A002 - torch.nn's own name for it
            if not torch.is_grad_enabled():
                return running.output(running.prepare(input))  # a constant, as it is for autograd
            self._refuse_another_pass(layer)
            calls = self._calls[group]
            number = len(calls)
            output, kept, version = running.record(input, partial(self._receive, group, number))
            calls.append(Call(layer, kept, version, len(output)))
            return output

        layer.module.forward = forward
        self._replaced.append(layer.module)

    def _refuse_another_pass(self, layer: Layer) -> None:
        if self._completed is not None:
            raise ModelError(
                f"the layer {layer.name} ran again during the backward pass; switch gradient checkpointing off"
            )

    def _recorder(self, group: LayerGroup, layer: Layer) -> Callable[..., Tensor | None]:
        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:  # noqa: ARG001
            self._refuse_another_pass(layer)
            if not torch.is_grad_enabled():
                return None  # a constant, as it is for autograd
            inputs: Tensor = args[0] if args else next(iter(kwargs.values()))
            refuse_inference_tensor(inputs, layer.name)
            calls = self._calls[group]
            # The hook knows its call by number: a reference would keep the tensors as long as the graph lives.
            receive = partial(self._receive, group, len(calls))
            calls.append(Call(layer, inputs.detach(), inputs._version, len(output)))
            if output.requires_grad:
                output.register_hook(receive)  # type: ignore[no-untyped-call]
                return None
            # Nothing below needs a gradient: the chain starts here. A copy may be overwritten in place, a leaf may not.
            leaf = output.detach().requires_grad_(True)
            leaf.register_hook(receive)  # type: ignore[no-untyped-call]
            return leaf.clone()

        return record

    def _receive(self, group: LayerGroup, number: int, grad: Tensor, bias_grad: Tensor | None = None) -> None:
        if self._completed is None:
            raise ModelError(
                "the forward pass ran a backward pass of its own; return the measurements and leave it out"
            )
        call = self._calls[group][number]
        if call.inputs._version != call.version:
            raise ModelError(
                f"the input of the layer {call.layer.name} was overwritten in place; make that step out of place"
            )
        call.grad, call.bias_grad = grad.detach(), bias_grad
        self._waiting[group] -= 1
        if self._waiting[group] == 0:
            self._hand_over(group)

    def _hand_over(self, group: LayerGroup) -> None:
        calls, self._calls[group] = self._calls[group], []
        if self._completed is not None:
            with torch.no_grad():
                self._completed(group, [call for call in calls if call.grad is not None])
