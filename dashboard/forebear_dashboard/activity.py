"""What the server has been doing: its own counts of requests, told in words."""

import re
from collections import Counter
from dataclasses import dataclass, field

from forebear_serve.job_schemas import JobInfo, JobState

LINE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
REASONS = {
    401: ("a token that is not accepted", "make one with `forebear token create`"),
    403: ("a token without the scope", "use a token that has it"),
    404: ("something that is not there", "it was removed, or the link is old"),
    409: ("a change of what somebody else had changed", "look at it again, then change it"),
    413: ("a picture or request that is too large", "send a smaller one"),
    422: ("a request that cannot be meant so", "the answer named the field"),
    429: ("more than the server takes on at once", "ask again later, or serve more replicas"),
    500: ("an error of the server's own", "its log has more"),
    503: ("a part that did not answer", "see the parts above, and the server's log"),
}
"""By status: what was asked for, and what to do."""
FIRST_ERROR = 400
RUNNING = "running"
"""The state of a replica that takes calls."""
STAGES = {
    "generate": "making a picture",
    "embed": "measuring it",
    "embed_early": "measuring it early",
    "score": "finding its ancestors",
    "wait": "waiting",
}


@dataclass(frozen=True)
class Activity:
    """Of the gateway replica that answered, since it started."""

    active: int = 0
    """Requests that are being answered now."""
    answered: int = 0
    errors: Counter[int] = field(default_factory=Counter)
    """Answers by status, from 400 on."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Mean of each stage."""
    pending: dict[str, int] = field(default_factory=dict)
    """By part, calls that it has not answered yet."""
    replicas: dict[str, Counter[str]] = field(default_factory=dict)
    """By part, how many copies are in which state; none where the parts are objects of one process."""


def read_activity(text: str) -> Activity:
    """From /v1/metrics, in Prometheus's text format."""
    active, answered, errors = 0, 0, Counter[int]()
    pending, replicas = dict[str, int](), dict[str, Counter[str]]()
    sums, counts = dict[str, float](), dict[str, float]()
    for name, labels, value in _samples(text):
        if name == "forebear_active_requests":
            active = int(value)
        elif name == "forebear_requests_total":
            status = int(labels["status"])
            answered += int(value)
            if status >= FIRST_ERROR:
                errors[status] += int(value)
        elif name == "forebear_pending_calls":
            pending[labels["part"]] = int(value)
        elif name == "forebear_replicas":
            replicas.setdefault(labels["part"], Counter())[labels["state"]] = int(value)
        elif name == "forebear_stage_seconds_sum":
            sums[labels["stage"]] = value
        elif name == "forebear_stage_seconds_count":
            counts[labels["stage"]] = value
    means = {stage: total / counts[stage] for stage, total in sums.items() if counts.get(stage)}
    return Activity(active, answered, errors, means, pending, replicas)


def job_part(job: JobInfo) -> float | None:
    """How much of a job is done, 0 to 1; None where it does not say."""
    if job.state is JobState.SUCCEEDED:
        return 1.0
    told = job.progress or {}
    done, total = told.get("done"), told.get("total")
    return done / total if isinstance(done, int | float) and isinstance(total, int | float) and total else None


def replicas_told(states: Counter[str]) -> str:
    """Such as `1 of 2: 1 starting`; nothing where no replicas are known."""
    rest = [f"{count} {state}" for state, count in states.items() if count and state != RUNNING]
    running = f"{states[RUNNING]} of {states.total()}" if states else ""
    return ": ".join([running, ", ".join(rest)]) if rest else running


def error_words(status: int) -> tuple[str, str]:
    """What was asked for, and what to do."""
    return REASONS.get(status, (f"answers with status {status}", "the server's log has more"))


def stage_words(stage: str) -> str:
    return STAGES.get(stage, stage.replace("_", " "))


def _samples(text: str) -> list[tuple[str, dict[str, str], float]]:
    found = []
    for line in text.splitlines():
        match = LINE.match(line)
        if match is not None:
            found.append((match[1], dict(LABEL.findall(match[2] or "")), float(match[3])))
    return found
