import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffrax import Dopri8

from qgf_eqx import Guided, guidance
from qgf_eqx.analytic import GaussianFlow, MixtureFlow
from qgf_eqx.likelihood import hutchinson_divergence, kl_to_reference, log_prob
from qgf_eqx.weights import GaussianCovariance


def test_the_log_density_of_a_mixture_is_its_closed_form(x64):
    flow = MixtureFlow(jnp.array([[1.0, 0.0], [-0.5, 1.5]]), 0.4)
    score = jax.jit(lambda a: log_prob(flow, None, a, steps=200, solver=Dopri8()))
    for action in flow.draw(jax.random.key(0), 4):
        np.testing.assert_allclose(score(action), flow.log_prob(action), atol=1e-9)


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_the_default_solver_is_good_to_a_thousandth(shape):
    flow = GaussianFlow(jnp.full(shape, 0.3), 0.5)
    action = jnp.full(shape, 0.6)
    expected = np.sum(-((0.6 - 0.3) ** 2) / 0.5 - np.log(0.5 * np.sqrt(2 * np.pi)) * np.ones(shape))
    np.testing.assert_allclose(log_prob(flow, None, action), expected, rtol=2e-3, atol=2e-3)


def test_hutchinsons_estimate_is_exact_for_a_diagonal_jacobian_and_unbiased_for_others(x64):
    matrix = np.array([[0.5, 2.0], [-1.0, 0.3]])
    field = lambda a: jnp.asarray(matrix) @ a  # noqa: E731
    point = jnp.ones(2)
    _, diagonal = hutchinson_divergence(lambda a: 3 * a, point, key=jax.random.key(0))
    np.testing.assert_allclose(diagonal, 6)
    v, trace = hutchinson_divergence(field, point, key=jax.random.key(0), samples=20_000)
    np.testing.assert_allclose(v, matrix @ np.ones(2))
    np.testing.assert_allclose(trace, 0.8, atol=0.03)
    few = [
        hutchinson_divergence(field, point, key=k)[1]
        for k in jax.random.split(jax.random.key(1), 8)
    ]
    assert len({round(float(x), 6) for x in few}) > 1


def test_many_dimensions_ask_for_hutchinson():
    flow = GaussianFlow(jnp.zeros(100), 0.5)
    with pytest.raises(ValueError, match="hutchinson_divergence, key=key"):
        log_prob(flow, None, jnp.zeros(100))
    estimate = eqx.Partial(hutchinson_divergence, key=jax.random.key(0))
    found = log_prob(flow, None, jnp.zeros(100), divergence=estimate)
    np.testing.assert_allclose(found, -100 * np.log(0.5 * np.sqrt(2 * np.pi)), rtol=2e-3)


def test_the_kl_of_two_gaussians_is_its_closed_form():
    flow, other = GaussianFlow(jnp.array([0.5]), 0.4), GaussianFlow(jnp.array([0.2]), 0.5)
    mean, error = kl_to_reference(flow, other, None, jax.random.key(0), samples=2000)
    exact = np.log(0.5 / 0.4) + (0.4**2 + 0.3**2) / (2 * 0.5**2) - 0.5
    assert abs(mean - exact) < 4 * error + 2e-3 and error < 0.02


def test_guidance_spends_the_kl_that_the_tilted_law_costs():
    flow = GaussianFlow(jnp.array([0.3]), 0.5)
    guided = Guided(flow, lambda o, a: 1.2 * a[0], guidance.qgf, GaussianCovariance(1.0, 0.5))
    mean, error = kl_to_reference(guided, flow, None, jax.random.key(0), samples=500)
    exact = (1.2 * 0.5) ** 2 / 2  # the tilted law is N(m + s^2 q, s^2)
    assert abs(mean - exact) < 4 * error + 5e-3
    nothing, _ = kl_to_reference(
        Guided(flow, lambda o, a: 0.0 * a[0], weight=0), flow, None, jax.random.key(0)
    )
    np.testing.assert_allclose(nothing, 0, atol=1e-5)
