"""The bodies of /v1: what programs send and receive. Fields are only added within a version, with a default."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from forebear.attribution import Attribution
from forebear_generators.cow.request import Encoded, taking_mode
from forebear_generators.cow.request import Mode as CowMode
from forebear_generators.cow.settings import CowConfig
from forebear_serve.scopes import Scope

SEED = Field(0, ge=0, le=2**63 - 1, description="The same seed gives the same picture.")
Score = FiniteFloat
PictureId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", description="Of a picture that was made or uploaded.")]
SampleId = Annotated[str, Field(min_length=1, max_length=512, description="Of a training image.")]


class Body(BaseModel):
    """What a request says: a misspelt field is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Mode(StrEnum):
    """How carefully a picture is measured."""

    FAST = "fast"
    """At the store's own timesteps; no intervals."""
    EXACT = "exact"
    """At more timesteps and every checkpoint, on the final picture, with intervals and p-values for groups."""


class Region(Body):
    """A part of the picture: a box, or a mask."""

    box: tuple[int, int, int, int] | None = Field(None, description="Left, top, right, bottom in the picture's pixels.")
    mask: Base64Bytes | None = Field(None, description="A grey picture in base64, white where to ask.")

    @model_validator(mode="after")
    def _one(self) -> "Region":
        if (self.box is None) == (self.mask is None):
            raise ValueError("give either a box or a mask")
        return self


class AttributeOptions(Body):
    """What is asked about a picture's ancestors."""

    estimators: tuple[str, ...] = Field((), max_length=8, description="By name; none: the server's default.")
    mode: Mode = Mode.FAST
    top_k: int = Field(24, ge=1, description="Proponents, and opponents, in the answer.")
    region: Region | None = None
    timesteps: tuple[int, int] | None = Field(
        None, description="First and last timestep to measure at: low ones are details, high ones coarse shapes."
    )
    groups: tuple[str, ...] | None = Field(None, description="Columns whose totals are wanted; null: all.")


class CowOptions(Body):
    """A picture to be made around an image, by Cyclic One-Way Diffusion."""

    image: Encoded = Field(description="PNG, JPEG or WebP in base64.")
    mask: Encoded | None = Field(None, description="A picture of the image's size, white where it is kept; null: all.")
    mode: CowMode = "scene"
    settings: CowConfig = Field(default_factory=CowConfig, description="What is not given is the mode's.")

    @model_validator(mode="before")
    @classmethod
    def _take_mode(cls, values: Any) -> Any:
        return taking_mode(values)


class GenerateRequest(Body):
    """A picture to be made."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "red heart", "seed": 3, "steps": 20, "attribute": {"top_k": 12}}]}
    )

    prompt: str = Field("", description="For text-conditional models.")
    label: int | None = Field(None, description="Class, for class-conditional models.")
    generator: str | None = Field(None, max_length=100, description="By name, from /v1/generators; null: the first.")
    seed: int = SEED
    sampler: str | None = Field(None, max_length=40, description="null: the generator's own.")
    steps: int | None = Field(None, ge=1, description="null: the generator's own.")
    guidance: FiniteFloat = Field(1.0, ge=0, le=100, description="Classifier-free guidance; 1 switches it off.")
    cow: CowOptions | None = Field(None, description="Around an image; steps and guidance are then in its settings.")
    attribute: AttributeOptions | None = Field(None, description="null: the picture alone.")

    @model_validator(mode="after")
    def _one_place(self) -> "GenerateRequest":
        if self.cow is not None and (self.steps, self.sampler, self.guidance) != (None, None, 1.0):
            raise ValueError("with cow, give steps and guidance in cow.settings, and no sampler")
        return self


class AttributeRequest(Body):
    """A picture that is there, to be traced: exactly one of `picture`, `sample` and `image`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"sample": "openmoji/1F600", "prompt": "grinning face"}]})

    picture: PictureId | None = None
    sample: SampleId | None = None
    image: Base64Bytes | None = Field(None, description="PNG, JPEG or WebP in base64.")
    prompt: str | None = Field(None, description="null: what the picture was made with, or the sample's caption.")
    label: int | None = None
    options: AttributeOptions = AttributeOptions()

    @model_validator(mode="after")
    def _one(self) -> "AttributeRequest":
        if sum(given is not None for given in (self.picture, self.sample, self.image)) != 1:
            raise ValueError("give exactly one of picture, sample and image")
        return self


class Timings(BaseModel):
    """Seconds by stage: what an answer took, and where."""

    total: float = Field(description="From the request's arrival to this answer.")
    stages: dict[str, float] = Field(
        default_factory=dict, description="generate, embed_early (beside generating), embed, score, audit ..."
    )


class PictureInfo(BaseModel):
    """A picture that was made or uploaded."""

    id: PictureId
    origin: Literal["generated", "uploaded"]
    width: int
    height: int
    prompt: str = ""
    label: int | None = None
    generator: str | None = None
    request: dict[str, Any] | None = Field(None, description="The request that makes this picture again.")
    facts: dict[str, Any] = Field(default_factory=dict, description="What ran: backend, variant.")
    created: datetime


class Picture(PictureInfo):
    """The same with the picture itself."""

    png: str = Field(description="In base64.")
    cached: bool = Field(False, description="Whether it had been made before.")


class Traced(BaseModel):
    """Where a picture comes from, by each estimator that was asked for."""

    attributions: tuple[Attribution, ...]
    mode: Mode
    preliminary: tuple[str, ...] = Field(
        (), description="Checkpoints that measured the predicted picture before it was final; the others the final one."
    )
    timings: Timings


class Generated(BaseModel):
    """A picture and, where asked for, its ancestors."""

    picture: Picture
    traced: Traced | None = None
    timings: Timings


class Progressed(BaseModel):
    """How far a picture is."""

    done: int
    total: int
    preview: str | None = Field(None, description="What the denoiser sees, as PNG in base64.")


class GeneratorInfo(BaseModel):
    """A generator that pictures can be asked of."""

    name: str
    variant: str
    sampler: str
    steps: int
    conditioning: str = Field(description="none, class or text.")
    image_size: int
    samplers: tuple[str, ...]
    facts: dict[str, Any] = Field(description="What runs: the backend, why not another one, bytes.")


class EstimatorInfo(BaseModel):
    """An estimator that this run can answer by."""

    name: str
    description: str
    default: bool
    baseline: bool


class IndexInfo(BaseModel):
    """What answers rest on."""

    run: str
    samples: int
    removed: int
    sign: str
    store_plan: str
    dataset: str
    checkpoints: tuple[str, ...]
    timesteps: tuple[int, ...]
    measurement: str
    version: str
    indexes: dict[str, dict[str, Any]] = Field(description="By estimator: kind, and recall where it is not exact.")


class SampleInfo(BaseModel):
    """A training image."""

    id: str
    row: int
    caption: str
    label: int | None = None
    groups: dict[str, str]


class SamplePage(BaseModel):
    """A page of training images, in the training set's order."""

    samples: tuple[SampleInfo, ...]
    total: int = Field(description="That match, on all pages.")
    next: int | None = Field(None, description="`after` of the next page; null: this is the last.")


class GroupValue(BaseModel):
    """One value of a group column."""

    value: str
    samples: int


class GroupInfo(BaseModel):
    """A column by which training images are grouped: artist, licence, source ..."""

    name: str
    values: tuple[GroupValue, ...] = Field(description="The most frequent first, as many as `limit`.")
    distinct: int


class TokenInfo(BaseModel):
    """A caller's own access token."""

    name: str
    scopes: tuple[Scope, ...] = Field(description="What it allows; those that admin implies are among them.")
    expires: datetime | None = Field(None, description="null: good until somebody revokes it.")


class Health(BaseModel):
    """Whether the services answer."""

    status: Literal["ok", "starting", "degraded"]
    parts: dict[str, str] = Field(description="By deployment: ok, or what is wrong.")
    version: str
