"""Alerts, dashboards and monitors: only over metrics, labels, ports and paths that there are."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
from jsonschema import Draft202012Validator

from checks.facts import PORTS, RAY
from checks.pods import selector_problems
from checks.schemas import TEXT, TEXTS, broken, many, thing
from forebear.jobs import events
from forebear_serve import deployments
from forebear_serve.gateway import informing
from forebear_serve.gateway.measuring import Measures
from forebear_serve.serving import APPLICATION

SELECTOR = thing("matchLabels", matchLabels=TEXTS)
CREDENTIALS = thing("name key", name={"const": "forebear-metrics-token"}, key={"const": "token"})
ENDPOINT = thing(
    "port path", port=TEXT, path=TEXT, interval=TEXT,
    authorization=thing("credentials", type={"const": "Bearer"}, credentials=CREDENTIALS),
)  # fmt: skip
RULE = thing(
    "alert expr labels annotations",
    alert={"type": "string", "pattern": "^Forebear[A-Za-z]+$"},
    expr=TEXT,
    labels=thing("severity", severity={"enum": ["warning", "critical"]}),
    annotations=thing("summary description", summary=TEXT, description=TEXT),
    **{"for": {"type": "string", "pattern": "^[0-9]+[smhd]$"}},
)
SCHEMAS = {
    "PodMonitor": thing("selector podMetricsEndpoints", selector=SELECTOR, podMetricsEndpoints=many(ENDPOINT)),
    "PrometheusRule": thing("groups", groups=many(thing("name rules", name=TEXT, rules=many(RULE)))),
}
"""Of what is used here of the Prometheus operator's kinds, whose definitions no package on PyPI ships."""
METADATA = thing("name namespace", name=TEXT, namespace=TEXT, labels=TEXTS)
PATHS = {
    "metrics": {"/metrics"},
    "serve": {f"/v1{route.path}" for route in informing.router.routes if route.path == "/metrics"},
}
NAMED = ("GATEWAY", "TRACER", "CATALOGUE", "REVIEWS", "AUDITS", "JOBS")
VALUES = {
    "deployment": {getattr(deployments, name) for name in NAMED},
    "application": {APPLICATION},
    "cached": {"true", "false"},
}
"""Of labels, where only these are ever written."""


@cache
def exported() -> dict[str, set[str]]:
    """Metrics by the name that a query uses, with their labels; Ray Serve's without."""
    found: dict[str, set[str]] = {}
    for family in Measures()._registry.collect():
        labels = set(getattr(_metric(family.name), "_labelnames", ()))
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        found |= {family.name + suffix: labels | ({"le"} if suffix == "_bucket" else set()) for suffix in suffixes}
    found |= {f"ray_forebear_{name}": {"stage", "run"} for name in events.GAUGES}
    found[f"ray_forebear_{events.DONE}_total"] = {"stage", "run"}
    for file in (RAY / "serve/_private").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        for name in re.findall(r"Gauge\(\s*(?:name=)?\"(serve_[a-z_]+)\"", text):
            found[f"ray_{name}"] = set()
    return found


def _metric(family: str) -> Any:
    own = Measures()._registry
    return next((metric for metric, names in own._collector_to_names.items() if family in names), None)


def query_problems(query: str, where: str) -> list[str]:
    """Of a query in Prometheus's language."""
    try:
        parsed = promql_parser.parse(query)
    except ValueError as wrong:
        return [f"{where}: {query}: {wrong}"]
    found, selectors = [], _selectors(parsed)
    if not selectors:
        found.append(f"{where}: {query}: asks for no metric")
    for selector in selectors:
        if selector.name not in exported():
            found.append(f"{where}: nothing exports {selector.name}")
            continue
        labels = exported()[selector.name]
        for matcher in selector.matchers.matchers:
            if labels and matcher.name not in labels:
                found.append(f"{where}: {selector.name} has no label {matcher.name}")
            if (
                matcher.name in VALUES
                and str(matcher.op) == "MatchOp.Equal"
                and matcher.value not in VALUES[matcher.name]
            ):
                found.append(f"{where}: no {selector.name} has {matcher.name} {matcher.value}")
    return found


def _selectors(expression: Any) -> list[Any]:
    """Every metric that an expression asks for."""
    kind = type(expression).__name__
    if kind == "VectorSelector":
        return [expression]
    if kind == "MatrixSelector":
        return [expression.vector_selector]
    children = [getattr(expression, name, None) for name in ("lhs", "rhs", "expr", "args", "param")]
    inner: list[Any] = []
    for child in children:
        for one in child if isinstance(child, list) else [child]:
            inner += _selectors(one) if one is not None else []
    return inner


def monitor_problems(resource: dict[str, Any], where: str) -> list[str]:
    """Of a PodMonitor or a PrometheusRule."""
    schema = thing(
        "apiVersion kind metadata spec",
        apiVersion={"const": "monitoring.coreos.com/v1"}, kind=TEXT, metadata=METADATA, spec=SCHEMAS[resource["kind"]],
    )  # fmt: skip
    if found := broken(Draft202012Validator(schema), resource, where):
        return found
    for group in resource["spec"].get("groups", []):
        for rule in group["rules"]:
            found += query_problems(rule["expr"], rule["alert"])
    found += selector_problems(resource["spec"].get("selector", {}).get("matchLabels", {}), where)
    for endpoint in resource["spec"].get("podMetricsEndpoints", []):
        if endpoint["port"] not in PORTS or endpoint["path"] not in PATHS.get(endpoint["port"], set()):
            found.append(f"{where}: nothing answers {endpoint['path']} at the port {endpoint['port']}")
        if (endpoint["port"] == "serve") != ("authorization" in endpoint):
            found.append(f"{where}: the gateway's metrics ask for a token, Ray's for none")
    return found


def dashboard_problems(file: Path) -> list[str]:
    """Of a Grafana dashboard."""
    board = json.loads(file.read_text(encoding="utf-8"))
    found = [f"{file.name}: no {key}" for key in ("title", "uid", "panels", "schemaVersion") if not board.get(key)]
    for panel in board.get("panels", []):
        queries = [target.get("expr") for target in panel.get("targets", [])]
        if not queries or None in queries:
            found.append(f"{file.name}: {panel.get('title')} asks for nothing")
        for query in filter(None, queries):
            found += query_problems(query, f"{file.name}: {panel.get('title')}")
    return found
