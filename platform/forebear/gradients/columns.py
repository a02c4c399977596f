"""The vectors that are kept of a picture's gradients: names alone, so that reading them needs no torch."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from forebear.diffusion.measurement import Measurement

VectorColumn = Literal["mean", "unit_mean", "unit_matched", "square_mean", "output_unit_mean"]
COLUMNS: Mapping[Measurement, tuple[VectorColumn, ...]] = MappingProxyType(
    {"loss": ("mean", "unit_mean", "unit_matched"), "square": ("square_mean",), "output": ("output_unit_mean",)}
)
"""By measurement, the reductions of its gradients that are kept (`gradients.embedding` has the formulas)."""
