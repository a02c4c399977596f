"""Per-sample projected gradients and their full norms."""

from forebear.gradients.coverage import Coverage, ParameterShare
from forebear.gradients.engine import GradientBatch, GradientEngine
from forebear.gradients.layers import layer_rule
from forebear.gradients.projection import ProjectionConfig
from forebear.gradients.running import Precision

__all__ = [
    "Coverage",
    "GradientBatch",
    "GradientEngine",
    "ParameterShare",
    "Precision",
    "ProjectionConfig",
    "layer_rule",
]
