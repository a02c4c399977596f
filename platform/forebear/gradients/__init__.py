"""Per-sample projected gradients and their full norms."""

from forebear.gradients.coverage import Coverage, ParameterShare
from forebear.gradients.engine import GradientBatch, GradientEngine
from forebear.gradients.layers import layer_rule
from forebear.gradients.projection import ProjectionConfig

__all__ = ["Coverage", "GradientBatch", "GradientEngine", "ParameterShare", "ProjectionConfig", "layer_rule"]
