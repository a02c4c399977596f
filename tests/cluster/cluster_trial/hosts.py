"""Hosts that are network namespaces of this machine, on a bridge of their own: each can be cut off and healed."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

BRIDGE, NETWORK = "forebear-br", "10.213.7"
CARD = "02:00:0a:d5:07:01"
"""Of the bridge: it would take one of its ports' instead."""
NAMES = ("head", "worker-1", "worker-2")
ONE = "\0forebear-cluster-trial"
"""A name that one process of a machine can hold: an abstract socket's, which is no file and goes with its process."""
DYING = 10.0
"""Seconds that processes have to end once they were killed."""


@dataclass(frozen=True)
class Host:
    """One host: what runs in it sees its own interfaces and ports, and the file system of all."""

    name: str
    address: str
    link: str | None
    """The bridge's end of its cable; None for a host that is only an address of loopback, and cannot be cut off."""

    def popen(self, command: Sequence[str], environment: Mapping[str, str], log: IO[bytes] | int) -> Any:
        """Start a command here, in a session of its own."""
        inside = ["ip", "netns", "exec", self.name] if self.link else []
        return subprocess.Popen(
            [*inside, *command], env=dict(environment), stdout=log, stderr=log, start_new_session=True
        )

    def cut(self) -> None:
        """From now on packets vanish, in both directions: nobody is told, no connection is reset."""
        assert self.link is not None
        ip("link", "set", self.link, "down")

    def heal(self) -> None:
        assert self.link is not None
        ip("link", "set", self.link, "up")

    def processes(self) -> list[int]:
        """Whatever runs here; nothing is known of a host that is only an address."""
        return _processes(self.name) if self.link else []

    def kill_all(self) -> None:
        """End everything here, at once."""
        if self.link:
            _kill_all(self.name)


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def without_namespaces() -> str | None:
    """Why hosts cannot be namespaces here; None when they can."""
    if os.environ.get("FOREBEAR_TRIAL_HOSTS") == "loopback":
        return "FOREBEAR_TRIAL_HOSTS asks for addresses of loopback"
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    try:
        ip("netns", "add", "forebear-probe")
        ip("netns", "del", "forebear-probe")
    except OSError as refused:
        return f"network namespaces cannot be made ({refused})"
    return None


@contextmanager
def hosts() -> Iterator[list[Host]]:
    """A head and two workers, for one trial at a time on a machine; raises OSError while another one runs.

    What an earlier, killed trial left is removed first.
    """
    with socket.socket(socket.AF_UNIX) as name:
        name.bind(ONE)
        if without_namespaces():
            yield [Host(name, f"127.0.0.{number}", None) for number, name in enumerate(NAMES, 11)]
            return
        _remove_all()
        try:
            yield _made()
        finally:
            _remove_all()


def _made() -> list[Host]:
    ip("link", "add", BRIDGE, "address", CARD, "type", "bridge")
    ip("address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
    ip("link", "set", BRIDGE, "up")
    made, cards = [], {f"{NETWORK}.1": _card(BRIDGE)}
    for number, name in enumerate(NAMES, 11):
        host = Host(f"forebear-{name}", f"{NETWORK}.{number}", f"forebear-{number}")
        ip("netns", "add", host.name)
        ip("link", "add", host.link or "", "type", "veth", "peer", "name", "eth0", "netns", host.name)
        ip("link", "set", host.link or "", "master", BRIDGE, "up")
        ip("-n", host.name, "link", "set", "lo", "up")
        ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
        ip("-n", host.name, "link", "set", "eth0", "up")
        ip("-n", host.name, "route", "add", "default", "via", f"{NETWORK}.1")  # Ray looks at it for its own address
        cards[host.address] = _card("eth0", "-n", host.name)
        made.append(host)
    # Known for good: a host that is cut off is silent, and not "unreachable" within seconds by its missing answer.
    for address, card in cards.items():
        if address != f"{NETWORK}.1":
            ip("neighbour", "replace", address, "lladdr", card, "dev", BRIDGE, "nud", "permanent")
        for host in made:
            if address != host.address:
                ip("-n", host.name, "neighbour", "replace", address, "lladdr", card, "dev", "eth0", "nud", "permanent")
    return made


def _card(link: str, *where: str) -> str:
    return ip(*where, "-o", "link", "show", link).partition("link/ether ")[2].split()[0]


def left() -> list[str]:
    """Namespaces and links of a trial that are there."""
    there = ip("netns", "list").split()
    links = re.findall(r"^\d+: ([^:@]+)", ip("-o", "link", "show"), re.MULTILINE)
    return [f"forebear-{name}" for name in NAMES if f"forebear-{name}" in there] + [
        link for link in links if re.fullmatch(rf"{BRIDGE}|forebear-\d+", link)
    ]


def _remove_all() -> None:
    """Links too: a namespace lives on, unseen and with its cable, while a dead process's connections try to end."""
    for name in left():
        if name.removeprefix("forebear-") in NAMES:
            _kill_all(name)
            ip("netns", "del", name)
        elif name in left():  # not gone with its namespace meanwhile
            ip("link", "del", name)


def _processes(namespace: str) -> list[int]:
    return [int(pid) for pid in ip("netns", "pids", namespace).split()]


def _kill_all(namespace: str) -> None:
    until = time.monotonic() + DYING
    while found := _processes(namespace):
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > until:
            raise TimeoutError(f"processes of {namespace} do not end: {found}")
        time.sleep(0.1)
