"""Tables of fields out of JSON schemas: of settings, of files, of HTTP bodies alike."""

import json
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any

from pydantic import TypeAdapter

from reference.docstrings import meanings, purpose
from reference.markdown import code, table

Schema = Mapping[str, Any]
Link = Callable[[str], str]
"""From the name of a schema to a link to its section, or its plain name."""
LIMITS = (
    ("minimum", "at least {}"),
    ("exclusiveMinimum", "above {}"),
    ("maximum", "at most {}"),
    ("exclusiveMaximum", "below {}"),
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("minItems", "at least {} entries"),
    ("maxItems", "at most {} entries"),
    ("pattern", "as `{}`"),
)
NAMES = {"integer": "integer", "number": "number", "boolean": "true or false", "null": "null", "string": "text"}
FORMATS = {"path": "path", "binary": "bytes", "base64": "base64", "date-time": "time, ISO 8601"}


def of_class(kind: type) -> Schema:
    """The JSON schema of a dataclass or model, with those it refers to under `$defs`."""
    return TypeAdapter(kind).json_schema(mode="validation")


def kind_text(schema: Schema, link: Link) -> str:
    """What a value may be, in words."""
    if "$ref" in schema:
        return link(schema["$ref"].rsplit("/", 1)[-1])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(kind_text(one, link) for one in schema[several]))
    if "allOf" in schema:
        return " and ".join(kind_text(one, link) for one in schema["allOf"])
    if "enum" in schema:
        return ", ".join(code(value) for value in schema["enum"])
    if "const" in schema:
        return code(schema["const"])
    return _plain_kind(schema, link) + _limits(schema)


def _plain_kind(schema: Schema, link: Link) -> str:
    kind = schema.get("type")
    if kind == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(kind_text(one, link) for one in schema['prefixItems'])}]"
        return f"list of {kind_text(schema.get('items', {}), link)}"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"mapping to {kind_text(values, link)}" if isinstance(values, dict) and values else "mapping"
    if kind == "string":
        return FORMATS.get(schema.get("format", ""), "text")
    return NAMES.get(str(kind), "anything")


def _limits(schema: Schema) -> str:
    pair = (schema.get("minItems"), schema.get("maxItems"))
    skipped = {"minItems", "maxItems"} if "prefixItems" in schema and pair[0] == pair[1] else set()
    said = [text.format(_short(schema[name])) for name, text in LIMITS if name in schema and name not in skipped]
    return f", {', '.join(said)}" if said else ""


def _short(limit: object) -> object:
    """A limit as people write it; OpenAPI turns whole numbers into floating ones, which rounds the largest up."""
    if limit == 2**63:
        return "2^63 - 1"
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def value_text(value: object) -> str:
    """A default, as YAML and JSON write it."""
    if value is None:
        return ""
    return code(value) if isinstance(value, str) and value else code(json.dumps(value, ensure_ascii=False))


def field_rows(schema: Schema, link: Link, kind: type | None = None) -> list[tuple[str, str, str, str]]:
    """(name, type, default, meaning) of an object's fields; `kind` is its class, for what the schema does not say."""
    said = meanings(kind) if kind else {}
    required = set(schema.get("required", ()))
    rows = []
    for name, one in schema.get("properties", {}).items():
        default = "required" if name in required else _default(one, name, kind)
        meaning = one.get("description") or said.get(name) or _nested_purpose(name, kind)
        rows.append((code(name), kind_text(one, link), default, meaning))
    return rows


def _default(schema: Schema, name: str, kind: type | None) -> str:
    made = _made(name, kind)
    if is_dataclass(made):
        return _changed(made)
    if isinstance(made, dict) and any(is_dataclass(one) for one in made.values()):
        return ", ".join(f"{code(key)}: {_changed(one)}" for key, one in made.items())
    if "default" in schema:
        return value_text(schema["default"])
    return "" if made is None else value_text(TypeAdapter(type(made)).dump_python(made, mode="json"))


def _made(name: str, kind: type | None) -> object:
    """What a field's factory makes."""
    known = getattr(kind, "__pydantic_fields__", {}) if kind else {}
    return known[name].get_default(call_default_factory=True) if name in known else None


def _changed(made: Any) -> str:
    """In what a nested default differs from its class's own defaults."""
    usual = type(made)() if not any(_needed(type(made))) else None
    plain = TypeAdapter(type(made)).dump_python(made, mode="json")
    before = TypeAdapter(type(made)).dump_python(usual, mode="json") if usual else {}
    differing = {name: value for name, value in plain.items() if value is not None and before.get(name) != value}
    return ", ".join(code(f"{name}: {json.dumps(value)}") for name, value in differing.items()) or "its own defaults"


def _needed(kind: type) -> list[bool]:
    return [one.is_required() for one in getattr(kind, "__pydantic_fields__", {}).values()]


def _nested_purpose(name: str, kind: type | None) -> str:
    """What the class of a nested field is for, where the field itself says nothing."""
    known = getattr(kind, "__pydantic_fields__", {}) if kind else {}
    nested = known[name].annotation if name in known else None
    return purpose(nested).split("\n\n")[0] if isinstance(nested, type) and is_dataclass(nested) else ""


def fields_table(schema: Schema, link: Link, kind: type | None = None) -> str:
    return table(["field", "type", "default", "meaning"], field_rows(schema, link, kind))
