"""The alerts fire when they should and are quiet otherwise: Prometheus's own engine evaluates them (promtool)."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from checks import facts

PROMTOOL = shutil.which("promtool")
ALERTS = facts.DEPLOY / "monitoring/alerts.yaml"
GATEWAY = 'ray_serve_deployment_replica_healthy{deployment="gateway",application="forebear",replica="a"}'
TRACER = 'ray_serve_deployment_replica_healthy{deployment="attributor",application="forebear",replica="b"}'
ANSWERS = 'forebear_requests_total{{status="{}"}}'
LATE = 'forebear_stage_seconds_bucket{{stage="after_picture",le="{}"}}'
DONE = 'ray_forebear_done_total{stage="embedding",run="photos"}'
WORKERS = 'ray_forebear_workers{stage="embedding",run="photos"}'
WELL = {GATEWAY: "1+0x120", TRACER: "1+0x120"}
CASES: dict[str, tuple[dict[str, str], set[str]]] = {
    "all is well": (
        {
            ANSWERS.format("200"): "0+600x120",
            ANSWERS.format("500"): "0+6x120",
            ANSWERS.format("429"): "0+6x120",
            'ray_serve_deployment_queued_queries{deployment="fp32",application="forebear"}': "3+0x120",
            LATE.format("16"): "0+20x120",
            LATE.format("+Inf"): "0+20x120",
            DONE: "0+60x120",
            WORKERS: "4+0x120",
            'ray_forebear_set_aside{stage="embedding",run="photos"}': "0+0x120",
        },
        set(),
    ),
    "nobody counts replicas": ({GATEWAY: "_x120", TRACER: "_x120"}, {"ForebearDoesNotServe"}),
    "no gateway": ({GATEWAY: "0+0x120"}, {"ForebearDoesNotServe", "ForebearDeploymentDown"}),
    "no attributor": ({TRACER: "0+0x120"}, {"ForebearDeploymentDown"}),
    "one of two is down": ({TRACER.replace('"b"', '"c"'): "0+0x120"}, set()),
    "a short outage": ({TRACER: "1+0x110 0+0x2 1+0x8"}, set()),
    "a queue": (
        {'ray_serve_deployment_queued_queries{deployment="fp32",application="forebear"}': "30+0x120"},
        {"ForebearQueueGrows"},
    ),
    "errors": ({ANSWERS.format("200"): "0+90x120", ANSWERS.format("503"): "0+10x120"}, {"ForebearFails"}),
    "too many": ({ANSWERS.format("200"): "0+80x120", ANSWERS.format("429"): "0+20x120"}, {"ForebearTurnsAway"}),
    "late ancestors": (
        {LATE.format("16"): "0+90x120", LATE.format("32"): "0+100x120", LATE.format("+Inf"): "0+100x120"},
        {"ForebearAncestorsLate"},
    ),
    "a job that stands": ({DONE: "500+0x120", WORKERS: "4+0x120"}, {"ForebearEmbeddingStalls"}),
    "a job that has ended": ({DONE: "500+0x120", WORKERS: "0+0x120"}, set()),
    "broken images": (
        {'ray_forebear_set_aside{stage="embedding",run="photos"}': "2+0x120"},
        {"ForebearShardsSetAside"},
    ),
}
"""Series, a value a minute for two hours, over those of a healthy service; and what fires at their end."""


def test_every_alert_has_its_case() -> None:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["spec"]["groups"]
    assert {rule["alert"] for group in groups for rule in group["rules"]} == {
        name for _, fired in CASES.values() for name in fired
    }


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian's package prometheus has it)")
@pytest.mark.parametrize("case", CASES)
def test_alerts_fire(case: str, tmp_path: Path) -> None:
    series, fired = CASES[case]
    spec = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    asked = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": "2h",
        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(fired)],
    }
    given = [{"series": name, "values": values} for name, values in (WELL | series).items()]
    test = {"interval": "1m", "input_series": given, "promql_expr_test": [asked]}
    described = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
    command = [PROMTOOL or "", "test", "rules", str(tmp_path / "test.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
