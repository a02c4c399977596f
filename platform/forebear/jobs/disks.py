"""Disks that cannot be written: no mistake of a task's, nor of ours."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forebear.errors import JobError

REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What a disk answers that is full, or locked."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raises JobError where a full or locked disk refuses, whatever was to be written."""
    try:
        yield
    except OSError as refused:
        if refused.errno not in REFUSALS:
            raise
        raise unwritable(folder, refused) from None


def unwritable(folder: Path, refused: OSError) -> JobError:
    """What to raise when nothing can be written to a folder."""
    return JobError(
        f"{folder} cannot be written ({refused.strerror or refused}); mend that and run the same command, which goes "
        "on where it stopped"
    )
