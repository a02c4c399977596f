"""Engines in forked processes: what they answer, raise and tell, and what ends with what."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from forebear.errors import ConfigError
from forebear.forking import EndedError, Forked, can_fork, inherited, own_server, server_here, server_of

pytestmark = pytest.mark.skipif(not can_fork(), reason="engines are forked on Linux alone")
HERE = Path(__file__).with_name("forked_engine")
LOAD = "forked_engine:import_libraries"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forks") / "own"


@pytest.fixture(scope="module")
def make() -> Iterator[Callable[[int], Any]]:
    """Of an engine, as a process that shares nothing with this one can call it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        yield import_module("forked_engine").Engine


@pytest.fixture(scope="module")
def engine(folder: Path, make: Callable[[int], Any]) -> Iterator[Forked]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARKED", "yes")
        found = Forked(partial(make, 40), "engine-of-a-long-name", own_server(LOAD, folder))
    yield found
    found.close()


def test_an_engine_answers_from_another_process_with_the_libraries_there(engine: Forked) -> None:
    assert engine.add(2) == 42
    facts = engine.facts()
    assert facts["pid"] != os.getpid()
    assert Path(f"/proc/{facts['pid']}/comm").read_text(encoding="utf-8") == "engine-of-a-lon\n"
    assert facts == {"pid": facts["pid"], "folder": Path.cwd(), "marked": "yes", "torch": True}


def test_calls_do_not_wait_for_each_other(engine: Forked, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(engine.wait_for, tmp_path / "there")
        assert engine.add(1) == 41
        assert not slow.done()
        (tmp_path / "there").touch()
        assert slow.result() is None


def test_errors_come_over_as_they_are(engine: Forked) -> None:
    with pytest.raises(ConfigError, match="no"):
        engine.fail("config")
    with pytest.raises(RuntimeError, match=r"UnpicklableError\('one and two'\) cannot be sent"):
        engine.fail("odd")
    with pytest.raises(RuntimeError, match="cannot be sent"):
        engine.unsendable()
    with pytest.raises(AttributeError, match="nothing"):
        engine.nothing()
    assert engine.add(0) == 40


def test_events_come_in_order_until_the_listener_leaves(engine: Forked) -> None:
    heard: list[int] = []
    assert engine.count(100, heard.append) == "counted"
    assert heard == list(range(100))

    def leave(number: int) -> None:
        if number == 3:
            raise KeyError("enough")

    with pytest.raises(KeyError):
        engine.count(10**9, leave)
    before = engine.counted()
    while (now := engine.counted()) != before:
        before = now
        time.sleep(0.05)
    assert len(before) < 10**9


def test_engines_of_one_folder_come_from_one_server(
    engine: Forked, folder: Path, make: Any, is_running: Callable[..., bool], wait_until: Callable[..., None]
) -> None:
    def parent(pid: object) -> str:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]

    other = Forked(partial(make, 1), "other", own_server(LOAD, folder))
    one, two = engine.facts()["pid"], other.facts()["pid"]
    assert one != two
    assert parent(one) == parent(two)
    other.close()
    wait_until(lambda: not is_running(two))
    assert engine.add(0) == 40


def test_an_engine_that_cannot_be_made_says_why(engine: Forked, folder: Path, make: Any) -> None:
    with pytest.raises(ConfigError, match="start is -1"):
        Forked(partial(make, -1), "other", own_server(LOAD, folder))
    with pytest.raises(EndedError, match="before it answered"):
        Forked(partial(os._exit, 3), "other", own_server(LOAD, folder))


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path, make: Any) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(RuntimeError, match="open to others"):
        Forked(partial(make, 1), "other", own_server(LOAD, tmp_path))


OWNER = f"""
LOAD = {LOAD!r}
import os, sys
from functools import partial
from pathlib import Path
from forked_engine import Engine
from forebear.forking import Forked, own_server
engine = Forked(partial(Engine, 1), "other", own_server(LOAD, Path(sys.argv[1])))
print(engine.facts()["pid"], flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("first", ["engine", "owner"])
def test_engine_and_owner_end_together(
    engine: Forked, folder: Path, first: str, is_running: Callable[..., bool], wait_until: Callable[..., None]
) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])},
    )
    pid = int(owner.stdout.readline())
    os.kill(pid if first == "engine" else owner.pid, 9)
    assert owner.wait(60) == (1 if first == "engine" else -9)
    wait_until(lambda: not is_running(pid))
    assert first == "owner" or "the forked process is gone" in owner.communicate()[1]
    assert engine.add(0) == 40


def test_a_server_ends_with_the_process_that_it_serves(tmp_path: Path, wait_until: Callable[..., None]) -> None:
    folder = tmp_path / "forks"
    folder.mkdir(mode=0o700)
    served = subprocess.Popen(["sleep", "600"])
    command = [sys.executable, "-m", "forebear.forking", str(folder / "socket"), "gc:collect", str(served.pid)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert server.stdout.readline() == b"ready\n"
    assert server.wait(60) == 0  # it goes on as nobody's child
    served.kill()
    served.wait()
    wait_until(lambda: not folder.exists())


def test_a_process_forked_from_this_one_has_what_it_was_given(
    make: Any, is_running: Callable[..., bool], wait_until: Callable[..., None]
) -> None:
    given = {"lists": [1, 2]}
    assert inherited() is None
    with server_here(given) as folder:
        one = Forked(inherited_length, "one", server_of(folder))
        engine = Forked(partial(make, 1), "two", server_of(folder))
        pid = engine.facts()["pid"]
        assert one.bit_length() == 2  # of the number 2
        one.close()
        engine.close()
        wait_until(lambda: not is_running(pid))
    assert not folder.exists()
    with pytest.raises(OSError):  # noqa: PT011 - which one is the socket's affair
        server_of(folder)


def inherited_length() -> int:
    return len(inherited()["lists"])


def test_whoever_outlives_the_object_is_told_so(make: Any, tmp_path: Path) -> None:
    with server_here() as folder, ThreadPoolExecutor(1) as threads:
        engine = Forked(partial(make, 1), "one", server_of(folder), outlived=True)
        pid = engine.facts()["pid"]
        waiting = threads.submit(engine.wait_for, tmp_path / "never")
        os.kill(pid, 9)
        with pytest.raises(EndedError):
            waiting.result(60)
        with pytest.raises(EndedError):
            engine.add(1)
        other = Forked(partial(make, 1), "one", server_of(folder), outlived=True)
        waiting = threads.submit(other.wait_for, tmp_path / "never")
        other.kill()
        with pytest.raises(EndedError):
            waiting.result(60)


KILLED = """
import os, sys
from functools import partial
from forked_engine import Engine
from forebear.forking import Forked, server_here, server_of
with server_here() as folder:
    engine = Forked(partial(Engine, 1), "other", server_of(folder), outlived=True)
    print(folder, engine.facts()["pid"], flush=True)
    sys.stdin.readline()
"""


def test_a_forked_server_ends_with_the_process_that_it_was_forked_from(
    is_running: Callable[..., bool], wait_until: Callable[..., None]
) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", KILLED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])},
    )
    folder, pid = owner.stdout.readline().split()
    server = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
    owner.kill()
    owner.wait()
    wait_until(lambda: not is_running(pid) and not is_running(server) and not Path(folder).exists())
