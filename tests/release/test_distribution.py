"""The wheel and the sdist hold what they must and no more."""

import email
import hashlib
import re
import subprocess
import tomllib
import zipfile
from collections.abc import Mapping
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from forebear.version import __version__

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "forebear": "platform",
    "forebear_generators": "services",
    "forebear_serve": "services",
    "forebear_dashboard": "dashboard",
}
ALWAYS = {"PKG-INFO", "pyproject.toml", ".gitignore"}
"""What hatchling adds to every sdist."""
MEGABYTE = 1_000_000


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def kept(*under: str) -> set[str]:
    """The files that git keeps, or would, under some paths."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *under]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name for name in listed if (ROOT / name).is_file()}


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(f"forebear-{__version__}.dist-info/METADATA"))


def test_the_wheel_holds_the_packages_and_nothing_else(built: Mapping[str, Path]) -> None:
    expected = {
        name.removeprefix(f"{shelf}/") for package, shelf in PACKAGES.items() for name in kept(f"{shelf}/{package}")
    }
    about = f"forebear-{__version__}.dist-info"
    beside = {f"{about}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
    beside |= {f"{about}/licenses/{name}" for name in ("LICENSE", "NOTICE")}
    assert names_in(built["wheel"]) == expected | beside


@pytest.mark.parametrize(
    "pattern",
    [
        r"forebear_serve/database/migrations/env\.py",
        r"forebear_serve/database/migrations/versions/v0001_\w+\.py",
        r"forebear/attribution/templates/report\.html\.j2",
        r"forebear/attribution/templates/report\.css",
        r"forebear/evaluation/templates/evaluation\.html\.j2",
        r"forebear_dashboard/templates/review\.html\.j2",
        r"forebear_dashboard/style\.css",
        r"forebear_dashboard/\.streamlit/config\.toml",
        *(rf"{package}/py\.typed" for package in PACKAGES),
    ],
)
def test_the_wheel_holds_what_is_read_at_run_time(built: Mapping[str, Path], pattern: str) -> None:
    assert [name for name in names_in(built["wheel"]) if re.fullmatch(pattern, name)]


def test_the_wheel_holds_no_model_no_picture_and_no_test(built: Mapping[str, Path]) -> None:
    names = names_in(built["wheel"])
    assert not [name for name in names if re.search(r"(^|/)(tests?|runs|demo)/|\.(safetensors|png|parquet|pyc)$", name)]
    assert built["wheel"].stat().st_size < 2 * MEGABYTE


def test_the_metadata_are_the_project_s(built: Mapping[str, Path]) -> None:
    found, table = metadata(built["wheel"]), project()["project"]
    assert found["Name"] == "forebear"
    assert found["Version"] == __version__
    assert found["License-Expression"] == table["license"] == "Apache-2.0"
    assert found.get_all("License-File") == ["LICENSE", "NOTICE"]
    assert set(found.get_all("Provides-Extra") or ()) == set(table["optional-dependencies"])
    assert found["Requires-Python"] == table["requires-python"]
    assert "Which training images" in found.get_payload()


def test_the_wheel_names_every_verb(built: Mapping[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as archive:
        text = archive.read(f"forebear-{__version__}.dist-info/entry_points.txt").decode()
    table = project()["project"]
    for name, target in {**table["scripts"], **table["entry-points"]["forebear.verbs"]}.items():
        assert f"{name} = {target}" in text


def test_the_sdist_holds_what_make_needs_and_nothing_else(built: Mapping[str, Path]) -> None:
    included = project()["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    found = {path.relative_to(built["unpacked"]).as_posix() for path in built["unpacked"].rglob("*") if path.is_file()}
    assert found - ALWAYS == kept(*(name.removeprefix("/") for name in included))
    tops = {name.split("/")[0] for name in found}
    assert not tops & {"runs", ".ci", ".venv", "shared", "dist"}
    assert built["sdist"].stat().st_size < 80 * MEGABYTE


def test_what_is_openmoji_s_comes_with_its_licence(built: Mapping[str, Path]) -> None:
    assert list(built["unpacked"].glob("deploy/demo/openmoji/**/*.safetensors"))
    notice = (built["unpacked"] / "NOTICE").read_text(encoding="utf-8")
    for told in ("OpenMoji", "CC BY-SA 4.0", "https://openmoji.org", "deploy/demo/openmoji", "docs/"):
        assert told in notice
    assert "CC BY-SA 4.0" in (built["unpacked"] / "deploy/demo/README.md").read_text(encoding="utf-8")


def test_the_sdist_builds_the_same_wheel(built: Mapping[str, Path]) -> None:
    one, other = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (built["wheel"], built["wheel_of_sdist"]))
    assert built["wheel"].name == built["wheel_of_sdist"].name
    assert one == other


def test_the_changelog_begins_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[([^\]]+)\](?: - (.+))?$", text, re.MULTILINE)
    version, date = sections[0]
    assert version == __version__
    assert date == "unreleased" or re.fullmatch(r"\d{4}-\d{2}-\d{2}", date)
    assert len({name for name, _ in sections}) == len(sections)
    kinds = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert "https://keepachangelog.com/" in text
    assert "https://semver.org/" in text


def test_the_version_stands_in_one_place() -> None:
    """Nothing else in the packages or in what builds them spells it out."""
    assert "version" in project()["project"]["dynamic"]
    spelt = re.compile(rf"(?<![\d.]){re.escape(__version__)}(?![\d.])")
    found = [
        name
        for name in kept("platform", "services", "dashboard", "pyproject.toml", "Makefile", "deploy/local")
        if (ROOT / name).suffix in {".py", ".toml", ".sh", ""} and spelt.search((ROOT / name).read_text("utf-8"))
    ]
    assert found == ["platform/forebear/version.py"]
