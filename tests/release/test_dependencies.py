"""What is installed agrees with itself, and every pinned version is under a licence that somebody may use."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def licences(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "deploy" / "docs")
    import licences

    return licences


def test_installed_packages_agree() -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


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
