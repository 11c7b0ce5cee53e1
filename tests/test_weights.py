import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx import guided_flow, guided_step
from qgf_eqx.analytic import GaussianFlow
from qgf_eqx.weights import (
    CappedRatio,
    ClipNorm,
    GaussianCovariance,
    Interval,
    LinearDecay,
    LinearGrowth,
    Mask,
    NormMatched,
)

V, G = jnp.array([3.0, 4.0]), jnp.array([0.0, 2.0])


@pytest.mark.parametrize(
    ("weight", "t", "expected"),
    [
        (LinearDecay(0.4), 0.25, 0.3),
        (Interval(0.4, 0.2, 0.6), 0.1, 0.0),
        (Interval(0.4, 0.2, 0.6), 0.2, 0.4),
        (Interval(0.4, 0.2, 0.6), 0.6, 0.0),
        (LinearGrowth(0.4), 0.25, 0.1),
        (CappedRatio(0.4, 5.0), 0.25, 1.2),
        (CappedRatio(0.4, 5.0), 0.0, 2.0),
        (CappedRatio(0.4, 5.0), 1.0, 0.0),
        (NormMatched(0.2), 0.5, 0.2 * 5 / 2),
        (ClipNorm(0.4, 10.0), 0.5, 0.4),
        (ClipNorm(4.0, 1.0), 0.5, 0.5),
        (ClipNorm(LinearDecay(0.4), 0.1), 0.75, 0.05),
        (GaussianCovariance(2.0, 0.5), 0.5, 2 * 0.25 * 0.5 / (0.25 * 0.25 + 0.25)),
    ],
)
def test_weights_by_hand(weight, t, expected):
    np.testing.assert_allclose(weight(jnp.asarray(t), V, G), expected, rtol=1e-6)


@pytest.mark.parametrize("weight", [NormMatched(0.2), ClipNorm(0.4, 1.0)])
def test_a_zero_gradient_gives_no_nan(x64, weight):
    assert np.isfinite(weight(0.5, V, 0 * G))
    step = guided_step(
        lambda o, a, t: V, lambda o, a: 0 * jnp.sum(a), None, V, 0.5, 0.1, weight=weight
    )
    np.testing.assert_allclose(step, 1.1 * V)


def test_norm_matching_frees_the_weight_of_the_scale_of_q(x64):
    policy = GaussianFlow(jnp.array([0.3, -0.2]), 0.4)
    noise = jnp.array([0.5, 1.0])

    def act(scale):
        critic = lambda o, a: -scale * jnp.sum((a - 1.0) ** 2)  # noqa: E731
        return guided_flow(policy, critic, None, noise, weight=NormMatched(0.3))

    np.testing.assert_allclose(act(1.0), act(1e4), rtol=1e-12)


@pytest.mark.parametrize("slope", [0.5, 1.2, -2.0])
def test_the_gaussian_covariance_schedule_reaches_the_tilted_law(x64, slope):
    flow = GaussianFlow(jnp.array(0.3), 0.5)
    tilted = flow.tilted(jnp.array(slope))
    noises = jnp.array([-1.0, 0.0, 2.0])
    ends = jax.vmap(
        lambda noise: guided_flow(
            flow,
            lambda o, a: slope * a,
            None,
            noise,
            weight=GaussianCovariance(1.0, 0.5),
            steps=4000,
        )
    )(noises)
    np.testing.assert_allclose(ends, tilted.mean + tilted.std * noises, atol=2e-3)


def test_weights_are_compared_by_value_and_do_not_retrace():
    assert LinearDecay(0.2) == LinearDecay(0.2) and hash(NormMatched(0.1)) == hash(NormMatched(0.1))

    @eqx.filter_jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def step(weight):
        return guided_step(
            lambda o, a, t: V, lambda o, a: jnp.sum(a), None, V, 0.5, 0.1, weight=weight
        )

    for start in (0.1, 0.2, 0.3):
        step(ClipNorm(LinearDecay(jnp.asarray(start)), 1.0))


def test_weights_compose(x64):
    mask = jnp.array([1.0, 0.0])
    v, g = V.astype(float), G.astype(float)
    inside = Interval(Mask(LinearDecay(0.4), mask), 0.2, 0.6)
    np.testing.assert_allclose(inside(0.25, v, g), [0.3, 0.0])
    np.testing.assert_allclose(inside(0.75, v, g), [0.0, 0.0])
    clipped = ClipNorm(Mask(2.0, jnp.array([1.0, 0.5])), 0.5)(0.5, v, g)
    np.testing.assert_allclose(clipped, np.array([2.0, 1.0]) * 0.25)
    np.testing.assert_allclose(np.linalg.norm(clipped * g), 0.5)


def test_a_masked_dimension_follows_the_plain_flow(x64):
    flow, noise = GaussianFlow(jnp.array([0.3, -0.2]), 0.4), jnp.array([0.5, 1.0])
    critic = lambda o, a: -jnp.sum((a - 1.0) ** 2)  # noqa: E731
    mask = jnp.array([1.0, 0.0])
    masked = guided_flow(flow, critic, None, noise, weight=Mask(LinearDecay(0.4), mask))
    plain = guided_flow(flow, critic, None, noise, weight=0)
    assert masked[1] == plain[1] and abs(masked[0] - plain[0]) > 0.05


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e20, 1e25, 1e35])
def test_guidance_is_kept_for_gradients_of_any_size(scale):
    v, g = jnp.array([0.6, 0.8]), jnp.array([3.0, -4.0]) * scale
    matched = NormMatched(0.2)(0.5, v, g) * g
    np.testing.assert_allclose(matched, np.array([0.6, -0.8]) * 0.2, rtol=1e-5)
    clipped = ClipNorm(2.0, 0.1)(0.5, v, g) * g
    size = min(0.1, 10 * scale)
    np.testing.assert_allclose(clipped, np.array([0.6, -0.8]) * size, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.01, 100.0, 10_000.0])
def test_guidance_is_kept_in_float16(scale):
    v, g = jnp.array([0.6, 0.8], jnp.float16), (jnp.array([3.0, -4.0]) * scale).astype(jnp.float16)
    for weight in (NormMatched(0.2), ClipNorm(20.0, 0.2)):
        w = weight(0.5, v, g)
        assert w.dtype == jnp.float16
        # A weight below 1e-5 has few digits in float16.
        np.testing.assert_allclose(w * g, [0.12, -0.16], rtol=0.15 if scale > 1000 else 0.01)


@pytest.mark.parametrize(
    "weight",
    [
        ClipNorm(0.4, 0.0),
        ClipNorm(0.0, 1.0),
        NormMatched(0.0),
        Mask(NormMatched(0.2), jnp.zeros(2)),
        Interval(NormMatched(0.2), 0.6, 1.0),
        ClipNorm(Mask(0.4, jnp.zeros(2)), 1.0),
    ],
)
def test_a_weight_that_is_zero_is_the_plain_flow_where_the_critic_is_nan(weight):
    nan = lambda o, a: jnp.nan * jnp.sum(a)  # noqa: E731
    step = guided_step(lambda o, a, t: V, nan, None, V, 0.5, 0.1, weight=weight)
    np.testing.assert_allclose(step, 1.1 * V, rtol=1e-6)


def test_a_dimension_whose_gradient_is_nan_does_not_spoil_the_others_if_it_is_masked():
    weight, g = ClipNorm(Mask(2.0, jnp.array([1.0, 0.0])), 0.5), jnp.array([4.0, jnp.nan])
    np.testing.assert_allclose(weight(0.5, V, g)[0], 0.125)


@pytest.mark.parametrize("weight", [NormMatched(0.2), ClipNorm(0.4, 1.0)])
def test_the_derivative_of_a_weight_at_a_zero_gradient_is_no_nan(weight):
    assert np.isfinite(jax.jacobian(lambda g: weight(0.5, V, g))(jnp.zeros(2))).all()


def test_the_covariance_of_a_flow_to_a_point_ends_at_zero():
    assert GaussianCovariance(1.0, 0.0)(1.0, V, G) == 0


def test_the_cap_is_ten_unless_told_otherwise():
    for t in (0.0, 0.01):
        np.testing.assert_allclose(CappedRatio(0.3)(jnp.asarray(t), V, G), 3.0, rtol=1e-6)
