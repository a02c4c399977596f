"""The set-up script: what it refuses, in which words, and that it does its work once. No network, no large install."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy/local/bootstrap.sh"

Bootstrap = Callable[..., subprocess.CompletedProcess[str]]


def run_script(script: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the script with these environment variables and no other setting of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FOREBEAR_", "PIP_"))}
    bash = shutil.which("bash")
    assert bash is not None
    return subprocess.run([bash, str(script)], env=inherited | settings, capture_output=True, text=True, check=False)


def executable(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def refusal(finished: subprocess.CompletedProcess[str]) -> str:
    """The one line with which the script gave up."""
    assert finished.returncode == 1
    (line,) = finished.stderr.splitlines()
    return line


def test_old_python_is_refused(tmp_path: Path) -> None:
    old = executable(tmp_path / "python", "echo 3.9")
    finished = run_script(SCRIPT, FOREBEAR_PYTHON=str(old), FOREBEAR_VENV=str(tmp_path / "venv"))
    assert refusal(finished) == (
        f"bootstrap: FOREBEAR_PYTHON={old} is Python 3.9, but Forebear needs 3.11 or newer: name a newer one"
    )
    assert not (tmp_path / "venv").exists()


def test_python_that_does_not_run_is_refused(tmp_path: Path) -> None:
    finished = run_script(SCRIPT, FOREBEAR_PYTHON=str(tmp_path / "none"), FOREBEAR_VENV=str(tmp_path / "venv"))
    assert "does not run: name a Python 3.11 or newer" in refusal(finished)


def path_with_python(folder: Path, body: str) -> str:
    """A PATH on which every Python is this shell script."""
    folder.mkdir()
    for tool in ("awk", "cat", "df", "dirname", "grep", "ls", "rm", "sh", "sha256sum", "uname"):
        found = shutil.which(tool)
        assert found is not None
        (folder / tool).symlink_to(found)
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        executable(folder / name, body)
    return str(folder)


@pytest.mark.parametrize(
    ("python", "sentence"),
    [
        ("echo 3.10", "no Python 3.11 or newer was found: install one, or set FOREBEAR_PYTHON to it"),
        ("exit 127", "no Python 3.11 or newer was found: install one, or set FOREBEAR_PYTHON to it"),
        ('case "$2" in *ensurepip*) exit 1 ;; *) echo 3.12 ;; esac', "Python 3.12 has no venv module: install it"),
    ],
    ids=["old", "broken", "without venv"],
)
def test_machine_without_a_usable_python(tmp_path: Path, python: str, sentence: str) -> None:
    path = path_with_python(tmp_path / "bin", python)
    assert sentence in refusal(run_script(SCRIPT, PATH=path, FOREBEAR_VENV=str(tmp_path / "venv")))


def test_unknown_accelerator_is_refused(tmp_path: Path) -> None:
    finished = run_script(SCRIPT, FOREBEAR_ACCELERATOR="tpu", FOREBEAR_VENV=str(tmp_path / "venv"))
    assert refusal(finished) == "bootstrap: FOREBEAR_ACCELERATOR=tpu: it is cpu or gpu"


def test_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "letters/letter.txt"
    precious.parent.mkdir()
    precious.write_text("Dear reader", encoding="utf-8")
    finished = run_script(SCRIPT, FOREBEAR_VENV=str(precious.parent))
    assert "holds other files and is no virtual environment" in refusal(finished)
    assert precious.read_text(encoding="utf-8") == "Dear reader"


def test_missing_constraints_are_named(tmp_path: Path) -> None:
    finished = run_script(SCRIPT, FOREBEAR_CONSTRAINTS=str(tmp_path / "none.txt"), FOREBEAR_VENV=str(tmp_path / "venv"))
    assert refusal(finished) == f"bootstrap: {tmp_path}/none.txt cannot be read: it holds the pinned versions"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of one empty package that the script can install offline, with a virtual environment ready.

    The environment sees the packages of the one that runs the tests, so that pip, torch and hatchling are there.
    """
    root = tmp_path / "project"
    scripts = root / "deploy/local"
    scripts.mkdir(parents=True)
    shutil.copy(SCRIPT, scripts)
    (root / "platform/forebear").mkdir(parents=True)
    (root / "platform/forebear/__init__.py").write_text('"""Empty."""\n', encoding="utf-8")
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "forebear"\nversion = "0"\n'
        "[project.optional-dependencies]\ncpu = []\ngpu = []\ndemo = []\ndashboard = []\n"
        "serve = []\npostgres = []\ndev = []\n"
        '[tool.hatch.build.targets.wheel]\npackages = ["platform/forebear"]\n',
        encoding="utf-8",
    )
    pinned = [f"{name}=={version(name).split('+')[0]}\n" for name in ("torch", "hatchling", "editables")]
    (scripts / "constraints.txt").write_text("".join(pinned), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / ".venv")], check=True)
    site_packages = Path(sysconfig.get_path("purelib", vars={"base": str(root / ".venv")}))
    (site_packages / "surroundings.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return root


@pytest.fixture
def bootstrap(project: Path) -> Bootstrap:
    """Runs the copied script on the small project, cut off from every package index."""

    def run(**settings: str) -> subprocess.CompletedProcess[str]:
        offline = {"FOREBEAR_ACCELERATOR": "cpu", "FOREBEAR_PIP_ARGS": "--no-index", "PIP_CONFIG_FILE": os.devnull}
        return run_script(project / "deploy/local/bootstrap.sh", **(offline | settings))

    return run


def test_work_is_done_once_and_again_after_a_change(project: Path, bootstrap: Bootstrap) -> None:
    venv = project / ".venv"
    first = bootstrap()
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == f"bootstrap: {venv} is ready (torch {version('torch')}, FAISS for cpu)"
    where = [str(venv / "bin/python"), "-c", "import forebear; print(forebear.__file__)"]
    origin = subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip()
    assert origin == str(project / "platform/forebear/__init__.py")

    second = bootstrap()
    assert (second.returncode, second.stdout) == (0, f"bootstrap: {venv} is up to date\n")

    pyproject = project / "pyproject.toml"
    changed = pyproject.read_text(encoding="utf-8").replace("cpu = []", 'cpu = ["forebear-no-such-package"]')
    pyproject.write_text(changed, encoding="utf-8")
    third = bootstrap()
    assert third.returncode == 1
    assert "No matching distribution found for forebear-no-such-package" in third.stderr
    assert "Forebear could not be installed: pip's message is above" in third.stderr.splitlines()[-1]
    # Without its stamp the environment is not taken for whole next time.
    assert not (venv / "forebear-bootstrap").exists()


def test_torch_index_of_the_user_is_not_replaced_by_another(bootstrap: Bootstrap, tmp_path: Path) -> None:
    empty_index = tmp_path.as_uri()
    finished = bootstrap(FOREBEAR_TORCH="torch==0.0.1", FOREBEAR_TORCH_INDEX=empty_index)
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1] == (
        f"bootstrap: torch==0.0.1 is not to be had from FOREBEAR_TORCH_INDEX={empty_index}"
    )
