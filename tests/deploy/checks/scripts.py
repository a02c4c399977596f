"""Shell scripts and the pinned versions: what bash, the scripts' own headers and docs/licences.md say of them."""

import re
import subprocess
from pathlib import Path

from checks.facts import ROOT, is_variable

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
HERE = re.compile(r"\$(?:here|root)/([\w./-]+)|(?<![\w/])(deploy/[\w./-]+\w)")
MADE = re.compile(r"constraints\.txt\.part|\.venv.*")
"""What a script makes itself."""


def script_problems(file: Path) -> list[str]:
    """bash reads it, it stops at errors, its variables are known, and the files that it names are there."""
    read = subprocess.run(["bash", "-n", str(file)], capture_output=True, text=True, check=False)
    found, text = read.stderr.splitlines(), file.read_text(encoding="utf-8")
    if "\nset -euo pipefail\n" not in text:
        found.append(f"{file.name}: goes on after an error")
    names = sorted(set(re.findall(r"\b(FOREBEAR_[A-Z_]+)", text)))
    found += [f"{file.name}: no {name} is known" for name in names if not is_variable(name)]
    for below, whole in HERE.findall(text):
        places = [ROOT / whole] if whole else [ROOT / below, ROOT / "deploy/local" / below]
        if not any(place.exists() for place in places) and not MADE.fullmatch(below or whole):
            found.append(f"{file.name}: there is no {below or whole}")
    indexes = {line for line in re.findall(r"https://[\w./-]+", text) if "pytorch" in line}
    return found + [f"{file.name}: {index} is not PyTorch's CPU index" for index in indexes - {CPU_INDEX}]


def pin_problems(file: Path) -> list[str]:
    """Every line is a version that docs/licences.md lists; tests/release compares both with what is installed."""
    page = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    listed = {f"{name}=={version}" for name, version in re.findall(r"^\| (\S+) \| (\d\S*) \|", page, re.M)}
    pinned = {line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")}
    return [f"{file.name}: {one} is not in docs/licences.md" for one in sorted(pinned - listed)] + [
        f"{file.name}: {one} is missing" for one in sorted(listed - pinned)
    ]
