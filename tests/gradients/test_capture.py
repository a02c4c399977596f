"""What cannot be followed is an error that says so, and no error leaves anything behind."""

import gc
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from forebear.errors import ConfigError, ForebearError, ModelError
from forebear.gradients import GradientEngine, ProjectionConfig

SMALL = ProjectionConfig(dim=8)


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


class BrokenError(RuntimeError):
    """Raised by the tests inside a pass."""


def _fail_forward(hidden: Tensor) -> Tensor:
    raise BrokenError


def _fail_backward(hidden: Tensor) -> Tensor:
    def fail(grad: Tensor) -> None:
        raise BrokenError

    hidden.register_hook(fail)
    return hidden


@pytest.mark.parametrize("fail", [_fail_forward, _fail_backward])
def test_an_error_inside_a_pass_leaves_nothing_behind(fail: Callable[[Tensor], Tensor]) -> None:
    module, inputs = perceptron(), torch.randn(5, 3)
    engine = GradientEngine(module, SMALL)
    expected = engine.measure(lambda: module(inputs).sum(1)).vectors
    kept: list[weakref.ref[Tensor]] = []

    def measure() -> Tensor:
        hidden = module[1](module[0](inputs))
        kept.append(weakref.ref(hidden))
        return module[2](fail(hidden)).sum(1)

    with pytest.raises(BrokenError):
        engine.measure(measure)
    gc.collect()
    assert kept[0]() is None
    assert not any(part._forward_hooks for part in module.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())
    assert torch.equal(engine.measure(lambda: module(inputs).sum(1)).vectors, expected)


def test_the_activations_are_freed_as_the_backward_pass_goes() -> None:
    module, inputs = perceptron(), torch.randn(5, 3)
    alive: list[bool] = []

    def measure() -> Tensor:
        first = module[0](inputs)
        hidden = module[1](first)
        storage = weakref.ref(hidden.untyped_storage())
        # Runs after the upper layer's gradient is there and before the lower one's; tanh has freed its output by then.
        first.register_hook(lambda grad: alive.append(storage() is not None))
        return module[2](hidden).sum(1)

    GradientEngine(module, SMALL).measure(measure)
    assert alive == [False]


def test_a_layer_over_another_number_of_rows_is_named() -> None:
    class Broadcast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.time = nn.Linear(3, 3), nn.Linear(1, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) + self.time(torch.ones(1, 1))

    module = Broadcast()
    with pytest.raises(ModelError, match=r"layer time ran over 1 rows where the batch has 4.*timesteps"):
        GradientEngine(module, SMALL).measure(lambda: module(torch.randn(4, 3)).sum(1))


def test_a_layer_that_was_not_called_is_named() -> None:
    module = perceptron()
    with pytest.raises(ModelError, match=r"layer 2 was not called with gradients on.*'!2.weight'"):
        GradientEngine(module, SMALL).measure(lambda: module[0](torch.randn(4, 3)).sum(1))


def test_a_layer_called_only_without_gradient_is_named() -> None:
    module = perceptron()

    def measure() -> Tensor:
        with torch.no_grad():
            return module(torch.randn(4, 3)).sum(1)

    with pytest.raises(ModelError, match="does not depend on any covered layer"):
        GradientEngine(module, SMALL).measure(measure)


@pytest.mark.parametrize(
    ("reentrant", "message"), [(False, "layer 1.0 ran again"), (True, "layer 1.0 was not called with gradients on")]
)
def test_gradient_checkpointing_is_refused(reentrant: bool, message: str) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)))

    def measure() -> Tensor:
        hidden = module[0](torch.randn(4, 3))
        return checkpoint(module[1], hidden, use_reentrant=reentrant).sum(1)

    with pytest.raises(ModelError, match=rf"{message}.*gradient checkpointing"):
        GradientEngine(module, SMALL).measure(measure)


def test_an_input_overwritten_in_place_is_refused() -> None:
    module = perceptron()

    def measure() -> Tensor:
        hidden = module[0](torch.randn(4, 3))
        out = module[2](hidden)
        hidden.add_(1)
        return out.sum(1)

    with pytest.raises(ModelError, match="input of the layer 2 was overwritten"):
        GradientEngine(module, SMALL).measure(measure)


def test_an_input_made_in_inference_mode_is_refused() -> None:
    module = perceptron()
    with torch.inference_mode():
        inputs = torch.randn(4, 3)
    with pytest.raises(ModelError, match=r"layer 0 was made under torch\.inference_mode"):
        GradientEngine(module, SMALL).measure(lambda: module(inputs).sum(1))


def test_a_backward_pass_inside_the_forward_pass_is_refused() -> None:
    module = perceptron()

    def measure() -> Tensor:
        module(torch.randn(4, 3)).sum().backward()
        return module(torch.randn(4, 3)).sum(1)

    with pytest.raises(ModelError, match="backward pass of its own"):
        GradientEngine(module, SMALL).measure(measure)


@pytest.mark.parametrize(
    ("measure", "group"),
    [
        (lambda out: out, 1),
        (lambda out: out.sum(), 1),
        (lambda out: out.sum(1), 3),
        (lambda out: out[:0].sum(1), 1),
    ],
)
def test_measurements_of_another_shape_are_refused(measure: Callable[[Tensor], Tensor], group: int) -> None:
    module = perceptron()
    with pytest.raises(ModelError, match=rf"samples of {group} rows"):
        GradientEngine(module, SMALL).measure(lambda: measure(module(torch.randn(4, 3))), group)


def test_a_group_needs_a_row() -> None:
    module = perceptron()
    with pytest.raises(ConfigError, match="group=0"):
        GradientEngine(module, SMALL).measure(lambda: module(torch.randn(4, 3)).sum(1), 0)


def test_a_gradient_that_is_not_finite_names_layer_and_samples() -> None:
    module, inputs = perceptron(), torch.ones(4, 3)
    inputs[2, 1] = torch.inf
    with pytest.raises(ForebearError, match=r"layer 0 is not finite for the samples \[2\]") as caught:
        GradientEngine(module, SMALL).measure(lambda: module(inputs).sum(1))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
