"""Ray on the trial's hosts, begun by the start commands that `ray up` runs on real machines, and ended again."""

import json
import os
import re
import secrets
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import yaml

from cluster_trial.hosts import Host, hosts

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "deploy" / "cluster" / "onprem.yaml"
SMALL = "--num-cpus 1 --object-store-memory 100000000"
"""What is added to the shipped commands: three hosts on one machine are small."""
ASKED = "--dashboard-host=0.0.0.0"
"""And to the head's: the trial asks its dashboard server from outside."""
PORT, CLIENT_PORT, DASHBOARD_PORT, HTTP_PORT = 6379, 10001, 8265, 8000
STARTING, DRAINING = 240.0, 300.0
"""Seconds to wait for a host of Ray to come, and to go."""
TRIES = 8
NOT_HERE = re.compile(r"--autoscaling-config=\S+")
"""An option that only `ray up`'s own autoscaler can have."""
RAY_START = re.compile(r"\S*ray start")


def shipped_cluster() -> dict[str, Any]:
    """What `ray up` is given for machines of one's own."""
    described: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())
    return described


def start_command(described: Mapping[str, Any], role: str) -> str:
    """The shell line that starts Ray on the head or a worker: the shipped one, in the foreground, by this Python."""
    (line,) = (one for one in described[f"{role}_start_ray_commands"] if RAY_START.search(one))
    ray = f"exec {sys.executable} {Path(__file__).with_name('patient_ray.py')} start"
    added = f"{SMALL} {ASKED}" if role == "head" else SMALL
    return f"{RAY_START.sub(ray, NOT_HERE.sub('', line))} {added} --block"


def wait_for(found: Callable[[], Any], what: str, seconds: float = STARTING, pause: float = 0.5) -> Any:
    """What `found` returns once it is true; raises TimeoutError."""
    until = time.monotonic() + seconds
    while not (result := found()):
        if time.monotonic() > until:
            raise TimeoutError(f"{what} did not come in {seconds:.0f} s")
        time.sleep(pause)
    return result


@dataclass
class RayHosts:
    """A Ray of three hosts; the first is the head."""

    hosts: list[Host]
    folder: Path
    """For logs, Ray's sessions and the token; short, since sockets lie in it."""
    described: Mapping[str, Any]
    started: dict[str, Any] = field(default_factory=dict)
    """By host: the process of `ray start`."""

    @property
    def head(self) -> Host:
        return self.hosts[0]

    @property
    def workers(self) -> list[Host]:
        return self.hosts[1:]

    @property
    def token_file(self) -> Path:
        return self.folder / "token"

    @property
    def environment(self) -> dict[str, str]:
        """Of everything that belongs to the cluster."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "FOREBEAR_"))}
        return kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_HEAD_IP": self.head.address,
            "GRPC_ENABLE_FORK_SUPPORT": "0",  # for ray:// (docs/jobs.md)
            "RAY_agent_register_timeout_ms": "240000",  # as in patient_ray
            "OMP_NUM_THREADS": "1",
        }

    def start(self, host: Host) -> None:
        """Start Ray on a host and wait until the cluster knows it; raises RuntimeError when it fails again and again.

        What gave up, Kubernetes would start again too: Ray waits 15 s for an agent, and for its dashboard's parts.
        """
        role = "head" if host is self.head else "worker"
        own = f" --node-ip-address={host.address} --temp-dir={self.folder / host.name[-2:]}"
        line = start_command(self.described, role) + own
        before = set(self.nodes()) if role == "worker" else set()
        for _ in range(TRIES):
            with self.log(host.name).open("ab") as log:
                process = self.started[host.name] = host.popen(["bash", "-c", line], self.environment, log)
            with suppress(TimeoutError):
                wait_for(lambda: self.ended(host) or self._joined(host, before), f"Ray on {host.name}")
            if process.poll() is None and self._joined(host, before):
                return
            self._end(host)
        raise RuntimeError(f"{line} failed {TRIES} times: {self.log(host.name).read_text()[-2000:]}")

    def _joined(self, host: Host, before: set[str]) -> bool:
        """Whether the host is there, as a node that was not there before."""
        return any(address == host.address for node, address in self.nodes().items() if node not in before)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def terminate(self, host: Host) -> None:
        """Tell a host's `ray start` to end, as Kubernetes does before it takes a pod away."""
        self.started[host.name].send_signal(signal.SIGTERM)

    def ended(self, host: Host) -> bool:
        return self.started[host.name].poll() is not None

    def restart(self, host: Host) -> None:
        """Once its `ray start` has ended by itself: start it again, as Kubernetes or systemd would."""
        wait_for(lambda: self.ended(host), f"the end of `ray start` on {host.name}", DRAINING)
        host.kill_all()
        self.start(host)

    def ask(self, path: str) -> Any:
        """A page of the head's dashboard server, as JSON; None while it does not answer."""
        asked = urllib.request.Request(
            f"http://{self.head.address}:{DASHBOARD_PORT}{path}",
            headers={"Authorization": f"Bearer {self.token_file.read_text().strip()}"},
        )
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return json.load(answer)
        except (urllib.error.URLError, TimeoutError, ConnectionError, ValueError):
            return None

    def nodes(self) -> dict[str, str]:
        """The hosts that Ray holds for alive: addresses by Ray's ids."""
        told = self.ask("/api/v0/nodes")
        nodes = told["data"]["result"]["result"] if told else []
        return {node["node_id"]: node["node_ip"] for node in nodes if node["state"] == "ALIVE"}

    def run(self, host: Host, command: Sequence[str], seconds: float, **extra: str) -> CompletedProcess[str]:
        """Run a command on a host to its end; raises TimeoutExpired, and then it is ended."""
        output = self.log(f"command-{time.monotonic_ns()}")
        with output.open("wb") as log:
            process = host.popen(command, self.environment | extra, log)
            try:
                status = process.wait(seconds)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        return CompletedProcess(command, status, output.read_text())

    def stop(self) -> None:
        """End everything, workers first."""
        for host in reversed(self.hosts):
            self._end(host)

    def _end(self, host: Host) -> None:
        """End a host's Ray at once."""
        process = self.started.get(host.name)
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        host.kill_all()


def answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 1.0).close()
    except OSError:
        return False
    return True


@contextmanager
def ray_hosts(folder: Path) -> Iterator[RayHosts]:
    """A head and two workers, with token authentication; everything is ended afterwards."""
    with hosts() as there:
        cluster = RayHosts(there, folder, shipped_cluster())
        cluster.token_file.touch(mode=0o600)
        cluster.token_file.write_text(secrets.token_hex(32))
        try:
            for host in there:
                cluster.start(host)
            yield cluster
        finally:
            cluster.stop()
