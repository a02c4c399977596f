"""What a quantised denoiser's layers are computed by: chosen at load, checked against the reference, and reported."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from forebear.diffusion.model import DiffusionModel
from forebear.errors import ConfigError
from forebear_generators.quantisation.grids import encode
from forebear_generators.quantisation.layers import INPUT_LEVELS, QuantisedLayer
from forebear_generators.quantisation.network import QuantisedDenoiser
from forebear_generators.quantisation.openvino_backend import compile_full, compile_quantised

BACKENDS = ("auto", "simulated", "openvino", "onednn-int8", "bf16")
SATURATION_FREE = 64
"""Codes up to here, two of them times 255 each, fit in 16 bits: every processor multiplies them exactly."""
OVERFLOW = "this processor's 8-bit products overflow with their codes; quantise with weights.reduced for it"
SIGNATURES = {
    "qconv2d_pointwise": (
        "Tensor qx, float x_scale, int x_zero_point, Tensor qw, Tensor w_scale, Tensor w_zero_point, Tensor? bias, "
        "int[] stride, int[] padding, int[] dilation, int groups, float output_scale, int output_zero_point, "
        "ScalarType? output_dtype, str attr, Scalar?[] scalars, str? algorithm"
    ),
    "qlinear_pointwise": (
        "Tensor qx, float x_scale, int x_zero_point, Tensor qw, Tensor w_scale, Tensor w_zero_point, Tensor? bias, "
        "float output_scale, int output_zero_point, ScalarType? output_dtype, str post_op_name, "
        "Scalar?[] post_op_args, str post_op_algorithm"
    ),
    "qconv_prepack": (
        "Tensor weight, Tensor w_scales, float x_scale, int x_zp, int[] stride, int[] padding, int[] dilation, "
        "int groups, int[]? x_shape=None"
    ),
    "qlinear_prepack": "Tensor weight, int[]? x_shape",
}
"""Arguments of torch's oneDNN operators as this backend calls them; they are private, and others make it stand back."""


@cache
def onednn_problem() -> str | None:
    """Why torch's oneDNN integer operators cannot be used here; None when they can."""
    for name, arguments in SIGNATURES.items():
        operator = getattr(torch.ops.onednn, name, None)
        schema = str(getattr(getattr(operator, "default", None), "_schema", ""))
        if f"({arguments})" not in schema:
            return f"torch {torch.__version__} has no onednn::{name} of the arguments that this version calls"
    try:
        _multiplied(15)
    except (RuntimeError, ValueError, TypeError) as refused:
        return f"torch's oneDNN operators do not run here: {str(refused).strip().splitlines()[0]}"
    if not _is_exact(15):
        return "torch's oneDNN operators do not give whole-number sums here"
    return None


@cache
def saturates() -> bool:
    """Whether products of full 8-bit codes overflow here (AVX2 without VNNI sums two of them in 16 bits), or may do."""
    return onednn_problem() is not None or not _is_exact(127)


def bf16_problem() -> str | None:
    """Why bfloat16 is not faster here; None when the processor multiplies in it."""
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        if getattr(torch.cpu, name, lambda: False)():
            return None
    return "this processor has no bfloat16 instructions (AMX or AVX512-BF16)"


def _multiplied(code: int) -> Tensor:
    weight = torch.full((16, 64), code, dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    x = torch.full((4, 64), 255, dtype=torch.uint8)
    ones, zeros = torch.ones(16), torch.zeros(16, dtype=torch.int32)
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        x, 1.0, 0, packed, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return product


def _is_exact(code: int) -> bool:
    return bool((_multiplied(code) == 64 * 255 * code).all())


def choose_backend(model: DiffusionModel, asked: str, variant: str) -> dict[str, Any]:
    """Give a quantised model's denoiser its kernels; returns what runs, for reports.

    `auto` takes, for 8-bit activations, OpenVINO where it is installed, then oneDNN's integer operators; for 16-bit
    ones bfloat16 where the processor has it; and the simulation else. Raises ConfigError for a backend that is unknown,
    or is asked for and cannot run.
    """
    if asked not in BACKENDS:
        raise ConfigError(f"backend {asked!r} is unknown; give one of {', '.join(BACKENDS)}")
    denoiser = model.denoiser
    if not isinstance(denoiser, QuantisedDenoiser):
        raise ConfigError(f"{type(denoiser).__name__} is not quantised, so it has no backends to choose from")
    integers = variant.endswith("a8")
    if asked == "onednn-int8" and not integers:
        raise ConfigError(f"{variant} has no integer activations for onednn-int8; use backend auto")
    if asked == "openvino":
        facts = _openvino(model, variant)
    elif asked == "bf16" or (asked == "auto" and variant.endswith("a16")):
        facts = _bf16(denoiser, asked)
    elif integers and asked != "simulated":
        facts = _integers(model, denoiser, asked, variant)
    else:
        facts = {"backend": "simulated", "reason": ""}
    facts["bytes_in_memory"] = denoiser.bytes_in_memory()
    if variant.startswith("w4"):
        facts["storage_only"] = "4-bit weights are unpacked to 8 bits at load: they save disk, not memory or time"
    return facts


def _integers(model: DiffusionModel, denoiser: QuantisedDenoiser, asked: str, variant: str) -> dict[str, Any]:
    """The first backend for 8-bit activations that runs here."""
    refused = []
    if asked == "auto":
        try:
            return _openvino(model, variant)
        except ConfigError as missing:
            refused.append(str(missing))
    problem = onednn_problem()
    if problem is None:
        facts = _onednn(denoiser)
        return facts | {"reason": "; ".join(filter(None, [*refused, facts["reason"]]))}
    if asked == "onednn-int8":
        raise ConfigError(f"backend onednn-int8 cannot run: {problem}; use backend auto")
    return {"backend": "simulated", "reason": "; ".join([*refused, problem])}


def _openvino(model: DiffusionModel, variant: str) -> dict[str, Any]:
    """The whole step by OpenVINO; layers whose products would overflow here multiply floating numbers."""
    half = variant.endswith("a16") and bf16_problem() is None
    layers = len(_with_integer_inputs(model.denoiser))
    taken = compile_quantised(model, multiplies_exactly, "bf16" if half else "f32")
    reason = f"{layers - taken} of {layers} layers multiply floating numbers: {OVERFLOW}" if taken < layers else ""
    return {"backend": "openvino", "integer_layers": taken, "reason": reason}


def multiplies_exactly(layer: QuantisedLayer) -> bool:
    """Whether this processor's products of a layer's codes are exact."""
    return not saturates() or int(layer.codes.abs().amax()) <= SATURATION_FREE


def _with_integer_inputs(denoiser: Any) -> list[QuantisedLayer]:
    return [layer for layer in denoiser.quantised_layers().values() if layer.input_scale is not None]


class HalfPrecision(nn.Module):
    """A full-precision denoiser whose convolutions and linear layers compute in bfloat16."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    @property
    def config(self) -> Any:
        return self.inner.config

    def forward(self, sample: Tensor, timestep: Tensor, **given: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            output = self.inner(sample, timestep=timestep, **given)
        output.sample = output.sample.float()
        return output


def half_precision(model: DiffusionModel) -> dict[str, Any]:
    """Let a full-precision model's denoiser compute in bfloat16, in place; returns what runs, for reports."""
    problem = bf16_problem()
    model.denoiser = HalfPrecision(model.denoiser)
    return {"backend": "bf16", "reason": "" if problem is None else f"{problem}: slower than float32"}


def full_precision(model: DiffusionModel, asked: str) -> tuple[str, dict[str, Any] | None]:
    """Give a full-precision model another backend, in place; returns its variant, and what runs if it is another.

    Raises ConfigError for backends that full precision does not have.
    """
    if asked == "bf16":
        return "bf16", half_precision(model)
    if asked == "openvino":
        return "fp32", compile_full(model)
    if asked not in ("auto", "float32"):
        raise ConfigError(f"backend {asked!r} is for quantised generators; a model has float32, bf16 and openvino")
    return "fp32", None


def _bf16(denoiser: QuantisedDenoiser, asked: str) -> dict[str, Any]:
    problem = bf16_problem()
    if problem is not None and asked == "auto":
        return {"backend": "float32", "reason": problem}
    denoiser.in_bf16 = True
    return {"backend": "bf16", "reason": "" if problem is None else f"{problem}: slower than float32"}


def _onednn(denoiser: QuantisedDenoiser) -> dict[str, Any]:
    """Integer kernels for every layer that this processor computes exactly; the others keep the simulation."""
    layers = _with_integer_inputs(denoiser)
    exact = [layer for layer in layers if multiplies_exactly(layer)]
    for layer in exact:
        layer.kernel = _Packed(layer)
    reason = f"{len(layers) - len(exact)} of {len(layers)} layers are simulated: {OVERFLOW}"
    backend = "onednn-int8" if exact else "simulated"
    return {"backend": backend, "integer_layers": len(exact), "reason": "" if len(exact) == len(layers) else reason}


class _Packed:
    """A layer's kernel by oneDNN's integer operators; the layer's own codes make room for the packed ones."""

    def __init__(self, layer: QuantisedLayer) -> None:
        self._layer, operation = layer, layer.operation
        self._zeros = torch.zeros(len(layer.scale), dtype=torch.int32)
        if operation.convolution:
            self._packed = torch.ops.onednn.qconv_prepack(
                layer.codes.contiguous(), layer.scale, 1.0, 0,
                operation.stride, operation.padding, operation.dilation, operation.groups, None,
            )  # fmt: skip
        else:
            self._packed = torch.ops.onednn.qlinear_prepack(layer.codes.contiguous(), None)
        layer.packed_bytes = layer.codes.numel()
        layer.codes = layer.codes.new_zeros(0)

    def __call__(self, x: Tensor) -> Tensor:
        layer, operation = self._layer, self._layer.operation
        scale, zero = layer.input_grid()
        whole = encode(x, scale, zero, INPUT_LEVELS).to(torch.uint8)
        grid = float(scale), int(zero)
        weights = self._packed, layer.scale, self._zeros, layer.bias
        plain: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
        product: Tensor
        if operation.convolution:
            where = operation.stride, operation.padding, operation.dilation, operation.groups
            product = torch.ops.onednn.qconv2d_pointwise(whole, *grid, *weights, *where, *plain)
            return product
        product = torch.ops.onednn.qlinear_pointwise(whole.reshape(-1, whole.shape[-1]), *grid, *weights, *plain)
        return product.reshape(*x.shape[:-1], -1)
