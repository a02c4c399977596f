"""Makes the checks of deploy/ importable, and copies deploy/ for the tests: they find the same in any place."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from checks.facts import DEPLOY
from checks.parts import FOLDERS


@pytest.fixture
def deploy(tmp_path: Path) -> Path:
    """A copy of what is checked, to change at will."""
    copy = tmp_path / "deploy"
    for folder in FOLDERS:
        shutil.copytree(DEPLOY / folder, copy / folder)
    shutil.copy(DEPLOY / ".yamllint", copy)
    return copy
