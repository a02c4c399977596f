"""Forebear's services on the trial's cluster: deployed by `serve deploy` from a file like deploy/serve/cluster.yaml."""

import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster_trial.hosts import Host
from cluster_trial.ray_hosts import DASHBOARD_PORT, HTTP_PORT, ROOT, RayHosts, wait_for
from forebear.run import Run
from forebear_serve.client import Client
from forebear_serve.database import Database, Scope, Tokens

DEPLOYING = 900.0
"""Seconds that a machine with two cores may take until every replica has imported its libraries."""
UNLIMITED = {"requests_per_minute": 1_000_000, "generations_per_minute": 1_000_000}


def configuration(run: Run, **changed: Any) -> dict[str, Any]:
    """The shipped Serve configuration, with the trial's run, database and small replicas."""
    described: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "serve" / "cluster.yaml").read_text())
    described["applications"][0]["args"] = {
        "run": str(run.folder),
        "generators": {"fp32": {"replicas": {"least": 2, "most": 2, "cpus": 0.1}}},
        "attributor": {"exact_timesteps": 4, "replicas": {"least": 2, "most": 2, "cpus": 0.1}},
        "gateway": {"least": 2, "most": 2, "cpus": 0.05},
        "catalogue": {"least": 2, "most": 2, "cpus": 0.05},
        "reviews": {"least": 0, "cpus": 0.05},  # nobody asks them here
        "audits": {"least": 0, "cpus": 0.05},
        "jobs_cpus": 0.05,
        "limits": UNLIMITED,
        **changed,
    }
    return described


@dataclass
class Services:
    """The application, running."""

    cluster: RayHosts
    run: Run
    token: str

    @classmethod
    def deployed(cls, cluster: RayHosts, run: Run) -> "Services":
        database = Database.open(f"sqlite:///{run.folder / 'reviews.sqlite'}")
        secret = Tokens(database).create("trial", list(Scope))[1]
        database.close()
        services = cls(cluster, run, secret)
        services.deploy(configuration(run))
        services.wait_until_running()
        return services

    @property
    def address(self) -> str:
        """Of the head's own proxy: it is never cut off."""
        return f"http://{self.cluster.head.address}:{HTTP_PORT}"

    def client(self) -> Client:
        return Client(self.address, self.token)

    def deploy(self, described: dict[str, Any]) -> None:
        """`serve deploy`, as an operator calls it; it returns before anything has changed."""
        file = Path(self.cluster.folder / "serve.yaml")
        file.write_text(yaml.safe_dump(described))
        place = f"http://{self.cluster.head.address}:{DASHBOARD_PORT}"
        done = self.cluster.run(self.cluster.head, ["serve", "deploy", str(file), "--address", place], 120)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, done.args, done.stdout)

    def application(self) -> dict[str, Any]:
        """What Serve says of the application; empty while it says nothing."""
        told = self.cluster.ask("/api/serve/applications/") or {}
        found: dict[str, Any] = told.get("applications", {}).get("forebear", {})
        return found

    def wait_until_running(self, seconds: float = DEPLOYING) -> None:
        def running() -> bool:
            told = self.application()
            if told.get("status") == "DEPLOY_FAILED":
                raise RuntimeError(told["message"])
            return told.get("status") == "RUNNING"

        wait_for(running, "a running application", seconds, pause=1.0)

    def replicas(self) -> list[tuple[str, str, str]]:
        """(deployment, replica, the address of its host) of each that runs."""
        found = []
        for name, deployment in self.application().get("deployments", {}).items():
            running = [one for one in deployment["replicas"] if one["state"] == "RUNNING"]
            found += [(name, one["replica_id"], one["node_ip"]) for one in running]
        return found

    def placed(self) -> dict[str, dict[str, int]]:
        """How many replicas of each deployment run on each host, by its name."""
        names = {host.address: host.name for host in self.cluster.hosts}
        told: dict[str, Counter[str]] = {}
        for deployment, _, address in self.replicas():
            told.setdefault(names.get(address, address), Counter())[deployment] += 1
        return {host: dict(counts) for host, counts in sorted(told.items())}

    def host_of(self, deployment: str) -> Host:
        """A host on which a deployment has a replica: a worker where there is a choice."""
        addresses = {address for name, _, address in self.replicas() if name == deployment}
        return next(host for host in reversed(self.cluster.hosts) if host.address in addresses)
