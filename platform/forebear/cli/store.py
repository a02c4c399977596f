"""`forebear store`: what a store holds, whether it is whole, mending and moving it, taking samples out of answers."""

from pathlib import Path

import click

from forebear.cli.options import run_option
from forebear.cli.sample_ids import ids_file_option, read_ids
from forebear.errors import DataError, StoreError
from forebear.progress import progress
from forebear.run import Run


@click.group()
def store() -> None:
    """Look after the embeddings of a run: check, mend, take samples out, compact. docs/store.md describes each."""


@store.command()
@run_option()
def info(run: Run) -> None:
    """Say what the store holds: how it was measured, segments, rows, bytes, removed samples."""
    from forebear.store import Store, read_removed

    found = Store.open(run.store_folder)
    plan = found.plan
    steps = f"{plan.timesteps_per_sample} {plan.timestep_scheme} timesteps x {plan.draws} noises"
    click.echo(f"measured     gradient of the {plan.measurement} at {steps}, {plan.dim:,} numbers a vector")
    click.echo(f"columns      {', '.join(plan.columns)}")
    click.echo(f"device       {plan.device}")
    click.echo(f"checkpoints  {len(plan.checkpoints)}: {', '.join(plan.checkpoint_names)}")
    click.echo(f"plan         {plan.hash}")
    for segment in found.segments:
        shards = segment.manifest.shards
        size = sum(record.bytes for record in shards)
        rows = f"rows {segment.rows.start:,} to {segment.rows.stop - 1:,}"
        click.echo(f"segment      {rows}: {len(shards):,} shards, {size / 1e6:,.1f} MB in {segment.folder}")
    listed = read_removed(found.folder)
    elsewhere = len(listed) - found.removed
    others = f", and {elsewhere:,} listed that are not in the store" if elsewhere else ""
    click.echo(f"answers      {len(found):,} images; {found.removed:,} removed{others}")
    if run.quarantine_file.exists():
        click.echo(f"quarantine   {run.quarantine_file}")


@store.command()
@run_option()
def verify(run: Run) -> None:
    """Read every file of the store and of the indexes again. Prints one line for each problem; exit code 2 if any."""
    from forebear.index import open_search_index
    from forebear.store import Store
    from forebear.store.replacing import present
    from forebear.store.verifying import check_store, shards_in

    folder = present(run.store_folder)
    if not folder.is_dir():
        raise StoreError(f"{run.folder} has no store; make it with `forebear embed --run {run.folder}`")
    problems = []
    with progress("verifying", shards_in(folder), "shards") as bar:
        for checked in check_store(folder):
            if checked.problem:
                problems.append(checked.problem)
            bar.advance(checked.shard >= 0)
    plan_hash = None
    if not problems:
        plan_hash = Store.open(folder).plan.hash
    indexes = sorted(path for path in run.folder.glob("index/*") if path.is_dir() and "." not in path.name)
    with progress("verifying", len(indexes), "indexes") as bar:
        for place in indexes:
            try:
                open_search_index(place, plan_hash, allow_low_recall=True).verify()
            except Exception as damaged:
                problems.append(str(damaged))
            bar.advance()
    for problem in problems:
        click.echo(problem)
    if problems:
        raise StoreError(f"{len(problems)} problems; `forebear store repair --run {run.folder}` mends the store")
    click.echo(f"{run.store_folder} and {len(indexes)} indexes are whole")


@store.command()
@run_option()
def repair(run: Run) -> None:
    """Embed damaged and missing shards again, from the run's own images and checkpoints; rebuild lost manifests."""
    from forebear.jobs.repairing import repair as repair_run

    done = repair_run(run, click.echo)
    for line in (*done.other_bytes, *done.problems):
        click.echo(line)
    if done.problems:
        raise StoreError(
            f"{len(done.problems)} problems are left, named above; {done.shards} shards were embedded again"
        )
    same = "" if done.other_bytes else ", with the bytes that were recorded" if done.shards else ""
    click.echo(f"{run.store_folder} is whole; {done.shards} shards were embedded again{same}")


@store.command()
@run_option()
@click.option("--yes", is_flag=True, help="Do not ask before removed samples are dropped for good.")
def compact(run: Run, yes: bool) -> None:
    """Merge all segments into one and drop removed samples from it. The old store stays until the new one is whole."""
    from forebear.attribution.opening import live_training_set, open_whole
    from forebear.store.compacting import compact_store

    found, whole = open_whole(run)
    if len(found.segments) == 1 and not found.removed:
        click.echo(f"{run.store_folder} is one segment without removed samples: there is nothing to do")
        return
    if not len(found):
        raise StoreError("every sample is removed; delete the run instead")
    if found.removed and not yes:
        click.confirm(f"Drop the embeddings of {found.removed:,} removed samples for good?", abort=True)
    live = live_training_set(found, whole)
    live = live.with_samples(live.samples.identified())
    with progress("compacting", len(found) * len(found.plan.checkpoints), "rows") as bar:
        manifest = compact_store(found, live, bar)
    click.echo(
        f"{run.store_folder}: one segment of {manifest.plan.sample_count:,} images, {found.removed:,} dropped; "
        f"build its indexes with `forebear index --run {run.folder}`"
    )


@store.command()
@run_option()
@click.option("--id", "ids", multiple=True, help="Sample id; may be repeated.")
@ids_file_option
@click.option("--reason", default="removed", show_default=True, help="Kept with the ids.")
@click.option("--allow-unknown", is_flag=True, help="List ids too that are not in the store: they never will be.")
def remove(run: Run, ids: tuple[str, ...], ids_file: Path | None, reason: str, allow_unknown: bool) -> None:
    """Take samples out of every answer, at once: nothing is rebuilt. Undone by `forebear store restore`."""
    from forebear.store import Store, read_removed, remove_samples
    from forebear.store.replacing import present
    from forebear.store.shard import some_of

    wanted = _ids(ids, ids_file)
    known: set[str] = set()
    try:
        known = set(Store.open(run.store_folder).all_ids)
    except StoreError:
        if not allow_unknown:  # with it, a removal need not wait until a damaged or unfinished store is whole
            raise
    unknown = sorted(set(wanted) - known)
    if unknown and not allow_unknown:
        raise StoreError(
            f"{len(unknown)} of {len(wanted)} ids are not in {run.store_folder}: {some_of(unknown)}; nothing was "
            "removed. Correct them, or list them all the same with --allow-unknown"
        )
    done = remove_samples(present(run.store_folder), wanted, reason)
    left = len(known - set(read_removed(present(run.store_folder))))
    click.echo(f"{len(done):,} removed, {len(wanted) - len(done):,} were removed before; {left:,} images are left")


@store.command()
@run_option()
@click.option("--id", "ids", multiple=True, help="Sample id; may be repeated.")
@ids_file_option
def restore(run: Run, ids: tuple[str, ...], ids_file: Path | None) -> None:
    """Let removed samples into answers again."""
    from forebear.store import Store, restore_samples

    found = Store.open(run.store_folder)
    done = restore_samples(found.folder, _ids(ids, ids_file))
    click.echo(f"{len(done):,} restored; {len(Store.open(run.store_folder)):,} images answer")


@store.command()
@run_option()
@click.argument("url")
@click.option("--replace", is_flag=True, help="Put it in the place of another store that was pushed there.")
def push(run: Run, url: str, replace: bool) -> None:
    """Copy the store, run.yaml, the model and its checkpoints to URL, such as s3://bucket/photos, or a folder.

    What is there is not sent again: a killed push goes on, a later one adds what came since.
    """
    from forebear.store.transfer import push as push_store

    done = push_store(run, url, replace=replace)
    click.echo(f"{url}: {done.files:,} files sent ({done.bytes / 1e6:,.1f} MB), {done.kept:,} were there")


@store.command()
@click.argument("url")
@run_option()
def pull(url: str, run: Run) -> None:
    """Bring what `forebear store push` put at URL into the run folder, every checksum compared.

    What is here is not fetched again: a killed pull goes on, a later one brings what came since.
    """
    from forebear.store.transfer import pull as pull_store

    done = pull_store(url, run)
    click.echo(f"{run.folder}: {done.files:,} files fetched ({done.bytes / 1e6:,.1f} MB), {done.kept:,} were here")
    if done.removed:
        click.echo(f"{len(done.removed):,} samples were removed there and are now removed here")
    if done.files:
        click.echo(f"build its indexes with `forebear index --run {run.folder}`")


def _ids(ids: tuple[str, ...], file: Path | None) -> list[str]:
    """Ids from options and from a file; raises DataError when there are none or the file cannot be read."""
    found = [*ids, *(read_ids(file) if file is not None else ())]
    if not found:
        raise DataError("no sample is named; give --id or --ids-file (`forebear data SOURCE --list` prints ids)")
    return list(dict.fromkeys(found))
