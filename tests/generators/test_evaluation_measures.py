"""Likeness of pictures, of sets of pictures, of temporal features and of attributions, against their formulas."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.stats import spearmanr

from forebear.errors import ConfigError
from forebear_generators.evaluation.agreement import agreement
from forebear_generators.evaluation.measures import PSNR_CEILING, frechet_distance, psnr, ssim
from forebear_generators.evaluation.picture_features import picture_features
from forebear_generators.evaluation.temporal_errors import feature_differences


def pictures(seed: int, count: int = 2, side: int = 14, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, side, side, generator=generator) * 2 - 1


def ssim_by_windows(x: np.ndarray, y: np.ndarray, side: int) -> float:
    """Wang et al. 2004, equations 13 to 16, window by window in one channel; L = 2."""
    places = np.arange(side) - side // 2
    weights = np.exp(-(places[:, None] ** 2 + places[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    found = []
    for top in range(x.shape[0] - side + 1):
        for left in range(x.shape[1] - side + 1):
            a, b = (each[top : top + side, left : left + side] for each in (x, y))
            ma, mb = (weights * a).sum(), (weights * b).sum()
            va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
            cov = (weights * (a - ma) * (b - mb)).sum()
            c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
            found.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(found))


@pytest.mark.parametrize(("side", "window"), [(14, 11), (8, 7), (7, 7)])
def test_ssim_is_its_formula(side: int, window: int) -> None:
    wanted = pictures(0, side=side)
    found = (wanted + 0.3 * pictures(1, side=side)).clamp(-1, 1)
    expected = [
        np.mean([ssim_by_windows(a, b, window) for a, b in zip(one, other, strict=True)])
        for one, other in zip(wanted.double().numpy(), found.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(ssim(wanted, found), expected, rtol=1e-9)
    np.testing.assert_allclose(ssim(wanted, wanted), 1.0)


def test_psnr_is_its_formula() -> None:
    wanted, found = pictures(0), pictures(1)
    error = ((wanted.double() - found.double()).numpy() ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(psnr(wanted, found), 20 * np.log10(2 / np.sqrt(error)))
    assert psnr(wanted, wanted).tolist() == [PSNR_CEILING] * 2


def test_frechet_distance_is_its_formula() -> None:
    generator = np.random.default_rng(0)
    one = generator.normal(size=(40, 5)) @ generator.normal(size=(5, 5))
    other = generator.normal(size=(30, 5)) @ generator.normal(size=(5, 5)) + 0.5
    a, b = np.cov(one.T), np.cov(other.T)
    apart = ((one.mean(0) - other.mean(0)) ** 2).sum()
    expected = apart + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    # Of one feature, and of fewer pictures than features, where covariances have no inverse.
    assert frechet_distance(one[:, :1], one[:, :1] + 2) == pytest.approx(4)
    assert frechet_distance(one[:3], one[:3] + 1) == pytest.approx(5, rel=1e-6)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**16))
def test_frechet_distance_does_not_see_order_or_rotation(seed: int) -> None:
    generator = np.random.default_rng(seed)
    one, other = generator.normal(size=(9, 4)), generator.normal(size=(7, 4)) + 1
    turn, _ = np.linalg.qr(generator.normal(size=(4, 4)))
    distance = frechet_distance(one, other)
    assert frechet_distance(other, one) == pytest.approx(distance)
    assert frechet_distance(generator.permutation(one) @ turn, other @ turn) == pytest.approx(distance)


def test_features_see_what_quantisation_does_and_not_the_batch() -> None:
    smooth = torch.nn.functional.interpolate(pictures(0, count=24, side=4), 16, mode="bilinear")
    noise = pictures(1, count=24, side=16)
    features = [picture_features(smooth + share * noise, 8) for share in (0.0, 0.05, 0.2)]
    near, far = (frechet_distance(features[0], each) for each in features[1:])
    assert 0 < near < far
    assert frechet_distance(features[0], picture_features(smooth + 0.2, 8)) > near  # a shift of colour
    np.testing.assert_allclose(picture_features(smooth[3:4], 8), features[0][3:4])
    assert picture_features(pictures(0, side=2, channels=1), 4).shape == (2, 4)


def test_differences_of_features_are_their_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = {"a": torch.randn(6, 5, generator=generator), "b": torch.randn(6, 3, generator=generator)}
    found = {name: each + 0.8 * torch.randn(each.shape, generator=generator) for name, each in wanted.items()}
    for name, (relative, cosine, mismatched) in feature_differences(wanted, found).items():
        full, other = wanted[name].double().numpy(), found[name].double().numpy()
        for step in range(6):
            f, g = full[step], other[step]
            assert relative[step] == pytest.approx(np.linalg.norm(g - f) / np.linalg.norm(f))
            assert cosine[step] == pytest.approx(1 - f @ g / np.linalg.norm(f) / np.linalg.norm(g))
            nearest = min(range(6), key=lambda own: np.linalg.norm(g - full[own]))
            assert mismatched[step] == (nearest != step)
    assert 0 < sum(each[2].sum() for each in feature_differences(wanted, found).values()) < 12


def test_mismatches_count_features_of_another_timestep() -> None:
    wanted = torch.arange(40.0)[:, None] * torch.tensor([[1e-3, 0.0]]) + torch.tensor([[30.0, 40.0]])
    swapped = wanted[torch.tensor([1, 0, *range(2, 40)])]
    assert feature_differences({"a": wanted}, {"a": swapped})["a"][2].tolist() == [1.0, 1.0, *[0.0] * 38]


def test_agreement_is_spearman_and_shared_proponents() -> None:
    generator = np.random.default_rng(0)
    wanted, found = generator.normal(size=(3, 50)), generator.normal(size=(3, 50))
    found[0] = wanted[0] * 2 + 1
    spearman, shared = agreement(wanted, found, 10)
    for place in range(3):
        assert spearman[place] == pytest.approx(spearmanr(wanted[place], found[place]).statistic)
        tops = [set(np.argsort(-each[place])[:10].tolist()) for each in (wanted, found)]
        assert shared[place] == len(tops[0] & tops[1]) / 10
    assert (spearman[0], shared[0]) == (pytest.approx(1), 1)
    with pytest.raises(ConfigError, match="top 51"):
        agreement(wanted, found, 51)
