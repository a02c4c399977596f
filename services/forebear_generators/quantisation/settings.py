"""Settings of quantisation: typed, checked once, with the papers' values as defaults where they give one."""

import re
from dataclasses import field
from typing import Literal

from pydantic.dataclasses import dataclass

from forebear.config import STRICT
from forebear.errors import ConfigError

VARIANT = re.compile(r"w([48])a(8|16|32)")


@dataclass(frozen=True, config=STRICT)
class CalibrationConfig:
    """The model's own trajectories that calibration looks at."""

    pictures: int = 32
    """Trajectories drawn; each gives one x at each step of the sampler (two calls of the denoiser with guidance)."""
    every: int = 5
    """Weights are rounded on the x of each so many-th step; activation ranges see every step."""
    batch: int = 16
    """Rows that the denoiser reads at once."""
    prompts: tuple[str, ...] = ()
    """Captions, taken in turn; when empty, pairs of words from the model's own vocabulary."""
    seed: int = 0
    """Of the trajectories, and of the rows that each iteration of rounding sees."""


@dataclass(frozen=True, config=STRICT)
class WeightsConfig:
    """Which weights become integers, and on which grid."""

    symmetric: bool | None = None
    """Whether 0 is the middle of a channel's range; None: at 8 bits, which integer kernels want, and not at 4."""
    reduced: bool = False
    """At 8 bits, codes from -63 to 63: exact on processors whose 8-bit products saturate (AVX2 without VNNI)."""
    search: Literal["error", "minmax"] = "error"
    """A channel's range: of the least rounding error among shrunk ones, or from its least weight to its largest."""
    candidates: int = 80
    """How many shrunk ranges are tried."""
    exponent: float = 2.4
    """Errors are summed to this power (TFMQ-DM's code)."""
    first_last: Literal["float", "8-bit", "same"] = "float"
    """The layers that read x and that write the prediction."""
    shortcuts: Literal["split", "plain", "float"] = "split"
    """Shortcuts over a joined skip input: two grids, one for each half (Q-Diffusion), one grid, or not quantised."""
    resampling: Literal["same", "float"] = "same"
    """Convolutions that halve or double the sides."""
    wide: tuple[str, ...] = ()
    """Names of blocks or layers whose weights have 8 bits in 4-bit variants too, such as `up_blocks.1.resnets.1`."""
    share: float = 0.15
    """In 4-bit variants, the layers whose rounding predictions feel most get 8 bits while all that is written stays
    below this share of float32's bytes; 0: none but those of `wide`."""


@dataclass(frozen=True, config=STRICT)
class RoundingConfig:
    """How weights outside the temporal block are rounded, block by block."""

    method: Literal["feedback", "adaround", "nearest"] = "feedback"
    """`feedback` rounds layer by layer in closed form (GPTQ, arXiv 2210.17323), `adaround` learns whether each weight
    goes up or down (2004.10568; BRECQ, 2102.05426; the papers' method), `nearest` is quick, and enough at 8 bits."""
    iterations: int = 20_000
    """Of AdaRound, for each block."""
    batch: int = 32
    """Rows of x in an iteration."""
    learning_rate: float = 1e-3
    """Of Adam. With few iterations take more: 1e-2 for a thousand."""
    weight: float = 0.01
    """Of the regulariser, sum(1 - |2 h - 1| ** beta)."""
    warmup: float = 0.2
    """Share of the iterations before the regulariser sets in."""
    beta: tuple[float, float] = (20.0, 2.0)
    """Its exponent falls from the first to the second, linearly."""


@dataclass(frozen=True, config=STRICT)
class ActivationsConfig:
    """Ranges of activations, when the variant quantises them."""

    estimate: Literal["minmax", "error"] = "minmax"
    """Outside the temporal block: from the least to the largest seen, or the range of the least squared error."""
    softmax: Literal["keep", "uint8"] = "keep"
    """Attention's probabilities: floating and fused, or rounded to 8 bits of [0, 1] and not fused (TFMQ-DM's code)."""


@dataclass(frozen=True, config=STRICT)
class TemporalConfig:
    """How the temporal features are kept (Temporal Feature Matters)."""

    reconstruction: Literal["feedback", "adaround", "none"] = "feedback"
    """TIAR: how the Temporal Information Block is rounded: by feedback, by the loss of the paper, or to the nearest."""
    per_step: Literal["none", "temporal", "all"] = "all"
    """FSC: which activations have a range for each step of the sampler."""
    maintenance: Literal["block", "cache", "selected"] = "selected"
    """Compute the features in the quantised block, read them from a cache, or by each one's lower error."""
    cache: Literal["float32", "float16", "int8"] = "float16"
    """Width of cached features; int8 has a scale and a zero point for each step."""
    granularity: Literal["module", "step"] = "module"
    """Selection for each module over all steps, or for each module and step."""
    cache_classes: int = 16
    """Class-conditional models have a feature for each step and class; with more classes the block is kept."""


@dataclass(frozen=True, config=STRICT)
class QuantisationConfig:
    """How a model becomes a quantised generator."""

    variant: str = "w8a8"
    """w (4 or 8 bits of weights) a (8 bits of activations; 16 and 32 leave them floating)."""
    sampler: str = "own"
    """The sampler that the generator is made for: its timesteps have ranges and cached features."""
    steps: int = 50
    """Of the sampler."""
    guidance: float = 1.0
    """Of the calibration trajectories; a generator may use another."""
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    """Trajectories of the full-precision model."""
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    """Grids of weights."""
    rounding: RoundingConfig = field(default_factory=RoundingConfig)
    """How weights are rounded."""
    activations: ActivationsConfig = field(default_factory=ActivationsConfig)
    """Ranges of activations."""
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    """How temporal features are kept."""

    def __post_init__(self) -> None:
        if VARIANT.fullmatch(self.variant) is None:
            raise ConfigError(f"variant is {self.variant!r}; give w4 or w8 with a8, a16 or a32, for example w4a8")
        if self.activations.softmax == "uint8" and self.activation_bits is None:
            raise ConfigError(
                f"activations.softmax is uint8, and {self.variant} leaves activations floating: give keep"
            )

    @property
    def weight_bits(self) -> int:
        return int(self.variant[1])

    @property
    def activation_bits(self) -> int | None:
        """8, or None where activations stay floating."""
        return 8 if self.variant.endswith("a8") else None
