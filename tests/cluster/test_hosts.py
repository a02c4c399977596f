"""The trial's hosts: one can be cut off and healed, and nothing of them is left."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from cluster_trial.hosts import Host, hosts, left, without_namespaces

REASON = without_namespaces()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"no namespaces here: {REASON}")
LISTEN = (
    "import socket, time; listening = socket.create_server(('0.0.0.0', 7000)); print('on', flush=True); time.sleep(99)"
)
TALK = """
import socket, sys, time
talk = socket.create_connection((sys.argv[1], 7000), 5)
print('on', flush=True)
for _ in range(1000): talk.send(b'x'); time.sleep(0.05)
"""
CALL = "import socket, sys; socket.create_connection((sys.argv[1], 7000), 1)"


@pytest.fixture
def three() -> Iterator[list[Host]]:
    try:
        with hosts() as there:
            yield there
    except OSError as taken:
        pytest.skip(f"another trial runs here: {taken}")
    assert left() == []


def start(host: Host, *command: str) -> subprocess.Popen[bytes]:
    """A program that says when it is on."""
    process = host.popen([sys.executable, "-c", *command], {}, subprocess.PIPE)
    assert process.stdout.readline() == b"on\n"
    return process


def reached(one: Host, other: Host) -> bool:
    process = one.popen([sys.executable, "-c", CALL, other.address], {}, subprocess.DEVNULL)
    return process.wait(20) == 0


def test_a_host_is_cut_off_and_healed(three: list[Host]) -> None:
    head, worker, _ = three
    start(head, LISTEN)
    assert reached(worker, head)
    worker.cut()
    assert not reached(worker, head)
    worker.heal()
    assert reached(worker, head)


def test_a_host_with_connections_that_cannot_end_leaves_nothing(three: list[Host]) -> None:
    """The fixture looks: a killed process's connection to a silent host keeps the namespace alive for minutes."""
    head, worker, _ = three
    start(head, LISTEN)
    talker = start(worker, TALK, head.address)
    head.cut()
    assert talker.poll() is None
    assert {one.name for one in three} <= set(left())


def test_one_trial_at_a_time(three: list[Host]) -> None:
    with pytest.raises(OSError, match="in use"), hosts():
        pass
