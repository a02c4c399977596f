"""The rules of the house: what lies where, how long it is, which way it imports, and what is pinned."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter import cli as import_linter
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SHELVES = ("platform", "services", "dashboard")
TOP_LEVEL = {
    ".ci",
    ".dockerignore",
    ".gitignore",
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "NOTICE",
    "README.md",
    "dashboard",
    "deploy",
    "docs",
    "platform",
    "pyproject.toml",
    "services",
    "tests",
}
LINES_OF_A_FILE = 500
LINES_OF_A_FUNCTION = 60
EMPTY_NAMES = {"common", "helper", "helpers", "misc", "util", "utils"}

MODULES = sorted(path for shelf in SHELVES for path in (ROOT / shelf).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


each_module = pytest.mark.parametrize("path", MODULES, ids=relative)


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements() -> Iterator[Requirement]:
    """Every requirement of pyproject.toml: base, extras and build tools."""
    content = project()
    table = content["project"]
    build = content["build-system"]
    assert isinstance(table, dict)
    assert isinstance(build, dict)
    extras = [text for texts in table["optional-dependencies"].values() for text in texts]
    yield from map(Requirement, [*table["dependencies"], *extras, *build["requires"]])


def pins() -> dict[str, str]:
    """Canonical names and versions of constraints.txt."""
    lines = (ROOT / "deploy/local/constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_top_level_holds_only_agreed_names() -> None:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {line.split("/")[0] for line in listing.stdout.splitlines()} <= TOP_LEVEL


@each_module
def test_first_line_says_what_the_module_is_for(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.startswith('"""')
    assert ast.get_docstring(ast.parse(source))


@each_module
def test_files_and_functions_are_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) < LINES_OF_A_FILE
    too_long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 >= LINES_OF_A_FUNCTION
    }
    assert not too_long


@each_module
def test_names_say_something(path: Path) -> None:
    assert not EMPTY_NAMES & {*path.relative_to(ROOT).parent.parts, path.stem}


@pytest.mark.parametrize("package", ["forebear", "forebear_generators", "forebear_serve", "forebear_dashboard"])
def test_packages_are_typed(package: str) -> None:
    (marker,) = (path for shelf in SHELVES for path in (ROOT / shelf).glob(f"{package}/py.typed"))
    assert marker.is_file()


def test_imports_go_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    status = import_linter.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert status == import_linter.EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_every_requirement_is_pinned_inside_its_range() -> None:
    pinned = pins()
    for requirement in requirements():
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not in constraints.txt: run `make constraints`"
        assert requirement.specifier.contains(version), f"{requirement} excludes {version} of constraints.txt"


def test_pins_are_plain_versions() -> None:
    """No path or address of the machine that wrote them, and no local version such as +cpu."""
    lines = (ROOT / "deploy/local/constraints.txt").read_text(encoding="utf-8").splitlines()
    entries = [line for line in lines if not line.startswith("#")]
    assert [line for line in entries if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line)] == []
    assert len(entries) == len(pins())


def test_every_make_target_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE)
    (phony,) = re.findall(r"^\.PHONY: (.*)", makefile, flags=re.MULTILINE)
    printed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    explained = dict(line.removeprefix("make ").split(maxsplit=1) for line in printed.splitlines())
    assert sorted(targets) == sorted(phony.split()) == sorted(explained)
    assert all(explained.values())


def test_license_is_the_one_that_the_project_names() -> None:
    table = project()["project"]
    assert isinstance(table, dict)
    assert table["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.split()[:5] == ["Apache", "License", "Version", "2.0,", "January"]
    assert "END OF TERMS AND CONDITIONS" in text
