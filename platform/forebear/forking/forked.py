"""An object in a process of its own, forked from one on the same machine that has imported all that it needs."""

import fcntl
import hashlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Client, Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from forebear.forking.server import MAKING, READY, SOCKET

PACKAGES = ("forebear", "torch", "diffusers", "transformers", "faiss-cpu")
Told = tuple[str, Any]
"""(`told`, `done` or `failed`, an event, an answer or an error)."""


def can_fork() -> bool:
    """Whether libraries take to being forked: elsewhere than on Linux some do not."""
    return sys.platform == "linux"


class EndedError(RuntimeError):
    """The object's process is gone."""


class Forked:
    """Stands for the object that `make` returns; its methods may be called from any thread.

    A method whose last argument is a function tells it events, as in the object itself; what that function raises ends
    the call. The object ends with this process. Should it die first, this process ends too, so that whoever watches
    over it notices: half a replica is none. With `outlived` calls raise EndedError instead.

    Raises what `make` raises, and EndedError when its process ends before it is made.
    """

    def __init__(
        self, make: Callable[[], Any] | bytes, name: str, server: Connection, *, outlived: bool = False
    ) -> None:
        """`make` may be pickled already: then this process imports nothing of it. `ps` calls the process `name`."""
        self._calls: dict[int, SimpleQueue[Told]] = {MAKING: SimpleQueue()}
        self._numbers = iter(range(MAKING + 1, sys.maxsize))
        self._sending = threading.Lock()
        self._closed, self._outlived, self._ended = False, outlived, False
        self._connection = server
        self._connection.send((dict(os.environ), Path.cwd(), name))
        self._connection.send_bytes(make if isinstance(make, bytes) else pickle.dumps(make))
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self._pid: int = _result(self._calls[MAKING].get())
        except BaseException:
            self.close()
            raise
        del self._calls[MAKING]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return partial(self._call, name)

    def close(self) -> None:
        """End the object's process, when it has answered nothing more."""
        self._closed = True
        with suppress(OSError), self._sending:
            self._connection.send(None)

    def kill(self) -> None:
        """End the object's process, whatever it is doing."""
        self._closed = True
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def _call(self, method: str, *args: Any) -> Any:
        hear = args[-1] if args and callable(args[-1]) else None
        answers: SimpleQueue[Told] = SimpleQueue()
        with self._sending:
            if self._ended:
                raise _ended()
            number = next(self._numbers)
            self._calls[number] = answers
            with suppress(OSError):  # the process is gone: `_listen` will say so
                self._connection.send((number, method, args if hear is None else args[:-1], hear is not None))
        listening = True
        try:
            while (told := answers.get())[0] == "told":
                if hear is not None:
                    hear(told[1])
            listening = False
            return _result(told)
        finally:
            del self._calls[number]
            if listening:  # the listener raised
                with self._sending:
                    self._connection.send((number, None, (), False))

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                number, kind, value = pickle.loads(self._connection.recv_bytes())
                if number in self._calls:  # else its listener has left
                    self._calls[number].put((kind, value))
        with self._sending:
            self._connection.close()
            self._ended = True
        if MAKING not in self._calls and not self._closed and not self._outlived:
            logging.getLogger("forebear").error("the forked process is gone, and so this one ends")
            os._exit(1)
        for answers in list(self._calls.values()):
            answers.put(("failed", _ended()))


def _ended() -> EndedError:
    return EndedError("the forked process ended before it answered")


def _result(told: Told) -> Any:
    kind, value = told
    if kind == "failed":
        raise value
    return value


def server_of(folder: Path) -> Connection:
    """To the server that `server_here` made; raises OSError when it is gone."""
    return Client(str(folder / SOCKET), "AF_UNIX")


def own_server(load: str, folder: Path | None = None) -> Connection:
    """To the fork server of this node's Ray, started by `load` (`module:function`) if there is none.

    `folder` holds its socket, by default one for this user, this node's raylet and this environment. Raises
    RuntimeError when it is open to others, or the server does not start.
    """
    folder = _own_folder(load) if folder is None else folder
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise RuntimeError(f"{folder} is open to others than this user; remove it")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # those who come second wait for the server that the first one starts
        try:
            return server_of(folder)
        except (FileNotFoundError, ConnectionRefusedError):
            (folder / SOCKET).unlink(missing_ok=True)
            _start(folder / SOCKET, load)
            return server_of(folder)


def _own_folder(load: str) -> Path:
    """Other code must not be forked from."""
    told = [load, sys.executable, *sys.path, *map(_version, PACKAGES), os.environ.get("LD_LIBRARY_PATH", "")]
    key = hashlib.blake2b("\0".join(told).encode(), digest_size=6).hexdigest()
    return Path(tempfile.gettempdir(), f"forebear-forks-{os.getuid()}-{os.getppid()}-{key}")


def _version(package: str) -> str:
    try:
        return version(package)
    except ImportError:
        return ""


def _start(address: Path, load: str) -> None:
    """A server of its own session, which outlives this process: those who come after it are quick for that."""
    command = [sys.executable, "-m", "forebear.forking", str(address), load, str(os.getppid())]
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    with server:
        if server.stdout is None or server.stdout.readline() != READY:
            raise RuntimeError(f"{' '.join(command)} did not start; its reason is in this process's log")
