"""Checks of the engine on a user's own module: what it covers, and how far its gradients are from plain autograd's."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from forebear.errors import ForebearError
from forebear.gradients.coverage import Coverage, cover
from forebear.gradients.engine import GradientEngine
from forebear.gradients.projection import Mode, Projection, ProjectionConfig
from forebear.gradients.running import Precision

Measure = Callable[[slice], Tensor]
"""Runs the module on some rows and returns their measurements: float32[rows]."""

BACKENDS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
"""Implementations of scaled dot-product attention, of which a device has some."""

SMALL_LAYER = 1e-2
"""Of the whole gradient's norm: errors of smaller layers are relative to that much, because what is left of a gradient
that cancels to zero is rounding."""


@dataclass(frozen=True)
class CoverageRow:
    """The layers of one kind that fare alike."""

    kind: str
    """The class of the layer."""
    layers: int
    parameters: int
    """Elements."""
    share: float
    """Of all elements of the module, 0 to 1."""
    covered: bool
    reason: str
    """Why not, when it is not covered."""

    @property
    def wanted(self) -> bool:
        """False when patterns took the parameters out."""
        return self.reason != TAKEN_OUT


TAKEN_OUT = "taken out by the patterns"


def coverage_rows(module: nn.Module, patterns: Sequence[str] = ("*",)) -> tuple[list[CoverageRow], Coverage]:
    """Every parameter of the module by kind of layer and by what becomes of it, the largest first.

    A parameter that several layers share counts for the first of them. Raises ConfigError as `cover` does.
    """
    coverage, _ = cover(module, patterns)
    fates = {share.name: "" for share in coverage.covered} | {share.name: share.reason for share in coverage.uncovered}
    layers: dict[tuple[str, str], set[str]] = defaultdict(set)
    elements: dict[tuple[str, str], int] = defaultdict(int)
    for name, parameter in module.named_parameters():
        path = name.rpartition(".")[0]
        key = type(module.get_submodule(path)).__name__, fates.get(name, TAKEN_OUT)
        layers[key].add(path)
        elements[key] += parameter.numel()
    total = sum(elements.values())
    rows = [
        CoverageRow(kind, len(layers[kind, fate]), count, count / total, not fate, fate)
        for (kind, fate), count in elements.items()
    ]
    return sorted(rows, key=lambda row: -row.parameters), coverage


def plain_gradients(module: nn.Module, names: Sequence[str], measure: Measure, samples: int) -> Tensor:
    """float32[samples, P] by autograd, one sample after the other: the named parameters side by side.

    Raises ForebearError that names a parameter whose gradient is not finite.
    """
    parameters = {name: module.get_parameter(name) for name in names}
    frozen = [parameter for parameter in parameters.values() if not parameter.requires_grad]
    rows = []
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        for sample in range(samples):
            value = measure(slice(sample, sample + 1)).sum()
            found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
            pairs = zip(found, parameters.values(), strict=True)
            rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).float().flatten() for g, p in pairs]))
            if not bool(torch.isfinite(rows[-1]).all()):
                bad = next(name for name, part in split(rows[-1], module, names) if not torch.isfinite(part).all())
                raise ForebearError(
                    f"the gradient of {bad} is not finite in plain autograd; check the images and the model's weights"
                )
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    return torch.stack(rows)


def split(flat: Tensor, module: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """Cut whole gradients [..., P] into those of the named parameters, [..., n] each."""
    sizes = [module.get_parameter(name).numel() for name in names]
    yield from zip(names, torch.split(flat, sizes, -1), strict=True)


@dataclass(frozen=True)
class LayerError:
    """The largest relative error of one layer's gradient over the samples."""

    name: str
    kind: str
    error: float
    """Relative to the layer's own gradient, or to SMALL_LAYER of the whole one where that is more."""


def layer_errors(module: nn.Module, patterns: Sequence[str], found: Tensor, true: Tensor) -> list[LayerError]:
    """Compare whole gradients, both [samples, P] over the covered parameters, layer by layer: the worst first."""
    coverage, groups = cover(module, patterns)
    names = [share.name for share in coverage.covered]
    off = {name: part.square().sum(1) for name, part in split(found - true, module, names)}
    own = {name: part.square().sum(1) for name, part in split(true, module, names)}
    floor = SMALL_LAYER * true.norm(dim=1)  # [samples]
    errors = []
    for group in groups:
        members = {name for layer in group.layers for name in layer.parameters.values()}
        error, size = (torch.stack([parts[name] for name in members]).sum(0).sqrt() for parts in (off, own))
        relative = error / torch.maximum(size, floor)
        relative = torch.where(error == 0, 0.0, relative)  # where the whole gradient is zero too
        errors.append(LayerError(group.name, type(group.layers[0].module).__name__, float(relative.max())))
    return sorted(errors, key=lambda layer: -layer.error if layer.error == layer.error else -float("inf"))


@dataclass(frozen=True)
class PathErrors:
    """One way to run the engine, against plain autograd with the math attention."""

    path: str
    errors: list[LayerError]
    """The worst first; empty when the path does not run here."""
    refused: str = ""
    """Why it does not run here."""

    @property
    def worst(self) -> float:
        return self.errors[0].error if self.errors else 0.0


def exactness(module: nn.Module, patterns: Sequence[str], measure: Measure, true: Tensor) -> Iterator[PathErrors]:
    """The engine's `exact` mode along each path: as it is, channels last, and with each attention kernel.

    `true` is float32[samples, P] from `plain_gradients` over the covered parameters, under `attention("math")`.
    """
    rows = slice(0, len(true))
    engine = GradientEngine(module, ProjectionConfig(dim=None), patterns, allow_uncovered=True)

    def errors() -> list[LayerError]:
        return layer_errors(module, patterns, engine.measure(lambda: measure(rows)).vectors, true)

    yield PathErrors("as embedded", errors())
    with _channels_last(module):
        yield PathErrors("channels last", errors())
    if not uses_attention(lambda: measure(slice(0, 1))):
        return
    for name in BACKENDS:
        try:
            with attention(name):
                found = PathErrors(f"{name} attention", errors())
        except RuntimeError as refusal:  # torch's way to say that a kernel is not there or does not take the inputs
            found = PathErrors(f"{name} attention", [], str(refusal).strip().splitlines()[0])
        yield found


def attention(name: str) -> Any:
    """Context: attention by one of BACKENDS alone. RuntimeError comes where the device lacks it."""
    return sdpa_kernel(BACKENDS[name])


def uses_attention(run: Callable[[], object]) -> bool:
    """Whether `run` calls torch's scaled dot-product attention."""
    seen: list[bool] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is nn.functional.scaled_dot_product_attention:
                seen.append(True)
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Watch():
        run()
    return bool(seen)


@contextmanager
def _channels_last(module: nn.Module) -> Iterator[None]:
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield
    finally:
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def sketch_error(engine: GradientEngine, measure: Measure, true: Tensor) -> float:
    """Largest relative error of the engine's own vectors against its projection of whole gradients [samples, P]."""
    found = engine.measure(lambda: measure(slice(0, len(true)))).vectors
    error, size = (found - engine.sketch(true)).norm(dim=1), true.norm(dim=1)
    return float(torch.where(error == 0, 0.0, error / size).max())


class SeveralFolds(Projection):
    """One channel projection folded to several lengths at once; the vectors lie side by side in the order of `dims`.

    Channels are projected alike for every length, so that one pass measures all of them.
    """

    def __init__(
        self,
        config: ProjectionConfig,
        shapes: Mapping[str, tuple[int, ...]],
        axes: Mapping[str, tuple[int, int]],
        dims: Sequence[int],
    ) -> None:
        super().__init__(config, shapes, axes)
        self._folds = [
            Projection(ProjectionConfig(dim=dim, seed=config.seed, mode=config.mode), shapes, axes) for dim in dims
        ]
        self.dim = sum(dims)

    def add(self, vectors: Tensor, name: str, gradients: Tensor) -> None:
        """Fold `gradients`, float32[B, n], into each part of `vectors`, float32[B, sum of the lengths]."""
        for fold, part in zip(self._folds, torch.split(vectors, [fold.dim for fold in self._folds], 1), strict=True):
            fold.add(part, name, gradients)

    def self_test(self, device: torch.device) -> None:
        """Of the longest: lengths differ by the fold alone, and the test takes long for a large model."""
        max(self._folds, key=lambda fold: fold.dim).self_test(device)


class EngineOfSeveral(GradientEngine):
    """Its vectors hold those of every length in `dims`, side by side; uncovered parameters are left out."""

    def __init__(
        self,
        module: nn.Module,
        mode: Mode,
        dims: Sequence[int],
        seed: int,
        patterns: Sequence[str],
        precision: Precision,
    ) -> None:
        self._dims = dims
        config = ProjectionConfig(dim=max(dims), seed=seed, mode=mode)
        super().__init__(module, config, patterns, precision=precision, allow_uncovered=True)

    def make_projection(
        self, config: ProjectionConfig, shapes: Mapping[str, tuple[int, ...]], axes: Mapping[str, tuple[int, int]]
    ) -> Projection:
        return SeveralFolds(config, shapes, axes, self._dims)
