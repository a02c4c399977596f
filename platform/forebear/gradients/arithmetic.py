"""In which type the layers of a forward pass multiply."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class LowPrecision:
    """How much of a forward pass runs in 16 bits."""

    layers: int
    """Calls of linear layers and convolutions."""
    low: int
    """Those of them in 16 bits."""
    share: float
    """Of all their multiplications, 0 to 1."""


def low_precision(run: Callable[[], object]) -> LowPrecision:
    """Watch the linear layers and convolutions that `run` calls, one pass. Attention is left out: it has no weights."""
    work: list[tuple[bool, int]] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            output = func(*args, **(kwargs or {}))
            if func in (F.linear, F.conv2d, F.conv_transpose2d):
                x, weight = args[:2]
                # A transposed convolution spreads each input over the kernel, the others gather for each output.
                positions: Tensor = x if func is F.conv_transpose2d else output
                axis = 1 if weight.dim() == 4 else -1
                count = positions.numel() // positions.shape[axis] * weight.numel()
                work.append((weight.dtype in (torch.bfloat16, torch.float16), count))
            return output

    with Watch():
        run()
    low = [count for is_low, count in work if is_low]
    return LowPrecision(len(work), len(low), sum(low) / max(1, sum(count for _, count in work)))
