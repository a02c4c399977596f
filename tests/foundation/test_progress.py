"""Progress says what is done, how fast, and how long it will take."""

import pytest

from forebear import progress as module
from forebear.progress import Progress, progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test moves by hand: its only entry is the time in seconds."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_rate_and_time_left_count_this_session_only(clock: list[float]) -> None:
    bar = Progress("training", total=1_000, unit="steps", done=400)
    clock[0] += 10
    bar.advance(100, "loss 0.5")
    assert bar.rate == pytest.approx(10.0)
    assert bar.line() == "training 500/1,000 steps (50%), 10.0/s, 0:50 left, loss 0.5"
    clock[0] += 10
    bar.advance(500)
    assert bar.line() == "training 1,000/1,000 steps (100%), 30.0/s, loss 0.5"


def test_long_and_unknown_times() -> None:
    bar = Progress("embedding", total=10, unit="samples")
    assert "unknown time left" in bar.line()
    assert module._clock(3 * 3600 + 61) == "3:01:01"
    assert Progress("nothing", total=0, unit="samples").line().startswith("nothing 0/0 samples (100%)")


def test_plain_lines_are_rare_and_the_last_one_stays(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("embedding", 100, "samples") as bar:
        for _ in range(100):
            clock[0] += 1
            bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4  # after 30, 60 and 90 seconds, and at the end
    assert lines[-1] == "embedding 100/100 samples (100%), 1.0/s"


def test_a_failing_block_still_shows_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError):  # noqa: PT012, SIM117 - the failure comes from within
        with progress("embedding", 10, "samples") as bar:
            bar.advance(3)
            raise RuntimeError
    assert "embedding 3/10 samples (30%)" in capsys.readouterr().err


def test_what_was_done_before_is_no_part_of_the_rate(clock: list[float]) -> None:
    bar = Progress("embedding", total=100, unit="samples")
    clock[0] += 10
    bar.found(60)
    bar.advance(20)
    bar.facts = {"workers": 2, "retried": 1, "set_aside": 0}
    assert bar.line() == "embedding 80/100 samples (80%), 2.0/s, 0:10 left, 2 workers, 1 retried"


def test_listeners_hear_the_same_numbers_now_and_then(clock: list[float]) -> None:
    heard: list[dict[str, object]] = []
    with progress("embedding", 100, "samples", listeners=(heard.append,)) as bar:
        for _ in range(100):
            clock[0] += 0.1
            bar.advance(1, "step 7")
    assert [event["event"] for event in heard] == ["begin", *["progress"] * 4, "end"]
    assert heard[1] | {"rate": 0, "seconds_left": 0} == {
        "event": "progress",
        "stage": "embedding",
        "unit": "samples",
        "done": 21,
        "total": 100,
        "rate": 0,
        "seconds_left": 0,
        "note": "step 7",
    }
    assert heard[1]["rate"] == pytest.approx(10.0)
    assert heard[-1]["error"] is None
