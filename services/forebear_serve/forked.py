"""An engine in a process of its own, forked from one on the same machine that has imported all that engines need."""

import fcntl
import hashlib
import logging
import os
import pickle
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

from forebear_serve.fork_server import MAKING, READY

PACKAGES = ("forebear", "torch", "diffusers", "transformers", "faiss-cpu")
Told = tuple[str, Any]
"""(`told`, `done` or `failed`, an event, an answer or an error)."""


def can_fork() -> bool:
    """Whether libraries take to being forked: elsewhere than on Linux some do not."""
    return sys.platform == "linux"


class ForkedEngine:
    """Stands for the engine that `make` returns; its methods may be called from any thread.

    A method whose last argument is a function tells it events, as in the engine itself; what that function raises ends
    the call. The engine ends with this process. Should it die first, this process ends too, so that whoever watches
    over it notices: half a replica is none.

    Raises what `make` raises, and RuntimeError when no process can be forked.
    """

    def __init__(self, make: Callable[[], Any], name: str, folder: Path | None = None) -> None:
        """`name` is what `ps` calls the process; `folder` holds the fork server's socket, None: this node's own."""
        self._calls: dict[int, SimpleQueue[Told]] = {MAKING: SimpleQueue()}
        self._numbers = iter(range(MAKING + 1, sys.maxsize))
        self._sending = threading.Lock()
        self._closed = False
        self._connection = _connected(_own_folder() if folder is None else folder)
        self._connection.send((dict(os.environ), Path.cwd(), name))
        self._connection.send_bytes(pickle.dumps(make))
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            _result(self._calls[MAKING].get())
        except BaseException:
            self.close()
            raise
        del self._calls[MAKING]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return partial(self._call, name)

    def close(self) -> None:
        """End the engine's process."""
        self._closed = True
        with suppress(OSError), self._sending:
            self._connection.send(None)

    def _call(self, method: str, *args: Any) -> Any:
        hear = args[-1] if args and callable(args[-1]) else None
        answers: SimpleQueue[Told] = SimpleQueue()
        with self._sending:
            number = next(self._numbers)
            self._calls[number] = answers
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
        with self._connection, suppress(EOFError, OSError):
            while True:
                number, kind, value = pickle.loads(self._connection.recv_bytes())
                if number in self._calls:  # else its listener has left
                    self._calls[number].put((kind, value))
        if MAKING in self._calls:
            self._calls[MAKING].put(("failed", RuntimeError("the engine's process ended before it was ready")))
        elif not self._closed:
            logging.getLogger("forebear.serve").error("the engine's process is gone, and so this one ends")
            os._exit(1)


def _result(told: Told) -> Any:
    kind, value = told
    if kind == "failed":
        raise value
    return value


def _own_folder() -> Path:
    """Of this user, this node's raylet and this environment: other code must not be forked from."""
    told = [sys.executable, *sys.path, *map(_version, PACKAGES), os.environ.get("LD_LIBRARY_PATH", "")]
    key = hashlib.blake2b("\0".join(told).encode(), digest_size=6).hexdigest()
    return Path(tempfile.gettempdir(), f"forebear-forks-{os.getuid()}-{os.getppid()}-{key}")


def _version(package: str) -> str:
    try:
        return version(package)
    except ImportError:
        return ""


def _connected(folder: Path) -> Connection:
    """To the fork server of this folder, started if there is none."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise RuntimeError(f"{folder} is open to others than this user; remove it")
    address = folder / "socket"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # those who come second wait for the server that the first one starts
        try:
            return Client(str(address), "AF_UNIX")
        except (FileNotFoundError, ConnectionRefusedError):
            address.unlink(missing_ok=True)
            _start(address)
            return Client(str(address), "AF_UNIX")


def _start(address: Path) -> None:
    """A server of its own session, which outlives this process: those who come after it are quick for that."""
    command = [sys.executable, "-m", "forebear_serve.fork_server", str(address), str(os.getppid())]
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
