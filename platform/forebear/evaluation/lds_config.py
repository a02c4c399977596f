"""What an LDS evaluation retrains, and on which queries it measures."""

from dataclasses import field
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from forebear.config import STRICT, plain
from forebear.data import DataConfig
from forebear.errors import ConfigError

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]

RIDGES = tuple(float(f"{digit}e{power}") for power in range(-4, 2) for digit in (1, 3))

FREE = ("subsets", "seeds", "repeated", "keep_models", "workers", "estimators", "ridges", "replicates")
"""Settings that decide no number of any model."""

Training = tuple[int, int]
"""Subset and training seed: one model."""


@dataclass(frozen=True, config=STRICT)
class ValidationConfig:
    """Held-out pictures: those of `data` that are not in the training set."""

    count: Annotated[int, Field(ge=0)] = 200
    """Chosen by key; where there are fewer, that is an error."""
    data: DataConfig | None = None
    """None: the source of the training set itself, without its limit."""
    tuning: Share = 0.5
    """Share of them on which settings such as the ridge are chosen; they are left out of every reported figure."""


@dataclass(frozen=True, config=STRICT)
class GeneratedConfig:
    """Pictures that the run's own model makes, of its classes in turn, or of captions of training samples."""

    count: Annotated[int, Field(ge=0)] = 100
    """Pictures."""
    steps: Count = 50
    """Of the sampler (DDIM with eta 0 for DDPM-type models)."""
    guidance: float = 1.0
    """Classifier-free guidance; 1 is none."""


@dataclass(frozen=True, config=STRICT)
class LdsConfig:
    """The linear datamodeling score (LDS) as D-TRAK measures it (Zheng et al., arXiv 2311.00500; METHODS.md 4.1).

    `subsets`, `seeds` and `repeated` may grow later, and what is there is kept; those from `keep_models` on may change
    at will. All others decide the losses, and a change of them is refused.
    """

    subsets: Annotated[int, Field(ge=2)] = 64
    """M: random parts of the training set, each of which trains a model."""
    fraction: Share = 0.5
    """Size of a part."""
    stratify: str | None = None
    """Group column whose values keep their shares in every part; None: the class labels, where all samples have one."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1)
    """Training seeds: every subset trains a model with the first, whose losses are the ground truth."""
    repeated: Annotated[int, Field(ge=0)] = 16
    """How many subsets, from the first one, train models with the further seeds too, for the noise ceiling."""
    seed: int = 0
    """Of subsets, queries and measuring noise."""
    timesteps: Count = 50
    """T: a query's loss is the mean over so many evenly spaced timesteps ..."""
    draws: Count = 1
    """... and so many noises at each, the same ones for every model."""
    batch_size: Count = 64
    """Rows that the denoiser sees at a time when losses are measured; it decides by rounding only."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Held-out queries."""
    generated: GeneratedConfig = field(default_factory=GeneratedConfig)
    """Queries that the model makes."""
    keep_models: bool = False
    """Keep each model after its losses are measured."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Single-threaded Ray actors, each with a model of its own; 0 works in this process."""
    estimators: tuple[str, ...] = ()
    """Which are judged; none: all that the store serves. The baselines `pixel` and `random` are always added."""
    ridges: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = RIDGES
    """The lambdas among which each estimator with a ridge gets its own, on the queries for tuning."""
    replicates: Count = 1000
    """Resamplings behind an interval."""

    def __post_init__(self) -> None:
        """Refuse settings that measure nothing."""
        if len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"seeds {self.seeds} names one twice; a seed gives the same model again")
        if not self.validation.count + self.generated.count:
            raise ConfigError("both kinds of queries have count 0; ask for some")

    def trainings(self) -> list[Training]:
        """Every (subset, seed) to train, in this order: the repeated ones first, so that the ceiling is known early."""
        repeated = min(self.repeated, self.subsets)
        both = [(subset, seed) for subset in range(repeated) for seed in self.seeds]
        return both + [(subset, self.seeds[0]) for subset in range(repeated, self.subsets)]

    def decisive(self) -> dict[str, Any]:
        """The settings that decide numbers, as plain values; of validation data not the path but the samples count."""
        values = {name: value for name, value in plain(self).items() if name not in FREE}
        del values["validation"]["data"]
        return values
