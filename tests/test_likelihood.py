from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffrax import Dopri8, Midpoint

from qgf_eqx import Flow, Guided, bounded, denoise, guidance
from qgf_eqx.analytic import GaussianFlow, MixtureFlow
from qgf_eqx.evaluate.names import ESTIMATORS
from qgf_eqx.likelihood import (
    exact_divergence,
    hutchinson_divergence,
    kl_to_reference,
    log_prob,
)
from qgf_eqx.steering import Inpainted
from qgf_eqx.weights import ClipNorm, GaussianCovariance, Mask, NormMatched


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


def members(obs, action):
    return jnp.stack([action[0], 3 * action[0]])


# Of a bounded critic: its gradient field is constant in a dimension that is outside of the box.
FIELDS = {
    "ood": guidance.ood,
    "ood_clipped": guidance.ood_clipped,
    "qgf": guidance.qgf,
    "qgf_jacobian": guidance.qgf_jacobian,
    "qgf_chain": eqx.Partial(guidance.qgf_chain, steps=4),
    "bptt": eqx.Partial(guidance.bptt, steps=2),
    "monte_carlo": eqx.Partial(guidance.monte_carlo, key=jax.random.key(0), samples=4),
    "gated": eqx.Partial(guidance.gated, values=members),
}


def mass(policy, **options):
    grid = jnp.linspace(-6, 6, 1501)
    score = jax.jit(jax.vmap(lambda a: log_prob(policy, None, a[None], **options)))
    return np.trapezoid(np.exp(score(grid)), grid)


@pytest.mark.parametrize("name", list(FIELDS))
def test_the_density_of_a_policy_guided_by_a_bounded_critic_integrates_to_one(x64, name):
    critic = bounded(lambda o, a: -2 * jnp.sum((a - 0.9) ** 2))
    guided = Guided(GaussianFlow([0.8], [0.5]), critic, FIELDS[name], 1.0)
    assert abs(mass(guided, steps=100) - 1) < 0.02  # it was 2.2


def test_the_density_and_the_divergence_of_a_guided_policy_agree_with_its_flow(x64):
    critic = bounded(lambda o, a: -2 * jnp.sum((a - 0.9) ** 2))
    guided = Guided(GaussianFlow([0.8], [0.5]), critic, weight=1.0)
    noises = jnp.linspace(-4, 4, 4001)[:, None]
    actions = jax.jit(jax.vmap(lambda a: denoise(guided, None, a, 0.0, steps=1000)))(noises)
    # By change of variables along the samples, without any derivative of the field.
    slope = np.gradient(np.asarray(actions[:, 0]), np.asarray(noises[:, 0]))
    expected = np.exp(-(noises[:, 0] ** 2) / 2) / np.sqrt(2 * np.pi) / slope
    density = jax.jit(jax.vmap(lambda a: jnp.exp(log_prob(guided, None, a, steps=200))))
    some = slice(500, 3500, 300)
    np.testing.assert_allclose(density(actions[some]), expected[some], rtol=0.04)


def test_a_field_that_jumps_has_no_density():
    flow, q = GaussianFlow([0.8], [0.5]), lambda o, a: -jnp.sum((a - 0.9) ** 2)
    hard = Guided(flow, bounded(q, clip=jnp.clip))
    for policy in (hard, Guided(hard, q), eqx.tree_at(lambda g: g.weight, hard, 0.3)):
        with pytest.raises(ValueError, match="bounded by a hard clip"):
            log_prob(policy, None, jnp.zeros(1))
        with pytest.raises(ValueError, match="bounded by a hard clip"):
            kl_to_reference(policy, flow, None, jax.random.key(0))
    # Wherever it is: in a policy that wraps it, in an estimator, in a weight, in a partial.
    wrapped = (
        Flow(hard, (1,)),
        Inpainted(hard, jnp.zeros(1), jnp.zeros(1)),
        Guided(Flow(hard, (1,)), q),
    )
    for policy in wrapped:
        with pytest.raises(ValueError, match="bounded by a hard clip"):
            log_prob(policy, None, jnp.zeros(1))
    key = jax.random.key(0)
    curved, turned = guidance.curvature, eqx.Partial(guidance.random_direction, key=key)
    named = [ESTIMATORS["curvature"], ESTIMATORS["random-direction"], guidance.jacobian_ortho]
    partials = partial(curved, iterations=1), jax.tree_util.Partial(curved)
    for like in (curved, turned, *partials, *named):
        for estimator in (like, eqx.Partial(guidance.gated, values=members, like=like)):
            with pytest.raises(ValueError, match=r"`guidance.\w+` jumps .* has no density"):
                log_prob(Guided(flow, q, estimator), None, jnp.zeros(1))
    for weight in (NormMatched(0.3), ClipNorm(Mask(NormMatched(0.3), jnp.ones(1)), 1.0)):
        with pytest.raises(ValueError, match="`weights.NormMatched` .* has no density"):
            log_prob(Guided(flow, q, weight=weight), None, jnp.zeros(1))


@pytest.mark.parametrize("divergence", [exact_divergence, hutchinson_divergence])
def test_a_divergence_of_what_is_not_a_field_is_refused(divergence, unchecked):
    if divergence is hutchinson_divergence:
        with pytest.raises(TypeError, match="`key` must be one key"):
            divergence(lambda a: a, jnp.zeros(2), key=None)
        divergence = eqx.Partial(divergence, key=jax.random.key(0))
    for field in (jnp.sum, lambda a: a[None] + jnp.zeros((3, 1))):
        with pytest.raises(ValueError, match="`field` has shape"):
            divergence(field, jnp.zeros(2))
    assert divergence(lambda a: 2 * a, [0.1, 0.2])[1] == 4


def test_the_error_of_one_sample_is_not_known_and_that_of_two_is_half_their_distance():
    flow, other, key = GaussianFlow([0.0], [1.0]), GaussianFlow([0.5], [1.0]), jax.random.key(0)
    assert np.isnan(kl_to_reference(flow, other, None, key, samples=1)[1])
    mean, error = kl_to_reference(flow, other, None, key, samples=2)
    ratio = lambda a: log_prob(flow, None, a) - log_prob(other, None, a)  # noqa: E731
    noises = jax.random.normal(key, (2, 1))
    ends = jax.vmap(lambda a: denoise(flow, None, a, 0.0, steps=50, solver=Midpoint()))(noises)
    first, second = ratio(ends[0]), ratio(ends[1])
    np.testing.assert_allclose(error, abs(first - second) / 2, rtol=1e-3)
    np.testing.assert_allclose(mean, (first + second) / 2, rtol=1e-3)


def test_a_batch_of_actions_is_refused_and_not_given_a_joint_density(unchecked):
    flow = GaussianFlow(jnp.array([0.5]), 0.4)
    with pytest.raises(ValueError, match=r"`action` has shape \(7, 1\).*jax.vmap"):
        log_prob(flow, None, jnp.zeros((7, 1)))
    with pytest.raises(ValueError, match="`action` must be an array of floats, got int32"):
        log_prob(flow, None, jnp.zeros(1, int))


@pytest.mark.parametrize(
    ("policy", "key", "error", "message"),
    [
        (lambda o, a, t: -a, jax.random.key(0), TypeError, "`kl_to_reference` cannot draw noise"),
        (GaussianFlow([0.5], [0.4]), 0, TypeError, "`key` must be one key"),
        (GaussianFlow([0.5], [0.4]), jax.random.split(jax.random.key(0)), ValueError, "a batch of"),
    ],
)
def test_what_cannot_draw_is_refused_by_name(policy, key, error, message, unchecked):
    with pytest.raises(error, match=message):
        kl_to_reference(policy, GaussianFlow([0.5], [0.4]), None, key)
