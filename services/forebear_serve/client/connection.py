"""What both HTTP clients know about requests: addresses, tokens, errors, when to ask again, events of a stream."""

import json
import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from forebear.errors import ConfigError, ForebearError
from forebear_serve.addresses import ADDRESS, DEFAULT_ADDRESS, TOKEN
from forebear_serve.schemas import Picture, Progressed, Timings, Traced

SECONDS = 150.0
"""That a client waits for an answer: longer than a server lets a request last."""
RETRY_STATUSES = (429, 503)
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
EVENTS: Mapping[str, type[BaseModel]] = {
    "progress": Progressed,
    "picture": Picture,
    "attribution": Traced,
    "done": Timings,
}
Event = Progressed | Picture | Traced | Timings


class UnreachableError(ForebearError):
    """Nobody answers at the address."""


class RefusedError(ForebearError):
    """The server answered with problem details: its `status`, `kind` and request id are in `problem`."""

    @property
    def problem(self) -> Mapping[str, Any]:
        return json.loads(self.args[0].partition("\n")[2] or "{}") if "\n" in self.args[0] else {}

    def __str__(self) -> str:
        return str(self.args[0]).partition("\n")[0]

    @property
    def status(self) -> int:
        return int(self.problem.get("status", 0))


def refusal(status: int, body: bytes) -> RefusedError:
    """The error of an answer that is not 2xx; one that is no problem details comes from something in between."""
    try:
        told = json.loads(body)
        detail = told["detail"] or told["title"]
    except (ValueError, KeyError, TypeError):
        told = {"status": status}
        detail = f"the server answered {status} without a reason; is this the address of Forebear's gateway?"
    return RefusedError(f"{detail}\n{json.dumps(told)}")


@dataclass(frozen=True)
class Target:
    """Where a client asks, and as whom."""

    address: str
    token: str

    @classmethod
    def of(cls, address: str | None, token: str | None) -> "Target":
        """Arguments, or environment variables in their place; raises ConfigError without a token."""
        place = (address or os.environ.get(ADDRESS) or DEFAULT_ADDRESS).rstrip("/")
        if not place.startswith(("http://", "https://")):
            raise ConfigError(f"{place} is no address; give one such as {DEFAULT_ADDRESS}")
        secret = token or os.environ.get(TOKEN) or ""
        if not secret:
            raise ConfigError(
                f"there is no token; give token=, or set {TOKEN}; `forebear token create` makes one on the server"
            )
        return cls(f"{place}/v1", secret)

    def unreachable(self, failed: Exception) -> UnreachableError:
        return UnreachableError(f"{self.address} does not answer ({failed}); is `forebear serve` running there?")

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


def pause(attempt: int, headers: Mapping[str, str]) -> float:
    """Seconds before the next attempt: what the server says, or longer each time, and never all clients at once."""
    told = headers.get("retry-after", "")
    least = float(told) if told.isdecimal() else FIRST_PAUSE * 2**attempt
    return min(least, LONGEST_PAUSE) * random.uniform(1.0, 1.25)


class EventReader:
    """Puts the lines of a stream together to events."""

    def __init__(self) -> None:
        self._name = ""

    def line(self, text: str) -> Iterator[Event]:
        """The event that a line completes; raises RefusedError for one of an error."""
        if text.startswith("event: "):
            self._name = text.removeprefix("event: ")
        elif text.startswith("data: "):
            data = text.removeprefix("data: ")
            if self._name == "error":
                raise refusal(0, data.encode())
            if self._name in EVENTS:
                event = EVENTS[self._name].model_validate_json(data)
                if isinstance(event, Progressed | Picture | Traced | Timings):
                    yield event
