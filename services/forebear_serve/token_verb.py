"""`forebear token`: access tokens for the services."""

from datetime import timedelta

import click

from forebear.run import Run
from forebear_serve.database_options import Duration, database_options, opened


@click.group()
def token() -> None:
    """Give out, list and take back access tokens. docs/tokens.md describes them."""


@token.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(["read", "generate", "review", "admin"]),
    help="What the token allows; may be repeated. admin implies the others.",
)
@click.option(
    "--expires", type=Duration(), help="How long it is good for, such as 90d, 12h or 30m.  [default: for ever]"
)
@database_options
def create(
    name: str, scopes: tuple[str, ...], expires: timedelta | None, run: Run | None, database: str | None
) -> None:
    """Make a token named NAME and print its secret, once, alone on the standard output."""
    from forebear_serve.database import Tokens

    with opened(run, database, create=True) as found:
        made, secret = Tokens(found).create(name, scopes, expires)
    until = "for ever" if made.expires is None else f"until {made.expires:%Y-%m-%d %H:%M} UTC"
    click.echo(
        f"token {made.name} ({', '.join(sorted(made.scopes))}) is good {until}; its secret is shown now only:", err=True
    )
    click.echo(secret)


@token.command("list")
@database_options
def list_tokens(run: Run | None, database: str | None) -> None:
    """List all tokens, without their secrets."""
    from datetime import UTC, datetime

    from forebear_serve.database import Tokens

    with opened(run, database) as found:
        tokens = Tokens(found).list()
    now = datetime.now(UTC)
    for one in tokens:
        state = "revoked" if one.revoked else "expired" if one.expires and one.expires <= now else "good"
        until = f"until {one.expires:%Y-%m-%d %H:%M}" if one.expires else "for ever"
        used = f"used {one.last_used:%Y-%m-%d %H:%M}" if one.last_used else "never used"
        scopes = ",".join(sorted(one.scopes))
        click.echo(f"{one.prefix}…  {one.name}  {scopes}  {state}  {until}  {used}")
    if not tokens:
        click.echo("there are no tokens; make one with `forebear token create`", err=True)


@token.command()
@click.argument("name")
@database_options
def revoke(name: str, run: Run | None, database: str | None) -> None:
    """Take the token NAME back, for ever and at once."""
    from forebear_serve.database import Tokens

    with opened(run, database) as found:
        done = Tokens(found).revoke(name)
    click.echo(f"token {done.name} is revoked since {done.revoked:%Y-%m-%d %H:%M} UTC", err=True)
