"""The engine on whole models: exactness, invariance, and leaving the module as it was."""

import json
from collections.abc import Callable

import pytest
import torch
from diffusers import DiTTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel, UNet2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from torch import Tensor, nn

from forebear.errors import ModelError
from forebear.gradients import GradientBatch, GradientEngine, Precision, ProjectionConfig
from forebear.gradients.projection import CHANNELS, KeptChannels, Mode

EXACT = ProjectionConfig(dim=None)
SMALL = ProjectionConfig(dim=64)
Measure = Callable[[slice], Tensor]
Oracle = Callable[..., Tensor]


def class_conditional(rows: int) -> tuple[nn.Module, Measure]:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=4,
        num_class_embeds=5,
    )
    images, noise = torch.randn(2, rows, 3, 8, 8)
    times, labels = torch.randint(1000, (rows,)), torch.randint(5, (rows,))

    def measure(part: slice) -> Tensor:
        return (unet(images[part], times[part], labels[part]).sample - noise[part]).square().mean((1, 2, 3))

    return unet, measure


def text_conditional(rows: int) -> tuple[nn.Module, Measure]:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=6,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    latents, noise = torch.randn(2, rows, 4, 8, 8)
    times, text = torch.randint(1000, (rows,)), torch.randn(rows, 3, 6)

    def measure(part: slice) -> Tensor:
        return (unet(latents[part], times[part], text[part]).sample - noise[part]).square().mean((1, 2, 3))

    return unet, measure


class Tied(nn.Module):
    """One layer used twice, and a weight that an embedding and a linear layer share."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(5, 4)
        self.twice = nn.Linear(4, 4)
        self.out = nn.Linear(4, 5, bias=False)
        self.out.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.twice(self.twice(self.tokens(x)).tanh()))


def tied(rows: int) -> tuple[nn.Module, Measure]:
    torch.manual_seed(0)
    module, tokens = Tied(), torch.randint(5, (rows, 3))
    return module, lambda part: module(tokens[part]).sin().sum((1, 2))


def with_lora(rows: int) -> tuple[nn.Module, Measure]:
    unet, measure = text_conditional(rows)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0", "conv1"]))
    unet.requires_grad_(True)  # the adapter froze all else
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "lora_B" in name:  # zero at the start, which would hide lora_A's gradient
                parameter.normal_(std=0.1)
    return unet, measure


def dit(rows: int) -> tuple[nn.Module, Measure]:
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=3,
        out_channels=6,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=5,
        norm_num_groups=4,
    ).eval()
    with torch.no_grad():
        for parameter in transformer.parameters():  # its last layers start at zero, which would stop every gradient
            parameter.normal_(std=0.2)
    images, noise = torch.randn(2, rows, 3, 8, 8)
    times, labels = torch.randint(1000, (rows,)), torch.randint(5, (rows,))

    def measure(part: slice) -> Tensor:
        output = transformer(images[part], times[part], labels[part]).sample[:, :3]
        return (output - noise[part]).square().mean((1, 2, 3))

    return transformer, measure


def flow_transformer(rows: int) -> tuple[nn.Module, Measure]:
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=4,
        num_attention_heads=2,
        joint_attention_dim=6,
        caption_projection_dim=8,
        pooled_projection_dim=5,
        qk_norm="rms_norm",
        pos_embed_max_size=8,
    ).eval()
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.normal_(std=0.2)
    latents, noise = torch.randn(2, rows, 4, 8, 8)
    times, text, pooled = torch.rand(rows) * 1000, torch.randn(rows, 3, 6), torch.randn(rows, 5)

    def measure(part: slice) -> Tensor:
        output = transformer(latents[part], text[part], pooled[part], times[part]).sample
        return (output - noise[part]).square().mean((1, 2, 3))

    return transformer, measure


MODELS = {"class-conditional": class_conditional, "text-conditional": text_conditional, "tied": tied}
MODELS |= {"lora": with_lora, "dit": dit, "sd3": flow_transformer}


def whole(engine: GradientEngine, measure: Measure, group: int = 1) -> GradientBatch:
    return engine.measure(lambda: measure(slice(None)), group)


@pytest.fixture
def few_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models have small weights: project them all the same, to numbers of channels that divide nothing."""
    monkeypatch.setattr("forebear.gradients.projection.SMALL_WEIGHT", 16)
    monkeypatch.setitem(CHANNELS, "default", KeptChannels((7, 5), (6, 4)))
    monkeypatch.setitem(CHANNELS, "fast", KeptChannels((3, 1), (2, 2)))


@pytest.mark.usefixtures("few_channels")
@pytest.mark.parametrize("mode", CHANNELS)
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("model", MODELS)
def test_gradients_norms_and_sketches_agree_with_autograd(
    model: str, group: int, mode: Mode, autograd_gradients: Oracle
) -> None:
    module, measure = MODELS[model](3 * group)
    expected = autograd_gradients(module, measure, 3, group)
    exact = whole(GradientEngine(module, EXACT), measure, group)
    norms = expected.norm(dim=1)
    assert float(((exact.vectors - expected).norm(dim=1) / norms).max()) < 1e-5
    torch.testing.assert_close(exact.norms, norms, rtol=1e-5, atol=0)

    engine = GradientEngine(module, ProjectionConfig(dim=64, mode=mode))
    projected = whole(engine, measure, group)
    assert projected.vectors.shape == (3, engine.dim) == (3, 64)
    assert engine.parameter_count == expected.shape[1]
    assert float(((projected.vectors - engine.sketch(expected)).norm(dim=1) / norms).max()) < 1e-5
    assert torch.equal(projected.values, exact.values)
    if mode == "exact":
        assert torch.equal(projected.norms, exact.norms)
    elif model != "tied":  # whose only layer to project has 16 numbers
        assert not torch.allclose(projected.norms, exact.norms, rtol=1e-5)


@pytest.mark.usefixtures("few_channels")
def test_a_norm_of_projected_channels_is_right_on_average() -> None:
    module, measure = class_conditional(2)
    exact = whole(GradientEngine(module, EXACT), measure).norms.square()
    ratios = torch.stack(
        [
            whole(GradientEngine(module, ProjectionConfig(64, seed)), measure).norms.square() / exact
            for seed in range(60)
        ]
    )
    assert bool(((ratios.mean(0) - 1).abs() <= 3 * ratios.std(0) / 60**0.5).all())


def test_bfloat16_stays_near_float32() -> None:
    module, measure = class_conditional(4)
    exact = whole(GradientEngine(module, EXACT), measure)
    found = whole(GradientEngine(module, EXACT, precision="bfloat16"), measure)
    error = (found.vectors - exact.vectors).norm(dim=1) / exact.norms
    assert 1e-5 < float(error.max()) < 0.03
    assert found.vectors.dtype == torch.float32


def test_the_output_layer_stays_in_float32() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(3, 8)

    def vectors(layers: list[nn.Linear], precision: Precision) -> torch.Tensor:
        module = nn.Sequential(*layers)
        engine = GradientEngine(module, EXACT, precision=precision)
        return engine.measure(lambda: module(inputs).square().sum(1)).vectors

    layers = [nn.Linear(8, 8), nn.Linear(8, 4)]
    assert torch.equal(vectors(layers[:1], "bfloat16"), vectors(layers[:1], "float32"))
    assert not torch.equal(vectors(layers, "bfloat16"), vectors(layers, "float32"))


def test_a_replaced_forward_is_refused_by_name() -> None:
    module = nn.Sequential(nn.Linear(3, 2))
    module[0].forward = lambda x: x  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"forward method of the layer 0 has been replaced.*'!0.weight'"):
        GradientEngine(module, EXACT).measure(lambda: module(torch.ones(1, 3)).sum(1))


_module, _measure = text_conditional(6)
_engine = GradientEngine(_module, SMALL)
_all_rows = whole(_engine, _measure)


@settings(max_examples=12)
@given(order=st.permutations(range(6)), size=st.integers(1, 6))
def test_a_sample_does_not_depend_on_order_or_batch(order: list[int], size: int) -> None:
    chosen = torch.tensor(order[:size])
    found = _engine.measure(lambda: _measure(chosen))  # type: ignore[arg-type]
    norms = _all_rows.norms[chosen]
    assert float(((found.vectors - _all_rows.vectors[chosen]).norm(dim=1) / norms).max()) < 1e-5
    torch.testing.assert_close(found.norms, norms, rtol=1e-5, atol=0)


def test_a_layer_larger_than_a_chunk_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebear.gradients.engine._CHUNK_ON_CPU", 1)
    one_by_one = whole(_engine, _measure)
    error = (one_by_one.vectors - _all_rows.vectors).norm(dim=1) / _all_rows.norms
    assert float(error.max()) < 1e-5


def test_a_repeated_run_gives_the_same_bits() -> None:
    again = whole(GradientEngine(_module, SMALL), _measure)
    assert torch.equal(again.vectors, _all_rows.vectors)
    assert torch.equal(again.norms, _all_rows.norms)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_grad_mode_of_the_caller_does_not_matter(mode: Callable[[], torch.no_grad]) -> None:
    with mode():
        found = whole(_engine, _measure)
    assert torch.equal(found.vectors, _all_rows.vectors)
    assert not found.vectors.requires_grad
    assert not found.values.requires_grad


def test_a_module_trained_afterwards_is_as_it_was() -> None:
    module, measure = tied(2)
    module.twice.bias.requires_grad_(False)
    whole(GradientEngine(module, SMALL), measure)
    assert [name for name, p in module.named_parameters() if not p.requires_grad] == ["twice.bias"]
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(part._forward_hooks or "forward" in vars(part) for part in module.modules())


def test_a_layer_whose_output_is_not_used_has_a_zero_gradient() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.spare(x)
            return self.used(x)

    module, inputs = Spare(), torch.randn(2, 3)
    found = GradientEngine(module, EXACT).measure(lambda: module(inputs).sum(1)).vectors
    assert bool((found[:, 8:] == 0).all())
    assert bool((found[:, :8] != 0).all())


def test_a_call_of_a_shared_layer_may_go_unused(autograd_gradients: Oracle) -> None:
    module, inputs = nn.Linear(3, 3), torch.randn(2, 3)

    def measure(rows: slice) -> Tensor:
        hidden = module(inputs[rows])
        module(hidden)
        with torch.no_grad():
            target = module(hidden)
        return (hidden - target).square().sum(1)

    expected = autograd_gradients(module, measure, 2)
    torch.testing.assert_close(whole(GradientEngine(module, EXACT), measure).vectors, expected, rtol=1e-5, atol=1e-5)


def test_the_first_layer_may_be_followed_by_a_step_in_place(autograd_gradients: Oracle) -> None:
    module, inputs = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)), torch.randn(2, 3)

    def measure(rows: slice) -> Tensor:
        return module(inputs[rows]).sin().sum(1)

    expected = autograd_gradients(module, measure, 2)
    torch.testing.assert_close(whole(GradientEngine(module, EXACT), measure).vectors, expected, rtol=1e-5, atol=1e-6)


def test_inputs_by_keyword_and_hooks_of_the_users_own(autograd_gradients: Oracle) -> None:
    module, inputs = nn.Linear(3, 2), torch.randn(2, 3)
    module.register_forward_hook(lambda module, args, output: 2 * output)

    def measure(rows: slice) -> Tensor:
        return module(input=inputs[rows]).sin().sum(1)

    expected = autograd_gradients(module, measure, 2)
    torch.testing.assert_close(whole(GradientEngine(module, EXACT), measure).vectors, expected, rtol=1e-5, atol=1e-6)


def test_the_fingerprint_is_json_and_follows_what_decides_the_numbers() -> None:
    def data(module: nn.Module, config: ProjectionConfig, *patterns: str) -> str:
        return json.dumps(GradientEngine(module, config, patterns or ("*",)).fingerprint_data(), sort_keys=True)

    first = data(nn.Linear(3, 2), SMALL)
    assert first == data(nn.Linear(3, 2), SMALL)
    others = [
        data(nn.Linear(3, 2), ProjectionConfig(dim=32)),
        data(nn.Linear(3, 2), ProjectionConfig(dim=64, seed=1)),
        data(nn.Linear(3, 2), ProjectionConfig(dim=64, mode="fast")),
        data(nn.Linear(3, 2), EXACT),
        data(nn.Linear(2, 3), SMALL),
        data(nn.Linear(3, 2), SMALL, "weight"),
        data(nn.Sequential(nn.Linear(3, 2)), SMALL),
    ]
    assert len({first, *others}) == 8
