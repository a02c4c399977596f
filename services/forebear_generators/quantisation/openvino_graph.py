"""A denoiser as an OpenVINO graph: torch traces it, and its quantised layers become integer operations."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from forebear_generators.quantisation.grids import decode
from forebear_generators.quantisation.layers import Clock, QuantisedLayer
from forebear_generators.quantisation.maintenance import KeptFeature
from forebear_generators.quantisation.openvino_layers import layer_graph


class FullStep(nn.Module):
    """A full-precision denoiser's step as it is traced: arguments by place, a tensor out."""

    def __init__(self, inner: Any, names: tuple[str, ...]) -> None:
        """`names` are those of the conditions, in order."""
        super().__init__()
        self.inner, self.names = inner, names

    def forward(self, sample: Tensor, timestep: Tensor, *conditions: Tensor) -> Tensor:
        given = dict(zip(self.names, conditions, strict=True))
        predicted: Tensor = self.inner(sample, timestep=timestep, **given).sample
        return predicted


class QuantisedStep(nn.Module):
    """A quantised denoiser's step as it is traced: the number of the sampler's step, int64[1], stands for the time."""

    times: Tensor

    def __init__(self, inner: Any, clock: Clock, names: tuple[str, ...]) -> None:
        super().__init__()
        self.inner, self.clock, self.names = inner, clock, names
        self.register_buffer("times", torch.tensor(clock.times))
        self.step = torch.zeros(1, dtype=torch.int64)

    def forward(self, sample: Tensor, step: Tensor, *conditions: Tensor) -> Tensor:
        self.step = step
        given = dict(zip(self.names, conditions, strict=True))
        self.clock.labels = given.get("class_labels")
        # Rows by shape[0]: a trace takes len() for a constant.
        time = self.times[step].expand(sample.shape[0])
        predicted: Tensor = self.inner(sample, timestep=time, **given).sample
        return predicted

    def kept(self, feature: KeptFeature, x: Tensor) -> Tensor:
        """What KeptFeature computes, the step being a tensor."""
        place = feature.place[self.step].long()  # [1]
        row = place.clamp(min=0)
        values = feature.values[row][0].float()  # [K, C]
        if feature.scale is not None and feature.zero is not None:
            values = decode(values, feature.scale[row], feature.zero[row].float())
        labels = self.clock.labels
        found = values.expand(x.shape[0], -1) if labels is None or len(values) == 1 else values[labels]
        return found if feature.layer is None else torch.where(place < 0, feature.layer(x), found)


@dataclass
class _Met:
    """A quantised layer, and the shape of the input that it met in the trace."""

    layer: QuantisedLayer
    exact: bool
    shape: tuple[int, ...] = ()


_tracing = Lock()
_met: list[_Met] = []


@torch.library.custom_op("forebear::quantised_layer", mutates_args=())
def _stand_in(x: Tensor, step: Tensor, number: int) -> Tensor:  # noqa: ARG001 (the step goes into the graph)
    """A quantised layer in the trace: one operation of its input, the sampler's step and the layer's number."""
    _met[number].shape = tuple(x.shape)
    return _met[number].layer.simulated(x)


def _asked(step: QuantisedStep, number: int, x: Tensor) -> Tensor:
    answered: Tensor = _stand_in(x, step.step, number)
    return answered


def _converted(node: Any) -> list[Any]:
    met = _met[int(node.get_values_from_const_input(2))]
    return [layer_graph(met.layer, met.shape, node.get_input(0), node.get_input(1), exact=met.exact)]


def traced(
    module: FullStep | QuantisedStep, examples: tuple[Tensor, ...], exact: Callable[[QuantisedLayer], bool]
) -> Any:
    """The step as an openvino.Model; `exact` says which layers' products are of integers.

    The examples' first dimensions have to be more than 1. Raises what torch and OpenVINO raise for modules that cannot
    be traced or converted.
    """
    # Not openvino.convert_model: it reports every use over the network.
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch import ConversionExtension
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    layers = [each for each in module.modules() if isinstance(each, QuantisedLayer)]
    features = [each for each in module.modules() if isinstance(each, KeptFeature)]
    with _tracing, torch.no_grad():
        _met[:] = [_Met(each, exact(each)) for each in layers]
        try:
            if isinstance(module, QuantisedStep):
                for number, layer in enumerate(layers):
                    layer.kernel = partial(_asked, module, number)
                for feature in features:
                    feature.forward = partial(module.kept, feature)  # type: ignore[method-assign]
            # Frozen, the trace would hold weights as floating numbers.
            decoder = TorchScriptPythonDecoder(module, example_input=examples, skip_freeze=True)
            frontend: Any = FrontEndManager().load_by_framework("pytorch")
            frontend.add_extension(ConversionExtension("forebear::quantised_layer", _converted))
            return frontend.convert(frontend.load(decoder))
        finally:
            _met.clear()
            for layer in layers:
                layer.kernel = layer.simulated
            for feature in features:
                vars(feature).pop("forward", None)
            if isinstance(module, QuantisedStep):
                module.clock.labels = None
