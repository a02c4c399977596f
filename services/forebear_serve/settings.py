"""What a deployment of services is told: one YAML file, or the arguments of `forebear_serve.application:build`."""

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from forebear.config import STRICT
from forebear.errors import ConfigError
from forebear.estimators import DEFAULT_ESTIMATOR

Count = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(gt=0)]
FULL_PRECISION = "fp32"
"""The generator that is there when none is named: the run's own model."""


@dataclass(frozen=True, config=STRICT)
class Replicas:
    """How many copies of a deployment run, and what each takes of a machine."""

    least: Annotated[int, Field(ge=0)] = 1
    """Copies that always run."""
    most: Count = 1
    """More than `least`: as many as requests ask for, by Ray Serve's autoscaler."""
    cpus: Annotated[float, Field(ge=0)] = 1.0
    """Cores that one copy takes."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """A part of a GPU shares it."""
    queue: Count = 16
    """Requests that may wait for a replica; more are answered 429."""

    def __post_init__(self) -> None:
        if self.least > self.most:
            raise ConfigError(f"least is {self.least} and most {self.most}; give a most of {self.least} or more")


@dataclass(frozen=True, config=STRICT)
class GeneratorSettings:
    """One generator: a deployment of its own."""

    model: Path | None = None
    """A diffusers directory, or a folder of `forebear quantize`; None: the run's own model."""
    backend: str = "auto"
    """Of a quantised generator; see docs/quantisation.md."""
    replicas: Replicas = Replicas()
    """Copies of it."""


@dataclass(frozen=True, config=STRICT)
class AttributorSettings:
    """The deployment that answers where pictures come from."""

    estimator: str = DEFAULT_ESTIMATOR
    """Where a request names none; its index and calibration are opened before the first request."""
    exact_timesteps: Count | None = 16
    """Of mode `exact`; None: the store's own."""
    fast_timesteps: Count | None = 4
    """Of mode `fast`: so many of those of `exact`, evenly spaced; None, or more than those: the store's own."""
    fast_parameters: tuple[str, ...] = (
        "up_blocks.*",
        "!up_blocks.*norm*",
        "!up_blocks.*to_q.*",
        "!up_blocks.*to_k.*",
        "!up_blocks.*attentions*bias",
        "conv_norm_out.*",
        "conv_out.*",
        "conv_in.*",
        "time_embedding.*",
    )
    """Patterns of the parameters whose gradients mode `fast` measures; one that starts with `!` takes out what it
    matches. Of a UNet these are nearly a whole gradient, in less time. Patterns that match nothing of the model are
    passed over; where none is left, all parameters are measured."""
    early_checkpoints: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of the checkpoints that mode `fast` measures on the predicted clean picture while it is still being made:
    sooner, and less like the final picture's answer (docs/services.md has figures)."""
    early_step: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Part of the sampler's steps after which that begins."""
    batch: Count = 4
    """Most pictures that a replica embeds together, out of those that wait."""
    batch_wait: Annotated[float, Field(ge=0)] = 0.0
    """Seconds for which the first picture of a batch waits for others; while one batch is embedded the next gathers
    anyway."""
    threads: Count = 4
    """Checkpoints that are measured at a time, for a single picture and while the machine has idle cores."""
    cache: Annotated[int, Field(ge=0)] = 256
    """Embedded pictures that a replica keeps."""
    replicas: Replicas = Replicas()
    """Copies of it."""


@dataclass(frozen=True, config=STRICT)
class Limits:
    """What a request may ask for; more is refused with a 4xx that names the limit."""

    upload_bytes: Count = 10_000_000
    """Of a picture's file."""
    body_bytes: Count = 16_000_000
    """Of a whole request: pictures in JSON are a third longer than their files."""
    pixels: Count = 16_000_000
    """Of an uploaded picture."""
    prompt_characters: Count = 1_000
    """Of a prompt."""
    steps: Count = 200
    """Of the sampler."""
    top_k: Count = 200
    """Proponents, and opponents, in an answer."""
    page: Count = 500
    """Entries of one page of a list."""
    seconds: Amount = 120.0
    """Of one request."""
    requests_per_minute: Count = 600
    """Of one token."""
    generations_per_minute: Count = 60
    """Of one token: pictures made or attributed."""
    kept_pictures: Count = 10_000
    """Generated and uploaded pictures kept in the run; the oldest go first."""


@dataclass(frozen=True, config=STRICT)
class ServeSettings:
    """A whole application."""

    run: Path
    """The run whose images, index and model are served."""
    database: str | None = None
    """Of reviews and tokens, as an SQLAlchemy URL; None: RUN/reviews.sqlite."""
    generators: Mapping[str, GeneratorSettings] = field(default_factory=lambda: {FULL_PRECISION: GeneratorSettings()})
    """By the name that requests use; the first is taken where none is named."""
    attributor: AttributorSettings = AttributorSettings()
    """What answers where pictures come from."""
    gateway: Replicas = Replicas(cpus=0.2, queue=256)
    """What speaks HTTP."""
    catalogue: Replicas = Replicas(cpus=0.2, queue=256)
    """What reads training images and takes uploads."""
    reviews: Replicas = Replicas(cpus=0.1, queue=256)
    """What writes reviews."""
    audits: Replicas = Replicas(cpus=0.5)
    """What looks at the training set as a whole."""
    jobs_cpus: Annotated[float, Field(ge=0)] = 0.1
    """Of the one replica that starts jobs; what they compute with is not counted."""
    forked: bool = True
    """Whether generators, attributor and audits are forked from a process that has imported torch once for all of a
    machine: they start in seconds and share its memory. On Linux alone."""
    limits: Limits = Limits()
    """What a request may ask for."""
    open_to: tuple[str, ...] = ()
    """Origins whose pages may call the API (CORS); none by default."""

    def __post_init__(self) -> None:
        if not self.generators:
            raise ConfigError("generators is empty; name at least one, or leave it out for the run's own model")
        for name in self.generators:
            if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
                raise ConfigError(f"generators: {name!r} must be of letters, digits, '-', '_' and '.'")

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.run.absolute() / 'reviews.sqlite'}"
