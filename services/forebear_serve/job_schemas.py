"""The bodies of /v1/jobs."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forebear_serve.schemas import Body

JobId = Annotated[str, Field(pattern=r"^[0-9]{8}T[0-9]{6}-[0-9a-f]{8}$", description="Of a job.")]
Estimators = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,49}$")], ...],
    Field(max_length=20, description="By name; none: all that the store serves."),
]


class EmbedOptions(Body):
    """Of `forebear embed`, which goes by the run's own settings."""

    grow: bool = Field(False, description="Embed images that came since, and take those that went out of all answers.")
    retry_quarantined: bool = Field(False, description="Try the shards again that were given up before.")


class IndexOptions(Body):
    """Of `forebear index`."""

    estimators: Estimators = ()


class EvaluateOptions(Body):
    """Of `forebear evaluate`."""

    evaluation: Literal["specificity", "tracing", "removal", "families", "outliers", "lds", "report"]
    estimators: Estimators = ()
    queries: int | None = Field(None, ge=2, le=10_000, description="null: the settings'.")

    @model_validator(mode="after")
    def _fitting(self) -> "EvaluateOptions":
        if self.queries is not None and self.evaluation in ("outliers", "lds", "report"):
            raise ValueError(f"the evaluation {self.evaluation} takes no number of queries; leave it out")
        if self.estimators and self.evaluation == "report":
            raise ValueError("a report is of every estimator; leave them out")
        return self


class EmbedJob(Body):
    """Measure the training images."""

    kind: Literal["embed"]
    options: EmbedOptions = EmbedOptions()


class IndexJob(Body):
    """Build what estimators search."""

    kind: Literal["index"]
    options: IndexOptions = IndexOptions()


class EvaluateJob(Body):
    """Measure how far answers can be trusted."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"kind": "evaluate", "options": {"evaluation": "specificity", "queries": 32}}]}
    )

    kind: Literal["evaluate"]
    options: EvaluateOptions


JobRequest = Annotated[EmbedJob | IndexJob | EvaluateJob, Field(discriminator="kind")]


class JobState(StrEnum):
    """How a job stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """It ended with an error, which the log has."""
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """It was ended from outside, as by a restart of the machine. The same job, started again, goes on."""


class JobInfo(BaseModel):
    """A job."""

    id: JobId
    kind: Literal["embed", "index", "evaluate"]
    options: dict[str, Any]
    state: JobState
    actor: str = Field(description="Name of the token that started it.")
    started: datetime
    exit_status: int | None = Field(description="Of its process; null while it runs, or when nobody saw it end.")
    progress: dict[str, Any] | None = Field(
        description="The last event of `embed`: stage, done, total, rate ...; in lists of the running job alone."
    )
    log: tuple[str, ...] = Field((), description="The last lines that it wrote; never in lists.")
