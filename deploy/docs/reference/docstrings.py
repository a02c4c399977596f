"""What the source says of a class: its docstring, and the string below each of its fields."""

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from types import MappingProxyType


@cache
def meanings(kind: type) -> Mapping[str, str]:
    """By field, what the string below it says; fields of base classes first."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.split(".")[0].startswith("forebear"):
            found |= _below_fields(base)
    return MappingProxyType(found)


def _below_fields(kind: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(below.value.value)
        for field, below in pairwise(tree.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


def purpose(kind: type) -> str:
    """The docstring of a class, on one line for each paragraph."""
    text = inspect.getdoc(kind) or ""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
