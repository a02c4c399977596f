"""Rounding by feedback against its formula, and against the nearest codes."""

import numpy as np
import torch

from forebear_generators.quantisation.feedback import DAMPINGS, best_feedback_codes, feedback_codes, fitted
from forebear_generators.quantisation.grids import channel_grid, decode, encode, levels


def test_codes_are_the_greedy_optimum_column_by_column() -> None:
    """After each column, the columns left are the best for the damped loss given the codes so far (least squares)."""
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(3, 6, generator=generator), torch.randn(4, 6, generator=generator)
    codes = levels(4, symmetric=False)
    scale, zero = channel_grid(weight, codes, "minmax")
    found = feedback_codes(weight, x, scale, zero, codes).numpy()
    gram = (x.double().T @ x.double()).numpy()
    order = np.argsort(-gram.diagonal(), kind="stable")
    gram = gram + (1e-2 * gram.diagonal().mean() + 1e-12) * np.eye(6)
    for row in range(3):
        w, s, z = weight[row].double().numpy(), float(scale[row]), int(zero[row])
        fixed = np.zeros(6)
        for place, column in enumerate(order):
            done, left = order[:place], order[place:]
            # minimise (w - v)' G (w - v) over v[left], with v[done] fixed
            shift = np.linalg.solve(gram[np.ix_(left, left)], gram[np.ix_(left, done)] @ (w[done] - fixed[done]))
            best = w[left] + shift
            code = np.clip(np.rint(best[0] / s) + z, 0, 15)
            assert found[row, column] == code
            fixed[column] = (code - z) * s


def test_feedback_keeps_outputs_that_nearest_codes_lose() -> None:
    generator = torch.Generator().manual_seed(1)
    weight, x = torch.randn(20, 64, generator=generator), torch.randn(8, 64, generator=generator)
    codes = levels(4, symmetric=False)
    scale, zero = channel_grid(weight, codes, "minmax")
    wide = scale[:, None], zero[:, None]
    errors = [
        float((decode(code, *wide) - weight).matmul(x.T).norm())
        for code in (encode(weight, *wide, codes), feedback_codes(weight, x, scale, zero, codes))
    ]
    assert errors[1] < errors[0] / 4


def test_fitted_weights_give_the_wanted_outputs_and_are_the_nearest_such() -> None:
    generator = torch.Generator().manual_seed(2)
    weight, x = torch.randn(5, 30, generator=generator), torch.randn(6, 30, generator=generator)
    wanted = torch.randn(6, 5, generator=generator)
    found = fitted(weight, x, wanted)
    torch.testing.assert_close(x @ found.T, wanted, rtol=0, atol=1e-4)
    nearest = weight + torch.linalg.pinv(x).matmul(wanted - x @ weight.T).T
    torch.testing.assert_close(found, nearest, rtol=0, atol=1e-4)


def test_each_row_has_the_damping_that_keeps_its_outputs_best() -> None:
    generator = torch.Generator().manual_seed(3)
    weight, x = torch.randn(10, 32, generator=generator), torch.randn(6, 32, generator=generator)
    codes = levels(4, symmetric=False)
    scale, zero = channel_grid(weight, codes, "minmax")

    def errors(found: torch.Tensor) -> torch.Tensor:
        return (decode(found, scale[:, None], zero[:, None]) - weight).matmul(x.T).square().sum(1)

    each = torch.stack([errors(feedback_codes(weight, x, scale, zero, codes, damping)) for damping in DAMPINGS])
    torch.testing.assert_close(errors(best_feedback_codes(weight, x, scale, zero, codes)), each.amin(0))
