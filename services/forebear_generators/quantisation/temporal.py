"""The Temporal Information Block: everything in a denoiser that depends on the timestep (and class) alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forebear.errors import ModelError


@dataclass(frozen=True)
class Feature:
    """A linear layer whose output is a temporal feature, and the time embedding that it reads."""

    name: str
    """The layer's name in the denoiser."""
    embedding: str
    """The name of the time embedding's network."""
    activation: Callable[[Tensor], Tensor]
    """What lies between the embedding and the layer."""


class TemporalBlock:
    """h(t) = Linear(SiLU(Linear(sinusoid(t)))) and the layers g_i that make features g_i(h(t)) of it (TFMQ-DM).

    It reads the denoiser's present modules, so that the same block computes full-precision and quantised features.
    """

    def __init__(self, denoiser: Any) -> None:
        """Raise ModelError for a denoiser without such a block."""
        self.denoiser: nn.Module = denoiser
        kind = type(denoiser).__name__
        if kind in ("UNet2DModel", "UNet2DConditionModel"):
            self.features = _of_unet(denoiser)
        elif kind == "DiTTransformer2DModel":
            self.features = _of_dit(denoiser)
        else:
            raise ModelError(
                f"{kind} cannot be quantised; supported are UNet2DModel, UNet2DConditionModel and DiTTransformer2DModel"
            )
        if not self.features:
            raise ModelError("the denoiser has no layer that reads a time embedding; such a model cannot be quantised")

    @property
    def embeddings(self) -> list[str]:
        """Names of the time embeddings' networks."""
        return list(dict.fromkeys(feature.embedding for feature in self.features))

    @property
    def class_embeddings(self) -> list[str]:
        """Names of the modules that embed a class, to be added to the time embeddings."""
        return [name for each in self.embeddings if (name := self.class_embedding(each)) is not None]

    def layers(self) -> list[str]:
        """Names of all linear layers of the block, in the order of computation."""
        inner = [
            f"{embedding}.{name}"
            for embedding in self.embeddings
            for name in ("linear_1", "linear_2")
            if hasattr(self.denoiser.get_submodule(embedding), name)
        ]
        return inner + [feature.name for feature in self.features]

    def compute(self, times: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """The temporal features float32[R, C_i] by layer name, for times [R] and class labels int64[R]."""
        found = {name: self._embedded(name, times, labels) for name in self.embeddings}
        return {
            feature.name: self.denoiser.get_submodule(feature.name)(feature.activation(found[feature.embedding]))
            for feature in self.features
        }

    def compute_alone(self, times: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """As `compute`, each row by itself: sums over rows together may round differently from those of one picture."""
        rows = [
            self.compute(times[row : row + 1], None if labels is None else labels[row : row + 1])
            for row in range(len(times))
        ]
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    def _embedded(self, embedding: str, times: Tensor, labels: Tensor | None) -> Tensor:
        parent, _, _ = embedding.rpartition(".")
        projection = self.denoiser.get_submodule(f"{parent}.time_proj" if parent else "time_proj")
        embedded: Tensor = self.denoiser.get_submodule(embedding)(projection(times).float())
        by_class = self.class_embedding(embedding)
        if by_class is not None:
            embedded = embedded + self.denoiser.get_submodule(by_class)(labels)
        return embedded

    def class_embedding(self, embedding: str) -> str | None:
        """The name of the module whose class embedding is added to a time embedding; None without classes."""
        parent, _, _ = embedding.rpartition(".")
        if parent:
            return f"{parent}.class_embedder"
        return "class_embedding" if getattr(self.denoiser, "class_embedding", None) is not None else None


def _of_unet(denoiser: Any) -> list[Feature]:
    from diffusers.models.resnet import ResnetBlock2D

    after: Callable[[Tensor], Tensor] | None = getattr(denoiser, "time_embed_act", None)
    found = []
    for name, module in denoiser.named_modules():
        if type(module).__name__ == "ResnetBlockCondNorm2D":
            raise ModelError(f"{name} conditions its norms on the time; such a UNet cannot be quantised")
        if isinstance(module, ResnetBlock2D) and module.time_emb_proj is not None:
            steps = [
                each for each in (after, None if module.skip_time_act else module.nonlinearity) if each is not None
            ]
            found.append(Feature(f"{name}.time_emb_proj", "time_embedding", _Chain(steps)))
    return found


def _of_dit(denoiser: Any) -> list[Feature]:
    blocks = [f"transformer_blocks.{place}.norm1" for place in range(len(denoiser.transformer_blocks))]
    if getattr(denoiser.transformer_blocks[0].norm1, "emb", None) is None:
        raise ModelError(
            "the transformer's norms read no time embedding of their own; such a model cannot be quantised"
        )
    found = [Feature(f"{name}.linear", f"{name}.emb.timestep_embedder", F.silu) for name in blocks]
    return [*found, Feature("proj_out_1", f"{blocks[0]}.emb.timestep_embedder", F.silu)]


class _Chain:
    """Functions of a tensor, one after the other."""

    def __init__(self, steps: list[Callable[[Tensor], Tensor]]) -> None:
        self._steps = steps

    def __call__(self, x: Tensor) -> Tensor:
        for step in self._steps:
            x = step(x)
        return x


def feature_errors(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Squared error of each row, ||g_i(h(t)) - ghat_i(hhat(t))||^2: float32[R] by layer name."""
    return {name: (found[name] - wanted[name]).square().sum(1) for name in wanted}


def relative_feature_errors(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> Tensor:
    """||g_i(h(t)) - ghat_i(hhat(t))|| / ||g_i(h(t))||: float32[number of features, R]."""
    return torch.stack([(found[name] - wanted[name]).norm(dim=1) / wanted[name].norm(dim=1) for name in wanted])


def mismatched(wanted: Tensor, found: Tensor) -> Tensor:
    """Whether the nearest full-precision row is not a row's own, of one feature [R, C]: bool[R] (TFMQ-DM)."""
    # Features of neighbouring timesteps lie close together: distances by products would round too coarsely.
    distances = torch.cdist(found, wanted, compute_mode="donot_use_mm_for_euclid_dist")  # [R, R]
    return distances.argmin(1) != torch.arange(len(wanted))


def mismatch_rate(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> float:
    """The share of (feature, row) that is `mismatched`."""
    return float(torch.stack([mismatched(wanted[name], found[name]) for name in wanted]).float().mean())
