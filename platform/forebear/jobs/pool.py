"""What workers are asked for, and the Ray that they live on."""

import importlib.util
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from forebear.errors import JobError
from forebear.jobs.overtime import TimeLimit

ADDRESS = "RAY_ADDRESS"
"""Environment variable that names a cluster: host:port, or ray://host:port for a client outside of it."""
CONNECTING = 5.0
"""Seconds to wait for a cluster's port."""
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
"""Of `ray.init`: what goes wrong is told by our own errors."""
SPOKEN = 400
"""Characters of Ray's own words in a message."""


@dataclass(frozen=True)
class Pool:
    """Workers and what Ray reserves for each. Machines may come and go: a worker without room waits for one."""

    workers: int
    cpus: float = 1.0
    gpus: float = 0.0
    """A share below one lets workers share a GPU."""
    memory: int = 0
    """Bytes; Ray places no more workers on a machine than its memory holds. 0 reserves none."""
    time_limit: TimeLimit = field(default_factory=TimeLimit)
    """After which a worker that has not finished its task is ended."""

    def __post_init__(self) -> None:
        if self.workers < 1 or self.cpus < 0 or self.gpus < 0 or self.memory < 0:
            raise JobError(f"no pool can have {self}; give one worker or more, and nothing negative")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise JobError(f"{self.gpus} GPUs for a worker: Ray gives a share below one, or whole GPUs")

    @property
    def options(self) -> dict[str, Any]:
        """Of an actor."""
        reserved = {"memory": self.memory} if self.memory else {}
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, **reserved}

    @property
    def wish(self) -> str:
        """What one worker needs, in words."""
        parts = [f"{self.cpus:g} CPU"]
        parts += [f"{self.gpus:g} GPU"] if self.gpus else []
        parts += [f"{self.memory / 2**30:.1f} GiB of memory"] if self.memory else []
        return " and ".join(parts)

    def fits(self, resources: dict[str, float]) -> bool:
        """Whether a machine with these resources in all, used or not, has room for one worker."""
        needed = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory)}
        return all(resources.get(name, 0.0) >= amount for name, amount in needed.items())


@contextmanager
def ray_session(pool: Pool) -> Iterator[bool]:
    """A Ray to work on: the one that is there, the one that RAY_ADDRESS names, or one of this machine's own.

    Yields whether machines may join it. Raises JobError when the cluster cannot be reached or Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise JobError("several workers need Ray; pip install ray, or set workers to 0") from None
    if ray.is_initialized():
        yield True
        return
    address = os.environ.get(ADDRESS, "")
    if address:
        join_cluster(address)
    else:
        # Without an address Ray joins whatever cluster was last started on this machine.
        cpus = max(1, round(pool.workers * pool.cpus))
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **QUIET)
    try:
        yield bool(address)
    finally:
        ray.shutdown()


def join_cluster(address: str) -> None:
    """Make this process a member or, by ray://, a client of the cluster at an address.

    Raises JobError within seconds when nothing listens there, when it refuses the token, or Ray's client is missing.
    """
    import ray

    check_reachable(address)
    if address.startswith("ray://") and importlib.util.find_spec("grpc") is None:
        raise JobError(f"{address} needs Ray's client; pip install 'forebear[cluster]', or run inside the cluster")
    if address.startswith("ray://"):
        check_token(address)
    try:
        ray.init(address=address, **QUIET)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as refused:
        raise _unreachable(address, _last_words(refused)) from None


def check_reachable(address: str) -> None:
    """Raise JobError unless something listens at `host:port` or `ray://host:port`: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # `auto`, `local` and the like are Ray's own matter
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECTING).close()
    except OSError as refused:
        raise _unreachable(address, refused.strerror or str(refused)) from None


def check_token(address: str) -> None:
    """Raise JobError when the server at `ray://host:port` refuses our token: Ray itself says so only as a time-out."""
    import grpc

    try:
        from ray._private.grpc_utils import init_grpc_channel
        from ray.core.generated import ray_client_pb2 as messages
        from ray.core.generated.ray_client_pb2_grpc import RayletDriverStub

        ping = messages.ClusterInfoRequest(type=messages.ClusterInfoType.PING)
        with init_grpc_channel(address.removeprefix("ray://")) as channel:
            RayletDriverStub(channel).ClusterInfo(ping, timeout=CONNECTING)
    except grpc.RpcError as refused:
        if refused.code() == grpc.StatusCode.UNAUTHENTICATED:
            raise _unreachable(address, f"it refuses the token: {refused.details()}") from None
    except (ImportError, AttributeError, TypeError):  # Ray's own modules may change: it then says it in its own way
        return


def _last_words(refused: Exception) -> str:
    """The end of a message, in a line: Ray puts its servers' tracebacks before what matters."""
    words = " ".join(str(refused).split())
    return words if len(words) <= SPOKEN else f"... {words[-SPOKEN:]}"


def _unreachable(address: str, reason: str) -> JobError:
    return JobError(
        f"the Ray cluster at {address} cannot be reached ({reason}); check {ADDRESS} and, where it wants a token, "
        f"RAY_AUTH_MODE and RAY_AUTH_TOKEN, or unset {ADDRESS} to work on this machine alone"
    )
