"""Embeds a run on the Ray that RAY_ADDRESS names, and notes each try of a shard: a process for `test_chaos` to kill.

    python driver.py RUN SHARD_ROWS WORKERS NOTES

A line of NOTES is `begin|end|kept CHECKPOINT SHARD PID`; `end` when the shard was written, `kept` when it was there.
"""

import os
import sys
import time
from pathlib import Path

from forebear.gradients import ProjectionConfig
from forebear.jobs import EmbedConfig, embed, embedding
from forebear.run import Run

NOTES = sys.argv[4]
PAUSE = 0.15
"""Seconds added to every shard, so that there is something in flight to kill."""


def note(what: str, task: tuple[str, int]) -> None:
    """Appends one line at once: processes that die in between leave whole lines."""
    line = f"{what} {task[0]} {task[1]} {os.getpid()}\n".encode()
    descriptor = os.open(NOTES, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line)
    os.close(descriptor)


class NotedWorker(embedding.EmbedWorker):
    """The real worker, with notes. Sent by value, as everything of a script is."""

    def work(self, task: tuple[str, int]) -> bool:
        note("begin", task)
        time.sleep(PAUSE)
        written = super().work(task)
        note("end" if written else "kept", task)
        return written


if __name__ == "__main__":
    embedding.EmbedWorker = NotedWorker
    config = EmbedConfig(
        timesteps=2,
        projection=ProjectionConfig(dim=64),
        batch_size=16,
        shard_rows=int(sys.argv[2]),
        workers=int(sys.argv[3]),
    )
    embed(Run(Path(sys.argv[1])), config)
