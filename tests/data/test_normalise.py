"""A normaliser against NumPy's moments in float64, and at its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx.data import normalise
from qgf_eqx.data.normalise import apply, identity, invert, min_max, standardise

FITS = [standardise, min_max, identity]


def features(rows=200, dtype=np.float32):
    """Of very different sizes and offsets."""
    x = np.random.default_rng(0).normal(size=(rows, 4))
    return (x * [1e-6, 1, 1e3, 1e20] + [0, -5, 1e5, 1e21]).astype(dtype)


@pytest.mark.parametrize("fit", FITS)
def test_what_is_normalised_is_inverted(fit):
    x = features()
    normaliser = fit(x)
    size = np.abs(x).max(axis=0)
    error = np.abs(invert(normaliser, apply(normaliser, x)).astype(float) - x) / size
    assert error.max() < 3e-7


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_standardised_features_have_mean_0_and_deviation_1(dtype):
    x = features(dtype=dtype)
    normaliser = standardise(x)
    assert normaliser.shift.dtype == normaliser.scale.dtype == dtype
    y = apply(normaliser, x).astype(float)
    digits = 1e-13 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=digits)
    np.testing.assert_allclose(y.std(axis=0), 1, rtol=digits)
    np.testing.assert_allclose(normaliser.shift, x.mean(axis=0, dtype=float), rtol=1e-6)
    np.testing.assert_allclose(normaliser.scale, x.std(axis=0, dtype=float), rtol=1e-6)


def test_the_range_of_min_max_is_from_minus_1_to_1():
    y = apply(min_max(features()), features())
    np.testing.assert_allclose(y.min(axis=0), -1, atol=5e-6)
    np.testing.assert_allclose(y.max(axis=0), 1, atol=5e-6)


def test_the_identity_changes_no_bit():
    x = features()
    np.testing.assert_array_equal(apply(identity(x), x), x)
    np.testing.assert_array_equal(invert(identity(x), x), x)


@pytest.mark.parametrize("fit", [standardise, min_max])
@pytest.mark.parametrize("constant", [0.0, 0.1, -3e7, 1e-40, 3e38])
def test_a_constant_feature_becomes_0_and_has_scale_1(fit, constant):
    x = np.full((1000, 1), constant, np.float32)
    normaliser = fit(x)
    assert normaliser.scale == 1
    assert not apply(normaliser, x).any()
    assert apply(normaliser, x + 1) == pytest.approx((x + 1) - x)  # another value later


@pytest.mark.parametrize("fit", [standardise, min_max])
def test_a_feature_that_is_constant_but_for_rounding_is_constant(fit):
    x = np.full((100, 1), 0.1, np.float32)
    x[::2] = np.nextafter(x[::2], np.float32(1))
    assert fit(x).scale == 1
    assert fit(x - x[1]).scale < 1e-7  # the same numbers without an offset are a signal


def test_an_offset_of_millions_costs_no_digits():
    x = np.random.default_rng(0).normal(size=(100_000, 1)) + 1e6
    x = x.astype(np.float32)  # in which the mean of NumPy is wrong in the first digit
    normaliser = standardise(x)
    np.testing.assert_allclose(normaliser.scale, x.astype(float).std(axis=0), rtol=1e-6)
    assert abs(apply(normaliser, x).astype(float).mean()) < 0.05  # half a step of float32 at 1e6


def test_the_moments_do_not_depend_on_how_many_rows_are_read_at_a_time(monkeypatch):
    whole = standardise(features())
    monkeypatch.setattr(normalise, "_ROWS", 7)
    for one, other in zip(whole, standardise(features()), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    for one, other in zip(min_max(features()), min_max(features()[::-1]), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("fit", [standardise, min_max])
def test_a_tree_is_normalised_array_by_array_and_pictures_by_255(fit):
    pictures = np.random.default_rng(0).integers(0, 256, (200, 3, 3, 1), np.uint8)
    tree = {"state": features(), "camera": pictures, "count": np.arange(200)}
    normaliser = fit(tree)
    y = apply(normaliser, tree)
    np.testing.assert_array_equal(y["camera"], pictures.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(y["state"], apply(fit(tree["state"]), tree["state"]))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(y))
    back = invert(normaliser, y)
    np.testing.assert_allclose(back["camera"], pictures, atol=1e-4)
    np.testing.assert_allclose(back["count"], tree["count"], atol=1e-4)


def test_in_jax_it_is_the_same_for_one_row_and_a_batch():
    x = features()[:, :3]
    normaliser, on_device = standardise(x), jax.tree.map(jnp.asarray, standardise(x))
    expected = apply(normaliser, x)
    for found in (
        apply(normaliser, jnp.asarray(x)),
        jax.jit(apply)(on_device, jnp.asarray(x)),
        jax.vmap(lambda row: apply(on_device, row))(jnp.asarray(x)),
        np.stack([apply(normaliser, row) for row in x[:2]] + [*expected[2:]]),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_float16_is_computed_in_float32():
    x = np.linspace(0, 1e-6, 5, dtype=np.float16)[:, None]  # its scale is no float16
    y = apply(min_max(x), jnp.asarray(x))
    assert y.dtype == jnp.float16 and y[0] == -1 and y[-1] == 1


def test_a_normaliser_of_float64_meets_a_device_of_float32():
    x = features(dtype=np.float64)
    found = apply(standardise(x), jnp.asarray(x, jnp.float32))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, apply(standardise(x), x), atol=1e-4)


def test_numpy_stays_numpy():
    assert type(apply(standardise(features()), features())) is np.ndarray


@pytest.mark.parametrize(
    ("tree", "error", "message"),
    [
        ({"a": np.array([[1.0], [np.nan]])}, ValueError, r"`tree\['a'\]` has numbers that are not"),
        (np.array([[-np.inf]]), ValueError, "not finite. Leave out these rows"),
        (np.zeros((0, 2)), ValueError, r"`tree` has shape \(0, 2\): no rows"),
        (np.float32(1), ValueError, r"`tree` has shape \(\): no rows"),
        ({"a": np.array(["x"])}, TypeError, r"`tree\['a'\]` has the dtype .U1"),
        (np.zeros((2, 2), complex), TypeError, "only real numbers"),
    ],
)
def test_what_cannot_be_fitted_is_refused_by_name(tree, error, message):
    for fit in (standardise, min_max):
        with pytest.raises(error, match=message):
            fit(tree)


@pytest.mark.parametrize("move", [apply, invert])
def test_other_features_are_refused(move):
    normaliser = standardise({"state": features()})
    with pytest.raises(ValueError, match=r"`x\['state'\]` has shape \(5,\), .* shape \(4,\)"):
        move(normaliser, {"state": np.zeros(5)})
    with pytest.raises(ValueError, match=r"`x\['state'\]` has shape \(1,\)"):
        move(normaliser, {"state": np.zeros(1)})  # which would be broadcast
    with pytest.raises(ValueError, match="`x` has the structure .* but the normaliser is of"):
        move(normaliser, {"camera": np.zeros(4)})
