"""TracIn, ReTrac and their kin: every one an inner product."""

from forebear.estimators.estimator import ESTIMATORS, Estimator, estimator

__all__ = ["ESTIMATORS", "Estimator", "estimator"]
