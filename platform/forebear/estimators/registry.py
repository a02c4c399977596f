"""The estimators there are. docs/estimators.md says when to use which, and how to add one."""

from collections.abc import Mapping
from types import MappingProxyType

from forebear.errors import ConfigError
from forebear.estimators.estimator import Estimator

ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {
        estimator.name: estimator
        for estimator in (
            Estimator(
                "tracin",
                "Inner product of the loss gradients, each a mean over timesteps (Diffusion-TracIn).",
                "mean",
            ),
            Estimator(
                "retrac",
                "As tracin, with every timestep's gradient scaled to norm 1 before the mean, so that no timestep "
                "dominates by its norm alone (Diffusion-ReTrac).",
                "unit_mean",
            ),
            Estimator(
                "cosine",
                "Cosine of the loss gradients, each a mean over timesteps.",
                "mean",
                unit_rows=True,
            ),
            Estimator(
                "retrac-matched",
                "Mean over timesteps of the cosine of the loss gradients at the same timestep and noise.",
                "unit_matched",
                equal_timesteps=True,
            ),
            Estimator(
                "retrac-ridge",
                "As retrac, through the inverse second moment of its training vectors at every checkpoint, summed.",
                "unit_mean",
                ridge=0.3,
                checkpoints="alike",
            ),
            Estimator(
                "trak",
                "As tracin, through the inverse second moment of its training vectors at every checkpoint, summed "
                "(TRAK).",
                "mean",
                ridge=1.0,
                checkpoints="alike",
            ),
            Estimator(
                "trak-last",
                "As trak, at the last checkpoint alone.",
                "mean",
                ridge=1.0,
                checkpoints="last",
            ),
            Estimator(
                "dtrak",
                "As trak, with gradients of the prediction's mean square in place of the loss (D-TRAK).",
                "square_mean",
                ridge=1e-2,
                checkpoints="alike",
            ),
            Estimator(
                "das",
                "As trak, with gradients of the mean prediction scaled to norm 1 at every timestep, and each training "
                "sample weighted by its residual (DAS, without its square).",
                "output_unit_mean",
                residual=True,
                ridge=1e-3,
                checkpoints="alike",
            ),
            Estimator("pixel", "Baseline without a model: cosine of the pixels.", "pixels", unit_rows=True),
            Estimator("random", "Baseline without a meaning: random scores, the same every time.", "keyed"),
            Estimator(
                "embedding", "Baseline by features that the user brings: their cosine.", "features", unit_rows=True
            ),
        )
    }
)
"""By name."""

DEFAULT_ESTIMATOR = "retrac-ridge"
"""Answers where none is named, in Python, on the command line and in services; docs/estimators.md says why."""


def estimator(name: str) -> Estimator:
    """The estimator of a name; raises ConfigError that lists the names there are."""
    try:
        return ESTIMATORS[name]
    except KeyError:
        raise ConfigError(f"there is no estimator {name!r}; choose among: {', '.join(ESTIMATORS)}") from None


def index_name(name: str) -> str:
    """The estimator under whose name the index of `name` lies: the first with the same training side.

    Raises ConfigError for an unknown one.
    """
    wanted = estimator(name).training_side
    return next(other for other, one in ESTIMATORS.items() if one.training_side == wanted)
