"""A process that has imported what engines need, and forks one that holds an engine for every replica that connects.

    python -m forebear_serve.fork_server SOCKET PARENT

torch, diffusers and transformers take ten seconds to import, a fork some hundredths, and forked processes share the
libraries' memory. Nothing is computed here, since threads and GPUs do not survive a fork. One such server serves a
node's replicas for as long as PARENT, the node's raylet, is there; without engines it ends after a while.

Whoever may write to SOCKET is trusted: it lies in a folder of this user alone (see `forked`).
"""

import gc
import os
import pickle
import shutil
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

LINGER = 60.0
"""Seconds without an engine after which the server ends: a replica that died is replaced sooner."""
READY = b"ready\n"
"""What the server prints when it can be connected to."""
MAKING = 0
"""The number of the call that makes the engine."""
LONGEST_NAME = 15
"""Characters of a process's name that the kernel keeps."""
CALLS = 64
"""Of one engine, answered at a time; a replica takes fewer."""


def import_engines() -> None:
    """What the engines with a model import; collecting garbage in between would add a fifth to the time."""
    gc.disable()
    import forebear.index  # noqa: F401
    import forebear_serve.engine.auditing
    import forebear_serve.engine.maker
    import forebear_serve.engine.tracer  # noqa: F401
    from forebear.diffusion.loading import import_libraries

    import_libraries()
    gc.freeze()  # a collection would write to the memory that forked processes share
    gc.enable()


def main(address: str, parent: int) -> None:
    if os.fork():
        os._exit(0)  # as nobody's child: Ray ends a worker's children with it, and the first replica may go early
    import_engines()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        listener.settimeout(1.0)
        os.write(sys.stdout.fileno(), READY)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what engines print goes to the log, as their errors do
        engines, idle_since = set[int](), time.monotonic()
        while _is_there(parent) and (engines or time.monotonic() - idle_since < LINGER):
            engines = {pid for pid in engines if os.waitpid(pid, os.WNOHANG) == (0, 0)}
            if engines:
                idle_since = time.monotonic()
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            pid = os.fork()
            if pid == 0:
                try:
                    listener.close()
                    connection.setblocking(True)
                    _Engine(Connection(connection.detach())).run()
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(1)
            connection.close()
            engines.add(pid)
    Path(address).unlink(missing_ok=True)
    if not _is_there(parent):  # else a replica may be waiting there to start another one
        shutil.rmtree(Path(address).parent, ignore_errors=True)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class _Left(Exception):  # noqa: N818 - no error: nobody listens any more
    pass


class _Engine:
    """The engine of one replica, in the forked process; ends with the connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._left: set[int] = set()
        """Numbers of the calls whose listener went away."""

    def run(self) -> None:
        threads = ThreadPoolExecutor(CALLS)
        with suppress(EOFError, OSError):  # the replica is gone
            environment, folder, name = self._connection.recv()
            Path("/proc/self/comm").write_text(name[:LONGEST_NAME], encoding="utf-8")
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(folder)
            self._answer(MAKING, partial(self._make, self._connection.recv_bytes()))
            while (asked := self._connection.recv()) is not None:
                number, method, args, heard = asked
                if method is None:
                    self._left.add(number)
                    continue
                if heard:
                    args = (*args, partial(self._tell, number))
                threads.submit(self._answer, number, partial(self._call, method, args))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # not through what the server's own process would do at its end

    def _make(self, pickled: bytes) -> None:
        self._engine = pickle.loads(pickled)()

    def _call(self, method: str, args: tuple[Any, ...]) -> Any:
        return getattr(self._engine, method)(*args)

    def _tell(self, number: int, event: Any) -> None:
        if number in self._left:
            raise _Left
        self._send(number, "told", event)

    def _answer(self, number: int, work: Callable[[], Any]) -> None:
        try:
            kind, answer = "done", work()
        except _Left:
            kind, answer = "done", None
        except Exception as error:
            kind, answer = "failed", error
        self._left.discard(number)
        with suppress(OSError):  # the replica is gone, and this process ends
            self._send(number, kind, answer)

    def _send(self, number: int, kind: str, value: Any) -> None:
        try:
            message = pickle.dumps((number, kind, value), pickle.HIGHEST_PROTOCOL)
            if kind == "failed":
                pickle.loads(message)  # exceptions with arguments of their own fail there alone
        except Exception as error:
            message = pickle.dumps((number, "failed", RuntimeError(f"{value!r} cannot be sent: {error!r}")))
        with self._sending:
            self._connection.send_bytes(message)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
