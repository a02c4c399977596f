"""docs/store.md names every verb and option of `forebear store`, and none that is not there."""

import re
from pathlib import Path

import click

from forebear.cli.embed import embed
from forebear.cli.store import store

DOCS = (Path(__file__).parents[2] / "docs/store.md").read_text(encoding="utf-8")


def options(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts if name.startswith("--")}


def test_every_verb_is_described_and_every_described_one_exists() -> None:
    assert set(re.findall(r"(?:forebear )?store (\w+) +--", DOCS)) <= set(store.commands)
    assert not [name for name in store.commands if f"forebear store {name}" not in DOCS]


def test_options_in_the_commands_exist() -> None:
    for line in re.findall(r"^forebear (?:store \w+|embed) .*", DOCS, flags=re.MULTILINE):
        for part in line.split("#")[0].split("&&"):
            words = part.split()
            if words[1] == "store":
                assert {word for word in words if word.startswith("--")} <= options(store.commands[words[2]])
            elif words[1] == "embed":
                assert {word for word in words if word.startswith("--")} <= options(embed)
