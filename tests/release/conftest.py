"""The distributions, built once: the sdist from the checkout, one wheel from the checkout, one from the sdist."""

import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = "import sys; from hatchling import build; print(getattr(build, sys.argv[1])(sys.argv[2]))"
"""What `python -m build --no-isolation` calls too, by PEP 517; it takes no network."""


def make(source: Path, hook: str, target: Path) -> Path:
    """Build in a folder by a hook of the build backend; the path of what was made."""
    target.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    command = [sys.executable, "-c", BUILD, hook, str(target)]
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """`wheel` of the checkout, `sdist`, the sdist `unpacked`, and `wheel_of_sdist`."""
    folder = tmp_path_factory.mktemp("distributions")
    wheel = make(ROOT, "build_wheel", folder / "wheel")
    sdist = make(ROOT, "build_sdist", folder / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    other = make(unpacked, "build_wheel", folder / "wheel of the sdist")
    return {"wheel": wheel, "sdist": sdist, "unpacked": unpacked, "wheel_of_sdist": other}
