"""`forebear token` and `forebear reviews`, and the pages that describe them."""

import csv
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from forebear.cli.main import main
from forebear.cli.sample_ids import read_ids
from forebear_serve.database import Change, Database, NewReview, Reviews, Scope, Tokens, Verdict
from forebear_serve.reviews_verb import reviews as reviews_verb
from forebear_serve.token_verb import token as token_verb

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("tokens", "reviews")}


def call(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env=environment)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with three reviews."""
    database = Database.open(tmp_path)
    reviews = Reviews(database)
    for sample, verdict in (("s1", Verdict.REMOVE), ("s2", Verdict.LICENCE_ISSUE), ("s3", None)):
        made, _ = reviews.create(NewReview("demo", sample, groups={"artist": "Ana"}), actor="ana")
        if verdict is not None:
            reviews.change(Change(made.id, 1, verdict, f"=note on {sample}"), actor="bob")
    database.close()
    return tmp_path


def test_a_secret_is_alone_on_the_standard_output(tmp_path: Path) -> None:
    done = call("token", "create", "bot", "--run", tmp_path, "--scope", "read", "--scope", "review", "--expires", "90d")
    assert done.exit_code == 0, done.output
    secret = done.stdout.strip()
    assert done.stdout == f"{secret}\n"
    assert "token bot (read, review) is good until" in done.stderr
    assert secret not in done.stderr
    database = Database.open(tmp_path)
    assert Tokens(database).verify(secret).scopes == {Scope.READ, Scope.REVIEW}
    database.close()
    listed = call("token", "list", FOREBEAR_RUN=str(tmp_path))
    assert f"{secret[:9]}…  bot  read,review  good  until" in listed.stdout
    assert secret[9:] not in listed.output
    assert call("token", "revoke", "bot", "--database", f"sqlite:///{tmp_path}/reviews.sqlite").exit_code == 0
    assert "  revoked  " in call("token", "list", "--run", tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["token", "list"], "give --run FOLDER, or --database URL"),
        (["token", "create", "x", "--scope", "read", "--run", "nowhere"], "its folder does not exist"),
        (["token", "create", "x", "--scope", "write"], "'write' is not one of"),
        (
            ["token", "create", "x", "--scope", "read", "--expires", "soon"],
            "is no time; give a number and m, h, d or w",
        ),
        (["reviews", "list", "--run", "nowhere"], "`forebear token create` makes it"),
        (["reviews", "list", "--run", ".", "--group", "Ana"], "give NAME=VALUE"),
    ],
)
def test_mistakes_are_one_line_with_a_remedy(run: Path, arguments: list[str], said: str, monkeypatch) -> None:
    monkeypatch.chdir(run)
    done = call(*arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output


def test_reviews_are_listed_narrowed_and_told(run: Path) -> None:
    listed = call("reviews", "list", "--run", run).stdout.splitlines()
    assert [line.split("  ")[:4] for line in listed] == [
        ["3", "open", "s3", "ana"],
        ["2", "licence-issue", "s2", "bob"],
        ["1", "remove", "s1", "bob"],
    ]
    page = call("reviews", "list", "--run", run, "--limit", 2)
    assert "there are more: --after 2" in page.stderr
    assert call("reviews", "list", "--run", run, "--after", 2).stdout.splitlines() == listed[2:]
    chosen = ("--state", "decided", "--group", "artist=Ana", "--text", "NOTE ON S1", "--reviewer", "bob")
    assert call("reviews", "list", "--run", run, *chosen).stdout.splitlines() == listed[2:]
    created, changed = call("reviews", "history", 1, "--run", run).stdout.splitlines()
    assert '  ana  create  {"version": 1, "run": "demo", "sample_id": "s1"' in created
    assert changed.endswith('  bob  change  {"version": 2, "verdict": "remove", "note": "=note on s1"}')


def test_exports_go_to_files(run: Path) -> None:
    def export(kind: str, *options: object) -> Path:
        path = run / f"out.{kind}"
        done = call("reviews", "export", "--run", run, "--format", kind, "--output", path, *options)
        assert done.exit_code == 0, done.output
        assert done.stdout == ""
        return path

    with export("csv", "--verdict", "remove").open(newline="", encoding="utf-8") as handle:
        (row,) = csv.DictReader(handle)
    assert (row["sample_id"], row["note"]) == ("s1", "'=note on s1")
    assert read_ids(export("parquet")) == ["s3", "s2", "s1"]
    assert read_ids(export("deny")) == ["s1"]
    listed = export("deny-json", "--licence-issues")
    assert read_ids(listed.rename(run / "deny.json")) == ["s1", "s2"]
    refused = call(
        "reviews", "export", "--run", run, "--format", "deny", "--output", run / "x", "--verdict", "licence-issue"
    )
    assert refused.exit_code == 2
    assert not (run / "x").exists()


@pytest.mark.parametrize(("page", "verb"), [("tokens", token_verb), ("reviews", reviews_verb)])
def test_every_verb_and_option_is_described_and_every_described_one_exists(page: str, verb: click.Group) -> None:
    for name, command in verb.commands.items():
        lines = re.findall(rf"^forebear {verb.name} {name}\b.*", PAGES[page], flags=re.MULTILINE)
        assert lines, name
        options = {one for parameter in command.params for one in parameter.opts if one.startswith("--")}
        for line in lines:
            assert {word for word in line.split("#")[0].split() if word.startswith("--")} <= options
        assert not [option for option in options if f"`{option}" not in PAGES[page] and f" {option}" not in PAGES[page]]
    assert set(re.findall(rf"^forebear {verb.name} (\w+)", PAGES[page], flags=re.MULTILINE)) == set(verb.commands)


def test_every_scope_and_verdict_is_described() -> None:
    assert [name for name in Scope if f"| `{name}` |" not in PAGES["tokens"]] == []
    assert [name for name in Verdict if f"| `{name}` |" not in PAGES["reviews"]] == []


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_and_examples_of_the_page_run(page: str, tmp_path: Path, monkeypatch) -> None:
    """The Python first, which makes what the commands ask for; commands of other verbs are tested with those."""
    (tmp_path / "runs/photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    exec(example, {})
    commands = re.findall(r"^(?:TOKEN=\$\()?forebear ((?:token|reviews) [^#)\n]*)", PAGES[page], flags=re.MULTILINE)
    assert len(commands) > 3
    for command in commands:
        done = call(*shlex.split(command))
        assert done.exit_code == 0, (command, done.output)
