"""Command lines in deploy/: verbs and options are those of `forebear` and `ray`."""

import re
import shlex
from functools import cache
from itertools import takewhile
from pathlib import Path

import click

from checks.facts import is_variable
from forebear.cli.main import main
from forebear.errors import ForebearError


@cache
def _known(program: str) -> click.Command:
    if program == "forebear":
        return main
    from ray.scripts.scripts import cli

    return cli


def command_problems(line: str, where: str) -> list[str]:
    """Of a line for the shell: every `forebear` and `ray` in it, and the variables that are set before them."""
    found = []
    for words in _simple(line):
        variables = list(takewhile(lambda word: re.fullmatch(r"[A-Za-z_]+=.*", word), words))
        unread = [one for one in variables if not is_variable(one.partition("=")[0])]
        found += [f"{where}: nothing reads the variable {one}" for one in unread]
        program, *rest = words[len(variables) :] or [""]
        if program == "sh" and rest[0] == "-c":
            found += command_problems(rest[1], where)
        elif Path(program).name in {"forebear", "ray"}:
            found += flag_problems([Path(program).name, *rest], where)
    return found


def _simple(line: str) -> list[list[str]]:
    """The commands between `;`, `&&` and `||`, as words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";&|"):
            commands.append([])
        else:
            commands[-1].append(word)
    return [one for one in commands if one]


def flag_problems(words: list[str], where: str) -> list[str]:
    """Whether the verb is there, and every option of it; values of options are Ray's and Forebear's own matter."""
    command, rest = _known(words[0]), words[1:]
    context = click.Context(command)
    while isinstance(command, click.Group) and rest:
        try:
            found = command.get_command(context, rest[0])
        except (ForebearError, click.ClickException) as unknown:
            return [f"{where}: {' '.join(words)}: {unknown}"]
        if found is None:
            return [f"{where}: {' '.join(words)}: there is no {rest[0]}"]
        command, rest = found, rest[1:]
    options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    given = [word.partition("=")[0] for word in rest if re.match(r"--?[A-Za-z]", word)]
    return [f"{where}: {' '.join(words[:2])} has no {option}" for option in given if option not in options]
