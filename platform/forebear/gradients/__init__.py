"""Per-sample projected gradients and their full norms."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forebear.gradients.coverage import Coverage, ParameterShare
    from forebear.gradients.engine import GradientBatch, GradientEngine
    from forebear.gradients.layers import layer_rule
    from forebear.gradients.projection import ProjectionConfig
    from forebear.gradients.running import Precision
else:
    _MODULES = {
        "Coverage": "coverage",
        "GradientBatch": "engine",
        "GradientEngine": "engine",
        "ParameterShare": "coverage",
        "Precision": "running",
        "ProjectionConfig": "projection",
        "layer_rule": "layers",
    }

    def __getattr__(name):
        """Import what is asked for: all of it needs torch, `columns` does not, and services start without it."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__} has no attribute {name}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


__all__ = [
    "Coverage",
    "GradientBatch",
    "GradientEngine",
    "ParameterShare",
    "Precision",
    "ProjectionConfig",
    "layer_rule",
]
