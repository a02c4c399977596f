"""The folder named `platform` never shadows Python's own module of that name."""

import os
import platform
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHELVES = ("platform", "services", "dashboard")
STANDARD_LIBRARY = Path(os.__file__).parent

# A job with a Ray of its own: a local working directory is taken only when Ray starts, and copied to the workers.
RAY_DRIVER = """
import ray
excludes = [".git", ".venv", ".*_cache", ".hypothesis", "runs", "shared", "*.safetensors", "*.parquet"]
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error",
         runtime_env={"working_dir": ".", "excludes": excludes})
@ray.remote
def where(checkout):
    import importlib, pathlib, platform
    module = importlib.reload(platform)
    return module.__file__, pathlib.Path("platform/forebear").is_dir(), str(pathlib.Path.cwd()) == checkout
import os
print(*ray.get(where.remote(os.getcwd()), timeout=120))
ray.shutdown()
"""


def run_python(*arguments: str) -> str:
    """What the interpreter prints when it is started in the repository root."""
    finished = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return finished.stdout.strip()


def test_python_c() -> None:
    assert Path(run_python("-c", "import platform; print(platform.__file__)")).parent == STANDARD_LIBRARY


def test_python_m() -> None:
    assert run_python("-m", "platform") == platform.platform()


def test_pytest_from_the_root(tmp_path: Path) -> None:
    """`python -m pytest` puts the working directory first on the path before it imports `platform` itself."""
    test_file = tmp_path / "test_where.py"
    test_file.write_text(
        "import platform\ndef test_where(): print('platform is', platform.__file__)\n", encoding="utf-8"
    )
    printed = run_python("-m", "pytest", "-s", "--rootdir", str(tmp_path), "-c", os.devnull, str(test_file))
    assert f"platform is {STANDARD_LIBRARY / 'platform.py'}" in printed


def test_this_pytest() -> None:
    assert Path(platform.__file__).parent == STANDARD_LIBRARY


def test_root_first_on_the_path() -> None:
    spec = PathFinder.find_spec("platform", [str(ROOT), *sys.path])
    assert spec is not None
    assert spec.origin == str(STANDARD_LIBRARY / "platform.py")


def test_ray_worker_whose_working_directory_is_the_root() -> None:
    origin, has_the_folder, is_the_checkout = run_python("-c", RAY_DRIVER).split()[-3:]
    assert origin == str(STANDARD_LIBRARY / "platform.py")
    assert has_the_folder == "True"
    assert is_the_checkout == "False"


@pytest.mark.parametrize("shelf", SHELVES)
def test_shelves_are_no_packages(shelf: str) -> None:
    assert (ROOT / shelf).is_dir()
    assert not (ROOT / shelf / "__init__.py").exists()
    assert not list((ROOT / shelf).glob("*.py"))
