import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from diffrax import Dopri8, Euler, Heun

from qgf_eqx import bounded, denoise, guidance, guided_flow, guided_step, one_step
from qgf_eqx.analytic import GaussianFlow, MixtureFlow
from qgf_eqx.nn import CriticMLP, VelocityMLP

ESTIMATORS = ["ood", "qgf", "qgf_jacobian", "qgf_chain", "bptt"]


def estimator(name, **options):
    return eqx.Partial(getattr(guidance, name), **options) if options else getattr(guidance, name)


def gaussian():
    return GaussianFlow(oracles.MEAN, oracles.STD)


def quadratic(_, action):
    return jnp.dot(oracles.LINEAR, action) - oracles.CURVATURE / 2 * jnp.dot(action, action)


def small_nets():
    policy_key, critic_key = jax.random.split(jax.random.key(1))
    policy = VelocityMLP(2, (3,), width=16, depth=2, key=policy_key)
    return policy, CriticMLP(2, (3,), width=16, depth=2, key=critic_key)


OBS = np.array([0.5, -0.2])
POINT = np.array([0.9, -0.4, 0.1])


@pytest.mark.parametrize("t", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimator_equals_its_closed_form(x64, name, t):
    options = {"steps": 10} if name in ("qgf_chain", "bptt") else {}
    g = estimator(name, **options)(gaussian(), quadratic, None, jnp.asarray(POINT), t)
    np.testing.assert_allclose(g, oracles.estimate(name, POINT, t, 10), rtol=0, atol=1e-12)


@pytest.mark.parametrize("t", [0.0, 0.35, 0.9])
@pytest.mark.parametrize("name", ["qgf_chain", "bptt"])
def test_at_a_fine_solver_the_chain_equals_the_closed_form_of_the_ode(x64, name, t):
    flow = gaussian()
    point = jnp.asarray(POINT)
    g = estimator(name, steps=80, solver=Dopri8())(flow, quadratic, None, point, t)
    end = flow.ode(point, t)
    jacobian = flow.ode_jacobian(t) if name == "bptt" else 1.0
    np.testing.assert_allclose(g, jacobian * oracles.grad_q(end), rtol=0, atol=1e-9)


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 5, 10])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_guided_flow_equals_the_affine_recursion(x64, name, steps, unroll):
    options = {"steps": steps} if name in ("qgf_chain", "bptt") else {}
    action = guided_flow(
        gaussian(),
        quadratic,
        None,
        jnp.asarray(POINT),
        guidance=estimator(name, **options),
        weight=0.7,
        steps=steps,
        unroll=unroll,
    )
    np.testing.assert_allclose(
        action, oracles.guided_flow(name, POINT, 0.7, steps), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("name", ["qgf_jacobian", "bptt"])
def test_exact_jacobians_equal_central_differences(x64, name):
    policy, critic = small_nets()
    t, point = 0.3, jnp.asarray(POINT)

    def outcome(a):
        leap = one_step(policy, OBS, a, t)
        end = leap if name == "qgf_jacobian" else denoise(policy, OBS, a, t, steps=10)
        return critic(OBS, end)

    step = 1e-5
    differences = [(outcome(point + e) - outcome(point - e)) / (2 * step) for e in step * np.eye(3)]
    g = getattr(guidance, name)(policy, critic, OBS, point, t)
    np.testing.assert_allclose(g, np.array(differences), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_at_time_one_every_estimator_is_the_critics_gradient(x64, name):
    policy, critic = small_nets()
    g = getattr(guidance, name)(policy, critic, OBS, jnp.asarray(POINT), 1.0)
    expected = guidance.ood(policy, critic, OBS, jnp.asarray(POINT), 1.0)
    np.testing.assert_allclose(g, expected, rtol=0, atol=1e-14)


def test_a_linear_critic_makes_the_identity_estimators_equal(x64):
    policy, _ = small_nets()
    gradients = [
        getattr(guidance, name)(
            policy, lambda _, a: a @ oracles.LINEAR, OBS, jnp.asarray(POINT), 0.2
        )
        for name in ("ood", "qgf", "qgf_chain")
    ]
    for g in gradients:
        np.testing.assert_array_equal(g, oracles.LINEAR)


def test_a_constant_velocity_makes_leap_and_chain_equal(x64):
    def policy(obs, a_t, t):
        return jnp.asarray(oracles.MEAN)

    _, critic = small_nets()
    g = [getattr(guidance, n)(policy, critic, OBS, jnp.asarray(POINT), 0.4) for n in ESTIMATORS[1:]]
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

    g = guidance.bptt(policy, critic, OBS, point, 0.2, steps=5, solver=solver)
    step = 1e-5
    differences = [(outcome(point + e) - outcome(point - e)) / (2 * step) for e in step * np.eye(3)]
    np.testing.assert_allclose(g, np.array(differences), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_constant_on_the_critic_changes_nothing(x64, name):
    policy, critic = small_nets()
    plain = getattr(guidance, name)(policy, critic, OBS, jnp.asarray(POINT), 0.3)
    raised = getattr(guidance, name)(
        policy, lambda o, a: critic(o, a) + 7.0, OBS, jnp.asarray(POINT), 0.3
    )
    np.testing.assert_array_equal(plain, raised)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_critic_scaled_by_c_with_a_weight_divided_by_c_changes_nothing(x64, name):
    policy, critic = small_nets()
    options = {"guidance": getattr(guidance, name)}
    noise = jnp.asarray(POINT)
    plain = guided_flow(policy, critic, OBS, noise, weight=0.8, **options)
    scaled = guided_flow(policy, lambda o, a: 4 * critic(o, a), OBS, noise, weight=0.2, **options)
    np.testing.assert_allclose(plain, scaled, rtol=0, atol=1e-12)


def test_rotating_the_action_space_rotates_the_action(x64):
    policy, critic = small_nets()
    rotation = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0])

    def rotated_policy(obs, a_t, t):
        return rotation @ policy(obs, rotation.T @ a_t, t)

    def rotated_critic(obs, action):
        return critic(obs, rotation.T @ action)

    for name in ESTIMATORS:
        options = {"guidance": getattr(guidance, name), "weight": 0.5}
        plain = guided_flow(policy, critic, OBS, jnp.asarray(POINT), **options)
        turned = guided_flow(rotated_policy, rotated_critic, OBS, rotation @ POINT, **options)
        np.testing.assert_allclose(turned, rotation @ plain, rtol=0, atol=1e-12)


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
    masked = guided_step(policy, critic, None, jnp.asarray(POINT), 0.3, 0.1, weight=mask, **options)
    full = guided_step(policy, critic, None, jnp.asarray(POINT), 0.3, 0.1, weight=1.0, **options)
    plain = guided_step(policy, critic, None, jnp.asarray(POINT), 0.3, 0.1, weight=0, **options)
    np.testing.assert_array_equal(masked, jnp.where(mask == 0, plain, full))


@pytest.mark.parametrize("jacobian", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("t", [0.0, 0.3, 0.9])
def test_look_ahead_equals_its_closed_form(x64, t, steps, jacobian):
    end, slope, dt = POINT, np.ones(3), (1 - t) / steps
    for k in range(steps):
        time = t + k * dt
        end, slope = end + dt * oracles.velocity(end, time), slope * (1 + dt * oracles.gain(time))
    g = estimator("look_ahead", steps=steps, jacobian=jacobian)(
        gaussian(), quadratic, None, jnp.asarray(POINT), t
    )
    expected = (slope if jacobian else 1) * oracles.grad_q(end)
    np.testing.assert_allclose(g, expected, rtol=0, atol=1e-12)


def test_looking_one_step_ahead_is_qgf(x64):
    policy, critic = small_nets()
    for jacobian, name in ((False, "qgf"), (True, "qgf_jacobian")):
        g = guidance.look_ahead(
            policy, critic, OBS, jnp.asarray(POINT), 0.3, steps=1, jacobian=jacobian
        )
        expected = getattr(guidance, name)(policy, critic, OBS, jnp.asarray(POINT), 0.3)
        np.testing.assert_allclose(g, expected, rtol=0, atol=1e-13)


def test_monte_carlo_is_the_gradient_of_the_soft_value(x64):
    key, std, t = jax.random.key(3), 0.4, 0.3
    leap = POINT + (1 - t) * oracles.velocity(POINT, t)
    noises = np.asarray(jax.random.normal(key, (16, 3)))

    def soft_value(action):
        return np.log(np.mean([np.exp(oracles.q(action + std * eps)) for eps in noises]))

    step = 1e-5
    expected = [
        (soft_value(leap + e) - soft_value(leap - e)) / (2 * step) for e in step * np.eye(3)
    ]
    options = {"key": key, "std": std}
    g = guidance.monte_carlo(gaussian(), quadratic, None, jnp.asarray(POINT), t, **options)
    np.testing.assert_allclose(g, expected, rtol=1e-8)
    exact = guidance.monte_carlo(
        gaussian(), quadratic, None, jnp.asarray(POINT), t, key=key, std=0.0
    )
    np.testing.assert_allclose(exact, oracles.grad_q(leap), atol=1e-13)


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
