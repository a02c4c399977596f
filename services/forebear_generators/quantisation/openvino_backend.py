"""A denoiser's whole step compiled by OpenVINO, which joins norms, activations and roundings to integer products."""

import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from forebear.diffusion.model import DiffusionModel
from forebear.errors import ConfigError, ModelError
from forebear_generators.quantisation.layers import QuantisedLayer, replace_module
from forebear_generators.quantisation.network import Prediction, QuantisedDenoiser
from forebear_generators.quantisation.temporal import TemporalBlock

GRAPHS = 2
"""Compiled graphs that are kept: one for each size of batch, the last used ones."""
REMEDY = "use backend auto"
Exact = Callable[[QuantisedLayer], bool]


@cache
def openvino_problem() -> str | None:
    """Why OpenVINO cannot be used; None when it can."""
    # Imported with it, openvino_telemetry reports to its makers that OpenVINO was imported.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino.frontend.pytorch  # noqa: F401
    except ImportError:
        return "OpenVINO is not installed; run `pip install 'forebear[openvino]'`"
    return None


class CompiledStep:
    """A step as graphs of fixed shapes: only in those does OpenVINO join the small operations between products.

    The graph that they are compiled from lies in a temporary folder and is not in memory.
    """

    profiled = False
    """Whether graphs that are compiled from now on measure their operations, for `profile`."""

    def __init__(self, graph: Any, examples: tuple[Tensor, ...], names: tuple[str, ...], precision: str) -> None:
        """`names` are those of the conditions that the graph reads after sample and time; `precision` f32 or bf16."""
        import openvino

        self._names, self._precision = names, precision
        self._shapes = [tuple(each.shape[1:]) for each in examples]
        self._kinds = [each.dtype for each in examples]
        self._folder = TemporaryDirectory(prefix="forebear-openvino-")
        self._core = openvino.Core()
        self._threads = torch.get_num_threads()
        self._requests: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        openvino.serialize(graph, self._path)

    @property
    def _path(self) -> Path:
        return Path(self._folder.name) / "step.xml"

    def __call__(self, sample: Tensor, time: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        """The prediction float32[B, c, h, w]; time [B], or int64[1] the number of the sampler's step."""
        if set(given) != set(self._names):
            raise ConfigError(
                f"the compiled denoiser reads {', '.join(self._names) or 'no condition'}, and was given "
                f"{', '.join(given) or 'none'}; {REMEDY}"
            )
        inputs = [sample, time, *(given[name] for name in self._names)]
        if [tuple(each.shape[1:]) for each in inputs] != self._shapes:
            raise ConfigError(
                f"the compiled denoiser reads pictures and conditions of {self._shapes} only, each after the batch; "
                "keep to that size (`forebear cow --inversion canvas` does), or take backend onednn-int8 or simulated"
            )
        request = self._request(tuple(len(each) for each in inputs))
        arrays = [each.detach().to(kind).contiguous().numpy() for each, kind in zip(inputs, self._kinds, strict=True)]
        return torch.from_numpy(request.infer(arrays)[0]).float()

    def profile(self) -> dict[tuple[str, str], float]:
        """Seconds of the last step by kind of operation and kernel; of graphs compiled while `profiled`."""
        found: dict[tuple[str, str], float] = {}
        for one in next(reversed(self._requests.values())).profiling_info:
            key = one.node_type, one.exec_type
            found[key] = found.get(key, 0.0) + one.real_time.total_seconds()
        return found

    def _request(self, rows: tuple[int, ...]) -> Any:
        if rows in self._requests:
            self._requests.move_to_end(rows)
            return self._requests[rows]
        while len(self._requests) >= GRAPHS:
            self._requests.popitem(last=False)
        graph = self._core.read_model(self._path)
        graph.reshape(
            {place: [count, *shape] for place, (count, shape) in enumerate(zip(rows, self._shapes, strict=True))}
        )
        # Without pinning: the denoisers of several processes would all sit on the first core.
        options = {
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": self._precision,
            "PERF_COUNT": self.profiled,
        }
        self._requests[rows] = self._core.compile_model(graph, "CPU", options).create_infer_request()
        return self._requests[rows]


class CompiledDenoiser(nn.Module):
    """A full-precision denoiser that OpenVINO computes."""

    def __init__(self, config: Any, step: CompiledStep) -> None:
        super().__init__()
        self.config, self.step = config, step

    def forward(self, sample: Tensor, timestep: Tensor, **given: Tensor) -> Prediction:
        return Prediction(self.step(sample, timestep.expand(len(sample)), given))


class Within(nn.Module):
    """Stands in for a layer that is inside of a compiled graph."""

    def forward(self, *_: object) -> Tensor:
        raise ModelError("this layer is inside of OpenVINO's graph; load the generator with backend simulated")


def compile_full(model: DiffusionModel) -> dict[str, Any]:
    """Let OpenVINO compute a full-precision model's denoiser, in place; returns what runs, for reports."""
    from forebear_generators.quantisation.openvino_graph import FullStep

    _refuse_missing()
    sample, times, conditions = _examples(model)
    names = tuple(conditions)
    examples = sample, times, *conditions.values()
    graph = _graph(FullStep(model.denoiser, names).eval(), examples, lambda _: False)
    model.denoiser = CompiledDenoiser(model.denoiser.config, CompiledStep(graph, examples, names, "f32"))
    return {"backend": "openvino", "reason": "", "bytes_in_memory": _bytes(graph)}


def compile_quantised(model: DiffusionModel, exact: Exact, precision: str) -> int:
    """Let OpenVINO compute a quantised model's denoiser, in place; returns how many layers multiply integers.

    Outside of the temporal block, the torch layers make room. Raises ConfigError without OpenVINO, and for a denoiser
    that cannot be traced.
    """
    from forebear_generators.quantisation.openvino_graph import QuantisedStep

    denoiser = model.denoiser
    if not isinstance(denoiser, QuantisedDenoiser):
        raise TypeError(f"{type(denoiser).__name__} is no quantised denoiser")
    _refuse_missing()
    sample, _, conditions = _examples(model)
    names = tuple(conditions)
    examples = sample, torch.zeros(1, dtype=torch.int64), *conditions.values()
    inner, layers = denoiser.inner, denoiser.quantised_layers().values()
    graph = _graph(QuantisedStep(inner, denoiser.clock, names).eval(), examples, exact)
    integers = [layer for layer in layers if layer.input_scale is not None and exact(layer)]
    unpacked = [layer for layer in layers if layer.operation.convolution and layer.input_scale is None]
    denoiser.compiled = CompiledStep(graph, examples, names, precision)
    # OpenVINO unpacks the weights of convolutions in floating numbers when it compiles.
    denoiser.compiled_bytes = _bytes(graph) + 3 * sum(layer.codes.numel() for layer in unpacked)
    _make_room(inner)
    return len(integers)


def _refuse_missing() -> None:
    problem = openvino_problem()
    if problem is not None:
        raise ConfigError(f"backend openvino cannot run: {problem}")


@torch.no_grad()
def _examples(model: DiffusionModel) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Two rows of zeros, their times as samplers tell them, and conditions."""
    conditions = model.condition([""] * 2, [0] * 2).arguments()
    times = model.process.times(torch.zeros(2, dtype=torch.int64))
    return torch.zeros(2, *model.x0_shape), times, conditions


def _graph(step: Any, examples: tuple[Tensor, ...], exact: Exact) -> Any:
    from forebear_generators.quantisation.openvino_graph import traced

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python numbers in the trace: they are the model's fixed sizes
            return traced(step, examples, exact)
    except ConfigError:
        raise
    except Exception as refused:
        said = str(refused).strip().splitlines()[0]
        raise ConfigError(f"backend openvino cannot run this denoiser: {said}; {REMEDY}") from None


def _bytes(graph: Any) -> int:
    constants = [each for each in graph.get_ops() if each.get_type_name() == "Constant"]
    return sum(int(each.get_byte_size()) for each in constants)


def _make_room(inner: nn.Module) -> None:
    """Take the layers outside of the temporal block out of a denoiser that is compiled."""
    block = TemporalBlock(inner)
    kept = (*block.layers(), *block.embeddings, *block.class_embeddings)
    for name, module in list(inner.named_modules()):
        inside = any(name == one or name.startswith(f"{one}.") for one in kept)
        if isinstance(module, QuantisedLayer | nn.Linear | nn.Conv2d) and not inside:
            replace_module(inner, name, Within())
