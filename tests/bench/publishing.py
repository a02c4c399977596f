"""How a benchmark writes what it found: JSON, a page, a picture, and the machine that it ran on."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import processor

from forebear.files import write_json, write_text


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """The processor, what it can, and the versions of packages that ran on it."""
    about = processor.description()
    names = ("vendor_id", "cpu family", "model")
    return {
        "processor": about.get("model name", platform.processor()),
        "identity": ", ".join(f"{name} {about[name]}" for name in names if name in about),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": processor.flags(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def command() -> str:
    return shlex.join(["python", *sys.argv])


def write(results: Mapping[str, Any], stem: Path, page: str) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_json(stem.with_suffix(".json"), dict(results))
    write_text(stem.with_suffix(".md"), page)


def draw(script: Path, stem: Path, other: Path) -> bool:
    """Run `script` on the JSON, with matplotlib of this environment or of the Python `other`; False without."""
    python = Path(sys.executable) if find_spec("matplotlib") else other.absolute()
    if not python.is_file():
        return False
    finished = subprocess.run([python, script, stem.with_suffix(".json"), stem.with_suffix(".png")], check=False)
    return finished.returncode == 0
