from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import qgf_eqx
from qgf_eqx import (
    Flow,
    Guided,
    best,
    bounded,
    candidates,
    guidance,
    guided_flow,
    guided_solve,
    guided_step,
    sample,
)
from qgf_eqx.analytic import GaussianFlow, MixtureFlow
from qgf_eqx.nn import CriticMLP, Ensemble, VelocityMLP

KEY = jax.random.key(0)
MORE = {
    "look_ahead": eqx.Partial(guidance.look_ahead, steps=3, jacobian=True),
    "jacobian_regularized": guidance.jacobian_regularized,
    "jacobian_ortho": guidance.jacobian_ortho,
    "jacobian_smooth": eqx.Partial(guidance.jacobian_smooth, key=KEY, samples=2),
    "monte_carlo": eqx.Partial(guidance.monte_carlo, key=KEY, samples=2),
    "curvature": guidance.curvature,
    "robust": eqx.Partial(guidance.robust, robust_critic=lambda o, a, t: jnp.nan * a[0]),
    "gated": eqx.Partial(guidance.gated, values=lambda o, a: a),
}
# Older XLA rounds the two programs differently, whatever stands between the operations.
same_bits = (
    np.testing.assert_array_equal
    if jax.__version_info__ >= (0, 10)
    else partial(np.testing.assert_allclose, rtol=0, atol=2e-6)
)
ESTIMATORS = ["ood", "qgf", "qgf_jacobian", "qgf_chain", "bptt"]
OBS = np.array([0.5, -0.2], np.float32)


def unasked(obs, action):
    raise AssertionError("the plain flow asked the critic")


@pytest.fixture(scope="module")
def nets():
    policy_key, critic_key = jax.random.split(jax.random.key(0))
    policy = VelocityMLP(2, (3,), width=16, depth=2, key=policy_key)
    critic = Ensemble(lambda k: CriticMLP(2, (3,), width=16, depth=2, key=k), 2, key=critic_key)
    return policy, critic


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_weight_zero_is_the_plain_flow_bit_for_bit_even_where_the_critic_is_nan(nets, name, steps):
    policy, critic = nets
    noises = jax.random.normal(jax.random.key(1), (50, 3))

    @jax.jit
    @jax.vmap
    def plain(noise):
        return guided_flow(policy, unasked, OBS, noise, weight=0, steps=steps)

    @eqx.filter_jit
    def guided(noises, weight, critic):
        options = {"guidance": getattr(guidance, name), "weight": weight, "steps": steps}
        return jax.vmap(lambda n: guided_flow(policy, critic, OBS, n, **options))(noises)

    expected = plain(noises)
    same_bits(guided(noises, jnp.zeros(()), critic), expected)
    same_bits(guided(noises, jnp.zeros(()), lambda o, a: jnp.nan * a[0]), expected)
    assert np.any(guided(noises, jnp.ones(()), critic) != expected)


@pytest.mark.parametrize("name", list(MORE))
def test_weight_zero_is_the_plain_flow_for_every_other_estimator_too(nets, name):
    policy, critic = nets
    noises = jax.random.normal(jax.random.key(1), (50, 3))
    act = lambda n, **options: guided_flow(policy, critic, OBS, n, steps=3, **options)  # noqa: E731
    plain = jax.jit(jax.vmap(lambda n: act(n, weight=0)))(noises)

    @jax.jit
    def guided(noises, weight):
        options = {"guidance": MORE[name], "weight": weight}
        return jax.vmap(lambda n: act(n, **options))(noises)

    same_bits(guided(noises, jnp.zeros(())), plain)
    assert np.any(guided(noises, jnp.ones(())) != plain)


def test_one_step_by_hand(x64):
    flow = GaussianFlow(jnp.array([0.3, -0.7]), 0.5)

    def critic(_, action):
        return -jnp.sum((action - 1.0) ** 2)

    noise = jnp.array([0.2, 0.4])
    v = flow(None, noise, 0.0)
    g = -2 * (noise + v - 1.0)
    action = guided_flow(flow, critic, None, noise, weight=0.3, steps=1)
    np.testing.assert_allclose(action, noise + v + 0.3 * g, atol=1e-15)


def test_the_batched_call_is_a_loop(nets):
    policy, critic = nets
    keys = jax.random.split(jax.random.key(3), 7)
    observations = jax.random.normal(jax.random.key(4), (7, 2))
    act = jax.jit(lambda obs, key: sample(policy, critic, obs, key, weight=0.5, best_of=2))
    batched = jax.vmap(act)(observations, keys)
    looped = [act(o, k) for o, k in zip(observations, keys, strict=True)]
    np.testing.assert_allclose(batched, np.stack(looped), rtol=1e-5, atol=1e-5)
    order = np.random.default_rng(0).permutation(7)
    np.testing.assert_allclose(
        jax.vmap(act)(observations[order], keys[order]), batched[order], rtol=1e-5, atol=1e-5
    )


def test_an_empty_batch_gives_an_empty_result(nets):
    policy, critic = nets
    keys = jax.random.split(jax.random.key(0), 0)
    actions = jax.vmap(lambda o, k: sample(policy, critic, o, k))(jnp.zeros((0, 2)), keys)
    assert actions.shape == (0, 3)


def test_a_larger_best_of_never_lowers_the_value_and_candidates_nest(nets):
    policy, critic = nets

    @jax.vmap
    def values(key):
        best = [sample(policy, critic, OBS, key, weight=0.1, best_of=n) for n in (1, 2, 4, 8)]
        return jnp.stack([critic(OBS, a) for a in best])

    found = np.asarray(jax.jit(values)(jax.random.split(jax.random.key(5), 30)))
    assert (np.diff(found, axis=1) >= -1e-6).all()
    assert (found[:, -1] > found[:, 0] + 1e-4).any()


def test_best_of_one_is_the_first_candidate(nets):
    policy, critic = nets
    key = jax.random.key(8)
    noise = jax.random.normal(jax.random.fold_in(key, 0), (3,))
    expected = guided_flow(policy, critic, OBS, noise, weight=0.2)
    np.testing.assert_array_equal(sample(policy, critic, OBS, key, weight=0.2), expected)


def test_best_of_at_weight_zero_is_the_best_of_the_flow(nets):
    policy, critic = nets
    key = jax.random.key(9)
    actions = [
        guided_flow(
            policy, unasked, OBS, jax.random.normal(jax.random.fold_in(key, i), (3,)), weight=0
        )
        for i in range(4)
    ]
    best = actions[int(np.argmax([critic(OBS, a) for a in actions]))]
    found = sample(policy, critic, OBS, key, weight=0, best_of=4)
    np.testing.assert_allclose(found, best, atol=1e-6)


def test_equal_values_keep_the_first_candidate(nets):
    policy, _ = nets
    key = jax.random.key(10)
    one = sample(policy, lambda o, a: jnp.zeros(()), OBS, key, weight=0)
    four = sample(policy, lambda o, a: jnp.zeros(()), OBS, key, weight=0, best_of=4)
    np.testing.assert_allclose(four, one, atol=1e-6)


def test_a_bounded_critic_keeps_actions_in_its_bounds_and_ranks_them_clipped():
    policy = GaussianFlow(jnp.zeros(2), 5.0)
    critic = bounded(lambda _, a: jnp.sum(a), low=jnp.array([-1.0, -2.0]), high=0.5)
    keys = jax.random.split(jax.random.key(0), 500)
    actions = jax.vmap(lambda k: sample(policy, critic, None, k, weight=3.0, best_of=2))(keys)
    actions = np.asarray(actions)
    assert (actions >= np.array([-1, -2])).all() and (actions <= 0.5).all()
    assert (actions == 0.5).any()
    huge = bounded(lambda _, a: 1e30 * jnp.sum(a))
    actions = jax.vmap(lambda k: sample(policy, huge, None, k, weight=1.0))(keys)
    assert (np.abs(actions) <= 1).all()


def test_a_nan_observation_never_gives_a_finite_action(nets):
    policy, critic = nets
    action = sample(policy, bounded(critic), OBS * np.float32(np.nan), jax.random.key(0), best_of=3)
    assert np.isnan(action).all()


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_actions_may_have_any_rank(shape):
    policy = MixtureFlow(jnp.stack([jnp.ones(shape), -jnp.ones(shape)]), 0.1)
    action = sample(policy, lambda _, a: jnp.sum(a), None, jax.random.key(0), best_of=2)
    assert action.shape == shape


@pytest.mark.parametrize(
    "obs",
    [None, np.ones(4), {"image": np.ones((2, 2), np.uint8), "goal": ()}, [1, 2.0, np.ones(2)]],
)
def test_an_observation_may_be_any_pytree(obs):
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(obs))
    policy = VelocityMLP(size, (3,), width=16, depth=2, key=jax.random.key(0))
    critic = CriticMLP(size, (3,), width=16, depth=2, key=jax.random.key(1))
    assert sample(policy, critic, obs, jax.random.key(0)).shape == (3,)


def test_any_callable_is_a_policy_once_it_has_a_shape(unchecked):
    policy = Flow(lambda obs, a_t, t: obs - a_t, action_shape=[2])
    action = sample(policy, lambda o, a: jnp.sum(a), jnp.zeros(2), jax.random.key(0))
    assert action.shape == (2,)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_hundred_weights_make_one_trace(nets, name):
    policy, critic = nets

    @jax.jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def act(weight):
        options = {"guidance": getattr(guidance, name), "weight": weight}
        return sample(policy, critic, OBS, jax.random.key(0), **options)

    actions = np.stack([act(w) for w in np.linspace(0, 1, 100)])
    assert len(np.unique(actions, axis=0)) == 100


def test_a_second_call_and_a_fresh_partial_do_not_retrace(nets):
    policy, critic = nets

    @eqx.filter_jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def act(policy, critic, guidance):
        return sample(policy, critic, OBS, jax.random.key(0), guidance=guidance)

    for _ in range(3):
        act(policy, critic, eqx.Partial(guidance.bptt, steps=5))


def test_the_weight_may_be_a_schedule(x64):
    flow = GaussianFlow(jnp.zeros(2), 1.0)
    seen = guided_step(
        flow,
        lambda _, a: jnp.sum(a),
        None,
        jnp.ones(2),
        0.25,
        0.1,
        weight=lambda t, v, g: (1 - t) * jnp.linalg.norm(v) / jnp.linalg.norm(g),
    )
    v = flow(None, jnp.ones(2), 0.25)
    expected = 1 + 0.1 * (v + 0.75 * np.linalg.norm(v) / np.sqrt(2))
    np.testing.assert_allclose(seen, expected, atol=1e-14)


def test_linear_decay_is_its_formula_and_does_not_retrace(x64):
    flow = GaussianFlow(jnp.zeros(2), 1.0)

    @eqx.filter_jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def step(weight):
        return guided_step(
            flow, lambda _, a: jnp.sum(a), None, jnp.ones(2), 0.25, 0.1, weight=weight
        )

    v = flow(None, jnp.ones(2), 0.25)
    for start in (0.4, 2.0):
        expected = 1 + 0.1 * (v + 0.75 * start)
        found = step(qgf_eqx.weights.LinearDecay(jnp.asarray(start)))
        np.testing.assert_allclose(found, expected, atol=1e-14)
    assert str(qgf_eqx.weights.LinearDecay(0.2)) == "0.2 (1-t)"


def test_the_plain_flow_draws_its_law():
    policy = MixtureFlow(jnp.array([-1.0, 2.0]), 0.4, jnp.array([0.3, 0.7]))
    keys = jax.random.split(jax.random.key(0), 4000)
    draw = jax.jit(jax.vmap(lambda k: sample(policy, unasked, None, k, weight=0, steps=100)))

    def cdf(x):
        return 0.3 * stats.norm.cdf(x, -1, 0.4) + 0.7 * stats.norm.cdf(x, 2, 0.4)

    assert stats.kstest(np.asarray(draw(keys)), cdf).pvalue > 1e-3


def test_float32_is_near_float64(nets):
    policy, critic = nets
    noise = np.random.default_rng(0).normal(size=3)
    single = guided_flow(policy, critic, OBS, jnp.asarray(noise, jnp.float32), weight=0.5)
    jax.config.update("jax_enable_x64", True)
    try:
        wide = jax.tree.map(
            lambda x: x.astype(jnp.float64) if eqx.is_inexact_array(x) else x, (policy, critic)
        )
        double = guided_flow(*wide, OBS.astype(float), jnp.asarray(noise), weight=0.5)
    finally:
        jax.config.update("jax_enable_x64", False)
    np.testing.assert_allclose(single, double, rtol=0, atol=1e-4)


# Bad input: the sentence a user gets.


def bad_sample(policy, critic, key=None, **options):
    key = jax.random.key(0) if key is None else key
    return sample(policy, critic, options.pop("obs", OBS), key, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ValueError, "`steps` must be at least 1, got 0"),
        ({"steps": -1}, ValueError, "`steps` must be at least 1, got -1"),
        ({"steps": 2.0}, TypeError, "`steps` must be a Python int, got 2.0"),
        ({"steps": True}, TypeError, "`steps` must be a Python int, got True"),
        ({"best_of": 0}, ValueError, "`best_of` must be at least 1"),
        ({"obs": np.zeros(3)}, ValueError, r"`obs` holds 3 numbers .* built for 2"),
        ({"obs": np.zeros((5, 2))}, ValueError, r"`obs` holds 10 numbers .*`jax.vmap`"),
        ({"weight": np.ones(2)}, ValueError, r"`weight` has shape \(2,\)"),
        ({"weight": np.ones((5, 1))}, ValueError, "`weight` has shape"),
        ({"key": 0}, TypeError, r"`key` must be one key, as made by `jax.random.key\(0\)`, got 0"),
        ({"key": np.zeros(2)}, TypeError, "`key` must be one key"),
        ({"key": jax.random.split(jax.random.key(0), 3)}, ValueError, "`key` is a batch of keys"),
        (
            {"key": jax.random.split(jax.random.PRNGKey(0), 3)},
            ValueError,
            r"batch of keys of shape \(3,\).*`jax.vmap`",
        ),
    ],
)
def test_bad_input_is_refused_by_name(nets, unchecked, options, error, message):
    with pytest.raises(error, match=message):
        bad_sample(*nets, **options)


def test_key_none_is_refused(nets, unchecked):
    with pytest.raises(TypeError, match="`key` must be one key.*got None"):
        sample(*nets, OBS, None)


def test_traced_steps_are_refused(nets, unchecked):
    with pytest.raises(TypeError, match="`steps` is traced"):
        jax.jit(lambda n: bad_sample(*nets, steps=n))(3)


def test_a_bare_callable_is_told_of_flow(nets, unchecked):
    with pytest.raises(TypeError, match="`policy` has no `action_shape`.*Flow"):
        bad_sample(lambda obs, a_t, t: a_t, nets[1])


def test_swapped_policy_and_critic_are_noticed(nets, unchecked):
    with pytest.raises(TypeError, match="are the first two arguments swapped"):
        bad_sample(nets[1], nets[0])


@pytest.mark.parametrize("shape", [(1,), (2,)])
def test_a_critic_that_is_no_scalar_is_refused(nets, unchecked, shape):
    with pytest.raises(ValueError, match=r"`critic` returned an array of shape .* a scalar"):
        bad_sample(nets[0], lambda o, a: jnp.zeros(shape) * jnp.sum(a))


def test_a_policy_with_a_wrong_shape_is_refused(nets, unchecked):
    policy = Flow(lambda o, a, t: a[:2], action_shape=(3,))
    with pytest.raises(ValueError, match=r"`policy` returned a velocity of shape \(2,\)"):
        bad_sample(policy, nets[1])


def test_integer_noise_is_refused(nets, unchecked):
    with pytest.raises(ValueError, match="`noise` must be an array of floats, got int"):
        guided_flow(*nets, OBS, jnp.zeros(3, int))


@pytest.mark.parametrize("obs", [np.array([1, 2], np.uint8), np.array([1, 2]), np.ones(2)])
def test_integers_and_float64_are_cast(nets, unchecked, obs):
    assert bad_sample(*nets, obs=obs).dtype == jnp.float32


def test_a_legacy_key_is_a_key(nets):
    assert bad_sample(*nets, key=jax.random.PRNGKey(0)).shape == (3,)


def test_the_public_names_are_there():
    for name in (
        "velocity",
        "critic",
        "one_step",
        "denoise",
        "guided_step",
        "guided_flow",
        "sample",
        "Flow",
        "bounded",
        "guidance",
        "nn",
        "objectives",
        "analytic",
    ):
        assert hasattr(qgf_eqx, name)


def test_the_gradient_in_the_weight_is_right_at_zero(x64):
    flow, noise = GaussianFlow(jnp.zeros(2), 0.5), jnp.array([0.3, -0.2])

    def outcome(weight):
        return jnp.sum(guided_flow(flow, lambda o, a: jnp.sum(a), None, noise, weight=weight))

    difference = (outcome(1e-4) - outcome(-1e-4)) / 2e-4
    np.testing.assert_allclose(jax.grad(outcome)(0.0), difference, rtol=1e-6)


def test_a_candidate_of_value_nan_ranks_last():
    policy = GaussianFlow(jnp.zeros(2), 1.0)
    critic = lambda o, a: jnp.where(a[0] > 0, jnp.nan, a[1])  # noqa: E731
    keys = jax.random.split(jax.random.key(0), 20)
    actions = jax.vmap(lambda k: sample(policy, critic, None, k, weight=0, best_of=8))(keys)
    assert (actions[:, 0] <= 0).all()


@pytest.mark.parametrize(
    ("answer", "got"),
    [(jnp.zeros(()), r"shape \(\)"), (jnp.zeros((3, 2)), r"\(3, 2\)")],
)
def test_a_guidance_of_a_wrong_shape_is_refused(nets, unchecked, answer, got):
    with pytest.raises((TypeError, ValueError), match=f"`guidance` returned .*{got}"):
        bad_sample(*nets, guidance=lambda *_: answer)


def test_complex_weights_and_integer_critics_are_refused(nets, unchecked):
    with pytest.raises(ValueError, match="`weight` must be real"):
        bad_sample(*nets, weight=jnp.asarray(1j))
    with pytest.raises(ValueError, match="`critic` returned int32; it must be a float"):
        bad_sample(nets[0], lambda o, a: jnp.sum(a > 0))


def test_the_euler_solver_is_the_hand_written_flow(x64):
    policy = MixtureFlow(jnp.array([1.0, 3.0, 5.0]), 0.1)
    critic = lambda _, a: -((a - 3.0) ** 2)  # noqa: E731
    for estimate in (guidance.qgf, guidance.bptt):
        options = {"guidance": estimate, "weight": 0.5, "steps": 7}
        for noise in (-1.0, 0.2, 1.5):
            hand = guided_flow(policy, critic, None, jnp.asarray(noise), **options)
            solved = guided_solve(
                policy, critic, None, jnp.asarray(noise), solver=diffrax.Euler(), **options
            )
            np.testing.assert_allclose(solved, hand, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("solver", "order"), [(diffrax.Euler(), 1), (diffrax.Heun(), 2), (diffrax.Bosh3(), 3)]
)
def test_solvers_of_the_guided_field_have_their_order(x64, solver, order):
    flow = GaussianFlow(jnp.array([0.3, -0.2]), 0.5)
    noise = jnp.array([0.5, 1.0])

    def act(steps, solver=solver):
        critic = lambda _, a: -jnp.sum((a - 1.0) ** 2)  # noqa: E731
        return guided_solve(flow, critic, None, noise, weight=0.4, steps=steps, solver=solver)

    exact = act(200, diffrax.Dopri8())
    coarse, fine = (np.abs(act(n) - exact).max() for n in (40, 80))
    assert abs(np.log2(coarse / fine) - order) < 0.15


def test_an_adaptive_solver_is_batched_and_meets_its_tolerance(x64):
    policy = MixtureFlow(jnp.array([1.0, 3.0, 5.0]), 0.3)
    noises = jax.random.normal(jax.random.key(0), (20,))
    critic = lambda _, a: -((a - 3.0) ** 2)  # noqa: E731

    def act(tolerance, max_steps=4096):
        control = diffrax.PIDController(rtol=tolerance, atol=tolerance)
        return jax.jit(
            jax.vmap(
                lambda noise: guided_solve(
                    policy,
                    critic,
                    None,
                    noise,
                    weight=0.5,
                    solver=diffrax.Tsit5(),
                    stepsize_controller=control,
                    max_steps=max_steps,
                )
            )
        )(noises)

    exact = act(1e-11)
    assert np.abs(act(1e-4) - exact).max() < 1e-2 < np.abs(act(1e-1) - exact).max() + 1e-2
    assert np.abs(act(1e-7) - exact).max() < 1e-5
    assert np.isnan(act(1e-11, max_steps=4)).all()


def test_the_guided_field_is_a_policy():
    policy = MixtureFlow(jnp.array([1.0, 3.0, 5.0]), 0.1)
    critic = lambda _, a: -((a - 3.0) ** 2)  # noqa: E731
    guided = Guided(policy, critic, weight=1.0)
    assert guided.action_shape == ()
    key = jax.random.key(0)
    again = sample(guided, critic, None, key, weight=0)
    np.testing.assert_allclose(again, sample(policy, critic, None, key, weight=1.0), rtol=1e-6)


def test_candidates_share_their_noises_between_weights(nets):
    policy, critic = nets
    key = jax.random.key(3)
    few, many = (candidates(policy, critic, OBS, key, count=n, weight=0.3) for n in (2, 5))
    np.testing.assert_allclose(few, many[:2], atol=1e-6)
    found = best(critic, OBS, many)
    np.testing.assert_allclose(
        found, sample(policy, critic, OBS, key, weight=0.3, best_of=5), atol=1e-6
    )
    with pytest.raises(ValueError, match="count"):
        candidates(policy, critic, OBS, key, count=0)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 9])
def test_candidates_a_few_at_a_time_are_those_of_all_at_once(nets, batch_size):
    policy, critic = nets
    key, options = jax.random.key(3), {"weight": 0.3, "batch_size": batch_size}
    found = candidates(policy, critic, OBS, key, count=5, **options)
    np.testing.assert_allclose(
        found, candidates(policy, critic, OBS, key, count=5, weight=0.3), atol=1e-6
    )
    chosen = sample(policy, critic, OBS, key, best_of=5, **options)
    np.testing.assert_allclose(chosen, best(critic, OBS, found), atol=1e-6)
    np.testing.assert_array_equal(best(critic, OBS, found, batch_size=2), best(critic, OBS, found))


def test_candidates_a_few_at_a_time_need_little_memory(nets):
    policy, critic = nets
    keys, obs = jax.random.split(jax.random.key(0), 64), jnp.zeros((64, 2))

    def planned(batch_size):
        options = {"weight": 0.3, "best_of": 32, "batch_size": batch_size}
        act = jax.vmap(lambda o, k: sample(policy, critic, o, k, **options))
        return jax.jit(act).lower(obs, keys).compile().memory_analysis().temp_size_in_bytes

    assert planned(2) < planned(None) / 4
    for wrong in (0, -1, True):
        with pytest.raises((TypeError, ValueError), match="`batch_size`"):
            sample(policy, critic, OBS, keys[0], best_of=2, batch_size=wrong)


@pytest.mark.parametrize(
    ("values", "first"),
    [
        ([np.nan, -np.inf, -np.inf], 1),
        ([-np.inf, np.nan, -np.inf], 0),
        ([np.nan, np.nan, np.nan], 0),
        ([np.nan, 1.0, np.inf, np.inf], 2),
        ([np.nan, -5.0, -3.0, -3.0], 2),
    ],
)
def test_a_value_of_nan_ranks_below_minus_infinity(values, first):
    actions = jnp.arange(len(values), dtype=jnp.float32)
    found = best(lambda o, a: jnp.asarray(values)[a.astype(int)], None, actions)
    assert found == first


def test_every_option_reaches_every_candidate(nets):
    policy, critic = nets
    key, options = jax.random.key(6), {"guidance": guidance.ood, "weight": 0.4, "steps": 3}
    noises = [jax.random.normal(jax.random.fold_in(key, i), (3,)) for i in range(3)]
    ends = [guided_flow(policy, critic, OBS, noise, **options) for noise in noises]
    found = sample(policy, critic, OBS, key, best_of=3, **options)
    np.testing.assert_allclose(found, max(ends, key=lambda a: critic(OBS, a)), atol=1e-6)
