"""What the README tells a newcomer to type works, line by line."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

TRAIN = """
data: {source: photos, columns: {caption_column: caption, group_columns: [artist]}}
model:
  conditioning: text
  image_size: 8
  unet:
    block_out_channels: [8, 16]
    down_block_types: [DownBlock2D, CrossAttnDownBlock2D]
    up_block_types: [CrossAttnUpBlock2D, UpBlock2D]
    layers_per_block: 1
    norm_num_groups: 4
    attention_head_dim: 2
  text: {width: 16, layers: 1, heads: 2, max_tokens: 8}
training: {epochs: 2, batch_size: 4, warmup_steps: 1, checkpoint_epochs: [1, 2]}
"""


def block(language: str, containing: str) -> str:
    """The README's code block of a language that holds a text."""
    found = [text for name, text in re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL) if name == language]
    return next(text for text in found if containing in text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with what the commands name: photos/, train.yaml and picture.png."""
    place = tmp_path_factory.mktemp("newcomer")
    (place / "photos").mkdir()
    lines = []
    for number, colour in enumerate(["red", "green", "blue", "yellow", "black", "purple"]):
        name = f"{colour}.png"
        Image.new("RGB", (12, 12), colour).save(place / "photos" / name)
        lines.append({"file_name": name, "caption": f"a {colour} bridge", "artist": "ann" if number % 2 else "bob"})
    (place / "photos" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (place / "train.yaml").write_text(TRAIN)
    Image.new("RGB", (8, 8), "red").save(place / "picture.png")
    for line in block("", "forebear train").splitlines():
        _run(place, shlex.split(line, comments=True))
    return place


def _run(place: Path, arguments: list[str]) -> str:
    """Run one line of the README in the folder; returns what it printed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(arguments, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_shell_lines_end_with_a_report(folder: Path) -> None:
    report = (folder / "picture.html").read_text(encoding="utf-8")
    assert "a red bridge" in report
    assert "artist" in report


def test_python_lines_print_twelve_or_all_proponents(folder: Path) -> None:
    code = block("python", "import forebear")
    code = code.replace("runs/demo/pictures/red-heart.png", "picture.png").replace("runs/demo", "runs/photos")
    printed = _run(folder, [sys.executable, "-c", code]).splitlines()
    assert len(printed) == 6
    assert printed[0].startswith("1 ")
    assert "bridge" in printed[0]


def test_links_and_pictures_exist() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert not [target for target in targets if "://" not in target and not (ROOT / target).exists()]


def test_every_estimator_is_named() -> None:
    from forebear.estimators import ESTIMATORS

    assert not [name for name in ESTIMATORS if f"`{name}`" not in README]
