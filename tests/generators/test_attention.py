"""Rounded attention probabilities against attention written out, and through the files of a generator."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import Attention

from forebear.errors import ConfigError
from forebear_generators.generator import Generator, Request
from forebear_generators.quantisation.attention import round_attention, rounded_probabilities
from forebear_generators.quantisation.openvino_backend import openvino_problem
from forebear_generators.quantisation.quantise import quantise
from forebear_generators.quantisation.settings import (
    ActivationsConfig,
    CalibrationConfig,
    QuantisationConfig,
    RoundingConfig,
)

Save = Callable[..., Path]


def written_out(attention: Attention, x: torch.Tensor, context: torch.Tensor, levels: float | None) -> torch.Tensor:
    """Attention by heads in plain operations: [B, L, C] over [B, M, D]; probabilities of so many levels."""
    heads, width = attention.heads, attention.to_q.out_features // attention.heads
    query, key, value = (
        layer(given).unflatten(2, (heads, width)).transpose(1, 2)
        for layer, given in ((attention.to_q, x), (attention.to_k, context), (attention.to_v, context))
    )
    probabilities = (query @ key.transpose(2, 3) / width**0.5).softmax(-1)
    if levels is not None:
        probabilities = (probabilities * levels).round() / levels
    mixed: torch.Tensor = attention.to_out[0]((probabilities @ value).transpose(1, 2).flatten(2))
    return mixed


@pytest.mark.parametrize("crossed", [False, True])
@torch.no_grad()
def test_attention_reads_rounded_probabilities(crossed: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(8, cross_attention_dim=6 if crossed else None, heads=2, dim_head=4).eval()
    x = torch.randn(3, 20, 8) * 3
    context = torch.randn(3, 5, 6) if crossed else x
    told = context if crossed else None
    plain = written_out(attention, x, context, None)
    torch.testing.assert_close(attention(x, told), plain, rtol=0, atol=1e-5)
    assert round_attention(attention) == 1
    found = attention(x, told)
    torch.testing.assert_close(found, written_out(attention, x, context, 255.0), rtol=0, atol=1e-4)
    assert (found - plain).abs().max() > 1e-4


def test_levels_reach_both_ends_and_err_by_half_a_level_at_most() -> None:
    x = torch.linspace(0, 1, 10_001)
    found = rounded_probabilities(x)
    assert (found[0], found[-1]) == (0, 1)
    assert len(found.unique()) == 256
    assert float((found - x).abs().max()) <= 0.5 / 255 * 1.001


def test_a_generator_keeps_the_setting(stable_diffusion: Path, tmp_path: Path) -> None:
    """Its files say so, and every backend computes it."""
    pictures = {}
    request = Request(("a cat",), (None,), (3,), "own", 2, 1.0)
    for softmax in ("keep", "uint8"):
        config = QuantisationConfig(
            steps=2,
            calibration=CalibrationConfig(pictures=1),
            rounding=RoundingConfig("nearest"),
            activations=ActivationsConfig(softmax=softmax),  # type: ignore[arg-type]
        )
        quantise(stable_diffusion, config, tmp_path / softmax)
        pictures[softmax] = Generator.load(tmp_path / softmax, backend="simulated").run(request).pixels
    apart = (pictures["keep"] - pictures["uint8"]).norm() / pictures["keep"].norm()
    assert 0 < apart < 0.1
    if openvino_problem() is None:
        compiled = Generator.load(tmp_path / "uint8", backend="openvino").run(request).pixels
        assert (compiled - pictures["uint8"]).norm() / pictures["uint8"].norm() < 0.05


def test_floating_activations_have_no_rounded_softmax() -> None:
    with pytest.raises(ConfigError, match="leaves activations floating"):
        QuantisationConfig("w8a16", activations=ActivationsConfig(softmax="uint8"))
