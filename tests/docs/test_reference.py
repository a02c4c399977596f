"""docs/reference is what the code says, and has a section for everything there is."""

import ast
import difflib
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "reference"
SHELVES = ("platform", "services", "dashboard")
ENVELOPES = {"_File"}
"""Private classes around one list, which the text of their section describes."""


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ (.*)$", text, re.MULTILINE)


def sections(text: str) -> dict[str, str]:
    """What stands below each heading."""
    parts = re.split(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def strict_dataclasses() -> set[str]:
    """Every dataclass in the packages that refuses unknown keys: what users and files fill."""
    found = set()
    for shelf in SHELVES:
        for path in (ROOT / shelf).rglob("*.py"):
            source = path.read_text(encoding="utf-8")
            if not re.search(r"STRICT\)|forbid", source):
                continue
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.ClassDef) and any(
                    re.search(r"STRICT|forbid", ast.unparse(one)) for one in node.decorator_list
                ):
                    found.add(node.name)
    return found


def test_committed_pages_are_those_that_the_code_makes(made: Mapping[str, str]) -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(made)
    for name, text in made.items():
        committed = (FOLDER / name).read_text(encoding="utf-8")
        changed = list(difflib.unified_diff(committed.splitlines(), text.splitlines(), "committed", "made", n=0))
        assert not changed, f"docs/reference/{name} is out of date: run `make reference`\n" + "\n".join(changed[:40])


def test_every_verb_has_its_section_with_every_option(made: Mapping[str, str]) -> None:
    import click
    from reference.cli_page import commands

    found, below = dict(commands()), sections(made["cli.md"])
    assert {"forebear embed", "forebear store verify", "forebear reviews export", "forebear token create"} <= set(found)
    for path, command in found.items():
        for one in command.params:
            if isinstance(one, click.Option) and not one.hidden:
                assert f"`{max(one.opts, key=len)}`" in below[path], (path, one.name)


def test_every_endpoint_has_its_section_and_scope(made: Mapping[str, str]) -> None:
    from reference.http_page import description

    api, scopes = description()
    below = sections(made["http.md"])
    for path, methods in api["paths"].items():
        for method, one in methods.items():
            text = below[f"{method.upper()} {path}"]
            assert f"Scope: `{scopes[method, path]}`." in text
            assert (scopes[method, path] == "none") == ("security" not in one)
            for parameter in one.get("parameters", ()):
                assert f"| `{parameter['name']}` | {parameter['in']} |" in text
            for status in one["responses"]:
                assert status in text
    for name, schema in api["components"]["schemas"].items():
        for field in schema.get("properties", {}):
            assert f"| `{field}` |" in below[name]


def test_every_setting_has_its_row_with_a_meaning(made: Mapping[str, str]) -> None:
    from reference.settings_page import sections as documented

    below = sections(made["settings.md"])
    for kind in documented():
        for field in kind.__pydantic_fields__:
            (row,) = [line for line in below[kind.__name__].splitlines() if line.startswith(f"| `{field}` |")]
            *_, meaning = (cell.strip() for cell in row.strip("|").split(" | "))
            assert meaning, f"{kind.__name__}.{field} has no string below it that says what it is"


def test_every_strict_dataclass_is_a_setting_or_in_a_file(made: Mapping[str, str]) -> None:
    from reference.file_classes import JSON_FILES
    from reference.settings_page import sections as documented

    told = {kind.__name__ for kind in documented()} | {kind.__name__ for one in JSON_FILES for kind in one.kinds}
    assert strict_dataclasses() - ENVELOPES <= told


def test_every_estimator_has_its_section(made: Mapping[str, str]) -> None:
    from reference.estimators_page import COLUMNS

    from forebear.estimators import ESTIMATORS
    from forebear.estimators.vectors import BASELINES
    from forebear.gradients.embedding import COLUMNS as STORED

    assert [name for name in headings(made["estimators.md"]) if name in ESTIMATORS] == list(ESTIMATORS)
    assert set(COLUMNS) == {*BASELINES, *(column for columns in STORED.values() for column in columns)}


@pytest.mark.parametrize("page", ["README.md", "cli.md", "http.md", "settings.md", "estimators.md", "formats.md"])
def test_links_lead_somewhere(made: Mapping[str, str], page: str, makers: Path) -> None:
    from reference.markdown import anchor

    for target in re.findall(r"\]\(([^)]+)\)", made[page]):
        name, _, place = target.partition("#")
        file = FOLDER / name if name else FOLDER / page
        assert file.exists(), target
        if place:
            assert place in {anchor(one) for one in headings(file.read_text(encoding="utf-8"))}, target


def test_a_change_of_a_setting_is_told(made: Mapping[str, str]) -> None:
    """The meaning, the default and the limits come from the class itself."""
    row = "| `shard_rows` | integer, at least 1 | `256` | Pictures in a shard: what a crash can cost each worker. |"
    assert row in made["settings.md"]
    assert "| `--grow` | flag | |" in made["cli.md"]
