"""`ray up`: Ray's own schema for it, the commands, the image, and a token on every machine."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import yaml
from botocore.model import Shape
from botocore.validate import ParamValidator
from jsonschema import Draft7Validator

from checks.commands import command_problems
from checks.facts import DATA, DRAIN_SECONDS, IMAGES, PORTS, RAY, is_variable

TOKEN = "~/.ray/auth_token"
FLAGS = {
    "--port": "gcs",
    "--dashboard-port": "dashboard",
    "--ray-client-server-port": "client",
    "--metrics-export-port": "metrics",
}
COMMANDS = ("initialization_commands", "setup_commands", "head_start_ray_commands", "worker_start_ray_commands")


@cache
def _schema() -> Draft7Validator:
    return Draft7Validator(json.loads((RAY / "autoscaler/ray-schema.json").read_text(encoding="utf-8")))


@cache
def _amazon(operation: str) -> Shape:
    """What EC2 takes for an operation."""
    return botocore.session.get_session().get_service_model("ec2").operation_model(operation).input_shape


@cache
def _read_by_ray(provider: str) -> str:
    files = (RAY / "autoscaler/_private" / provider).glob("*.py")
    return "".join(file.read_text(encoding="utf-8") for file in files)


def cluster_problems(file: Path) -> list[str]:
    config, where = yaml.safe_load(file.read_text(encoding="utf-8")), file.name
    found = [
        f"{where}: {'/'.join(map(str, error.absolute_path)) or 'it'}: {error.message}"
        for error in _schema().iter_errors(config)
    ]
    if config.get("file_mounts", {}).get(TOKEN) != TOKEN:
        found.append(f"{where}: the token is not copied to {TOKEN}")
    found += _image_problems(config.get("docker", {}), where)
    commands = [line for name in COMMANDS for line in config.get(name, [])]
    for line in commands:
        found += command_problems(line, where)
    started = [line for line in commands if re.search(r"\bray start\b", line)]
    if len(started) != 2:
        found.append(f"{where}: Ray is started by {len(started)} commands, not one for head and one for workers")
    environment = " ".join(config.get("docker", {}).get("run_options", []))
    for line in started:
        if "RAY_AUTH_MODE=token" not in line + environment:
            found.append(f"{where}: {line}: token authentication is off")
        waits = re.search(r"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=(\d+)", line + environment)
        if not waits or float(waits[1]) < DRAIN_SECONDS:
            found.append(f"{where}: {line}: Ray has to wait {DRAIN_SECONDS} s for requests at SIGTERM")
        found += _port_problems(line, where)
    if config.get("head_node_type", "") not in config.get("available_node_types", {"": {}}):
        found.append(f"{where}: head_node_type {config['head_node_type']} is none of available_node_types")
    return found + _provider_problems(config, where) + _file_problems(config, file)


def _image_problems(docker: dict[str, Any], where: str) -> list[str]:
    if not docker:
        return []
    found = (
        [] if docker.get("image") in IMAGES else [f"{where}: image {docker.get('image')} is none of {sorted(IMAGES)}"]
    )
    for option in docker.get("run_options", []):
        if option.startswith("--env ") and not is_variable(option.removeprefix("--env ").partition("=")[0]):
            found.append(f"{where}: nothing reads the variable of {option}")
        if option.startswith("--volume ") and option.removeprefix("--volume ") != f"{DATA}:{DATA}":
            found.append(f"{where}: {option} is not the shared volume at {DATA}")
        if "FOREBEAR_RUN=" in option and not option.partition("FOREBEAR_RUN=")[2].startswith(f"{DATA}/runs/"):
            found.append(f"{where}: {option} is outside of {DATA}/runs")
    return found


def _port_problems(line: str, where: str) -> list[str]:
    found = []
    for flag, name in FLAGS.items():
        given = re.search(rf"{flag}=(\d+)", line)
        if given and int(given[1]) != PORTS[name]:
            found.append(f"{where}: {flag} is {given[1]}, not {PORTS[name]}")
    if "--head" not in line and f"--address=$RAY_HEAD_IP:{PORTS['gcs']} " not in f"{line} ":
        found.append(f"{where}: {line}: workers do not look for the head at $RAY_HEAD_IP:{PORTS['gcs']}")
    if "--head" in line and "--dashboard-host=127.0.0.1" not in line:
        found.append(f"{where}: the dashboard has to be on loopback")
    return found


def _provider_problems(config: dict[str, Any], where: str) -> list[str]:
    """What Ray's schema leaves open: the provider's own settings, and what goes to Amazon as it is."""
    provider = config.get("provider", {})
    settings = set(provider) - {"type"}
    text = _read_by_ray({"aws": "aws"}.get(provider.get("type"), "local"))
    found = [f"{where}: Ray reads no provider.{name}" for name in sorted(settings) if f'"{name}"' not in text]
    for name, kind in config.get("available_node_types", {}).items():
        wanted = {"MinCount": 1, "MaxCount": 1, **kind.get("node_config", {})}
        found += _refused("RunInstances", wanted, f"{where} {name}")
        if wanted.get("MetadataOptions", {}).get("HttpTokens") != "required":
            found.append(f"{where} {name}: the machine's role is to be had without a session's token")
        disks = [one.get("Ebs", {}) for one in wanted.get("BlockDeviceMappings", [])]
        if not disks or not all(disk.get("Encrypted") for disk in disks):
            found.append(f"{where} {name}: its disk is not encrypted")
    rules = provider.get("security_group", {}).get("IpPermissions", [])
    if provider.get("type") == "aws" and not rules:
        found.append(f"{where}: no security group says who may come in")
    found += _refused("AuthorizeSecurityGroupIngress", {"IpPermissions": rules}, where) if rules else []
    return found + [problem for rule in rules for problem in _rule_problems(rule, where)]


def _refused(operation: str, wanted: dict[str, Any], where: str) -> list[str]:
    """Why botocore would not send this to EC2."""
    report = ParamValidator().validate(wanted, _amazon(operation)).generate_report()
    return [f"{where}: {line}" for line in report.splitlines()]


def _rule_problems(rule: dict[str, Any], where: str) -> list[str]:
    found, who = [], [one.get("CidrIp", "0.0.0.0/0") for one in rule.get("IpRanges", [])]
    if rule.get("FromPort") != 22 or rule.get("ToPort") != 22 or rule.get("IpProtocol") != "tcp":
        found.append(f"{where}: the security group opens {rule.get('FromPort')} to {rule.get('ToPort')}, not SSH alone")
    if not who or "0.0.0.0/0" in who:
        found.append(f"{where}: the security group is open to everybody")
    return found


def _file_problems(config: dict[str, Any], file: Path) -> list[str]:
    """Scripts of this project that the commands call are there."""
    called = re.findall(r"~/forebear/(\S+)", " ".join(config.get("setup_commands", [])))
    return [f"{file.name}: there is no {one}" for one in called if not (file.parents[2] / one).is_file()]
