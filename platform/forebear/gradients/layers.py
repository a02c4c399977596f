"""Exact per-sample gradients of each kind of layer, from what went in and the gradient of what came out.

Every rule is one small function. A new kind of layer takes a few lines, here or in the researcher's own code:

    @layer_rule(Scale, parameters=("gain",))
    def scale(module: Scale, x: Tensor, grad: Tensor, samples: int) -> dict[str, Tensor]:
        return {"gain": (x * grad).reshape(samples, -1, x.shape[-1]).sum(1)}

`x` and `grad` hold the rows of `samples` consecutive samples, an equal number of rows each; a rule sums over the rows
and over all positions of a sample. Rules match a layer's exact class, because a subclass may compute something else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forebear.errors import ModelError

PerSampleGradients = Callable[[Any, Tensor, Tensor, int], dict[str, Tensor]]
"""(module, input [rows, ...], output gradient [rows, ...], samples) -> {parameter: [samples, *its shape]}."""

Refusal = Callable[[Any], str | None]
"""(module) -> why its gradient cannot be computed, or None when it can."""


@dataclass(frozen=True)
class LayerRule:
    """How the per-sample gradients of one kind of layer are computed."""

    parameters: tuple[str, ...]
    per_sample: PerSampleGradients
    refusal: Refusal


_RULES: dict[str, LayerRule] = {}


def _class_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def layer_rule(
    *kinds: type[nn.Module] | str,
    parameters: tuple[str, ...] = ("weight", "bias"),
    refusal: Refusal = lambda module: None,  # noqa: ARG005
) -> Callable[[PerSampleGradients], PerSampleGradients]:
    """Register a function as the rule for the layer classes `kinds`; a later registration replaces an earlier one.

    A class may be given by its full dotted name, so that its library need not be imported. The function returns float32
    gradients for every one of `parameters` that the module has; others may be left out.
    """

    def register(per_sample: PerSampleGradients) -> PerSampleGradients:
        rule = LayerRule(parameters, per_sample, refusal)
        for kind in kinds:
            _RULES[kind if isinstance(kind, str) else _class_name(kind)] = rule
        return per_sample

    return register


def rule_for(module: nn.Module) -> LayerRule | None:
    """The rule for exactly this module's class, or None."""
    return _RULES.get(_class_name(type(module)))


@layer_rule(nn.Linear)
def linear(module: nn.Linear, x: Tensor, grad: Tensor, samples: int) -> dict[str, Tensor]:
    """y = x W' + b over any number of positions."""
    x = x.float().reshape(samples, -1, module.in_features)  # [S, P, I]
    grad = grad.float().reshape(samples, -1, module.out_features)  # [S, P, O]
    # With one position it is an outer product, which matrix libraries do slowly.
    weight = grad.transpose(1, 2) * x if x.shape[1] == 1 else torch.bmm(grad.transpose(1, 2), x)  # [S, O, I]
    return {"weight": weight, "bias": grad.sum(1)}


def _padding(module: nn.Conv2d) -> list[int]:
    """What is added to each side before the convolution: [left, right, top, bottom]."""
    sides: list[int] = []
    for axis in (1, 0):
        if module.padding == "valid":
            before = after = 0
        elif module.padding == "same":
            total = module.dilation[axis] * (module.kernel_size[axis] - 1)
            before, after = total // 2, total - total // 2
        else:
            before = after = int(module.padding[axis])
        sides += [before, after]
    return sides


def _windows(module: nn.Conv2d, x: Tensor, height: int, width: int) -> Tensor:
    """The input values under each tap of the kernel, a view: [rows, C, kh, kw, height, width]."""
    padding = _padding(module)
    if any(padding):
        x = F.pad(x, padding, mode="constant" if module.padding_mode == "zeros" else module.padding_mode)
    row, channel, down, right = x.stride()
    return x.as_strided(
        (x.shape[0], x.shape[1], *module.kernel_size, height, width),
        (
            *(row, channel),
            *(down * module.dilation[0], right * module.dilation[1]),
            *(down * module.stride[0], right * module.stride[1]),
        ),
        x.storage_offset(),
    )


@layer_rule(nn.Conv2d)
def conv2d(module: nn.Conv2d, x: Tensor, grad: Tensor, samples: int) -> dict[str, Tensor]:
    """Any stride, padding, padding mode, dilation and number of groups; one matrix product per sample and group."""
    if x.dim() != 4:
        raise ModelError(f"a Conv2d got a {x.dim()}-dimensional input; give it [rows, channels, height, width]")
    x, grad = x.float(), grad.float()
    rows, channels, height, width = grad.shape
    groups, per_sample = module.groups, rows // samples
    windows = _windows(module, x, height, width)  # [rows, C, kh, kw, h, w]
    # Taps before positions keeps the weight's own order; for a 1x1 kernel of stride 1 the reshape copies nothing.
    windows = windows.view(samples, per_sample, *windows.shape[1:]).permute(0, 2, 3, 4, 1, 5, 6)
    windows = windows.reshape(samples * groups, -1, per_sample * height * width)  # [S*G, C/G*kh*kw, P]
    grad = grad.reshape(samples, per_sample, channels, -1).transpose(1, 2)  # [S, O, rows/S, h*w]
    bias = grad.sum((2, 3))  # [S, O]
    grad = grad.reshape(samples * groups, channels // groups, -1)  # [S*G, O/G, P]
    weight = torch.bmm(grad, windows.transpose(1, 2))  # [S*G, O/G, C/G*kh*kw]
    return {"weight": weight.view(samples, *module.weight.shape), "bias": bias}


@layer_rule(nn.GroupNorm)
def group_norm(module: nn.GroupNorm, x: Tensor, grad: Tensor, samples: int) -> dict[str, Tensor]:
    """y = normalised(x) * weight + bias, one of each per channel."""
    normalised = F.group_norm(x.float(), module.num_groups, eps=module.eps)  # [rows, C, ...]
    shape = (samples, -1, module.num_channels, x[0, 0].numel())
    grad = grad.float().reshape(shape)  # [S, rows/S, C, P]
    return {"weight": (grad * normalised.reshape(shape)).sum((1, 3)), "bias": grad.sum((1, 3))}


def _elementwise(normalised: Tensor, grad: Tensor, shape: tuple[int, ...], samples: int) -> dict[str, Tensor]:
    """Gradients of y = normalised * weight + bias with one weight and bias per element of the trailing `shape`."""
    grad = grad.float().reshape(samples, -1, *shape)  # [S, P, *shape]
    return {"weight": (grad * normalised.reshape(grad.shape)).sum(1), "bias": grad.sum(1)}


@layer_rule(nn.LayerNorm, "diffusers.models.normalization.FP32LayerNorm")
def layer_norm(module: nn.LayerNorm, x: Tensor, grad: Tensor, samples: int) -> dict[str, Tensor]:
    """y = normalised(x) * weight + bias over the trailing dimensions."""
    normalised = F.layer_norm(x.float(), module.normalized_shape, eps=module.eps)
    return _elementwise(normalised, grad, module.normalized_shape, samples)


@layer_rule(nn.RMSNorm)
def rms_norm(module: nn.RMSNorm, x: Tensor, grad: Tensor, samples: int) -> dict[str, Tensor]:
    """y = x / rms(x) * weight over the trailing dimensions."""
    # Left to itself, eps is that of the type the model runs in, not of the float32 used here.
    eps = module.eps if module.eps is not None else torch.finfo(x.dtype).eps
    normalised = F.rms_norm(x.float(), list(module.normalized_shape), eps=eps)
    return _elementwise(normalised, grad, module.normalized_shape, samples)


@layer_rule("diffusers.models.normalization.RMSNorm")
def diffusers_rms_norm(module: Any, x: Tensor, grad: Tensor, samples: int) -> dict[str, Tensor]:
    """y = x / rms(x) * weight + bias; whatever the weight's shape, the mean is over the last dimension."""
    normalised = F.rms_norm(x.float(), [x.shape[-1]], eps=module.eps)
    return _elementwise(normalised, grad, tuple(module.dim), samples)


def _embedding_refusal(module: nn.Embedding) -> str | None:
    if module.max_norm is not None:
        return "an Embedding with max_norm changes its own weight in the forward pass"
    if module.scale_grad_by_freq:
        return "an Embedding with scale_grad_by_freq mixes the samples of a batch"
    return None


@layer_rule(nn.Embedding, parameters=("weight",), refusal=_embedding_refusal)
def embedding(module: nn.Embedding, x: Tensor, grad: Tensor, samples: int) -> dict[str, Tensor]:
    """y = weight[x]; the row `padding_idx` gets no gradient, as in PyTorch."""
    tokens = x.reshape(samples, -1, 1)  # [S, P, 1]
    grad = grad.float().reshape(samples, -1, module.embedding_dim)  # [S, P, D]
    # A product with the one-hot tokens, and not a scatter, gives the same bits on every run of a GPU.
    one_hot = tokens == torch.arange(module.num_embeddings, device=x.device)  # [S, P, V]
    if module.padding_idx is not None:
        one_hot &= tokens != module.padding_idx
    return {"weight": torch.bmm(one_hot.float().transpose(1, 2), grad)}
