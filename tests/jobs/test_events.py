"""Events of a job for other programs."""

import json
from pathlib import Path

import pytest

from forebear.errors import JobError
from forebear.jobs.events import EventLog, events_path, read_events
from forebear.progress import progress
from forebear.run import Run


def test_log_follows_progress_from_begin_to_end(tmp_path: Path) -> None:
    path = events_path(Run(tmp_path), "embedding")
    with EventLog(path) as log, progress("embedding", 10, "samples", done=2, listeners=(log,)) as bar:
        bar.facts = {"workers": 3, "retried": 0}
        bar.advance(4, "shard 2/5")
        bar.tell("retried", shard=7, reason="it died")
    begin, retried, end = read_events(path)
    assert begin["event"] == "begin"
    assert (begin["done"], begin["seconds_left"]) == (2, None)
    assert (retried["event"], retried["shard"], retried["reason"]) == ("retried", 7, "it died")
    assert (end["event"], end["done"], end["total"], end["workers"]) == ("end", 6, 10, 3)
    assert end["error"] is None
    assert end["time"] >= begin["time"] > 1.7e9


def test_error_of_a_stage_is_in_its_last_event(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with pytest.raises(ZeroDivisionError), EventLog(path) as log, progress("x", 1, "y", listeners=(log,)):
        raise ZeroDivisionError
    assert [event["event"] for event in read_events(path)] == ["begin", "end"]
    assert list(read_events(path))[-1]["error"] == "ZeroDivisionError"


def test_half_written_line_of_a_killed_process_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "begin"}\n{"event": "prog')
    with EventLog(path) as log:
        log({"event": "end"})
    assert [event["event"] for event in read_events(path)] == ["begin", "end"]
    assert json.loads(path.read_text().splitlines()[-1])["event"] == "end"
    assert list(read_events(tmp_path / "none.jsonl")) == []


def test_log_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "progress").write_text("a file where the folder should be")
    with pytest.raises(JobError, match="cannot be written"):
        EventLog(tmp_path / "progress" / "embedding.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_log_on_a_full_disk_does_not_hide_why_the_work_ended() -> None:
    with (
        pytest.raises(JobError, match="no room for shard 3"),
        EventLog(Path("/dev/full")) as log,
        progress("testing", 4, "tasks", listeners=(log,)),
    ):
        raise JobError("no room for shard 3")
