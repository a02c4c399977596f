"""TracIn, ReTrac and their kin: every one an inner product."""

from forebear.estimators.curvature import Curvature, GramCurvature, MomentCurvature, gram, second_moment
from forebear.estimators.estimator import SIGN, Estimator
from forebear.estimators.registry import DEFAULT_ESTIMATOR, ESTIMATORS, estimator, index_name
from forebear.estimators.vectors import MEASUREMENTS, Blocks, Column, residuals, unit

__all__ = [
    "DEFAULT_ESTIMATOR",
    "ESTIMATORS",
    "MEASUREMENTS",
    "SIGN",
    "Blocks",
    "Column",
    "Curvature",
    "Estimator",
    "GramCurvature",
    "MomentCurvature",
    "estimator",
    "gram",
    "index_name",
    "residuals",
    "second_moment",
    "unit",
]
