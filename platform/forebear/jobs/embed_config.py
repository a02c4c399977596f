"""What `forebear embed` measures, and how it cuts and spreads the work."""

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from forebear.config import STRICT, plain
from forebear.diffusion.measurement import Loss, Measurement
from forebear.errors import ConfigError
from forebear.gradients import Precision, ProjectionConfig
from forebear.gradients.columns import COLUMNS

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=STRICT)
class EmbedConfig:
    """Settings of an embedding. All but `workers` decide the numbers (`batch_size` and `shard_rows` by rounding)."""

    timesteps: Count = 8
    """T: stratified timesteps of every picture; `recorded` has one of its own instead."""
    scheme: Literal["stratified", "recorded"] = "stratified"
    """`recorded` replays what training drew for each picture in the epoch that a checkpoint closes: the timestep, the
    noise, the flip and the dropped caption. Exact Diffusion-TracIn (Xie et al., arXiv 2401.09031)."""
    draws: Count = 1
    """D: noises at each stratified timestep; gradients are averaged over them."""
    noise: Literal["shared", "per_sample"] = "shared"
    """`shared`: every picture, and every query, meets the same noise at a timestep, so that chance cancels out."""
    seed: int = 0
    """Of the noise of stratified timesteps and of queries."""
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    """How a gradient becomes a vector."""
    parameters: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    """Shell-style patterns over the denoiser's parameter names; `!` before a pattern takes out what it matches."""
    loss: Loss = "mse"
    """The loss whose gradient is taken; the one of training."""
    measurements: tuple[Measurement, ...] = ("loss",)
    """`loss` and what else is measured: `square` for the estimator dtrak, `output` for das. Each of them costs one more
    gradient pass and adds a vector column to the store."""
    precision: Precision = "float32"
    """`bfloat16` lets linear layers and convolutions multiply in it: 1.4 times as fast with AVX512-BF16."""
    batch_size: Count = 32
    """Rows that the denoiser sees at a time: one for each picture, timestep and draw."""
    shard_rows: Count = 256
    """Pictures in a shard: what a crash can cost each worker."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Single-threaded Ray actors; 0 works in this process."""

    def __post_init__(self) -> None:
        """Refuse measurements without the loss, which norms, losses and most estimators are of."""
        if "loss" not in self.measurements or len(set(self.measurements)) != len(self.measurements):
            raise ConfigError(f"measurements are {list(self.measurements)}; name `loss`, and each only once")

    @property
    def columns(self) -> tuple[str, ...]:
        """The store's vector columns."""
        return tuple(
            column for measurement, columns in COLUMNS.items() if measurement in self.measurements for column in columns
        )

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the numbers, as plain values for run.yaml."""
        return {name: value for name, value in plain(self).items() if name != "workers"}
