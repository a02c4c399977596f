"""What training needs to go on where it stopped: weights, their average, the optimiser's moments and the step."""

from dataclasses import dataclass
from typing import Self

import torch
from safetensors import safe_open
from torch import Tensor, nn

from forebear.diffusion.checkpoint import save_tensors
from forebear.errors import ModelError
from forebear.run import Run

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class TrainingState:
    """The step counts finished optimiser steps; tensors are float32, keyed by parameter name."""

    step: int
    average: dict[str, Tensor]
    """The moving average of the weights."""
    saved: dict[str, Tensor]
    """Tensors read from disk that `restore` puts in their places; empty for a fresh start."""

    @classmethod
    def fresh(cls, parts: nn.ModuleDict) -> Self:
        return cls(0, {name: p.detach().clone() for name, p in parts.named_parameters()}, {})

    @torch.no_grad()
    def restore(self, parts: nn.ModuleDict, optimiser: torch.optim.Optimizer) -> None:
        """Put saved weights and moments into the model and its optimiser."""
        if not self.saved:
            return
        for name, parameter in parts.named_parameters():
            parameter.copy_(self.saved[f"weight.{name}"])
            # Keep each tensor's memory layout: sums over another layout would round differently.
            self.average[name] = torch.empty_like(parameter).copy_(self.saved[f"average.{name}"])
            if f"{MOMENTS[0]}.{name}" in self.saved:
                moments = {m: torch.empty_like(parameter).copy_(self.saved[f"{m}.{name}"]) for m in MOMENTS}
                optimiser.state[parameter] = {"step": torch.tensor(float(self.step)), **moments}
        self.saved = {}


def save_state(run: Run, state: TrainingState, parts: nn.ModuleDict, optimiser: torch.optim.Optimizer) -> None:
    """Write the whole state as one safetensors file, whole or not at all."""
    tensors: dict[str, Tensor] = {"step": torch.tensor(state.step)}
    for name, parameter in parts.named_parameters():
        tensors[f"weight.{name}"] = parameter
        tensors[f"average.{name}"] = state.average[name]
        # A parameter that no loss reaches has no moments.
        moments = optimiser.state.get(parameter, {})
        tensors |= {f"{moment}.{name}": moments[moment] for moment in MOMENTS if moment in moments}
    save_tensors(run.training_state_folder / "state.safetensors", tensors)


def load_state(run: Run) -> TrainingState | None:
    """The saved state, or None when training has not started."""
    path = run.training_state_folder / "state.safetensors"
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
    except Exception as broken:  # safetensors raises its own type
        raise ModelError(f"{path} is damaged ({broken}); remove the folder to train from the start") from None
    return TrainingState(step=int(tensors.pop("step")), average={}, saved=tensors)
