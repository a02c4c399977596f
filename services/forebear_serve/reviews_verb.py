"""`forebear reviews`: read and export what reviewers said of training samples."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from forebear.run import Run
from forebear_serve.database_options import database_options, opened

if TYPE_CHECKING:
    from forebear_serve.database import ReviewFilter

Command = TypeVar("Command", bound=Callable[..., Any])

FORMATS = ("csv", "parquet", "deny", "deny-json")


@click.group()
def reviews() -> None:
    """Read and export reviews of training samples. docs/reviews.md describes them."""


def filter_options(command: Command) -> Command:
    """The options of a ReviewFilter."""
    for option in (
        click.option("--group", help="NAME=VALUE of a group that the sample is in, such as artist=Ana."),
        click.option("--text", help="Occurs in the note."),
        click.option("--reviewer", help="Name of the token that changed it last."),
        click.option("--picture", "picture_id", help="Id of the picture whose answer led to the review."),
        click.option("--sample", "sample_id", help="Id of the training sample."),
        click.option("--state", type=click.Choice(["open", "decided"])),
        click.option("--verdict", type=click.Choice(["keep", "remove", "licence-issue", "unsure"])),
    ):
        command = option(command)
    return command


@reviews.command("list")
@filter_options
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Most reviews to show.")
@click.option("--after", help="Go on below this review id.")
@database_options
def list_reviews(run: Run | None, database: str | None, limit: int, after: str | None, **chosen: Any) -> None:
    """List reviews, the newest first."""
    from forebear_serve.database import Reviews

    with opened(run, database) as found:
        page = Reviews(found).list(_filter(**chosen), after=after, limit=limit)
    for one in page.reviews:
        note = json.dumps(one.note, ensure_ascii=False) if one.note else ""
        who = one.reviewer or one.creator
        line = f"{one.id}  {one.verdict or 'open'}  {one.sample_id}  {who}  {one.changed:%Y-%m-%d %H:%M}  {note}"
        click.echo(line.rstrip())
    if page.next is not None:
        click.echo(f"there are more: --after {page.next}", err=True)
    if not page.reviews:
        click.echo("no review fits", err=True)


@reviews.command()
@click.option("--format", "kind", type=click.Choice(FORMATS), required=True, help="deny: ids of samples to leave out.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="File to write, whole or not at all.")
@click.option("--licence-issues", is_flag=True, help="deny: name samples with the verdict licence-issue too.")
@filter_options
@database_options
def export(run: Run | None, database: str | None, kind: str, output: Path, licence_issues: bool, **chosen: Any) -> None:
    """Write reviews to a file, or the deny list that `forebear train`, `embed` and `index` take."""
    from forebear.files import write_text
    from forebear_serve.database import Reviews
    from forebear_serve.database.exporting import deny_json, deny_text, write_csv, write_parquet

    is_list = kind.startswith("deny")
    if is_list and any(chosen.values()):
        raise click.UsageError("a deny list names every sample with the verdict remove; leave the filters out")
    if licence_issues and not is_list:
        raise click.UsageError("--licence-issues is for --format deny and deny-json; choose --verdict licence-issue")
    with opened(run, database) as found:
        entries = Reviews(found)
        if is_list:
            denied = entries.denied(licence_issues=licence_issues)
            write_text(output, (deny_text if kind == "deny" else deny_json)(denied))
            click.echo(f"{len(denied):,} samples to leave out in {output}", err=True)
            return
        wanted = _filter(**chosen)
        (write_csv if kind == "csv" else write_parquet)(output, entries.all(wanted))
    click.echo(f"wrote {output}", err=True)


@reviews.command()
@click.argument("review_id", type=click.IntRange(1))
@database_options
def history(review_id: int, run: Run | None, database: str | None) -> None:
    """Show everything that happened to the review REVIEW_ID, the oldest first."""
    from forebear_serve.database import Reviews

    with opened(run, database) as found:
        entries = Reviews(found).history(review_id)
    for entry in entries:
        before = entry.before or {}
        changed = {
            name: value
            for name, value in entry.after.items()
            if before.get(name) != value and name not in ("id", "created", "changed", "creator", "reviewer")
        }
        details = json.dumps(changed, ensure_ascii=False)
        click.echo(f"{entry.time:%Y-%m-%d %H:%M:%S}  {entry.actor}  {entry.action}  {details}")


def _filter(group: str | None, **chosen: Any) -> "ReviewFilter":
    from forebear_serve.database import ReviewFilter, Verdict

    verdict = chosen.pop("verdict")
    if group is not None and "=" not in group:
        raise click.UsageError(f"--group {group}: give NAME=VALUE, such as artist=Ana")
    name, _, value = (group or "").partition("=")
    return ReviewFilter(
        verdict=None if verdict is None else Verdict(verdict), group=(name, value) if group else None, **chosen
    )
