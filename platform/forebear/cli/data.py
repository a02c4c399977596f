"""`forebear data`: what a source of training images holds."""

from collections import Counter

import click

from forebear.data import Columns, DataConfig, TrainingSet, open_training_set


@click.command()
@click.argument("source")
@click.option("--image-column", default="image", show_default=True, help="Image column of Parquet files.")
@click.option("--caption-column", help="Column with captions.")
@click.option("--label-column", help="Integer column with class labels.")
@click.option("--group-column", "group_columns", multiple=True, help="Column that groups samples; may be repeated.")
@click.option("--list", "listing", is_flag=True, help="Print every sample's id and caption.")
def data(
    source: str,
    image_column: str,
    caption_column: str | None,
    label_column: str | None,
    group_columns: tuple[str, ...],
    listing: bool,
) -> None:
    """Read SOURCE (a folder, Parquet, tars, an Arrow directory, s3://..., openmoji, digits) and say what is usable."""
    columns = Columns(caption_column, label_column, group_columns)
    training_set = open_training_set(DataConfig(source, columns=columns, image_column=image_column))
    captioned = sum(bool(sample.caption) for sample in training_set.samples)
    click.echo(
        f"{len(training_set):,} usable images, {captioned:,} with a caption, fingerprint {training_set.fingerprint}"
    )
    for name in training_set.group_names:
        click.echo(f"group {name}: {_most_common(training_set, name)}")
    reasons = Counter(entry.reason for entry in training_set.quarantined)
    for reason, count in reasons.most_common(10):
        example = next(entry.locator for entry in training_set.quarantined if entry.reason == reason)
        click.echo(f"quarantined: {count:,} x {reason} (for example {example})")
    if listing:
        for sample in training_set.samples:
            click.echo(f"{sample.id}  {sample.caption}")


def _most_common(training_set: TrainingSet, name: str, shown: int = 5) -> str:
    counts = Counter(sample.groups[name] for sample in training_set.samples if name in sample.groups)
    first = ", ".join(f"{value} ({count:,})" for value, count in counts.most_common(shown))
    return first + (f" and {len(counts) - shown:,} more" if len(counts) > shown else "")
