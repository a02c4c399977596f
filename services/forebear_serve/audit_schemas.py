"""The bodies of /v1/audits."""

from enum import StrEnum

from pydantic import BaseModel, Field, FiniteFloat

from forebear_serve.schemas import SampleInfo


class OutlierScore(StrEnum):
    """By what a training image stands out."""

    SELF = "self"
    """Its score on itself: high for one that is learnt from itself alone."""
    SUPPORT = "support"
    """The mean of the others' scores for it: low for one that they do not help to learn."""
    ISOLATION = "isolation"
    """1 minus the cosine with its n-th nearest: high for one that has fewer than n of its kind."""


class Nearness(StrEnum):
    """How two training images are compared."""

    PIXEL = "pixel"
    """Root mean squared difference of the pixels at the model's resolution, levels from 0 to 1."""
    SHIFTED = "shifted"
    """The same on reduced pictures, the least over mirroring and small moves."""
    GRADIENT = "gradient"
    """Cosine of the estimator's own inner product."""


class Outlier(BaseModel):
    """A training image that stands out."""

    rank: int = Field(description="1 is the strangest.")
    value: FiniteFloat
    sample: SampleInfo


class OutlierPage(BaseModel):
    """Training images, the strangest first."""

    estimator: str
    score: OutlierScore
    outliers: tuple[Outlier, ...]
    total: int
    next: int | None = Field(None, description="`after` of the next page; null: this is the last.")


class Influential(BaseModel):
    """A training image and what it gives to others."""

    rank: int = Field(description="1 is the most influential.")
    influence: FiniteFloat = Field(description="The mean size of its scores for the references.")
    share: FiniteFloat = Field(description="Of the references' positive influence, the mean.")
    sample: SampleInfo


class InfluentialPage(BaseModel):
    """Training images, the generally influential first."""

    estimator: str
    references: int = Field(description="Training images that were taken as queries.")
    influential: tuple[Influential, ...]
    total: int
    next: int | None = Field(None, description="`after` of the next page; null: this is the last.")


class Duplicate(BaseModel):
    """Two training images, one of which is the other's nearest."""

    rank: int = Field(description="1 is the nearest pair.")
    value: FiniteFloat = Field(description="A distance, or for `gradient` a cosine.")
    same: bool = Field(description="Whether they differ by no more than one level of 8 bits; never for `gradient`.")
    first: SampleInfo
    second: SampleInfo


class DuplicatePage(BaseModel):
    """Pairs of training images, the nearest first."""

    measure: Nearness
    estimator: str | None = Field(description="Of `gradient`.")
    duplicates: tuple[Duplicate, ...]
    total: int = Field(description="Pairs of an image and its nearest.")
    next: int | None = Field(None, description="`after` of the next page; null: this is the last.")


class Concentration(BaseModel):
    """How unevenly positive influence is spread over the training images."""

    estimator: str
    references: int = Field(description="Training images that were taken as queries.")
    samples: int
    gini: FiniteFloat = Field(description="0: all give the same; towards 1: one gives everything.")
    lorenz: tuple[FiniteFloat, ...] = Field(
        description="101 points: the share of influence of the 0 %, 1 %, ... 100 % of images that give the least."
    )


class NormQuartiles(BaseModel):
    """Gradient norms of training images at a timestep."""

    timestep: FiniteFloat
    low: FiniteFloat = Field(description="The first quartile.")
    median: FiniteFloat
    high: FiniteFloat = Field(description="The third quartile.")


class Norms(BaseModel):
    """Norm against timestep: where it depends on it, scores that are no cosines follow the timestep."""

    checkpoints: dict[str, tuple[NormQuartiles, ...]] = Field(description="In the order of training.")


class GroupAudit(BaseModel):
    """One value of a group column."""

    value: str
    samples: int
    self_influence: FiniteFloat = Field(description="The mean of its samples' scores on themselves.")
    influence: FiniteFloat = Field(description="The mean of what its samples give to the references.")
    share: FiniteFloat = Field(description="Of all references' positive influence, that of its samples together.")
    influential: FiniteFloat = Field(
        description="Part of its samples that are among the 5 % most influential of all: 0.05 is what chance gives."
    )


class GroupsAudit(BaseModel):
    """A group column."""

    name: str
    values: tuple[GroupAudit, ...] = Field(description="The largest first, as many as `limit`.")
    distinct: int
