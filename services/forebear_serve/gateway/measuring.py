"""Numbers for Prometheus and a line of log for each request; neither holds a secret, a prompt or a path of the disk."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

logger = logging.getLogger("forebear.serve")
BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


class Measures:
    """Of one gateway replica."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own = self._registry
        self._requests = Counter("forebear_requests", "Requests by route and status", ["route", "status"], registry=own)
        self._seconds = Histogram(
            "forebear_request_seconds", "Until the answer began", ["route"], buckets=BUCKETS, registry=own
        )
        self._stages = Histogram(
            "forebear_stage_seconds", "Of answers, by stage", ["stage"], buckets=BUCKETS, registry=own
        )
        self._cached = Counter(
            "forebear_pictures", "Pictures given out, by whether they were there", ["cached"], registry=own
        )
        self.active = Gauge("forebear_active_requests", "Requests being answered", registry=own)
        self._pending = Gauge(
            "forebear_pending_calls", "Calls that a part has not answered yet, begun or waiting", ["part"], registry=own
        )
        self._replicas = Gauge("forebear_replicas", "Copies of a part, by state", ["part", "state"], registry=own)
        self._recall = Gauge(
            "forebear_index_recall",
            "Part of the true best that an index finds, measured when it was built",
            ["estimator", "at"],
            registry=own,
        )

    def request(self, request_id: str, method: str, route: str, status: int, seconds: float, token: str) -> None:
        """Count a request and log it; `route` is the pattern, such as /v1/samples/{sample_id}."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        told = {
            "request": request_id, "method": method, "route": route, "status": status, "seconds": round(seconds, 4),
            "token": token,
        }  # fmt: skip
        logger.info(json.dumps(told))

    def stages(self, seconds: Mapping[str, float]) -> None:
        for stage, value in seconds.items():
            self._stages.labels(stage).observe(value)

    def picture(self, *, cached: bool) -> None:
        self._cached.labels(str(cached).lower()).inc()

    def recall(self, indexes: Mapping[str, Mapping[str, Any]]) -> None:
        """Of `IndexInfo.indexes`: those that search by codes have one."""
        for estimator, described in indexes.items():
            for at, part in described.get("recall", {}).items():
                self._recall.labels(estimator, at.removeprefix("at_")).set(part)

    def pending(self, calls: Mapping[str, int]) -> None:
        """By part."""
        for part, count in calls.items():
            self._pending.labels(part).set(count)

    def replicas(self, states: Mapping[str, Mapping[str, int]]) -> None:
        """By part and state; those of an earlier look are forgotten."""
        self._replicas.clear()
        for part, counts in states.items():
            for state, count in counts.items():
                self._replicas.labels(part, state).set(count)

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self._registry)
