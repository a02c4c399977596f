"""JSON schemas, and what a value breaks of them, as lines."""

from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from kubernetes_validate import utils
from referencing import Registry, Resource

KUBERNETES = "1.37.0"
TEXT, NUMBER, SWITCH, ANY = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def thing(required: str = "", **properties: Any) -> dict[str, Any]:
    """An object of these properties and no others; `required` names some, separated by blanks."""
    return {"type": "object", "additionalProperties": False, "required": required.split(), "properties": properties}


def many(items: Any) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": items}


def broken(validator: Draft202012Validator, value: Any, where: str) -> list[str]:
    return [
        f"{where}: {'/'.join(map(str, error.absolute_path)) or 'it'}: {error.message}"
        for error in validator.iter_errors(value)
    ]


@cache
def kubernetes(kind: str, version: str) -> Draft202012Validator:
    """Of a kind of Kubernetes itself, in its strict form: an unknown field is an error."""
    folder, version = f"kubernetes-json-schema/v{KUBERNETES}-local-strict", version.replace("/", "-")
    group, _, name = version.rpartition("-")
    short = f"{group.split('.')[0]}-{name}" if group else name
    own = Resource.from_contents(utils.schema_contents(f"{folder}/{kind.lower()}-{short}.json", KUBERNETES))
    return Draft202012Validator(own.contents, registry=_definitions() @ (own @ Registry()))


@cache
def _definitions() -> Resource[Any]:
    folder = f"kubernetes-json-schema/v{KUBERNETES}-local-strict"
    return Resource.from_contents(utils.schema_contents(f"{folder}/_definitions.json", KUBERNETES))
