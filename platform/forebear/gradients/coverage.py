"""Which parameters are selected, which of them have a layer rule, and which layers must be summed together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from forebear.errors import ConfigError
from forebear.gradients.layers import LayerRule, rule_for
from forebear.gradients.operators import Operator


@dataclass(frozen=True)
class ParameterShare:
    """One selected parameter: its name, its number of elements, and why it is not covered (empty when it is)."""

    name: str
    numel: int
    reason: str = ""


@dataclass(frozen=True)
class Coverage:
    """The selected parameters, in the order of `module.named_parameters()`."""

    covered: tuple[ParameterShare, ...]
    uncovered: tuple[ParameterShare, ...]

    @property
    def uncovered_share(self) -> float:
        """The part of the selected parameters' elements that is not covered, 0 to 1."""
        missing = sum(share.numel for share in self.uncovered)
        return missing / (missing + sum(share.numel for share in self.covered))

    def describe_uncovered(self, most: int = 8) -> str:
        """The largest uncovered parameters, with share and reason, in one sentence fragment."""
        total = sum(share.numel for share in self.covered + self.uncovered)
        largest = sorted(self.uncovered, key=lambda share: -share.numel)
        lines = [f"{share.name} ({share.numel / total:.2%}: {share.reason})" for share in largest[:most]]
        if len(largest) > most:
            lines.append(f"and {len(largest) - most} more")
        return ", ".join(lines)


@dataclass(frozen=True, eq=False)
class Layer:
    """A module with a rule, and the full names of its selected parameters by their names in the module."""

    name: str
    module: nn.Module
    rule: LayerRule
    operator: Operator | None
    """What runs in the module's place; None leaves it to itself."""
    parameters: dict[str, str]


@dataclass(frozen=True, eq=False)
class LayerGroup:
    """Layers that share a parameter, mostly a single one: their gradients are added before any norm is taken."""

    layers: tuple[Layer, ...]

    @property
    def name(self) -> str:
        return " + ".join(layer.name or "the module itself" for layer in self.layers)


def select_parameters(module: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Parameter]:
    """The parameters whose names match a pattern and no pattern that starts with `!`, in the module's order.

    Raises ConfigError when a pattern matches nothing or nothing is left.
    """
    named = dict(module.named_parameters())
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")] or ["*"]
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    for pattern in [*wanted, *unwanted]:
        if not any(fnmatchcase(name, pattern) for name in named):
            some = ", ".join(list(named)[:3])
            raise ConfigError(f"no parameter matches the pattern {pattern!r}; the names look like: {some}")
    selected = {
        name: parameter
        for name, parameter in named.items()
        if any(fnmatchcase(name, pattern) for pattern in wanted)
        and not any(fnmatchcase(name, pattern) for pattern in unwanted)
    }
    if not selected:
        raise ConfigError(f"the patterns {list(patterns)} leave no parameter; remove one that starts with '!'")
    return selected


def _owners(module: nn.Module) -> dict[int, list[tuple[str, nn.Module, str]]]:
    """For each parameter's identity, every (module name, module, own name) that holds it; modules count once."""
    owners: dict[int, list[tuple[str, nn.Module, str]]] = {}
    for path, part in module.named_modules():
        for own, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
            owners.setdefault(id(parameter), []).append((path, part, own))
    return owners


def _rule_or_reason(part: nn.Module, own: str) -> LayerRule | str:
    rule = rule_for(part)
    if rule is None:
        return f"no rule for {type(part).__name__}"
    if own not in rule.parameters:
        return f"the rule for {type(part).__name__} does not know {own!r}"
    return rule.refusal(part) or rule


def cover(module: nn.Module, patterns: Sequence[str]) -> tuple[Coverage, tuple[LayerGroup, ...]]:
    """Sort the selected parameters and find the layers to watch; every module that holds a parameter needs a rule."""
    owners = _owners(module)
    covered: list[ParameterShare] = []
    uncovered: list[ParameterShare] = []
    layers: dict[nn.Module, Layer] = {}
    for name, parameter in select_parameters(module, patterns).items():
        found = [(path, part, own, _rule_or_reason(part, own)) for path, part, own in owners[id(parameter)]]
        reasons = [rule for *_, rule in found if isinstance(rule, str)]
        if reasons:
            uncovered.append(ParameterShare(name, parameter.numel(), reasons[0]))
            continue
        covered.append(ParameterShare(name, parameter.numel()))
        for path, part, own, rule in found:
            if isinstance(rule, LayerRule):
                layers.setdefault(part, _layer(path, part, rule)).parameters[own] = name
    return Coverage(tuple(covered), tuple(uncovered)), _group(layers.values())


def _layer(path: str, part: nn.Module, rule: LayerRule) -> Layer:
    return Layer(path, part, rule, rule.operator(part) if rule.operator else None, {})


def channel_axes(groups: Sequence[LayerGroup]) -> dict[str, tuple[int, int]]:
    """(output, input) channel axes of the weights whose channels may be projected, by parameter name.

    Those are the weights of operators that mix all channels, unless another layer reads the same weight otherwise.
    """
    found: dict[str, set[tuple[int, int] | None]] = {}
    for layer in (layer for group in groups for layer in group.layers):
        operator = layer.operator
        for own, name in layer.parameters.items():
            projectable = operator is not None and own == "weight" and operator.mixes_all_channels
            axes = (operator.out_axis, operator.in_axis) if operator is not None and projectable else None
            found.setdefault(name, set()).add(axes)
    return {name: axes for name, [axes, *others] in ((n, list(a)) for n, a in found.items()) if axes and not others}


def _group(layers: Iterable[Layer]) -> tuple[LayerGroup, ...]:
    """Join the layers that hold the same parameter, directly or through another layer."""
    group_of: dict[str, list[Layer]] = {}
    for layer in layers:
        joined = {id(group_of[name]): group_of[name] for name in layer.parameters.values() if name in group_of}
        group = [*(member for other in joined.values() for member in other), layer]
        group_of |= {name: group for member in group for name in member.parameters.values()}
    groups = {id(group): group for group in group_of.values()}
    return tuple(LayerGroup(tuple(group)) for group in groups.values())
