"""A denoiser with integer weights, put together from its description and its tensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from forebear.errors import ModelError
from forebear_generators.quantisation.layers import Clock, Operation, QuantisedLayer, replace_module, weight_levels
from forebear_generators.quantisation.layout import PlannedLayer, split_shortcuts
from forebear_generators.quantisation.maintenance import Cache, Dropped, KeptFeature
from forebear_generators.quantisation.packing import pack4, unpack4
from forebear_generators.quantisation.reconstruction import Rounded

FLOAT = "float."
"""Begins the names of tensors that stay as they are in the full-precision denoiser."""


@dataclass(frozen=True)
class Structure:
    """What a quantised denoiser is made of, beside its tensors."""

    times: tuple[float, ...]
    """What the denoiser is told at each step of the sampler."""
    splits: dict[str, int]
    layers: tuple[PlannedLayer, ...]
    cached: tuple[str, ...]
    """Features that are read from a cache, at some steps at least."""
    computed: tuple[str, ...]
    """Those of them that are computed at other steps."""
    dropped: tuple[str, ...]
    """Embeddings that nothing reads any more."""


Step = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]
"""A prediction from a sample, the number of the sampler's step, int64[1], and conditions by name."""


@dataclass
class Prediction:
    """A denoiser's output, with the name that diffusers gives it."""

    sample: Tensor


class QuantisedDenoiser(nn.Module):
    """Tells the layers inside which step of the sampler it is, then calls the denoiser; batches have one timestep."""

    def __init__(self, inner: Any, clock: Clock) -> None:
        super().__init__()
        self.inner, self.clock = inner, clock
        self.in_bf16 = False
        """Whether convolutions and linear layers compute in bfloat16."""
        self.compiled: Step | None = None
        """The whole step in another engine, which takes the place of `inner`'s layers."""
        self.compiled_bytes = 0
        """Of the weights in it."""

    @property
    def config(self) -> Any:
        return self.inner.config

    def forward(self, sample: Tensor, timestep: Tensor, **given: Any) -> Any:
        self.clock.set(timestep, given.get("class_labels"))
        if self.compiled is not None:
            return Prediction(self.compiled(sample, torch.tensor([self.clock.step]), given))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.in_bf16):
            output = self.inner(sample, timestep=timestep, **given)
        output.sample = output.sample.float()
        return output

    def quantised_layers(self) -> dict[str, QuantisedLayer]:
        return {name: module for name, module in self.inner.named_modules() if isinstance(module, QuantisedLayer)}

    def bytes_in_memory(self) -> int:
        """Bytes of all parameters and buffers, and of weights that a backend has packed."""
        packed = self.compiled_bytes + sum(layer.packed_bytes for layer in self.quantised_layers().values())
        return packed + sum(each.numel() * each.element_size() for each in [*self.parameters(), *self.buffers()])


def layer_tensors(
    plan: PlannedLayer, rounded: Rounded, bias: Tensor | None, grid: tuple[Tensor, Tensor] | None
) -> dict[str, Tensor]:
    """A layer's tensors as they are stored: 4-bit codes packed, zero points only of grids that have them."""
    codes = weight_levels(plan.bits, plan.symmetric, plan.reduced)
    name = plan.name
    stored = {f"{name}.scale": rounded.scale}
    if plan.bits == 4:
        stored[f"{name}.codes"] = pack4(rounded.codes, codes.low)
    else:
        stored[f"{name}.codes"] = rounded.codes.to(torch.int8 if plan.symmetric else torch.uint8)
    if not plan.symmetric:
        stored[f"{name}.zero"] = rounded.zero.to(torch.uint8)
    if bias is not None:
        stored[f"{name}.bias"] = bias
    if grid is not None:
        stored[f"{name}.input_scale"], stored[f"{name}.input_zero"] = grid[0], grid[1].to(torch.uint8)
    return stored


def cache_tensors(name: str, cache: Cache, place: Tensor) -> dict[str, Tensor]:
    stored = {f"{name}.cache": cache.values, f"{name}.cache_place": place}
    if cache.scale is not None and cache.zero is not None:
        stored |= {f"{name}.cache_scale": cache.scale, f"{name}.cache_zero": cache.zero}
    return stored


def float_tensors(denoiser: nn.Module) -> dict[str, Tensor]:
    """What of a put-together denoiser, or of its skeleton, is in none of the stand-ins: by name, as stored."""
    inside = tuple(
        f"{name}." for name, module in denoiser.named_modules() if isinstance(module, QuantisedLayer | KeptFeature)
    )
    return {FLOAT + name: each for name, each in denoiser.state_dict().items() if not name.startswith(inside)}


def assemble(denoiser: nn.Module, structure: Structure, tensors: dict[str, Tensor]) -> QuantisedDenoiser:
    """Make a full-precision denoiser, of any weights, the quantised one, in place.

    Raises ModelError when tensors are missing, left over or of another shape than the denoiser's.
    """
    left = dict(tensors)
    try:
        clock = put_in(denoiser, structure, left)
        for name, own in float_tensors(denoiser).items():
            given = left.pop(name)
            if given.shape != own.shape:
                raise ModelError(f"tensor {name} has shape {tuple(given.shape)}, not {tuple(own.shape)}")
            _put_tensor(denoiser, name.removeprefix(FLOAT), given.to(own.dtype))
    except (KeyError, AttributeError) as missing:
        raise ModelError(f"the quantised tensors and their description do not belong together: {missing}") from None
    if left:
        raise ModelError(f"the quantised tensors hold {len(left)} that their description does not name: {min(left)}")
    return QuantisedDenoiser(denoiser.requires_grad_(False).eval(), clock)


def _put_tensor(root: nn.Module, name: str, given: Tensor) -> None:
    """Put a tensor in the place of a parameter or buffer, which may have no memory of its own."""
    path, _, leaf = name.rpartition(".")
    module = root.get_submodule(path)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(given, requires_grad=False)
    else:
        module._buffers[leaf] = given


def put_in(denoiser: nn.Module, structure: Structure, left: dict[str, Tensor]) -> Clock:
    """Put integer layers and caches in a denoiser, with tensors taken out of `left`; returns their clock."""
    clock = Clock(structure.times)
    split_shortcuts(denoiser, structure.splits)
    for plan in structure.layers:
        replace_module(denoiser, plan.name, _layer(denoiser.get_submodule(plan.name), plan, left, clock))
    for name in structure.dropped:
        replace_module(denoiser, name, Dropped())
    for name in structure.cached:
        parts = (left.pop(f"{name}.cache"), left.pop(f"{name}.cache_scale", None), left.pop(f"{name}.cache_zero", None))
        layer = denoiser.get_submodule(name) if name in structure.computed else None
        replace_module(denoiser, name, KeptFeature(Cache(*parts), left.pop(f"{name}.cache_place"), layer, clock))
    return clock


def _layer(original: Any, plan: PlannedLayer, left: dict[str, Tensor], clock: Clock) -> QuantisedLayer:
    """The integer layer of a plan, its tensors taken out of `left`."""
    shape = tuple(original.weight.shape)
    codes, scale = left.pop(f"{plan.name}.codes"), left.pop(f"{plan.name}.scale")
    zero = left.pop(f"{plan.name}.zero", None)
    grid = weight_levels(plan.bits, plan.symmetric, plan.reduced)
    if plan.bits == 4:
        if codes.numel() != (original.weight.numel() + 1) // 2:
            raise ModelError(f"layer {plan.name} has {codes.numel()} bytes of packed codes, not those of {shape}")
        codes = unpack4(codes, grid.low, shape)
    if tuple(codes.shape) != shape or len(scale) != shape[0]:
        raise ModelError(f"layer {plan.name} has codes {tuple(codes.shape)}, not {shape}")
    zero = torch.zeros(len(scale), dtype=torch.int32) if zero is None else zero.to(torch.int32)
    rounded = Rounded(codes.to(torch.int16), scale, zero)
    layer = rounded.layer(Operation.of(original), left.pop(f"{plan.name}.bias", None), clock)
    if plan.integer_inputs:
        layer.quantise_inputs(left.pop(f"{plan.name}.input_scale"), left.pop(f"{plan.name}.input_zero").to(torch.int32))
    return layer
