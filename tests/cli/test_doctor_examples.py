"""docs/doctor-examples.md shows what its commands print, figures apart."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/doctor-examples.md").read_text(encoding="utf-8")
QUICK = ("--samples", 6, "--timesteps", 1)


def blocks() -> list[tuple[list[list[str]], str]]:
    """Each example's commands, split into words, and the output below them."""
    found = re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
    commands = [[shlex.split(line) for line in block.splitlines()] for block in found[::2]]
    return list(zip(commands, found[1::2], strict=True))


def headings(output: str) -> list[list[str]]:
    """The first two words of each title, and below a table's the names of its columns."""
    lines = output.splitlines()
    titles = [number for number, line in enumerate(lines) if line and not line.startswith(" ")]
    found = []
    for number in titles:
        below = lines[number + 1] if number + 1 < len(lines) else ""
        found.append([*lines[number].replace(",", " ").split()[:2], *re.split(r"\s{2,}", below.strip())])
    return [line if line[0] != "recommended" else line[:1] for line in found]


@pytest.mark.slow
def test_latent_lora_is_examined_as_the_page_shows(forebear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((python, script, made), command), output = blocks()[1]
    assert (python, command[0]) == (".venv/bin/python", ".venv/bin/forebear")
    monkeypatch.setattr(sys, "argv", [script, str(tmp_path / "made")])
    runpy.run_path(str(ROOT / script), run_name="__main__")
    words = [word.replace(made, str(tmp_path / "made")) for word in command[1:]]
    result = forebear(*words, *QUICK)
    assert result.exit_code == 0, result.output
    assert headings(result.stdout) == headings(output)
    # Fewer pictures change figures, and not what is covered or reached.
    assert section(result.stdout, "coverage") == section(output, "coverage")
    assert section(result.stdout, "throughput")[-1] == section(output, "throughput")[-1]


def section(output: str, title: str) -> list[str]:
    lines = output.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(title))
    return lines[start + 1 : lines.index("", start)]


@pytest.mark.slow
def test_emoji_model_is_examined_as_the_page_shows(forebear, monkeypatch: pytest.MonkeyPatch) -> None:
    (command,), output = blocks()[0]
    monkeypatch.chdir(ROOT)
    result = forebear(*command[1:], *QUICK)
    assert result.exit_code in (0, 2), result.output
    assert headings(result.stdout)[: len(headings(output)) - 1] == headings(output)[:-1]
    assert section(result.stdout, "coverage") == section(output, "coverage")
