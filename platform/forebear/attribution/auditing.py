"""How thoroughly an answer is examined: intervals, permutations, calibration, the search for near copies."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from forebear.config import STRICT
from forebear.randomness import keyed_permutation


@dataclass(frozen=True, config=STRICT)
class AuditConfig:
    """What is computed beside the scores. docs/auditing.md describes each number."""

    resamples: Annotated[int, Field(ge=0)] = 1000
    """Bootstrap samples of the query's timesteps for the intervals of groups; 0: no intervals."""
    permutations: Annotated[int, Field(ge=0)] = 1999
    """Shuffles of group labels for p-values, the smallest of which is 1 / (permutations + 1); 0: no p-values."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Of the intervals."""
    references: Annotated[int, Field(ge=0)] = 256
    """Training images that stand for random queries and for ordinary nearest neighbours; 0: no percentiles against
    the null and no search for near copies."""
    copy_quantile: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """A near copy is nearer than this part of training images is to their own nearest neighbours."""
    seed: int = 0
    """Of resamples, permutations and the choice of references."""


DEFAULT_AUDIT = AuditConfig()


def reference_rows(count: int, wanted: int, seed: int) -> tuple[int, ...]:
    """The rows of at most `wanted` of `count` samples, chosen by the seed alone, rising."""
    return tuple(sorted(keyed_permutation(count, "audit references", seed)[:wanted].tolist()))
