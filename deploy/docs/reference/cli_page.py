"""docs/reference/cli.md: every verb with its arguments and options, from the click commands themselves."""

from collections.abc import Iterator

import click

from reference.markdown import anchor, code, page, table

HEAD = """# Reference: the command line

`forebear VERB --help` (or `-h`) says the same. Exit codes: 0 done; 2 an error that the message says how to mend, a wrong option,
or damage that was found; 130 stopped by a signal with the state saved; 1 ended at once by Ctrl-C. Verbs that
other packages add by the entry point `forebear.verbs` are theirs to document. Every long verb can be stopped at any moment; the same command goes on."""


def commands() -> Iterator[tuple[str, click.Command]]:
    """(`forebear embed`, its command) of every verb and sub-verb, and of `forebear` itself, in alphabetical order."""
    from forebear.cli.main import main

    yield from _walk("forebear", main)


def _walk(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden and _ours(found):
                yield from _walk(f"{path} {name}", found)


def _ours(command: click.Command) -> bool:
    """Whether a verb is of this distribution: another package's, if one is installed, would change the page."""
    return getattr(command.callback, "__module__", "").startswith("forebear")


def cli_page() -> str:
    found = list(commands())
    listed = [
        (f"[`{path}`](#{anchor(path)})", one.get_short_help_str(160))
        for path, one in found
        if len(path.split()) > 1 and not (isinstance(one, click.Group) and one.list_commands(click.Context(one)))
    ]
    return page(HEAD, table(["verb", "what it does"], listed), *(section(path, one) for path, one in found))


def section(path: str, command: click.Command) -> str:
    """One command: its help, its usage, its arguments and options."""
    context = click.Context(command, info_name=path)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    arguments = [
        (code(one.make_metavar(context)), type_text(one)) for one in command.params if isinstance(one, click.Argument)
    ]
    # Of `params`, which holds all but --help.
    options = [option_row(one, context) for one in command.params if isinstance(one, click.Option)]
    return page(
        f"## {path}",
        help_text(command.help or ""),
        f"```\n{usage}\n```",
        table(["argument", "type"], arguments),
        table(["option", "type", "default", "meaning"], [row for row in options if row]),
    )


def help_text(text: str) -> str:
    """A docstring's paragraphs, each on a line of its own; those that click is told not to rewrap stay as they are."""
    blocks = []
    for block in text.split("\f", maxsplit=1)[0].strip().split("\n\n"):
        kept = block.startswith("\b")
        blocks.append(f"```\n{block.removeprefix(chr(8)).strip(chr(10))}\n```" if kept else " ".join(block.split()))
    return "\n\n".join(blocks)


def type_text(one: click.Parameter) -> str:
    """What a value may be, in words."""
    kind = one.type
    if isinstance(kind, click.Choice):
        text = ", ".join(code(getattr(choice, "value", choice)) for choice in kind.choices)
    elif isinstance(kind, click.IntRange | click.FloatRange):
        text = "integer" if isinstance(kind, click.IntRange) else "number"
        text += f", {'above' if kind.min_open else 'at least'} {kind.min}" if kind.min is not None else ""
        text += f", {'below' if kind.max_open else 'at most'} {kind.max}" if kind.max is not None else ""
    else:
        text = {"text": "text", "path": "path", "file": "path", "directory": "folder", "float": "number"}.get(
            kind.name, kind.name
        )
    several = one.nargs == -1 or one.multiple
    return f"{text}; may be repeated" if several else text


def option_row(one: click.Option, context: click.Context) -> tuple[str, str, str, str] | None:
    """Names, type, default and meaning of an option; None for a hidden one."""
    if one.hidden:
        return None
    names = ", ".join(code(name) for name in sorted(one.opts, key=len, reverse=True))
    if one.secondary_opts:
        names += " / " + ", ".join(code(name) for name in one.secondary_opts)
    meaning, _, told = (one.help or "").partition("[default: ")
    default = told.rstrip(" ]") if told else _default(one, context)
    kind = "flag" if one.is_flag else type_text(one)
    return names, kind, "required" if one.required else default, meaning.strip()


def _default(one: click.Option, context: click.Context) -> str:
    value = one.get_default(context, call=True)
    if value in (None, (), "") or one.is_flag or "UNSET" in repr(value):
        return ""
    if isinstance(value, tuple | list):
        return ", ".join(code(each) for each in value)
    return code(getattr(value, "folder", getattr(value, "value", value)))
