"""FAISS and NumKong: what approximate search needs, and exact search does without."""

from importlib import import_module
from types import ModuleType

from forebear.errors import SearchIndexError


def import_faiss() -> ModuleType:
    """The module faiss; raises SearchIndexError that says what to install."""
    return _imported("faiss", "FAISS")


def import_numkong() -> ModuleType:
    """The module numkong; raises SearchIndexError that says what to install."""
    return _imported("numkong", "NumKong")


def check_libraries() -> None:
    """Raises SearchIndexError when one of them is missing, before the hours that reading vectors may take."""
    import_faiss()
    import_numkong()


def _imported(module: str, name: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as missing:
        raise SearchIndexError(
            f"approximate search needs {name} ({missing}); install forebear[cpu] or forebear[gpu], "
            "or choose exact search with the index setting kind: exact"
        ) from None
