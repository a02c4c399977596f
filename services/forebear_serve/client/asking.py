"""What both HTTP clients make of what came back: send again, read, or raise."""

from typing import TypeVar

import httpx2

from forebear_serve.client.calls import Call
from forebear_serve.client.connection import RETRY_STATUSES, Target, pause, refusal

T = TypeVar("T")
Came = httpx2.Response | httpx2.TransportError
"""An answer, or why there was none."""


def again(call: Call[T], came: Came, attempt: int, retries: int) -> float | None:
    """Seconds after which the call is to be sent once more; None: what came after `attempt` retries is the last."""
    if attempt >= retries:
        return None
    if isinstance(came, httpx2.TransportError):
        return pause(attempt, {}) if call.repeatable else None
    if came.status_code in RETRY_STATUSES and came.status_code not in call.accepted:
        return pause(attempt, came.headers)
    return None


def answered(call: Call[T], came: Came, target: Target) -> T:
    """The answer; raises UnreachableError or RefusedError where there is none."""
    if isinstance(came, httpx2.TransportError):
        raise target.unreachable(came) from None
    if came.is_success or came.status_code in call.accepted:
        return call.read(came.content)
    raise refusal(came.status_code, came.content)
