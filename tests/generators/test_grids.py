"""Grids, packing and AdaRound against the formulas in plain NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from forebear_generators.quantisation.adaround import SoftRounding, annealed
from forebear_generators.quantisation.grids import channel_grid, decode, encode, levels, per_channel, range_grid
from forebear_generators.quantisation.packing import pack4, unpack4

GRIDS = [(8, True, False), (8, False, False), (4, True, False), (4, False, False), (8, True, True)]
floats = st.floats(-100, 100, width=32)


@pytest.mark.parametrize(
    ("bits", "symmetric", "reduced", "low", "high"),
    [(8, True, False, -127, 127), (8, False, False, 0, 255), (4, True, False, -7, 7), (4, False, False, 0, 15),
     (8, True, True, -63, 63)],
)  # fmt: skip
def test_levels(bits: int, symmetric: bool, reduced: bool, low: int, high: int) -> None:
    found = levels(bits, symmetric, reduced)
    assert (found.low, found.high) == (low, high)


@pytest.mark.parametrize(("bits", "symmetric", "reduced"), GRIDS)
@given(values=arrays.arrays(np.float32, 12, elements=floats))
def test_codes_are_the_formula_and_values_are_within_half_a_step(
    bits: int, symmetric: bool, reduced: bool, values: np.ndarray
) -> None:
    x, codes = torch.from_numpy(values), levels(bits, symmetric, reduced)
    scale, zero = range_grid(x.amin(), x.amax(), codes)
    s, z = np.float32(scale), int(zero)
    wanted = np.clip(np.rint(values / s) + z, codes.low, codes.high)
    found = encode(x, scale, zero, codes)
    np.testing.assert_array_equal(found.numpy(), wanted)
    # The zero point is a whole code, so that one end may be half a step further off.
    assert np.abs(decode(found, scale, zero).numpy() - values).max() <= s * 1.01 + 1e-6
    assert decode(encode(torch.zeros(1), scale, zero, codes), scale, zero) == 0.0


def searched(row: np.ndarray, codes, candidates: int, exponent: float) -> float:
    """The least error of a row over the shrunk ranges."""
    errors = []
    for tried in range(candidates):
        shrink = np.float32((candidates - tried) / candidates)
        least, most = min(row.min() * shrink, 0.0), max(row.max() * shrink, 0.0)
        if codes.symmetric:
            s, z = max(-least, most) / codes.high, 0
        else:
            s = (most - least) / (codes.high - codes.low)
            z = np.clip(codes.low - np.rint(least / s), codes.low, codes.high)
        code = np.clip(np.rint(row / s) + z, codes.low, codes.high)
        errors.append((np.abs((code - z) * s - row) ** exponent).sum())
    return min(errors)


@pytest.mark.parametrize(("bits", "symmetric", "reduced"), GRIDS)
def test_a_channels_range_has_the_least_error_of_all_candidates(bits: int, symmetric: bool, reduced: bool) -> None:
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(bits)) ** 3
    codes = levels(bits, symmetric, reduced)
    scale, zero = channel_grid(weight, codes, candidates=20)
    wide = per_channel(scale, weight), per_channel(zero, weight)
    found = (decode(encode(weight, *wide, codes), *wide) - weight).abs().pow(2.4).flatten(1).sum(1)
    for row, error in zip(weight.flatten(1).double().numpy(), found.tolist(), strict=True):
        assert error == pytest.approx(searched(row, codes, 20, 2.4), rel=1e-3)
    plain = channel_grid(weight, codes, "minmax")
    assert torch.equal(plain[0], range_grid(weight.flatten(1).amin(1), weight.flatten(1).amax(1), codes)[0])


def test_a_channel_of_zeros_stays_zero() -> None:
    for bits, symmetric, reduced in GRIDS:
        codes = levels(bits, symmetric, reduced)
        scale, zero = channel_grid(torch.zeros(2, 3), codes)
        assert scale.isfinite().all()
        assert not decode(
            encode(torch.zeros(2, 3), scale[:, None], zero[:, None], codes), scale[:, None], zero[:, None]
        ).any()


@given(values=arrays.arrays(np.int16, st.tuples(st.integers(1, 5), st.integers(1, 7)), elements=st.integers(0, 15)),
       low=st.sampled_from([0, -7, -8]))  # fmt: skip
def test_packed_codes_come_back(values: np.ndarray, low: int) -> None:
    codes = torch.from_numpy(values) + low
    packed = pack4(codes, low)
    assert packed.dtype == torch.uint8
    assert packed.numel() == (codes.numel() + 1) // 2
    assert torch.equal(unpack4(packed, low, tuple(codes.shape)), codes)
    flat = [*values.flatten().tolist(), 0]
    assert packed.tolist() == [flat[2 * n] + 16 * flat[2 * n + 1] for n in range(len(packed))]


def test_soft_rounding_begins_at_the_weights_and_follows_the_formula() -> None:
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    codes = levels(4, symmetric=False)
    scale, zero = channel_grid(weight, codes, "minmax")
    soft = SoftRounding(weight, scale, zero, codes)
    inside = (weight / scale[:, None] + zero[:, None] >= 0) & (weight / scale[:, None] + zero[:, None] <= 15)
    torch.testing.assert_close(soft.weight()[inside], weight[inside], rtol=0, atol=1e-5)
    with torch.no_grad():
        soft.logits.normal_(0, 3)
    v = soft.logits.detach().double().numpy()
    h = np.clip(1.2 / (1 + np.exp(-v)) - 0.1, 0, 1)
    np.testing.assert_allclose(soft.share().detach().numpy(), h, atol=1e-6)
    s, z = scale.double().numpy()[:, None], zero.numpy()[:, None]
    base = np.floor((weight / scale[:, None]).numpy())
    np.testing.assert_allclose(soft.weight().detach().numpy(), (np.clip(base + h + z, 0, 15) - z) * s, atol=1e-5)
    np.testing.assert_array_equal(soft.codes().numpy(), np.clip(base + (h >= 0.5) + z, 0, 15))
    beta = 3.5
    wanted = (1 - np.abs(2 * h - 1) ** beta).sum()
    assert float(soft.regulariser(beta)) == pytest.approx(wanted, rel=1e-4)


def test_the_exponent_falls_after_the_warm_up() -> None:
    values = [annealed(i, 100, 0.2, (20.0, 2.0)) for i in range(100)]
    assert values[:20] == [None] * 20
    assert values[20] == 20.0
    np.testing.assert_allclose(values[20:], 20.0 - 18.0 * (np.arange(20, 100) - 20) / 80)
