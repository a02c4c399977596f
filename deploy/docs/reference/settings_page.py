"""docs/reference/settings.md: every configuration dataclass that a user fills, field by field."""

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, NamedTuple, get_args

from forebear.attribution import AuditConfig, QueryConfig
from forebear.diffusion.training import TrainConfig
from forebear.evaluation.families import FamiliesConfig
from forebear.evaluation.lds_config import LdsConfig
from forebear.evaluation.outliers import OutliersConfig
from forebear.evaluation.removal import RemovalConfig
from forebear.evaluation.specificity import SpecificityConfig
from forebear.evaluation.tracing import TracingConfig
from forebear.index import IndexConfig
from forebear.jobs import EmbedConfig
from forebear_generators.cow.evaluation.settings import CowEvaluationConfig
from forebear_generators.cow.settings import CowConfig
from forebear_generators.evaluation.settings import GeneratorsConfig
from forebear_generators.quantisation.settings import QuantisationConfig
from forebear_serve.settings import ServeSettings
from reference.docstrings import purpose
from reference.markdown import anchor, page, table
from reference.schema import fields_table, of_class

HEAD = """# Reference: settings

Every setting that a file, an option or a Python call can give, made from the dataclasses themselves. An unknown or impossible
setting is an error that names it. Options of the command line ([cli.md](cli.md)) win over a file. YAML writes the values as they
stand here; `required` has no default; an empty default is `null`. What was used is kept in `RUN/run.yaml`
([formats.md](formats.md#runyaml)), in the manifest, or in `result.json`."""


class Root(NamedTuple):
    """A configuration, and where it is given."""

    kind: type
    given: str


ROOTS = (
    Root(TrainConfig, "`forebear train FILE`; [data](../data.md)"),
    Root(EmbedConfig, "`forebear embed --config FILE`, options; [jobs](../jobs.md)"),
    Root(IndexConfig, "options of `forebear index`; in Python, `build_indexes`; [the index](../index.md)"),
    Root(
        QueryConfig,
        "options of `forebear attribute`; in Python, `query=`; [estimators](../estimators.md#cheap-queries)",
    ),
    Root(AuditConfig, "in Python, `audit=`; [reading an answer](../auditing.md)"),
    Root(LdsConfig, "`forebear evaluate lds --config FILE`; [evaluation](../evaluation.md)"),
    Root(
        SpecificityConfig, "`forebear evaluate specificity --config FILE`; [evaluation](../evaluation.md#specificity)"
    ),
    Root(TracingConfig, "`forebear evaluate tracing --config FILE`; [evaluation](../evaluation.md#tracing)"),
    Root(OutliersConfig, "`forebear evaluate outliers --config FILE`; [evaluation](../evaluation.md#outliers)"),
    Root(RemovalConfig, "`forebear evaluate removal --config FILE`; [evaluation](../evaluation.md#removal)"),
    Root(FamiliesConfig, "`forebear evaluate families --config FILE`; [evaluation](../evaluation.md#families)"),
    Root(QuantisationConfig, "`forebear quantize --config FILE`, options; [quantised generators](../quantisation.md)"),
    Root(
        GeneratorsConfig,
        "`forebear evaluate quantization --config FILE`; [quantised generators](../quantisation.md#evaluation)",
    ),
    Root(
        CowConfig,
        "`forebear cow --config FILE`, options, `settings` in a request; [pictures around an image](../cow.md)",
    ),
    Root(
        CowEvaluationConfig, "`forebear evaluate cow --config FILE`; [pictures around an image](../cow.md#evaluation)"
    ),
    Root(ServeSettings, "`forebear serve --config FILE`, `args` of a Serve application; [services](../services.md)"),
)


def nested(kind: type) -> Iterator[type]:
    """The dataclasses that the fields of one hold, at any depth, each before those inside it."""
    for one in kind.__pydantic_fields__.values():  # type: ignore[attr-defined]
        for inner in _dataclasses_in(one.annotation):
            yield inner
            yield from nested(inner)


def _dataclasses_in(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type) and is_dataclass(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from _dataclasses_in(part)


def sections() -> dict[type, Root]:
    """Every documented class, in the order of the page, with the configuration under which it is first met."""
    found: dict[type, Root] = {}
    for root in ROOTS:
        for kind in (root.kind, *nested(root.kind)):
            found.setdefault(kind, root)
    return found


def settings_page() -> str:
    """The whole page."""
    found = sections()
    names = {kind.__name__ for kind in found}
    listed = [
        (
            ", ".join(_link(kind.__name__, names) for kind, under in found.items() if under is root),
            root.given,
        )
        for root in ROOTS
    ]
    return page(
        HEAD,
        table(["settings", "given by"], listed),
        *(
            page(
                f"{'##' if root.kind is kind else '###'} {kind.__name__}",
                purpose(kind),
                fields_table(of_class(kind), lambda name: _link(name, names), kind),
            )
            for kind, root in found.items()
        ),
    )


def _link(name: str, names: set[str]) -> str:
    return f"[{name}](#{anchor(name)})" if name in names else name
