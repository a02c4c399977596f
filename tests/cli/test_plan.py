"""`forebear plan` as a user types it."""

import json
from pathlib import Path


def test_plan_of_a_run_for_more_images_on_more_workers(forebear, embedded_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    result = forebear(
        *("plan", "--run", embedded_run, "--seconds", 0, "--samples", 1_000_000, "--workers", 64, "--no-search"),
        *("--simulate", "--shard-rows", 2000, "--machine-hours", 50, "--json", file),
    )
    assert result.exit_code == 0, result.output
    assert "1,000,000 pictures x 2 checkpoints / (64 workers x" in result.output
    assert "simulated: 1,000 shards on 64 workers took" in result.output
    found = json.loads(file.read_text())
    assert found["job"]["rate"] == found["measured"]["rate"]
    assert found["job"]["dim"] == 64
    seconds = 2_000_000 / (64 * found["job"]["rate"]) + found["job"]["opening"] + found["job"]["loading"]
    assert abs(found["figures"]["time"]["value"] - seconds) < 1e-6 * seconds
    assert found["simulated"]["counts"]["done"] == 1000
    assert found["simulated"]["scenario"]["worker_hours"] is None


def test_plan_of_a_model_that_has_no_run(forebear, embedded_run: Path) -> None:
    model = embedded_run / "model"
    result = forebear("plan", "--model", model, "--data", "digits", "--dim", 64, "--seconds", 0, "--no-search")
    assert result.exit_code == 0, result.output
    assert "1,797 pictures x 1 checkpoints" in result.output


def test_plan_from_a_rate_alone(forebear) -> None:
    result = forebear(
        *("plan", "--rate", 900, "--samples", 100_000_000, "--gpus", 64, "--gpus-per-worker", 0.5, "--no-search")
    )
    assert result.exit_code == 0, result.output
    assert "100,000,000 pictures x 1 checkpoints / (128 workers x 900/s)" in result.output
    assert "64 GPUs x" in result.output


def test_what_is_missing_is_said(forebear, embedded_run: Path, tmp_path: Path) -> None:
    assert "give --run, or --model and --data together, or --rate" in forebear("plan").output
    assert "--samples" in forebear("plan", "--rate", 5).output
    measured_on_cpu = forebear("plan", "--run", embedded_run, "--seconds", 0, "--gpus", 8)
    assert "says nothing about GPUs" in measured_on_cpu.output
    assert measured_on_cpu.exit_code == 2
    missing = forebear("plan", "--run", tmp_path / "none")
    assert missing.exit_code == 2
    assert "is not a run" in missing.output
