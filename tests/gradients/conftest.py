"""The oracle of the gradient tests: plain autograd, one sample at a time."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

Measure = Callable[[slice], Tensor]


def _autograd_gradients(module: nn.Module, measure: Measure, samples: int, group: int = 1) -> Tensor:
    """float32[samples, P]: the gradient of `measure` over each sample's rows, parameters in the module's order."""
    parameters = list(module.parameters())
    gradients = []
    for sample in range(samples):
        value = measure(slice(sample * group, (sample + 1) * group)).sum()
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        pairs = zip(found, parameters, strict=True)
        gradients.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]))
    return torch.stack(gradients)


@pytest.fixture(scope="session")
def autograd_gradients() -> Callable[..., Tensor]:
    return _autograd_gradients
