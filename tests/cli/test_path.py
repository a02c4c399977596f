"""The whole path through the verbs: train, embed, index, generate, attribute, report."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from forebear.cli.main import VERBS, main
from forebear.data import DataConfig, open_training_set


def test_training_image_is_attributed_to_itself(embedded_run: Path, forebear, tmp_path: Path) -> None:
    sample = open_training_set(DataConfig("digits", limit=40)).samples[7]
    open_training_set(DataConfig("digits", limit=40)).picture(7).save(tmp_path / "query.png")
    result = forebear(
        "attribute", tmp_path / "query.png", "--run", embedded_run, "--label", sample.label,
        "--estimator", "retrac-matched", "--top-k", 3,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    proponents = result.output.split("opponents")[0]
    first = next(line for line in proponents.splitlines() if line.strip().startswith("1 "))
    assert sample.id in first
    report = (tmp_path / "query.html").read_text()
    assert sample.id in report
    assert "retrac" in report
    assert "tracin" in report


def test_embed_again_changes_nothing(embedded_run: Path, forebear) -> None:
    before = {path: path.read_bytes() for path in (embedded_run / "store").rglob("*.parquet")}
    assert before
    result = forebear("embed", "--run", embedded_run, "--timesteps", 2, "--dim", 64)
    assert result.exit_code == 0, result.output
    assert {path: path.read_bytes() for path in (embedded_run / "store").rglob("*.parquet")} == before


def test_train_records_checkpoints_and_events(embedded_run: Path) -> None:
    names = sorted(path.parent.name for path in embedded_run.glob("checkpoints/*/checkpoint.json"))
    assert names == ["step-00000004", "step-00000008"]
    events = pq.read_table(embedded_run / "events.parquet")
    assert events.num_rows == 2 * 40
    last = json.loads((embedded_run / "checkpoints" / names[-1] / "checkpoint.json").read_text())
    assert (last["batch_size"], last["interval"], last["sample_count"]) == (10, 1, 40)


def test_external_model_starts_a_run(embedded_run: Path, forebear, tmp_path: Path) -> None:
    run = tmp_path / "external"
    result = forebear(
        "embed", "--run", run, "--model", embedded_run / "model", "--data", "digits", "--timesteps", 1, "--dim", 16,
        "--batch-size", 64,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert forebear("index", "--run", run, "--estimator", "tracin").exit_code == 0


def test_generate_writes_pictures_and_a_grid(embedded_run: Path, forebear, tmp_path: Path) -> None:
    result = forebear(
        "generate", "--model", embedded_run / "model", "--label", 3, "--label", 5, "--steps", 2, "--out", tmp_path
    )
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {"class-3-0.png", "class-5-0.png", "grid.png"}
    assert Image.open(tmp_path / "class-3-0.png").size == (8, 8)


def test_data_counts_and_lists(forebear) -> None:
    result = forebear("data", "digits", "--list")
    assert result.exit_code == 0
    assert "1,797 usable images" in result.output
    assert "digit three" in result.output


@pytest.mark.parametrize("verb", [*VERBS, "generate", "quantize", "reviews", "token"])
def test_every_verb_has_help(verb: str, forebear) -> None:
    result = forebear(verb, "--help")
    assert result.exit_code == 0
    assert verb in main.list_commands(None)
    assert "--help" in result.output


def test_installed_command_answers_without_importing_torch() -> None:
    code = (
        "import sys; from forebear.cli.main import main; "
        "main(['--help'], standalone_mode=False); print({'torch', 'ray', 'diffusers'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip().endswith("set()")
