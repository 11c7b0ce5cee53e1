import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from diffrax import Dopri8, Euler, Heun

from qgf_eqx import (
    Guided,
    action_gradient,
    bounded,
    denoise,
    guidance,
    guided_flow,
    guided_step,
    one_step,
)
from qgf_eqx import critic as value_of
from qgf_eqx.analytic import GaussianFlow, MixtureFlow
from qgf_eqx.nn import CriticMLP, VelocityMLP
from qgf_eqx.weights import GaussianCovariance

# Every estimator with the options that `oracles.estimate` writes out in NumPy.
OPTIONS = {
    "ood": {},
    "qgf": {},
    "qgf_jacobian": {},
    "qgf_chain": {"steps": 10},
    "bptt": {"steps": 10},
    "look_ahead": {"steps": 3},
    "look_ahead_jacobian": {"steps": 3, "jacobian": True},
    "jacobian_regularized": {"shrinkage": 0.3},
    "jacobian_ortho": {},
    "jacobian_smooth": {"key": jax.random.key(3), "samples": 8, "std": 0.2},
    "monte_carlo": {
        "key": jax.random.key(3),
        "samples": 8,
        "std": eqx.Partial(guidance.posterior_std, data_std=0.5),
        "temperature": 0.8,
    },
    "curvature": {"temperature": 0.8, "iterations": 3},
}
ESTIMATORS = ["ood", "qgf", "qgf_jacobian", "qgf_chain", "bptt"]
NAMES = list(OPTIONS)


def estimator(name, **options):
    options = OPTIONS[name] | options
    function = getattr(guidance, "look_ahead" if name.startswith("look_ahead") else name)
    return eqx.Partial(function, **options) if options else function


def noises(name):
    key, samples = (OPTIONS[name].get(k) for k in ("key", "samples"))
    return None if key is None else np.asarray(jax.random.normal(key, (samples, 3)))


def gaussian():
    return GaussianFlow(oracles.MEAN, oracles.STD)


def quadratic(_, action):
    return jnp.dot(oracles.LINEAR, action) - oracles.CURVATURE / 2 * jnp.dot(action, action)


def grad_q(action):
    return oracles.LINEAR - oracles.CURVATURE * action


def compiled(function, *arguments, **options):
    """As one program: run one by one, each operation would be a program of its own."""
    return eqx.filter_jit(function)(*arguments, **options)


def central_differences(outcome, point, step=1e-5):
    """Of a number by the three dimensions of a point."""
    steps = step * np.concatenate([np.eye(3), -np.eye(3)])
    ends = jax.jit(jax.vmap(outcome))(point[None] + steps)
    return (ends[:3] - ends[3:]) / (2 * step)


@functools.cache
@eqx.filter_jit
def small_nets():
    policy_key, critic_key = jax.random.split(jax.random.key(1))
    policy = VelocityMLP(2, (3,), width=8, depth=1, key=policy_key)
    return policy, CriticMLP(2, (3,), width=8, depth=1, key=critic_key)


OBS = np.array([0.5, -0.2])
POINT = np.array([0.9, -0.4, 0.1])


@pytest.mark.parametrize("flow", list(oracles.FLOWS))
@pytest.mark.parametrize("name", NAMES)
def test_estimator_equals_numpy(x64, name, flow):
    if name == "curvature" and flow == "affine":
        pytest.skip("this Jacobian is not symmetric, so it is no covariance")
    policy, point = oracles.case(flow, "linear").policy, jnp.asarray(POINT)

    @jax.jit
    def found(hessian, t):
        critic = lambda obs, a: jnp.dot(oracles.LINEAR, a) + a @ hessian @ a / 2  # noqa: E731
        return estimator(name)(policy, critic, None, point, t)

    for critic, t in itertools.product(oracles.CRITICS, (0.0, 0.1, 0.3, 0.6, 0.9)):
        if t == 0 and name in ("curvature", "jacobian_ortho"):
            continue  # the covariance, or the polar factor, is not determined there
        case = oracles.case(flow, critic)
        expected = oracles.estimate(case, name, POINT, t, noises=noises(name))
        g = found(case.hessian, t)
        np.testing.assert_allclose(g, expected, rtol=1e-9, atol=1e-9, err_msg=f"{critic}, {t}")


@pytest.mark.parametrize("name", ["qgf_chain", "bptt"])
def test_at_a_fine_solver_the_chain_equals_the_closed_form_of_the_ode(x64, name):
    flow, point = gaussian(), jnp.asarray(POINT)
    estimate = estimator(name, steps=80, solver=Dopri8())
    found = jax.jit(lambda t: estimate(flow, quadratic, None, point, t))
    for t in (0.0, 0.35, 0.9):
        end = flow.ode(point, t)
        jacobian = flow.ode_jacobian(t) if name == "bptt" else 1.0
        np.testing.assert_allclose(found(t), jacobian * grad_q(end), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("steps", "unroll"), [(1, False), (5, False), (5, True)])
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("curvature", "jacobian_ortho")])
def test_guided_flow_equals_the_recursion_in_numpy(x64, name, steps, unroll):
    case = oracles.case("affine", "quadratic")
    options = {"steps": steps} if name in ("qgf_chain", "bptt") else {}
    action = compiled(
        guided_flow,
        case.policy,
        case.critic,
        None,
        jnp.asarray(POINT),
        guidance=estimator(name, **options),
        weight=0.7,
        steps=steps,
        unroll=unroll,
    )
    expected = oracles.guided_flow(case, name, POINT, 0.7, steps, noises=noises(name))
    np.testing.assert_allclose(action, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["qgf_jacobian", "bptt", "look_ahead_jacobian"])
def test_exact_jacobians_equal_central_differences(x64, name):
    policy, critic = small_nets()
    t, point = 0.3, jnp.asarray(POINT)

    def outcome(a):
        if name == "qgf_jacobian":
            return critic(OBS, one_step(policy, OBS, a, t))
        if name == "bptt":
            return critic(OBS, denoise(policy, OBS, a, t, steps=10))
        for k in range(3):
            a = a + 0.7 / 3 * policy(OBS, a, t + 0.7 * k / 3)
        return critic(OBS, a)

    g = compiled(estimator(name), policy, critic, OBS, point, t)
    np.testing.assert_allclose(g, central_differences(outcome, point), rtol=1e-6, atol=1e-9)


# Its schedule is inside: the covariance of the clean action is zero at time 1.
@pytest.mark.parametrize("name", [n for n in NAMES if n != "curvature"])
def test_at_time_one_every_estimator_is_the_critics_gradient(x64, name):
    policy, critic = small_nets()
    g = estimator(name)(policy, critic, OBS, jnp.asarray(POINT), 1.0)
    expected = guidance.ood(policy, critic, OBS, jnp.asarray(POINT), 1.0)
    np.testing.assert_allclose(g, expected, rtol=0, atol=1e-14)


def test_a_linear_critic_makes_the_identity_estimators_equal(x64):
    policy, _ = small_nets()
    gradients = [
        compiled(
            getattr(guidance, name),
            policy,
            lambda _, a: a @ oracles.LINEAR,
            OBS,
            jnp.asarray(POINT),
            0.2,
        )
        for name in ("ood", "qgf", "qgf_chain")
    ]
    for g in gradients:
        np.testing.assert_array_equal(g, oracles.LINEAR)


def test_a_constant_velocity_makes_leap_and_chain_equal(x64):
    def policy(obs, a_t, t):
        return jnp.asarray(oracles.MEAN)

    _, critic = small_nets()
    arguments = (policy, critic, OBS, jnp.asarray(POINT), 0.4)
    g = [getattr(guidance, n)(*arguments) for n in ESTIMATORS[1:]]
    for other in g[1:]:
        np.testing.assert_allclose(other, g[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize(("chain", "leap"), [("qgf_chain", "qgf"), ("bptt", "qgf_jacobian")])
@pytest.mark.parametrize(("t", "steps"), [(0.0, 1), (0.9, 10), (0.75, 4)])
def test_on_the_last_step_the_chain_is_the_leap(x64, chain, leap, t, steps):
    policy, critic = small_nets()
    point = jnp.asarray(POINT)
    long = estimator(chain, steps=steps)(policy, critic, OBS, point, t)
    short = estimator(leap)(policy, critic, OBS, point, t)
    np.testing.assert_allclose(long, short, rtol=0, atol=1e-13)


@pytest.mark.parametrize("solver", [Euler(), Heun()])
def test_bptt_through_diffrax_is_the_gradient_through_its_own_steps(x64, solver):
    policy, critic = small_nets()
    point = jnp.asarray(POINT)

    def outcome(a):
        return critic(OBS, denoise(policy, OBS, a, 0.2, steps=5, solver=solver))

    g = compiled(guidance.bptt, policy, critic, OBS, point, 0.2, steps=5, solver=solver)
    np.testing.assert_allclose(g, central_differences(outcome, point), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_on_the_critic_changes_nothing(x64, name):
    policy, critic = small_nets()
    arguments = (OBS, jnp.asarray(POINT), 0.3)
    found = jax.jit(
        lambda constant: estimator(name)(policy, lambda o, a: critic(o, a) + constant, *arguments)
    )
    plain, raised = found(0.0), found(7.0)
    # Its softmax is of rounded values; the others never see the value.
    tolerance = 1e-13 if name == "monte_carlo" else 0
    np.testing.assert_allclose(plain, raised, rtol=0, atol=tolerance)


# Two estimators are no linear functions of the critic: they know its temperature.
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("monte_carlo", "curvature")])
def test_a_critic_scaled_by_c_with_a_weight_divided_by_c_changes_nothing(x64, name):
    policy, critic = small_nets()
    noise = jnp.asarray(POINT)

    @jax.jit
    def draw(scale, weight):
        options = {"guidance": estimator(name), "weight": weight}
        return guided_flow(policy, lambda o, a: scale * critic(o, a), OBS, noise, **options)

    plain, scaled = draw(1.0, 0.8), draw(4.0, 0.2)
    np.testing.assert_allclose(plain, scaled, rtol=0, atol=1e-12)


def test_rotating_the_action_space_rotates_the_action(x64):
    policy, critic = small_nets()
    rotation = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0])

    @eqx.filter_jit
    def draw(name, rotation):
        rotated_policy = lambda obs, a_t, t: rotation @ policy(obs, rotation.T @ a_t, t)  # noqa: E731
        rotated_critic = lambda obs, action: critic(obs, rotation.T @ action)  # noqa: E731
        options = {"guidance": estimator(name), "weight": 0.5}
        return guided_flow(rotated_policy, rotated_critic, OBS, rotation @ POINT, **options)

    for name in [n for n in NAMES if noises(n) is None]:  # fixed noises do not turn along
        plain, turned = draw(name, jnp.eye(3)), draw(name, rotation)
        np.testing.assert_allclose(turned, rotation @ plain, rtol=0, atol=1e-11)


def test_a_bounded_critic_is_asked_at_the_clipped_point_and_not_silenced(x64):
    policy = GaussianFlow(jnp.full(2, 3.0), 0.1)  # its leaps end near 3
    point = jnp.zeros(2)
    critic = bounded(lambda _, a: jnp.sum(a**2))
    np.testing.assert_allclose(
        guidance.qgf(policy, critic, None, point, 0.5), [2.0, 2.0], atol=1e-12
    )


def test_straight_through_and_hard_clip_differ_where_a_dimension_is_outside(x64):
    policy = GaussianFlow(jnp.array([3.0, 0.0]), 0.5)  # first leap ends outside, second inside
    point = jnp.array([0.6, 0.2])
    soft = bounded(lambda _, a: jnp.sum(a))
    hard = bounded(lambda _, a: jnp.sum(a), clip=jnp.clip)
    through = guidance.qgf_jacobian(policy, soft, None, point, 0.5)
    stopped = guidance.qgf_jacobian(policy, hard, None, point, 0.5)
    np.testing.assert_allclose(through, policy.one_step_jacobian(0.5) * np.ones(2), atol=1e-12)
    np.testing.assert_allclose(stopped, through * np.array([0.0, 1.0]), atol=1e-12)


# Modes {1, 3, 5}, a* = 3, T = 10, weight 1 and 2: share of samples on a*, known beforehand.
KNOWN = {
    "ood": (0.00, 0.00),
    "bptt": (0.71, 0.79),
    "qgf_jacobian": (0.95, None),
    "qgf": (1.00, 1.00),
    "qgf_chain": (1.00, None),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_one_dimensional_example_of_the_paper_comes_out(name):
    policy = MixtureFlow(jnp.array([1.0, 3.0, 5.0]), 0.1)
    noises = jax.random.normal(jax.random.key(0), (4000,))
    for weight, share in zip((1.0, 2.0), KNOWN[name], strict=True):
        if share is None:
            continue

        @jax.jit
        @jax.vmap
        def draw(noise, weight=weight):
            options = {"guidance": getattr(guidance, name), "weight": weight}
            return guided_flow(policy, lambda _, a: -((a - 3.0) ** 2), None, noise, **options)

        found = np.mean(np.abs(draw(noises) - 3) < 0.5)
        assert abs(found - share) < 0.03, (name, weight, found)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_weight_may_differ_by_dimension(x64, name):
    mask = jnp.array([1.0, 0.0, 1.0])
    policy, critic = gaussian(), quadratic
    options = {"guidance": getattr(guidance, name)}
    step = eqx.filter_jit(
        lambda weight: guided_step(
            policy, critic, None, jnp.asarray(POINT), 0.3, 0.1, weight=weight, **options
        )
    )
    masked, full, plain = step(mask), step(1.0), step(0)
    np.testing.assert_array_equal(masked, jnp.where(mask == 0, plain, full))


def test_looking_one_step_ahead_is_qgf(x64):
    policy, critic = small_nets()
    for jacobian, name in ((False, "qgf"), (True, "qgf_jacobian")):
        arguments = (policy, critic, OBS, jnp.asarray(POINT), 0.3)
        g = guidance.look_ahead(*arguments, steps=1, jacobian=jacobian)
        expected = getattr(guidance, name)(*arguments)
        np.testing.assert_allclose(g, expected, rtol=0, atol=1e-13)


def test_monte_carlo_without_noise_is_qgf(x64):
    arguments = (gaussian(), quadratic, None, jnp.asarray(POINT), 0.3)
    g = guidance.monte_carlo(*arguments, key=jax.random.key(0), std=0.0)
    np.testing.assert_allclose(g, guidance.qgf(*arguments), atol=1e-13)


@pytest.mark.parametrize("bound", [lambda q: q, bounded])
def test_monte_carlo_takes_the_gradient_that_a_critic_has_of_its_own(x64, bound):
    """Of values in steps, say: their own gradient is zero everywhere."""

    class Steps(eqx.Module):
        def __call__(self, obs, action):
            return jnp.round(4 * quadratic(obs, action)) / 4

        def action_gradient(self, obs, action):
            return jax.grad(lambda a: quadratic(obs, a))(action)

    key, point = jax.random.key(3), 0.2 * jnp.asarray(POINT)
    options = {"key": key, "samples": 8, "std": 0.2}
    g = guidance.monte_carlo(gaussian(), bound(Steps()), None, point, 0.3, **options)
    leap = one_step(gaussian(), None, point, 0.3)
    around = leap[None] + 0.2 * jax.random.normal(key, (8, 3))
    values = jax.vmap(lambda a: value_of(bound(Steps()), None, a))(around)
    each = jax.vmap(lambda a: action_gradient(bound(Steps()), None, a))(around)
    np.testing.assert_allclose(g, jax.nn.softmax(values) @ each, rtol=1e-12)
    assert np.linalg.norm(g) > 0.01


def test_bptt_does_not_ask_a_policy_at_the_end_where_it_may_have_no_velocity():
    """A policy that predicts the action: at t = 1 it divides by zero."""
    policy = lambda obs, a, t: (0.5 * jnp.tanh(a) - a) / (1 - t)  # noqa: E731
    rise = lambda obs, action: jnp.sum(action)  # noqa: E731
    start = jnp.array([0.3, -0.2])
    options = {"steps": 6, "weight": 0.1}
    for unroll in (True, False):
        estimate = eqx.Partial(guidance.bptt, steps=6)
        action = guided_flow(policy, rise, None, start, guidance=estimate, unroll=unroll, **options)
        assert jnp.isfinite(action).all(), unroll


def test_monte_carlo_with_the_gaussian_posterior_reaches_the_tilted_law(x64):
    flow, temperature = GaussianFlow(jnp.array(0.3), 0.5), 0.7
    tilted = flow.tilted(jnp.array(0.5 / temperature), 1.2 / temperature)
    estimate = eqx.Partial(
        guidance.monte_carlo,
        key=jax.random.key(0),
        samples=4000,
        std=eqx.Partial(guidance.posterior_std, data_std=0.5),
        temperature=temperature,
    )
    ends = jax.jit(
        jax.vmap(
            lambda noise: guided_flow(
                flow,
                lambda o, a: 0.5 * a - 0.6 * a**2,
                None,
                noise,
                guidance=estimate,
                weight=GaussianCovariance(1 / temperature, 0.5),
                steps=200,
            )
        )
    )(jnp.array([-1.0, 0.0, 2.0]))
    expected = tilted.mean + tilted.std * np.array([-1.0, 0.0, 2.0])
    np.testing.assert_allclose(ends, expected, atol=0.03)


@pytest.mark.parametrize("bend", [1.2, 0.0])
def test_curvature_reaches_the_tilted_law_where_qgf_does_not(x64, bend):
    flow, temperature = GaussianFlow(jnp.array([0.3, -0.2]), jnp.array([0.5, 0.8])), 0.7
    slope = jnp.array([0.5, -1.0])
    tilted = flow.tilted(slope / temperature, bend / temperature)
    noise = jnp.array([1.3, -0.4])

    def end(estimate, weight):
        critic = lambda o, a: a @ slope - bend / 2 * a @ a  # noqa: E731
        options = {"guidance": estimate, "weight": weight, "steps": 4000}
        return compiled(guided_flow, flow, critic, None, noise, **options)

    expected = tilted.mean + tilted.std * noise
    estimate = eqx.Partial(guidance.curvature, temperature=temperature, earliest=1e-4)
    np.testing.assert_allclose(end(estimate, 1 / temperature), expected, atol=2e-3)
    assert np.max(np.abs(end(guidance.qgf, 1 / temperature) - expected)) > 0.1


def test_curvature_leaves_the_correction_out_where_the_tilted_law_has_no_mass(x64):
    flow, t = gaussian(), 0.3
    convex = lambda o, a: 50 * jnp.dot(a, a)  # noqa: E731
    g = compiled(guidance.curvature, flow, convex, None, jnp.asarray(POINT), t)
    sigma = (1 - t) ** 2 / t * flow.one_step_jacobian(t)
    leap = flow.one_step(jnp.asarray(POINT), t)
    np.testing.assert_allclose(g, sigma * 100 * leap / (1 - t), rtol=1e-12)


def test_robust_guidance_with_the_soft_value_is_the_tilted_velocity(x64):
    flow = MixtureFlow(jnp.array([[1.0, 0.0], [-0.5, 1.5]]), 0.4)
    slope, t, a_t = jnp.array([0.8, -0.3]), 0.4, jnp.array([0.2, 0.1])
    tilted = flow.tilted(slope)

    def soft_value(obs, a, t):  # log E[exp Q | a_t], by Bayes' rule
        return tilted.log_prob(a, t) - flow.log_prob(a, t)

    g = guidance.robust(flow, quadratic, None, a_t, t, robust_critic=soft_value)
    expected = tilted(None, a_t, t) - flow(None, a_t, t)
    np.testing.assert_allclose((1 - t) / t * g, expected, atol=1e-12)


def test_for_an_exact_flow_the_polar_factor_is_the_identity(x64):
    flow = MixtureFlow(jnp.asarray(oracles.MEANS), 0.4)
    for t in (0.2, 0.7):
        arguments = (flow, quadratic, None, jnp.asarray(POINT), t)
        expected = compiled(guidance.qgf, *arguments)
        g = compiled(guidance.jacobian_ortho, *arguments)
        np.testing.assert_allclose(g, expected, atol=1e-11)


def test_shrinkage_goes_from_the_exact_jacobian_to_the_identity(x64):
    policy, critic = small_nets()
    arguments = (policy, critic, OBS, jnp.asarray(POINT), 0.3)
    for shrinkage, name in ((0.0, "qgf_jacobian"), (1.0, "qgf")):
        g = guidance.jacobian_regularized(*arguments, shrinkage=shrinkage)
        np.testing.assert_allclose(g, getattr(guidance, name)(*arguments), atol=1e-14)


def test_a_gate_falls_with_the_disagreement_of_the_critics(x64):
    def values(obs, action):
        return jnp.stack([action[0], 3 * action[0]])

    flow, t = gaussian(), 0.3
    arguments = (flow, quadratic, None, jnp.asarray(POINT), t)
    spread = abs(flow.one_step(jnp.asarray(POINT), t)[0])
    g = guidance.gated(*arguments, values=values, kappa=0.5, like=guidance.ood)
    expected = np.exp(-0.5 * spread) * guidance.ood(*arguments)
    np.testing.assert_allclose(g, expected, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (2,), (2, 2)])
def test_estimators_take_actions_of_any_rank(name, shape):
    policy = MixtureFlow(jnp.stack([jnp.ones(shape), -jnp.ones(shape)]), 0.5)
    a_t = jnp.full(shape, 0.2)
    critic = lambda o, a: -jnp.sum((a - 1) ** 2)  # noqa: E731
    g = compiled(estimator(name), policy, critic, None, a_t, 0.3)
    assert g.shape == shape and np.isfinite(g).all() and np.all(g > 0)


def test_the_controls_are_nothing_and_a_random_direction_of_the_same_norm(x64):
    arguments = (gaussian(), quadratic, None, jnp.asarray(POINT))
    np.testing.assert_array_equal(guidance.zero(*arguments, 0.3), np.zeros(3))
    key = jax.random.key(0)
    directions = []
    for t in (0.1, 0.2, 0.3):
        g = guidance.random_direction(*arguments, t, key=key)
        np.testing.assert_array_equal(g, guidance.random_direction(*arguments, t, key=key))
        real = np.linalg.norm(guidance.qgf(*arguments, t))
        np.testing.assert_allclose(np.linalg.norm(g), real, rtol=1e-12)
        directions.append(g / np.linalg.norm(g))
    assert abs(directions[0] @ directions[1]) < 0.999 and abs(directions[1] @ directions[2]) < 0.999


def test_curvature_leaves_the_correction_out_whichever_direction_is_not_positive(x64):
    # The first conjugate direction is positive here, and the second is not.
    flow, t, g = GaussianFlow(jnp.zeros(2), 0.5), 0.5, jnp.array([0.9, 1.0])
    sigma = (1 - t) ** 2 / t * flow.one_step_jacobian(t)

    @eqx.filter_jit
    def ask(hessian, iterations):
        critic = lambda o, a: jnp.dot(g, a) + a @ hessian @ a / 2  # noqa: E731
        return guidance.curvature(flow, critic, None, jnp.zeros(2), t, iterations=iterations)

    for convex in (jnp.array([2.0, 0.0]), jnp.array([0.0, 2.0]), jnp.array([1.5, 1.2])):
        found = ask(jnp.diag(convex / sigma), 3)
        np.testing.assert_allclose(found, sigma * g / (1 - t), rtol=1e-12)
    np.testing.assert_allclose(found, [0.36, 0.40], atol=1e-12)
    expected = sigma * g / (1 + 2 * sigma) / (1 - t)
    for iterations in (1, 2, 3, 8):  # more than there are directions: rounding is not a direction
        found = ask(-2 * jnp.eye(2), iterations)
        np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_curvature_with_more_iterations_than_directions_is_the_solution(x64, dtype):
    matrix = np.random.default_rng(0).normal(size=(6, 6))
    hessian, slope = -matrix @ matrix.T, np.linspace(-1, 1, 6)
    flow = GaussianFlow(jnp.zeros(6, dtype), jnp.linspace(0.3, 1.0, 6, dtype=dtype))
    critic = lambda o, a: a @ jnp.asarray(slope, dtype) + a @ jnp.asarray(hessian, dtype) @ a / 2  # noqa: E731
    t, point = 0.4, jnp.linspace(1, 0, 6, dtype=dtype)
    found = compiled(guidance.curvature, flow, critic, None, point, t, iterations=30)
    jacobian = np.asarray(flow.one_step_jacobian(t), float)
    sigma, leap = np.diag(0.36 / 0.4 * jacobian), np.asarray(flow.one_step(point, t), float)
    expected = np.linalg.solve(np.eye(6) - sigma @ hessian, sigma @ (slope + hessian @ leap)) / 0.6
    np.testing.assert_allclose(found, expected, rtol=1e-9 if dtype == jnp.float64 else 2e-3)


def singular_case():
    """A flow to Gaussian data on a line, a concave critic with gradients of a scale, and what the
    estimator should give at scale one, by a dense solve."""
    rng = np.random.default_rng(18)
    line, matrix, point = rng.normal(size=4), rng.normal(size=(4, 4)), rng.normal(size=4)
    t, data, slope, hessian = 0.3, np.outer(line, line), rng.normal(size=4), -9 * matrix @ matrix.T
    gain = data @ np.linalg.inv((1 - t) ** 2 * np.eye(4) + t**2 * data)
    g, sigma = slope + hessian @ (t * gain @ point), (1 - t) ** 2 * gain
    expected = np.linalg.solve(np.eye(4) - sigma @ hessian, sigma @ g) / (1 - t)
    leap = jnp.asarray(t * gain)  # the leap is linear, and so the velocity is
    flow = lambda o, a, t: (leap @ a - a) / (1 - t)  # noqa: E731
    critic = lambda o, a, scale: scale * (a @ jnp.asarray(slope) + a @ jnp.asarray(hessian) @ a / 2)  # noqa: E731
    return flow, critic, jnp.asarray(point), t, expected


@pytest.mark.parametrize("iterations", [1, 2, 4, 8])
def test_curvature_is_solved_for_data_on_a_line_and_gradients_of_any_size(x64, iterations):
    flow, critic, point, t, expected = singular_case()

    @jax.jit
    def found(scale):
        options = {"temperature": scale, "iterations": iterations}
        scaled = lambda o, a: critic(o, a, scale)  # noqa: E731
        return guidance.curvature(flow, scaled, None, point, t, **options)

    for scale in (1.0, 1e-170, 1e160):
        np.testing.assert_allclose(found(scale), scale * expected, rtol=1e-9)


@pytest.mark.parametrize("clip", [None, jnp.clip])
@pytest.mark.parametrize("mean", [(0.2, 0.1, -0.3), (3.0, 0.1, -0.3), (3.0, -4.0, 2.0)])
def test_the_curvature_of_a_bounded_critic_is_that_of_its_values(x64, clip, mean):
    hessian = jnp.asarray(oracles.HESSIAN)
    q = lambda o, a: jnp.dot(oracles.LINEAR, a) + a @ hessian @ a / 2  # noqa: E731
    critic = bounded(q) if clip is None else bounded(q, clip=clip)
    flow, t, point = GaussianFlow(jnp.array(mean), 0.5), 0.5, jnp.array([0.2, -0.1, 0.1])
    leap = flow.one_step(point, t)
    # Twice central differences of the value, clipped as it is.
    step = 1e-4
    slope = lambda a: central_differences(lambda b: critic(None, b), a, step)  # noqa: E731
    bend = np.asarray(
        jax.jit(
            lambda a: jnp.stack(
                [(slope(a + e) - slope(a - e)) / (2 * step) for e in step * np.eye(3)]
            )
        )(leap)
    )
    sigma = (1 - t) ** 2 / t * np.diag(np.broadcast_to(flow.one_step_jacobian(t), 3))
    g = np.asarray(compiled(action_gradient, critic, None, leap))
    expected = np.linalg.solve(np.eye(3) - sigma @ bend, sigma @ g) / (1 - t)
    found = compiled(guidance.curvature, flow, critic, None, point, t)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("clip", [None, jnp.clip])
@pytest.mark.parametrize("name", [*NAMES, "ood_clipped", "gated"])
def test_bptt_through_a_guided_flow_equals_central_differences_of_it(x64, name, clip):
    flow = GaussianFlow(jnp.array([0.9, -0.3, 1.4]), 0.6)  # leaps inside and outside of the box
    q = lambda o, a: jnp.sum(jnp.sin(2 * a)) + a[0] * a[1]  # noqa: E731
    critic = bounded(q) if clip is None else bounded(q, clip=clip)
    inner = (
        eqx.Partial(guidance.gated, values=lambda o, a: a)
        if name == "gated"
        else guidance.ood_clipped
        if name == "ood_clipped"
        else estimator(name)
    )
    field = Guided(flow, critic, inner, 0.5)
    outcome = lambda a: jnp.dot(  # noqa: E731
        jnp.array([1.0, -0.4, 0.7]), denoise(field, None, a, 0.3, steps=4)
    )
    both = jax.jit(lambda a: (jax.grad(outcome)(a), central_differences(outcome, a, 1e-6)))
    g, differences = both(jnp.asarray(POINT))
    np.testing.assert_allclose(g, differences, rtol=1e-5, atol=1e-7)


def test_a_gate_asks_the_members_where_the_bounded_critic_is_asked(x64):
    def values(obs, action):
        return jnp.stack([action[0], 3 * action[0]])

    flow, t = GaussianFlow(jnp.full(1, 3.0), 0.1), 0.5  # its leaps end near 3
    critic = bounded(lambda o, a: jnp.sum(a))
    g = guidance.gated(flow, critic, None, jnp.zeros(1), t, values=values, kappa=0.5)
    np.testing.assert_allclose(g, np.exp(-0.5 * 1.0), rtol=1e-12)  # members 1 and 3


def test_a_gate_has_a_derivative_where_all_members_agree(x64):
    gate = lambda a: guidance.gated(  # noqa: E731
        gaussian(), quadratic, None, a, 0.3, values=lambda o, a: jnp.full(2, a[0])
    )
    assert np.isfinite(jax.jit(jax.jacobian(gate))(jnp.asarray(POINT))).all()


def test_ood_asks_a_bounded_critic_outside_of_its_bounds_and_ood_clipped_inside(x64):
    policy, point = gaussian(), jnp.array([2.0, 0.5, -3.0])
    for clip in (None, jnp.clip):
        square = lambda o, a: jnp.sum(a**2)  # noqa: E731
        critic = bounded(square) if clip is None else bounded(square, clip=clip)
        found = guidance.ood(policy, critic, None, point, 0.1)
        np.testing.assert_allclose(found, [4.0, 1.0, -6.0])
        found = guidance.ood_clipped(policy, critic, None, point, 0.1)
        np.testing.assert_allclose(found, [2.0, 1.0, -2.0] if clip is None else [0.0, 1.0, 0.0])
    np.testing.assert_allclose(guidance.ood_clipped(policy, square, None, point, 0.1), 2 * point)


def test_random_directions_are_a_fresh_draw_for_every_sample(x64):
    policy = GaussianFlow(jnp.zeros(2), 1.0)
    critic = lambda o, a: a[0]  # noqa: E731
    control = eqx.Partial(guidance.random_direction, key=jax.random.key(0))
    points = jax.random.normal(jax.random.key(1), (4000, 2))
    draw = jax.jit(jax.vmap(lambda a, t: control(policy, critic, None, a, t), (0, None)))
    for t in (0.0, 0.5):
        g = draw(points, t)
        np.testing.assert_allclose(np.linalg.norm(g, axis=1), 1, rtol=1e-12)
        assert np.all(np.abs(g.mean(axis=0)) < 4 / np.sqrt(2 * 4000))
        angle = np.arctan2(*np.asarray(g).T)
        assert np.abs(np.mean(np.exp(2j * angle))) < 4 / np.sqrt(4000)
        # Neither the point nor a neighbour's direction says anything about a direction.
        assert abs(np.mean(np.sum(g * points, axis=1))) < 4 / np.sqrt(4000)
        assert abs(np.mean(np.sum(g[1:] * g[:-1], axis=1))) < 4 / np.sqrt(2 * 4000)
    near = draw(points + 1e-12, 0.0)
    assert abs(np.mean(np.sum(near * g, axis=1))) < 4 / np.sqrt(2 * 4000)
    other = eqx.Partial(guidance.random_direction, key=jax.random.key(7))
    assert np.any(other(policy, critic, None, points[0], 0.0) != near[0])


def test_a_random_push_moves_the_mean_of_the_actions_nowhere():
    policy = GaussianFlow(jnp.zeros(2), 0.5)
    control = eqx.Partial(guidance.random_direction, key=jax.random.key(0))
    noises = jax.random.normal(jax.random.key(1), (4000, 2))
    draw = lambda a: guided_flow(  # noqa: E731
        policy, lambda o, a: jnp.sum(a), None, a, guidance=control, weight=1.0
    )
    pushed = jax.jit(jax.vmap(draw))(noises) - 0.5 * noises
    assert np.all(np.abs(pushed.mean(axis=0)) < 4 * np.std(pushed, axis=0) / np.sqrt(4000) + 0.01)


def test_curvature_takes_only_times_below_its_earliest_as_that(x64):
    """At a linear critic and one iteration it is `qgf_jacobian` times (1 - t) / t."""
    flow, linear = gaussian(), lambda _, a: a @ oracles.LINEAR
    point, default = jnp.asarray(POINT), eqx.Partial(guidance.curvature, iterations=1)
    for t, taken, options in (
        (0.06, 0.06, {}),
        (0.1, 0.1, {}),
        (0.02, 0.05, {}),
        (0.0, 0.05, {}),
        (0.1, 0.3, {"earliest": 0.3}),
    ):
        g = compiled(default, flow, linear, None, point, t, **options)
        exact = compiled(guidance.qgf_jacobian, flow, linear, None, point, taken)
        np.testing.assert_allclose(g, exact * (1 - taken) / taken, rtol=1e-9)
