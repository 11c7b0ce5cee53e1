import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qgf_eqx import objectives
from qgf_eqx.analytic import GaussianFlow
from qgf_eqx.nn import CriticMLP, Ensemble


def test_flow_matching_is_its_formula(x64):
    flow = GaussianFlow(jnp.array([0.3, -0.7]), 0.5)
    action, key = jnp.array([0.2, -0.4]), jax.random.key(0)
    noise_key, time_key = jax.random.split(key)
    noise, t = jax.random.normal(noise_key, (2,)), jax.random.uniform(time_key)
    v = flow(None, (1 - t) * noise + t * action, t)
    expected = np.mean((v - (action - noise)) ** 2)
    np.testing.assert_allclose(objectives.flow_matching(flow, None, action, key), expected)


def test_the_exact_velocity_minimises_flow_matching(x64):
    flow = GaussianFlow(jnp.array(0.5), 0.3)
    keys = jax.random.split(jax.random.key(0), 20_000)
    actions = 0.5 + 0.3 * jax.random.normal(jax.random.key(1), (20_000,))

    def loss(shift, scale):
        def policy(obs, a_t, t):
            return scale * flow(obs, a_t, t) + shift

        return jnp.mean(
            jax.vmap(lambda a, k: objectives.flow_matching(policy, None, a, k))(actions, keys)
        )

    slope = jax.grad(loss, argnums=(0, 1))(0.0, 1.0)
    np.testing.assert_allclose(slope, (0.0, 0.0), atol=0.05)
    assert loss(0.0, 1.0) < min(loss(0.2, 1.0), loss(-0.2, 1.0), loss(0.0, 0.8), loss(0.0, 1.2))


def test_times_are_drawn_from_the_interval_or_from_the_grid():
    keys = jax.random.split(jax.random.key(0), 5000)
    uniform = jax.vmap(objectives.uniform_time)(keys)
    assert (
        0 <= uniform.min() < 0.01 and 0.99 < uniform.max() <= 1 and len(np.unique(uniform)) > 4000
    )
    grid = jax.vmap(lambda k: objectives.grid_time(k, steps=4))(keys)
    np.testing.assert_allclose(np.unique(grid), [0, 0.25, 0.5, 0.75, 1])


@pytest.mark.parametrize(("expectile", "quantity"), [(0.5, "mean"), (0.999, "max")])
def test_the_expectiles_minimiser_moves_from_the_mean_to_the_maximum(
    x64, unchecked, expectile, quantity
):
    targets = jnp.array([0.0, 1.0, 5.0])
    grid = jnp.linspace(-1, 6, 7001)
    loss = jax.vmap(lambda v: jnp.mean(objectives.expectile_loss(targets - v, expectile)))(grid)
    best = float(grid[jnp.argmin(loss)])
    assert best == pytest.approx(float(getattr(targets, quantity)()), abs=0.02)


def test_the_minimiser_rises_with_the_expectile(x64, unchecked):
    targets, grid = jnp.array([0.0, 1.0, 5.0]), jnp.linspace(-1, 6, 701)
    best = [
        grid[
            jnp.argmin(
                jax.vmap(lambda v: jnp.mean(objectives.expectile_loss(targets - v, expectile)))(
                    grid
                )
            )
        ]
        for expectile in (0.1, 0.5, 0.7, 0.9)
    ]
    assert np.all(np.diff(best) > 0)


def test_expectile_signs_by_hand():
    assert objectives.expectile_loss(jnp.float32(2.0), 0.9) == pytest.approx(3.6)
    assert objectives.expectile_loss(jnp.float32(-2.0), 0.9) == pytest.approx(0.4)


def test_the_critic_loss_backs_up_the_next_value(x64):
    loss = objectives.iql_critic(
        lambda o, a: 3.0 * a,
        lambda o: 10.0 * o,
        obs=jnp.array(1.0),
        action=jnp.array(0.5),
        reward=jnp.array(-1.0),
        discount=jnp.array(0.9),
        next_obs=jnp.array(0.2),
    )
    np.testing.assert_allclose(loss, (1.5 - (-1 + 0.9 * 2.0)) ** 2)


def test_the_td_loss_backs_up_the_target_critic(x64):
    loss = objectives.td_critic(
        lambda o, a: 3.0 * a,
        lambda o, a: 10.0 * o + a,
        obs=jnp.array(1.0),
        action=jnp.array(0.5),
        reward=jnp.array(-1.0),
        discount=jnp.array(0.9),
        next_obs=jnp.array(0.2),
        next_action=jnp.array(0.7),
    )
    np.testing.assert_allclose(loss, (1.5 - (-1 + 0.9 * 2.7)) ** 2)


def test_only_the_first_argument_is_differentiated(x64):
    def critic_loss(value_scale):
        return objectives.iql_critic(
            lambda o, a: 3.0 * a,
            lambda o: value_scale * o,
            jnp.array(1.0),
            jnp.array(0.5),
            jnp.array(-1.0),
            jnp.array(0.9),
            jnp.array(0.2),
        )

    def value_loss(target_scale):
        return objectives.iql_value(
            lambda o: 2.0 * o, lambda o, a: target_scale * a, jnp.array(1.0), jnp.array(0.5)
        )

    assert jax.grad(critic_loss)(10.0) == 0
    assert jax.grad(value_loss)(10.0) == 0


def test_polyak_moves_every_array_by_its_rate():
    make = lambda key: CriticMLP(1, (1,), width=4, key=key)  # noqa: E731
    old, new = (Ensemble(make, 2, key=jax.random.key(i)) for i in (0, 1))
    mixed = objectives.polyak(old, new, 0.25)
    for o, n, m in zip(
        *(jax.tree.leaves(eqx.filter(e, eqx.is_array)) for e in (old, new, mixed)), strict=True
    ):
        np.testing.assert_allclose(m, 0.75 * o + 0.25 * n, rtol=1e-6)


def test_iql_reaches_the_fixed_point_of_a_tabular_mdp(loose_promotion, x64, unchecked):
    """Three states in a row, left and right; the last ends the task. At expectile -> 1 IQL is
    value iteration over the actions in the data."""
    gamma, expectile = 0.9, 0.99
    state, action = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    next_state = np.array([0, 1, 0, 2])
    reward = -np.ones(4)
    discount = gamma * np.array([1, 1, 1, 0.0])
    q_true, v_true = np.zeros((2, 2)), np.zeros(3)
    for _ in range(500):
        q_true[state, action] = reward + discount * v_true[next_state]
        v_true[:2] = q_true.max(axis=1)

    class Table(eqx.Module):
        q: jax.Array
        v: jax.Array

    table = Table(jnp.zeros((2, 2)), jnp.zeros(3))
    optimizer = optax.sgd(0.05)

    def loss(table, fixed):
        def one(s, a, r, d, n):
            q = objectives.iql_critic(
                lambda o, x: table.q[o, x], lambda o: fixed.v[o], s, a, r, d, n
            )
            v = objectives.iql_value(
                lambda o: table.v[o], lambda o, x: fixed.q[o, x], s, a, expectile=expectile
            )
            return q + v

        return jnp.sum(jax.vmap(one)(state, action, reward, discount, next_state))

    @jax.jit
    def train(table):
        def step(carry, _):
            table, memory = carry
            grads = jax.grad(loss)(table, table)
            changes, memory = optimizer.update(grads, memory)
            return (optax.apply_updates(table, changes), memory), None

        return jax.lax.scan(step, (table, optimizer.init(table)), length=20_000)[0][0]

    table = train(table)
    np.testing.assert_allclose(table.q, q_true, atol=0.03)  # expectile is not quite 1
    np.testing.assert_allclose(table.v[:2], v_true[:2], atol=0.05)


def test_discounted_sum_by_hand():
    rewards = jnp.array([-1.0, -1.0, 0.0, -2.0])
    assert objectives.discounted_sum(rewards, 0.5) == -1 - 0.5 - 0 - 0.25


@pytest.mark.parametrize("kind", ["mean", "soft"])
def test_the_minimisers_of_the_robust_critics_losses(x64, kind):
    """E[Q | a_t] for squares, log E[exp Q | a_t] for LinEx, at a Gaussian flow and a linear Q."""
    flow, slope = GaussianFlow(jnp.array(0.5), 0.6), 1.5
    keys = jax.random.split(jax.random.key(0), 40_000)
    actions = 0.5 + 0.6 * jax.random.normal(jax.random.key(1), (40_000,))
    loss = jnp.square if kind == "mean" else objectives.linex

    def expected_loss(shift, scale):
        def robust(obs, a_t, t):
            value = slope * flow.one_step(a_t, t)
            if kind == "soft":  # the posterior's variance, from the Jacobian of its mean
                value += slope**2 * (0.6 * (1 - t)) ** 2 / ((1 - t) ** 2 + 0.36 * t**2) / 2
            return scale * value + shift

        one = lambda a, k: objectives.robust_critic(  # noqa: E731
            robust, lambda o, a: slope * a, None, a, k, loss=loss
        )
        return jnp.mean(jax.vmap(one)(actions, keys))

    np.testing.assert_allclose(jax.grad(expected_loss, (0, 1))(0.0, 1.0), (0, 0), atol=0.03)
    best = expected_loss(0.0, 1.0)
    for shift, scale in ((0.2, 1.0), (-0.2, 1.0), (0.0, 0.8), (0.0, 1.2)):
        assert expected_loss(shift, scale) > best


def test_linex_by_hand(x64):
    np.testing.assert_allclose(objectives.linex(jnp.array(2.0)), np.exp(2) - 3)
    np.testing.assert_allclose(objectives.linex(jnp.array(-2.0)), np.exp(-2) + 1)


def test_the_robust_loss_is_in_units_of_the_temperature(x64):
    options = {"obs": None, "action": jnp.array(0.3), "key": jax.random.key(0)}
    robust, target = (lambda o, a, t: 1.0 + 0 * a), (lambda o, a: 3.0 + 0 * a)
    for temperature, expected in ((1.0, 4.0), (2.0, 1.0)):
        found = objectives.robust_critic(robust, target, temperature=temperature, **options)
        np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(("advantage", "weights"), [(0.7, (1.0, 0.1)), (-0.7, (0.0, 0.1))])
def test_cfgrl_conditions_only_what_is_better_than_average(x64, advantage, weights):
    action, key = jnp.array([0.2, -0.4]), jax.random.key(0)

    def policy(obs, a_t, t):
        return GaussianFlow(jnp.ones(2) * obs[1], 0.5)(None, a_t, t)

    flows = [
        objectives.flow_matching(lambda o, a, t, c=c: policy((o, c), a, t), None, action, key)
        for c in (1.0, 0.0)
    ]
    found = objectives.cfgrl(policy, jnp.array(advantage), None, action, key)
    np.testing.assert_allclose(found, np.dot(weights, flows))


def test_a_moving_average_of_two_models_that_differ_is_refused():
    old, new = (
        {"a": jnp.zeros((3, 1)), "b": jnp.zeros(2)},
        {"a": jnp.ones((1, 3)), "b": jnp.ones(2)},
    )
    with pytest.raises(
        ValueError, match=r"`online\['a'\]` has shape \(1, 3\), but `target\['a'\]`"
    ):
        objectives.polyak(old, new, 0.1)
    with pytest.raises(ValueError, match="models of the same structure"):
        objectives.polyak(old, {"a": jnp.zeros((3, 1))}, 0.1)


@pytest.mark.parametrize("expectile", [2, -0.1, 0, 1, float("nan")])
def test_an_expectile_out_of_range_is_refused(expectile, unchecked):
    with pytest.raises(ValueError, match=r"`expectile` must be in \(0, 1\)"):
        objectives.expectile_loss(jnp.ones(()), expectile)


def test_what_must_be_a_scalar_is_refused_by_name(unchecked):
    q = lambda o, a: jnp.sum(a)  # noqa: E731
    one, a = jnp.ones(()), jnp.zeros(2)
    asks = {
        "value": [
            lambda: objectives.iql_value(lambda o: jnp.zeros(1), q, None, a),
            lambda: objectives.iql_critic(q, lambda o: jnp.zeros(1), None, a, one, one, None),
        ],
        "reward": [
            lambda: objectives.iql_critic(q, lambda o: one, None, a, jnp.ones(4), one, None),
            lambda: objectives.td_critic(q, q, None, a, jnp.ones(4), one, None, a),
        ],
        "discount": [
            lambda: objectives.iql_critic(q, lambda o: one, None, a, one, jnp.ones(4), None),
            lambda: objectives.td_critic(q, q, None, a, one, jnp.ones(4), None, a),
        ],
        "advantage": [
            lambda: objectives.cfgrl(lambda o, a, t: a, jnp.ones(4), None, a, jax.random.key(0))
        ],
    }
    for name, calls in asks.items():
        for call in calls:
            with pytest.raises(
                ValueError, match=f"`{name}` (is|returned) an array of shape .* scalar"
            ):
                call()


def test_nothing_is_differentiated_through_a_target(x64):
    """Of the TD loss and the loss of the critic of noisy actions, as of `iql_*` above."""
    obs, action = jnp.array(1.0), jnp.array(0.5)

    def td(scale):
        target = lambda o, a: scale * (o + a)  # noqa: E731
        numbers = jnp.array(-1.0), jnp.array(0.9), jnp.array(0.2), jnp.array(0.7)
        return objectives.td_critic(lambda o, a: 3.0 * a, target, obs, action, *numbers)

    def robust(scale):
        noisy, target = (lambda o, a, t: 3.0 * a), (lambda o, a: scale * a)
        return objectives.robust_critic(noisy, target, obs, action, jax.random.key(0))

    for loss in (td, robust):
        assert loss(10.0) != loss(11.0) and jax.grad(loss)(10.0) == 0


def test_an_action_that_is_just_average_is_not_better(x64):
    action, key = jnp.array([0.2, -0.4]), jax.random.key(0)
    policy = lambda obs, a_t, t: a_t * (1 + obs[1])  # noqa: E731
    plain = objectives.flow_matching(lambda o, a, t: a, None, action, key)
    found = objectives.cfgrl(policy, jnp.array(0.0), None, action, key, share=1.0)
    np.testing.assert_allclose(found, plain)


@pytest.mark.parametrize(("expectile", "expected"), [(0.7, (2.8, 1.2)), (0.9, (3.6, 0.4))])
def test_the_value_loss_has_the_expectile_it_is_given(expectile, expected):
    obs, action = jnp.float32(1.0), jnp.float32(0.5)
    for target, loss in zip((3.0, -1.0), expected, strict=True):
        q = lambda o, a, target=target: jnp.full((), target)  # noqa: E731
        found = objectives.iql_value(lambda o: o, q, obs, action, expectile=expectile)
        np.testing.assert_allclose(found, loss, rtol=1e-6)


def test_the_old_names_of_the_expectile_still_work_and_say_the_new_ones():
    with pytest.warns(DeprecationWarning, match="is now `objectives.expectile_loss`"):
        old = objectives.expectile
    for found in (old(jnp.float32(-2.0), 0.9), old(jnp.float32(-2.0), tau=0.9)):
        assert found == objectives.expectile_loss(jnp.float32(-2.0), 0.9)
    arguments = lambda o: o, lambda o, a: a, jnp.float32(1.0), jnp.float32(0.5)
    with pytest.warns(DeprecationWarning, match="`tau` is now `expectile`"):
        found = objectives.iql_value(*arguments, tau=0.7)
    assert found == objectives.iql_value(*arguments, expectile=0.7)
    with pytest.raises(AttributeError, match="no attribute 'expectiles'"):
        objectives.expectiles  # noqa: B018
