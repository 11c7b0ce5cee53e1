import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffrax import Dopri8

from qgf_eqx import denoise, one_step
from qgf_eqx.analytic import GaussianFlow, MixtureFlow


def test_a_mixture_of_one_is_the_gaussian(x64):
    mean = jnp.array([0.3, -0.7])
    mixture, gaussian = MixtureFlow(mean[None], 0.4), GaussianFlow(mean, 0.4)
    a = jnp.array([0.9, 0.1])
    for t in (0.0, 0.5, 1.0):
        np.testing.assert_allclose(mixture(None, a, t), gaussian(None, a, t), atol=1e-13)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.8])
def test_the_mixtures_velocity_is_the_posterior_mean_by_quadrature(x64, t):
    flow = MixtureFlow(jnp.array([-1.0, 2.0]), jnp.array([0.3, 0.6]), jnp.array([0.3, 0.7]))
    a_t = 0.4
    data = np.linspace(-6, 8, 200_001)
    density = sum(
        w * np.exp(-((data - m) ** 2) / (2 * s**2)) / s
        for m, s, w in ((-1, 0.3, 0.3), (2, 0.6, 0.7))
    )
    noise = (a_t - t * data) / (1 - t)
    posterior = density * np.exp(-(noise**2) / 2)
    expected = np.sum(posterior * (data - noise)) / np.sum(posterior)
    np.testing.assert_allclose(flow(None, jnp.array(a_t), t), expected, atol=1e-8)


def test_the_gaussians_jacobians_are_its_derivatives(x64):
    flow = GaussianFlow(jnp.array(0.3), 0.4)
    for t in (0.0, 0.5, 0.9):
        leap = jax.grad(lambda a, t=t: one_step(flow, None, a, t))(0.7)
        end = jax.grad(lambda a, t=t: denoise(flow, None, a, t, steps=60, solver=Dopri8()))(0.7)
        np.testing.assert_allclose(leap, flow.one_step_jacobian(t), atol=1e-13)
        np.testing.assert_allclose(end, flow.ode_jacobian(t), atol=1e-10)


def test_the_mixtures_density_integrates_to_one_and_its_draws_follow_it(x64):
    flow = MixtureFlow(jnp.array([-1.0, 2.0]), 0.5, jnp.array([1.0, 3.0]))
    grid = jnp.linspace(-5, 6, 20_001)
    for t in (0.0, 0.4, 1.0):
        density = jnp.exp(jax.vmap(lambda a, t=t: flow.log_prob(a, t))(grid))
        np.testing.assert_allclose(jnp.trapezoid(density, grid), 1, atol=1e-6)
    draws = flow.draw(jax.random.key(0), 20_000)
    np.testing.assert_allclose(draws.mean(), 0.25 * -1 + 0.75 * 2, atol=0.05)
    np.testing.assert_allclose(np.mean(draws > 0.5), 0.75, atol=0.02)


@pytest.mark.parametrize(("linear", "curvature"), [(0.8, 0.0), (-2.0, 0.0), (0.5, 3.0)])
def test_the_tilted_laws_are_the_tilted_densities(x64, linear, curvature):
    grid = jnp.linspace(-8, 9, 40_001)
    tilt = linear * grid - curvature * grid**2 / 2
    mixture = MixtureFlow(jnp.array([-1.0, 2.0]), jnp.array([0.3, 0.7]), jnp.array([0.3, 0.7]))
    gaussian = GaussianFlow(jnp.array(0.3), 0.6)
    one = MixtureFlow(jnp.array([0.3]), 0.6)
    for flow, tilted in (
        (mixture, mixture.tilted(jnp.array(linear), curvature)),
        (one, gaussian.tilted(jnp.array(linear), curvature)),
    ):
        density = jnp.exp(jax.vmap(flow.log_prob)(grid) + tilt)
        expected = density / jnp.trapezoid(density, grid)
        if isinstance(tilted, GaussianFlow):
            tilted = MixtureFlow(tilted.mean[None], tilted.std)
        found = jnp.exp(jax.vmap(tilted.log_prob)(grid))
        np.testing.assert_allclose(found, expected, atol=1e-6)
