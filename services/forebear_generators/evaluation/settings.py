"""Settings of the evaluation of quantised generators."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from forebear.config import STRICT
from forebear.estimators import DEFAULT_ESTIMATOR

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=STRICT)
class GeneratorsConfig:
    """Which generators are compared, on which pictures, and by what."""

    generators: tuple[Path, ...] = ()
    """Folders that `forebear quantize` wrote of the run's model, all for one sampler and number of steps."""
    pictures: Annotated[int, Field(ge=3)] = 64
    """Seeds that every generator starts from."""
    prompts: tuple[str, ...] = ()
    """Captions, taken in turn. Without prompts and labels, those of training images chosen by key."""
    labels: tuple[int, ...] = ()
    """Classes, taken in turn, of class-conditional models."""
    seed: int = 0
    """Of the first picture and of the choice of training images; the other pictures count up."""
    guidance: float = 1.0
    """Classifier-free guidance; 1 is none."""
    batch: Count = 8
    """Pictures made at once, and rows of the step that is timed."""
    backend: str = "auto"
    """Of the quantised generators."""
    frechet_features: Count = 16
    """Numbers that describe a picture for the Fréchet distance; fewer than pictures."""
    attribution: bool = True
    """Whether attributions are compared, when the run has a store."""
    estimator: str = DEFAULT_ESTIMATOR
    """Whose attributions are compared."""
    top: Count = 10
    """Proponents whose overlap is reported."""
    timing_rounds: Annotated[int, Field(ge=0)] = 7
    """Rounds in which every generator makes one step in turn; 0 leaves timing out."""
    shown: Count = 8
    """Pictures of each generator on the page."""
