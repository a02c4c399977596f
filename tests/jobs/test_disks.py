"""Embedding where nothing can be written: the reason is said, no shard is accused, and the same command goes on."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebear.errors import ForebearError
from forebear.jobs import embed
from forebear.run import Run

ROOM = 96 * 1024
"""Bytes that are left on the small disk: for some shards, and not for all."""


def mount(*arguments: object) -> None:
    mounted = subprocess.run(["mount", *map(str, arguments)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", folder)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_fills_up_ends_the_job_and_the_same_command_goes_on(
    class_run: Run, embedded: Run, small, disk: Path, store_files
) -> None:
    shutil.copytree(class_run.folder, disk / "run")
    run = Run(disk / "run")
    filler = disk / "filler"
    filler.write_bytes(b"\0" * (shutil.disk_usage(disk).free - ROOM))
    with pytest.raises(ForebearError, match=r"No space left.*run the same command"):
        embed(run, small)
    assert not run.quarantine_file.exists()
    done = {path: path.read_bytes() for path in run.store_folder.rglob("shard-*.parquet")}
    assert done
    filler.unlink()
    embed(run, small)
    assert {path: path.read_bytes() for path in done} == done
    assert store_files(run) == store_files(embedded)


def test_a_read_only_run_is_refused_and_stays_as_it_is(class_run: Run, small, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(class_run.folder, run.folder)
    before = set(run.folder.rglob("*"))
    mount("--bind", run.folder, run.folder)
    try:
        mount("-o", "remount,ro,bind", run.folder)
        with pytest.raises(ForebearError, match="Read-only file system"):
            embed(run, small)
    finally:
        subprocess.run(["umount", "-l", run.folder], check=True)
    assert set(run.folder.rglob("*")) == before
    embed(run, small)
