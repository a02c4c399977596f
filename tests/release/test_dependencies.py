"""What is installed agrees with itself and with the pins, and every pin is under a licence that somebody may use."""

import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FAISS = {"faiss-cpu", "faiss-gpu"}
CUDA = ("cuda-", "nvidia-", "triton")
"""What builds of torch and FAISS for GPUs bring: torch chooses its own, FAISS's are pinned."""
BUILT_WITH = {"editables"}
"""What hatchling asks for only while it makes an editable installation."""


@pytest.fixture
def licences(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "deploy" / "docs")
    import licences

    return licences


def test_installed_packages_agree() -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def needed(installed: Mapping[str, Distribution]) -> set[str]:
    """Canonical names of what the project needs with every extra, and all that these need, CUDA and FAISS apart."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = table["project"]["optional-dependencies"]
    first = [*table["build-system"]["requires"], *table["project"]["dependencies"]]
    first += [text for texts in extras.values() for text in texts if Requirement(text).name not in FAISS]
    new, known = [(Requirement(text), frozenset({""})) for text in first], set[tuple[str, frozenset[str]]]()
    while new:
        one, of = new.pop()
        name, asked = canonicalize_name(one.name), frozenset({"", *one.extras})
        if (name, asked) in known or not (one.marker is None or any(one.marker.evaluate({"extra": x}) for x in of)):
            continue
        known.add((name, asked))
        rest = map(Requirement, installed[name].requires or ())
        new += [(one, asked) for one in rest if not one.name.startswith(CUDA)]
    return {name for name, _ in known}


def test_pins_are_what_is_needed_and_no_more(licences: ModuleType) -> None:
    """A version added by hand is one that something requires; what these require is pinned, as it is installed."""
    installed = {canonicalize_name(one.metadata["Name"]): one for one in distributions()}
    pinned = {canonicalize_name(name): version for name, version in licences.pins()}
    wanted = needed(installed)
    assert not sorted(wanted - set(pinned)), "pin these, or run `make constraints`"
    unneeded = {name for name in set(pinned) - wanted - FAISS - BUILT_WITH if not name.startswith(CUDA)}
    assert set(pinned) >= FAISS
    assert not sorted(unneeded), "nothing needs these"
    # A developer may have chosen another torch (FOREBEAR_TORCH).
    here = {name: installed[name].version.partition("+")[0] for name in wanted - {"torch"}}
    assert here == {name: pinned[name] for name in here}


def test_every_pin_is_in_the_table(licences: ModuleType) -> None:
    listed = licences.listed(licences.PAGE.read_text(encoding="utf-8"))
    pinned = dict(licences.pins())
    assert len(pinned) > 100
    assert {name: listed[name].version for name in listed} == pinned, "run `make licences`"


def test_every_licence_is_accepted_or_was_looked_at(licences: ModuleType) -> None:
    listed = licences.listed(licences.PAGE.read_text(encoding="utf-8"))
    assert not [one for one in listed.values() if not licences.acceptable(one)]
    # What was looked at is still there, and its note stands beside it.
    text = licences.PAGE.read_text(encoding="utf-8")
    for name, (licence, note) in licences.REVIEWED.items():
        assert f"| {name} | {listed[name].version} | {licence} | {note} |" in text


def test_the_table_says_what_the_metadata_say(licences: ModuleType) -> None:
    listed = licences.listed(licences.PAGE.read_text(encoding="utf-8"))
    for name, version in licences.pins():
        assert licences.found(name, version, listed) == listed[name]


@pytest.mark.parametrize(
    "licence", ["GPL-3.0-or-later", "AGPL-3.0-only", "MIT AND GPL-3.0-only", "SSPL-1.0", "UNKNOWN"]
)
def test_others_are_refused(licences: ModuleType, licence: str) -> None:
    assert not licences.acceptable(licences.Package("somebody-s", "1.0", licence))
    # A reviewed package under another licence than the one that was looked at is refused too.
    assert not licences.acceptable(licences.Package("psycopg", "1.0", licence))


@pytest.mark.parametrize("licence", ["MIT", "Apache-2.0 OR BSD-3-Clause", "BSD-3-Clause AND (MIT OR Zlib)"])
def test_permissive_ones_pass(licences: ModuleType, licence: str) -> None:
    assert licences.acceptable(licences.Package("somebody-s", "1.0", licence))


def test_a_package_that_says_nothing_is_not_guessed(licences: ModuleType) -> None:
    assert licences.found("forebear-no-such-package", "1.0", {}) is None
    known = licences.Package("forebear-no-such-package", "1.0", "MIT")
    assert licences.found(known.name, "1.0", {known.name: known}) == known
    assert licences.found(known.name, "1.1", {known.name: known}) is None


def test_data_that_are_others_have_their_notice() -> None:
    text = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    for told in ("OpenMoji", "CC BY-SA 4.0", "scikit-learn", "CC BY 4.0", "CIFAR-10", "deploy/demo/openmoji"):
        assert told in text
