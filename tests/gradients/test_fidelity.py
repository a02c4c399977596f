"""How the agreement of projected with whole gradients is counted."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from forebear.gradients.fidelity import Gram, compare, mean_of, norm_ratios, pearson, spearman


def test_true_gradients_agree_wholly_with_themselves() -> None:
    true = Gram.of(torch.randn(12, 40, generator=torch.Generator().manual_seed(0)))
    found = compare(true, true)
    agreement = (found.inner_spearman, found.cosine_spearman, found.inner_pearson, found.cosine_pearson, found.top)
    assert agreement == pytest.approx((1.0,) * 5)
    assert (found.cosine_error, found.norm_error) == (0.0, 0.0)


def test_noise_lowers_every_figure_and_scale_changes_rankings_not_at_all() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(12, 40, generator=generator)
    true = Gram.of(vectors)
    noisy = Gram.of(vectors + 0.3 * torch.randn(12, 40, generator=generator))
    found = compare(noisy, true)
    assert 0.5 < found.cosine_spearman < 0.99
    assert found.top < 1.0
    assert found.cosine_error > 0.02
    assert found.norm_error > 0.02
    scaled = compare(Gram.of(3 * vectors), true)
    assert (scaled.inner_spearman, scaled.cosine_error) == pytest.approx((1.0, 0.0), abs=1e-6)


def test_a_picture_is_not_its_own_neighbour() -> None:
    angles = torch.linspace(0, 1.5, 8)
    true = Gram.of(torch.stack([angles.cos(), angles.sin()], 1))
    # Cosines of another order everywhere: the nearest become the farthest, and only overlap by number is left.
    turned = Gram(np.ones((8, 8)) + np.eye(8) - true.inner, np.ones(8))
    # Seven others, five wanted: of the farthest five, at least three are among the nearest five.
    assert compare(turned, true).top == pytest.approx(3 / 5)


def test_cosines_are_of_the_vectors_and_scaled_ones_of_the_reported_norms() -> None:
    vectors = torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    gram = Gram.of(vectors, torch.tensor([6.0, 2.0]))
    assert gram.cosines[0, 1] == pytest.approx(0.5**0.5)
    assert gram.scaled[0, 1] == pytest.approx(3 / 12)
    assert norm_ratios(gram, Gram.of(vectors)) == pytest.approx([6 / 3, 2 / 2**0.5])


def test_correlations_are_scipys_with_ties() -> None:
    one, other = np.array([3.0, 1.0, 1.0, 2.0, 9.0]), np.array([1.0, 1.0, 5.0, 2.0, 2.0])
    assert spearman(one, other) == pytest.approx(spearmanr(one, other).statistic)
    assert pearson(one, other) == pytest.approx(pearsonr(one, other).statistic)


def test_gradient_of_zero_has_cosine_zero() -> None:
    gram = Gram.of(torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]))
    assert gram.cosines[1].tolist() == [0, 0, 0]
    assert compare(gram, gram).cosine_spearman == pytest.approx(1)


def test_mean_is_of_every_figure() -> None:
    generator = torch.Generator().manual_seed(1)
    true, one, other = (Gram.of(torch.randn(6, 9, generator=generator)) for _ in range(3))
    both = compare(one, true), compare(other, true)
    found = mean_of(both)
    assert found.cosine_error == pytest.approx((both[0].cosine_error + both[1].cosine_error) / 2)
    assert found.top == pytest.approx((both[0].top + both[1].top) / 2)
