"""Typed configuration: dataclasses from YAML, checked once, with messages that name the setting."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from forebear.errors import ConfigError

STRICT = ConfigDict(extra="forbid")
"""Pydantic settings of every configuration dataclass: an unknown key is an error, never ignored."""

T = TypeVar("T")


def parse(kind: type[T], values: Mapping[str, Any], origin: str) -> T:
    """Build the configuration dataclass `kind` from plain values.

    Raises ConfigError naming `origin`, the setting and what is wrong with it.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as invalid:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'value'}: {problem['msg']}"
            for problem in invalid.errors(include_url=False, include_context=False)
        )
        raise ConfigError(f"{origin}: {problems}") from None


def plain(config: Any) -> dict[str, Any]:
    """The plain JSON-like values of a configuration dataclass; `parse` reads them back."""
    values: dict[str, Any] = TypeAdapter(type(config)).dump_python(config, mode="json")
    return values


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file; raise ConfigError when it is missing or not a mapping."""
    try:
        # libyaml, where it is there, reads a long deny list ten times as fast.
        values = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"{path} does not exist; give the path of a YAML configuration file") from None
    except OSError as refused:
        raise ConfigError(f"{path} cannot be read ({refused.strerror}); check its permissions") from None
    except (yaml.YAMLError, UnicodeDecodeError) as broken:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(broken).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold settings as 'name: value' lines")
    return values


def to_yaml(values: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=120)
    return text
