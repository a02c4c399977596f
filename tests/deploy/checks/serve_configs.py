"""Serve configurations: Ray's schema with unknown keys refused, and the settings that `build` will parse."""

import math
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeDeploySchema

from checks.facts import DRAIN_SECONDS, RUNS, SERVE_PORT
from forebear.config import parse
from forebear.errors import ConfigError
from forebear_serve.serving import SPARE_CPUS, cpus_of
from forebear_serve.settings import ServeSettings

TARGET = "forebear_serve.application:build"
HOSTS = {"127.0.0.1", "0.0.0.0"}


def serve_problems(config: dict[str, Any], where: str, *, on_volume: bool) -> list[str]:
    """Of a configuration for `serve deploy`; `on_volume`: the run has to be on a cluster's shared volume."""
    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as wrong:
        return [f"{where}: {wrong}"]
    found = _unknown(ServeDeploySchema, config, where)
    options = config.get("http_options", {})
    if options.get("port") != SERVE_PORT:
        found.append(f"{where}: port {options.get('port')} is not {SERVE_PORT}")
    if options.get("host") not in HOSTS:
        found.append(f"{where}: host {options.get('host')}")
    if options.get("request_timeout_s") != math.ceil(DRAIN_SECONDS):
        found.append(f"{where}: request_timeout_s is not {DRAIN_SECONDS}: a request's limit and a health check's")
    for application in config["applications"]:
        if application.get("import_path") != TARGET or application.get("route_prefix") != "/":
            found.append(f"{where}: {application.get('import_path')} at {application.get('route_prefix')}")
        found += settings_problems(application.get("args", {}), where, on_volume=on_volume)
    return found


def settings_problems(args: dict[str, Any], where: str, *, on_volume: bool) -> list[str]:
    """Of settings: those that Forebear parses, with paths where deploy/ keeps runs."""
    try:
        settings = parse(ServeSettings, args, where)
    except ConfigError as wrong:
        return [str(wrong)]
    folder = RUNS if on_volume else "/srv/forebear/runs"
    paths = [("run", settings.run), *((name, one.model) for name, one in settings.generators.items() if one.model)]
    found = [] if settings.run.is_relative_to(folder) else [f"{where}: the run {settings.run} is not under {folder}"]
    found += [
        f"{where}: {name}: {path} is not under {Path(folder).parent}"
        for name, path in paths
        if not path.is_relative_to(Path(folder).parent)
    ]  # type: ignore[union-attr]
    if on_volume and not (settings.database or "").startswith("postgresql://"):
        found.append(f"{where}: several machines write reviews and tokens: give a Postgres database")
    if "@" in (settings.database or "") and ":" in str(settings.database).partition("://")[2].partition("@")[0]:
        found.append(f"{where}: the database's password belongs into PGPASSWORD, from a secret")
    return found


def room_problems(config: dict[str, Any], cpus: float, gpus: float, where: str) -> list[str]:
    """Whether all replicas, at their most, find room in what the workers have."""
    settings = parse(ServeSettings, config["applications"][0]["args"], where)
    replicas = [*(one.replicas for one in settings.generators.values()), settings.attributor.replicas]
    wanted, shares = cpus_of(settings) + SPARE_CPUS, sum(one.most * one.gpus for one in replicas)
    return (
        []
        if wanted <= cpus and shares <= gpus
        else [f"{where}: replicas take {wanted} CPUs and {shares} GPUs of {cpus} and {gpus}"]
    )


def file_problems(file: Path, *, on_volume: bool) -> list[str]:
    return serve_problems(yaml.safe_load(file.read_text(encoding="utf-8")), file.name, on_volume=on_volume)


def _unknown(model: type[BaseModel], value: dict[str, Any], where: str) -> list[str]:
    """Keys that Ray would leave unread: its own schema accepts them silently."""
    found = [f"{where}: {model.__name__} has no {key}" for key in value if key not in model.model_fields]
    for name, field in model.model_fields.items():
        inner = _models(field.annotation)
        for one in value.get(name) if isinstance(value.get(name), list) else [value.get(name)]:
            if inner and isinstance(one, dict):
                found += _unknown(inner[0], one, f"{where}: {name}")
    return found


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for part in getattr(annotation, "__args__", ()) for model in _models(part)]
