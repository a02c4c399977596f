"""deploy/ as it stands: every part passes its checks, every file is part of one, docs/deploying.md is right."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from checks import facts
from checks.commands import command_problems
from checks.parts import FOLDERS, PARTS, parts_of, style_problems
from checks.ray_resources import schema_problems

PAGE = (facts.ROOT / "docs/deploying.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("part", PARTS)
def test_part_is_right(deploy: Path, part: str) -> None:
    assert PARTS[part][1](deploy) == []


def test_yaml_is_tidy() -> None:
    assert style_problems(facts.DEPLOY) == []


def test_every_file_belongs_to_a_part() -> None:
    files = [file for name in FOLDERS for file in (facts.DEPLOY / name).rglob("*") if file.is_file()]
    assert [file for file in files if not parts_of(str(file.relative_to(facts.DEPLOY)))] == []


def test_page_names_files_that_there_are() -> None:
    named = {word.rstrip(".,;") for word in re.findall(r"\bdeploy/[\w./-]+", PAGE)}
    assert named
    assert [name for name in named if not (facts.ROOT / name).exists()] == []
    for name in FOLDERS:
        assert f"{name}/" in PAGE


def commands(line: str) -> list[str]:
    """Of a line of the page: itself, and what it has run on another machine or in a container."""
    if line.startswith("POD=$(kubectl "):
        return []
    words = shlex.split(line, comments=True)
    if words[:2] == ["ray", "exec"]:
        return [shlex.join(words), words[-1]]
    if "run" in words and "services" in words:
        return ["forebear " + shlex.join(words[words.index("services") + 1 :])]
    if "--" in words:
        return [shlex.join(words[words.index("--") + 1 :])]
    return [line.partition("  #")[0]]


def test_commands_of_the_page_have_their_options() -> None:
    lines = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
    tried = [command for line in lines for command in commands(line)]
    assert len(tried) > 20
    assert command_problems("forebear token make ana", "page") != []
    assert [problem for command in tried for problem in command_problems(command, command)] == []


def test_times_of_the_page_are_those_of_the_code() -> None:
    assert f"the {facts.REQUEST_SECONDS:g} s that a request may last" in PAGE
    assert f"up to {facts.DRAIN_SECONDS:g} s at SIGTERM" in PAGE


def test_kuberays_own_definitions_are_used_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {"type": "object", "properties": {"entrypoint": {"type": "string"}}}
    schema = {
        "type": "object",
        "properties": {"apiVersion": {}, "kind": {}, "metadata": {"type": "object"}, "spec": spec},
    }
    versions = [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]
    crd = {"kind": "CustomResourceDefinition", "spec": {"names": {"kind": "RayJob"}, "versions": versions}}
    (tmp_path / "ray.io_rayjobs.yaml").write_text(yaml.safe_dump(crd), encoding="utf-8")
    job = yaml.safe_load((facts.DEPLOY / "kuberay/embed/rayjob.yaml").read_text(encoding="utf-8"))
    job["metadata"]["namespace"] = "forebear"
    assert schema_problems(job, "job") == []
    monkeypatch.setenv("RAY_CRD_DIR", str(tmp_path))
    assert any("(CRD)" in line and "rayClusterSpec" in line for line in schema_problems(job, "job"))
