"""A process that has imported what objects need, and forks one that holds an object for everyone who connects.

    python -m forebear.forking SOCKET MODULE:FUNCTION PARENT

calls FUNCTION, which imports; or `server_here` forks the server from a process that has imported, as it is at the time.
torch, diffusers and transformers take ten seconds to import, a fork some hundredths, and forked processes share the
memory of libraries. A server computes nothing, since threads and GPUs do not survive a fork. It is there for as long as
PARENT is, in the first form until it has had nobody for a while.

Whoever may write to SOCKET is trusted: it lies in a folder of this user alone (see `forked`).
"""

import gc
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

LINGER = 60.0
"""Seconds without an object after which a server with a command of its own ends: one that died is replaced sooner."""
READY = b"ready\n"
"""What the server prints when it can be connected to."""
SOCKET = "socket"
"""Its name in the server's folder."""
MAKING = 0
"""The number of the call that makes the object; it is answered with the process's number."""
LONGEST_NAME = 15
"""Characters of a process's name that the kernel keeps."""
CALLS = 64
"""Of one object, answered at a time."""

_inherited: Any = None


def inherited() -> Any:
    """In a process forked by `server_here`: what that was given; elsewhere None."""
    return _inherited


@contextmanager
def server_here(gift: Any = None) -> Iterator[Path]:
    """A server that is forked from this process as it is now; yields its folder, for `server_of`.

    `gift` is what `inherited` gives in the forked processes, unpickled. Threads of this process are not there in them,
    nor what they were about to do: fork before there are any that hold locks, as Ray's may.
    """
    folder = Path(tempfile.mkdtemp(prefix="forebear-forks-"))  # of this user alone
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / SOCKET))
            listener.listen()
            server = multiprocessing.get_context("fork").Process(
                target=_serve_from_here, args=(listener, folder, os.getpid(), gift), daemon=True
            )
            with warnings.catch_warnings():
                # Arrow's and OpenBLAS's threads are there; both libraries know how to be forked.
                warnings.simplefilter("ignore", DeprecationWarning)
                server.start()
        try:
            yield folder
        finally:
            server.kill()
            server.join()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _serve_from_here(listener: socket.socket, folder: Path, parent: int, gift: Any) -> None:
    global _inherited  # noqa: PLW0603 - what a fork hands down is of the whole process
    _call_it("forebear-forks")
    os.setsid()  # what a terminal tells its command is the parent's to hear
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    _inherited = gift
    gc.freeze()
    _serve(listener, lambda idle: os.getppid() == parent)  # noqa: ARG005 - however long it has had nobody
    shutil.rmtree(folder, ignore_errors=True)


def main(address: str, load: str, parent: int) -> None:
    if os.fork():
        os._exit(0)  # as nobody's child: Ray ends a worker's children with it, and the first client may go early
    module, _, function = load.partition(":")
    gc.disable()  # collecting garbage in between would add a fifth to the time
    getattr(import_module(module), function)()
    gc.freeze()  # a collection would write to the memory that forked processes share
    gc.enable()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        os.write(sys.stdout.fileno(), READY)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what objects print goes to the log, as their errors do
        _serve(listener, lambda idle: _is_there(parent) and idle < LINGER)
    Path(address).unlink(missing_ok=True)
    if not _is_there(parent):  # else a client may be waiting there to start another one
        shutil.rmtree(Path(address).parent, ignore_errors=True)


def _serve(listener: socket.socket, goes_on: Callable[[float], bool]) -> None:
    """Fork a process for every connection; `goes_on` is asked each second, with the seconds since there was one."""
    listener.settimeout(1.0)
    processes, since = set[int](), time.monotonic()
    while goes_on(0.0 if processes else time.monotonic() - since):
        processes = {pid for pid in processes if os.waitpid(pid, os.WNOHANG) == (0, 0)}
        if processes:
            since = time.monotonic()
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        pid = os.fork()
        if pid == 0:
            try:
                listener.close()
                connection.setblocking(True)
                _Holder(Connection(connection.detach())).run()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        connection.close()
        processes.add(pid)


def _call_it(name: str) -> None:
    """What `ps` shows."""
    Path("/proc/self/comm").write_text(name[:LONGEST_NAME], encoding="utf-8")


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


class _Holder:
    """The object of one client, in the forked process; ends with the connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._left: set[int] = set()
        """Numbers of the calls whose listener went away."""

    def run(self) -> None:
        threads = ThreadPoolExecutor(CALLS)
        with suppress(EOFError, OSError):  # the client is gone
            environment, folder, name = self._connection.recv()
            _call_it(name)
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

    def _make(self, pickled: bytes) -> int:
        self._object = pickle.loads(pickled)()
        return os.getpid()

    def _call(self, method: str, args: tuple[Any, ...]) -> Any:
        return getattr(self._object, method)(*args)

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
        with suppress(OSError):  # the client is gone, and this process ends
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
