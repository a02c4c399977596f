"""Exact per-sample gradients of each kind of layer, from what went in and the gradient of what came out.

Linear layers and convolutions run as operators (see `operators`). Every other rule is one small function. A new kind of
layer takes a few lines, here or in the researcher's own code:

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

from forebear.gradients.operators import ConvolutionOperator, LinearOperator, Operator, TransposedOperator

PerSampleGradients = Callable[[Any, Tensor, Tensor, int], dict[str, Tensor]]
"""(module, input [rows, ...], output gradient [rows, ...], samples) -> {parameter: [samples, *its shape]}."""

Refusal = Callable[[Any], str | None]
"""(module) -> why its gradient cannot be computed, or None when it can."""


def _never(module: Any) -> None:
    """A layer of this kind is never refused."""


def _transposed_refusal(module: nn.ConvTranspose2d) -> str | None:
    return None if module.padding_mode == "zeros" else "a transposed convolution pads with zeros alone"


@dataclass(frozen=True)
class LayerRule:
    """How the per-sample gradients of one kind of layer are computed: by a function of its own, or by an operator."""

    parameters: tuple[str, ...]
    refusal: Refusal
    per_sample: PerSampleGradients | None = None
    operator: Callable[[Any], Operator] | None = None
    """(module) -> what runs in its place; its parameters are `weight` and `bias`."""


_RULES: dict[str, LayerRule] = {
    "torch.nn.modules.linear.Linear": LayerRule(("weight", "bias"), _never, operator=lambda module: LinearOperator()),  # noqa: ARG005
    "torch.nn.modules.conv.Conv2d": LayerRule(("weight", "bias"), _never, operator=ConvolutionOperator.of),
    "torch.nn.modules.conv.ConvTranspose2d": LayerRule(
        ("weight", "bias"), _transposed_refusal, operator=TransposedOperator.of
    ),
}


def _class_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def layer_rule(
    *kinds: type[nn.Module] | str,
    parameters: tuple[str, ...] = ("weight", "bias"),
    refusal: Refusal = _never,
) -> Callable[[PerSampleGradients], PerSampleGradients]:
    """Register a function as the rule for the layer classes `kinds`; a later registration replaces an earlier one.

    A class may be given by its full dotted name, so that its library need not be imported. The function returns float32
    gradients for every one of `parameters` that the module has; others may be left out.
    """

    def register(per_sample: PerSampleGradients) -> PerSampleGradients:
        rule = LayerRule(parameters, refusal, per_sample)
        for kind in kinds:
            _RULES[kind if isinstance(kind, str) else _class_name(kind)] = rule
        return per_sample

    return register


def rule_for(module: nn.Module) -> LayerRule | None:
    """The rule for exactly this module's class, or None."""
    return _RULES.get(_class_name(type(module)))


@layer_rule(nn.GroupNorm)
def group_norm(module: nn.GroupNorm, x: Tensor, grad: Tensor, samples: int) -> dict[str, Tensor]:
    """y = normalised(x) * weight + bias, one of each per channel."""
    grad = grad.float()
    products = grad * F.group_norm(x.float(), module.num_groups, eps=module.eps)  # [rows, C, ...]
    positions = list(range(2, x.dim()))
    # Summed in the tensors' own memory order: a reshape would copy them where channels come last.
    weight, bias = (v.sum(positions) if positions else v for v in (products, grad))  # [rows, C]
    shape = (samples, -1, module.num_channels)
    return {"weight": weight.view(shape).sum(1), "bias": bias.view(shape).sum(1)}


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
