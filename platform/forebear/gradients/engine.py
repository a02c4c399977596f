"""The gradient engine: per-sample gradients of a module's parameters, projected to vectors of fixed length."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forebear.errors import ConfigError, ForebearError, ModelError
from forebear.gradients.capture import Call, Capture
from forebear.gradients.coverage import LayerGroup, channel_axes, cover
from forebear.gradients.projection import Projection, ProjectionConfig
from forebear.gradients.running import Precision
from forebear.gradients.steps import timed

_CHUNK_ON_CPU = 2**20
_CHUNK_ON_ACCELERATOR = 2**26
"""Elements that a layer's contraction handles at a time: what a core's cache holds, and what fills an accelerator."""


@dataclass(frozen=True)
class GradientBatch:
    """The gradients of B samples."""

    vectors: Tensor
    """float32[B, k]: the projected gradients, not normalised."""
    norms: Tensor
    """float32[B]: the L2 norm of each whole gradient over the covered parameters, before it is folded. Exact in the
    mode `exact`; otherwise that of the gradient with projected channels, whose square is right on average."""
    values: Tensor
    """float32[B]: the measurement whose gradient was taken."""


class GradientEngine:
    """Per-sample gradients of the parameters of `module` selected by `patterns`.

    `patterns` are shell-style patterns over parameter names; one that starts with `!` takes out what it matches.
    Raises ConfigError when a pattern matches nothing, and ModelError when a selected parameter has no rule (see
    `layers`), unless `allow_uncovered` leaves such parameters out.

    The module is changed only inside `measure` and is put back as it was. Its layers must keep the samples apart (batch
    normalisation in training mode does not) and take the batch as their first dimension. One `measure` at a time.
    """

    def __init__(
        self,
        module: nn.Module,
        projection: ProjectionConfig,
        patterns: Sequence[str] = ("*",),
        *,
        precision: Precision = "float32",
        allow_uncovered: bool = False,
    ) -> None:
        self._module = module
        self._precision = precision
        self.coverage, self._groups = cover(module, patterns)
        if self.coverage.uncovered and not (allow_uncovered and self.coverage.covered):
            raise ModelError(
                f"{self.coverage.uncovered_share:.2%} of the selected parameters cannot be covered: "
                f"{self.coverage.describe_uncovered()}; leave them out with a pattern such as "
                f"'!{self.coverage.uncovered[0].name}', or register a rule for their kind of layer"
            )
        names = [share.name for share in self.coverage.covered]
        shapes = {name: tuple(module.get_parameter(name).shape) for name in names}
        self._projection = self.make_projection(projection, shapes, channel_axes(self._groups))
        self.self_test()

    def make_projection(
        self, config: ProjectionConfig, shapes: Mapping[str, tuple[int, ...]], axes: Mapping[str, tuple[int, int]]
    ) -> Projection:
        """What makes the vectors; an engine of another kind of vectors has one of its own."""
        return Projection(config, shapes, axes)

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return self._projection.dim

    @property
    def parameter_count(self) -> int:
        """Elements in a whole gradient."""
        return self._projection.size

    def fingerprint_data(self) -> dict[str, int | str | None]:
        """What decides the vectors' meaning, as JSON; vectors may be compared only where it is equal."""
        return self._projection.fingerprint_data()

    def self_test(self) -> None:
        """Check the projection on the module's device against float64 NumPy; the constructor does it.

        Raises ForebearError on a difference.
        """
        self._projection.self_test(next(self._module.parameters()).device)

    def sketch(self, flat_gradient: Tensor) -> Tensor:
        """Project whole gradients, [B, parameter_count] in the module's order of parameters, to float32[B, dim]."""
        return self._projection.sketch(flat_gradient)

    def _capture(self) -> Capture:
        return Capture(self._module, self._groups, self._projection, self._precision)

    def measure(self, per_sample: Callable[[], Tensor], group: int = 1) -> GradientBatch:
        """Run `per_sample` and return the gradient of each sample's measurement.

        `per_sample` runs the module on a batch of B * group rows and returns their measurements, [B * group]. Sample b
        owns the rows b * group to (b + 1) * group - 1; its value and its gradient are the sums over them.

        A sample's result does not depend on the other samples or on its place among them. Matrix libraries may add in
        another order for another batch size: then vectors and norms differ by up to 1e-5 of the gradient's norm.

        Raises ModelError when the forward pass cannot be followed, ForebearError when a gradient is not finite.
        """
        with torch.inference_mode(False), torch.enable_grad(), self._capture() as capture:
            with timed("forward"):
                values = per_sample()
            _check_measurements(values, group)
            gradients = _BatchGradients(self._projection, len(values) // group, group, values.device)
            capture.start(len(values), gradients.add)
            with timed("backward"):
                values.sum().backward()  # type: ignore[no-untyped-call]
                capture.finish()
        return GradientBatch(
            vectors=gradients.vectors,
            norms=gradients.norms(),
            values=values.detach().float().reshape(-1, group).sum(1),
        )


def _check_measurements(values: Tensor, group: int) -> None:
    if group < 1:
        raise ConfigError(f"a sample needs at least one row, got group={group}")
    if values.dim() != 1 or len(values) == 0 or len(values) % group:
        raise ModelError(
            f"expected one measurement for each row, in samples of {group} rows; got the shape {list(values.shape)}"
        )
    if not values.requires_grad:
        raise ModelError(
            "the measurement does not depend on any covered layer; check what is measured and the patterns"
        )


def _per_sample(call: Call, grad: Tensor, rows: slice, samples: int) -> dict[str, Tensor]:
    """The gradients of some samples from one call of a layer, by its operator or its rule."""
    layer = call.layer
    if layer.operator is None:
        if layer.rule.per_sample is None:
            raise ModelError(
                f"the rule for {type(layer.module).__name__} has neither a function nor an operator; register one"
            )
        return layer.rule.per_sample(layer.module, call.inputs[rows], grad[rows], samples)
    found: dict[str, Tensor] = {}
    if "weight" in layer.parameters:
        found["weight"] = layer.operator.weight_gradients(call.inputs[rows], grad[rows], samples).float()
    if call.bias_grad is not None:
        found["bias"] = call.bias_grad[rows].reshape(samples, -1, call.bias_grad.shape[1]).sum(1)
    return found


class _BatchGradients:
    """Collects the projected gradients and the norms of a batch, one group of layers at a time."""

    def __init__(self, projection: Projection, samples: int, rows_each: int, device: torch.device) -> None:
        self.vectors = torch.zeros(samples, projection.dim, device=device)  # [B, k]
        self._projection = projection
        self._rows_each = rows_each
        self._chunk = _CHUNK_ON_CPU if device.type == "cpu" else _CHUNK_ON_ACCELERATOR
        self._squares: dict[str, Tensor] = {}

    def add(self, group: LayerGroup, calls: Sequence[Call]) -> None:
        """Contract the calls of one group, a few samples at a time, and add the result to the vectors."""
        samples = len(self.vectors)
        step = max(1, self._chunk // self._elements_per_sample(group, calls))
        squares = self.vectors.new_zeros(samples)  # [B]
        for start in range(0, samples, step):
            part = slice(start, min(start + step, samples))
            with timed("contract"):
                gradients = self._contract(calls, part)
            with timed("fold"):
                for name, gradient in gradients.items():
                    squares[part].add_(torch.linalg.vector_norm(gradient, dim=1).square())
                    self._projection.add(self.vectors[part], name, gradient)
        self._squares[group.name] = squares

    def _elements_per_sample(self, group: LayerGroup, calls: Sequence[Call]) -> int:
        names = {name for layer in group.layers for name in layer.parameters.values()}
        activations = sum(call.inputs.numel() + call.grad.numel() for call in calls if call.grad is not None)
        return sum(self._projection.sizes[name] for name in names) + activations // len(self.vectors)

    def _contract(self, calls: Sequence[Call], part: slice) -> dict[str, Tensor]:
        """Exact gradients of the samples in `part`, summed over the calls: {parameter name: [samples, n]}."""
        rows = slice(part.start * self._rows_each, part.stop * self._rows_each)
        sums: dict[str, Tensor] = {}
        for call in calls:
            if call.grad is None:
                continue
            layer = call.layer
            found = _per_sample(call, call.grad, rows, part.stop - part.start)
            for own, name in layer.parameters.items():
                expected = (part.stop - part.start, *self._projection.shapes[name])
                if own not in found or found[own].shape != expected:
                    raise ModelError(
                        f"the rule for {type(layer.module).__name__} must return {own!r} of shape {list(expected)}"
                    )
                gradient = found[own].flatten(1)
                sums[name] = sums[name] + gradient if name in sums else gradient
        return sums

    def norms(self) -> Tensor:
        """float32[B]; raises ForebearError that names the layer nearest to the output whose gradient is not finite."""
        squares = torch.stack(list(self._squares.values())).sum(0)  # [B]
        finite = torch.isfinite(squares)
        if not bool(finite.all()):
            rows = torch.nonzero(~finite).flatten().tolist()
            layer = next(name for name, found in self._squares.items() if not bool(torch.isfinite(found).all()))
            raise ForebearError(
                f"the gradient of the layer {layer} is not finite for the samples {rows} of the batch; "
                "check the images, or run the model in float32"
            )
        return squares.sqrt()
