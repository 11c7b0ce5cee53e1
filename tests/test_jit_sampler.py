import functools
import inspect
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx import Flow, _jit_sampler, action_gradient, bounded, guidance, jit_sampler, sample
from qgf_eqx.analytic import GaussianFlow
from qgf_eqx.evaluate.names import method
from qgf_eqx.nn import CriticMLP, Ensemble, LeastMember, VelocityMLP

KEY = jax.random.key(0)
OBS = np.array([0.5, -0.2], np.float32)


def nets(width=16, reduce=jnp.min):
    policy = VelocityMLP(2, (3,), width=width, depth=2, key=jax.random.key(1))
    make = lambda k: CriticMLP(2, (3,), width=width, depth=2, key=k)  # noqa: E731
    return policy, bounded(Ensemble(make, 2, reduce=reduce, key=jax.random.key(2)))


@pytest.mark.parametrize("best_of", [1, 3])
@pytest.mark.parametrize("estimate", [guidance.qgf, guidance.qgf_jacobian])
def test_it_is_sample_with_half_of_the_key_and_returns_the_other(estimate, best_of):
    policy, critic = nets()
    options = {"guidance": estimate, "weight": 0.5, "best_of": best_of}
    act, key = jit_sampler(policy, critic, **options), KEY
    for _ in range(3):
        rest, draw = jax.random.split(key)
        expected = sample(policy, critic, OBS, draw, **options)
        action, key = act(OBS, key)
        np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(rest))


def test_the_least_members_gradient_is_the_minimums(x64):
    wave = lambda slope, obs, a: jnp.sin(jnp.dot(slope, a)) + jnp.sum(obs)  # noqa: E731
    make = lambda k: eqx.Partial(wave, jax.random.normal(k, (3,)))  # noqa: E731
    ensemble = Ensemble(make, 2, key=KEY)
    critic = bounded(ensemble)
    chosen = set()
    for row in jax.random.normal(KEY, (30, 5)):
        obs, point = 3 * row[:2], row[2:]
        np.testing.assert_allclose(LeastMember(ensemble)(obs, point), ensemble(obs, point))
        found = action_gradient(bounded(LeastMember(ensemble)), obs, point)
        np.testing.assert_allclose(found, action_gradient(critic, obs, point), atol=1e-12)
        chosen.add(int(jnp.argmin(ensemble.values(obs, point))))
    assert chosen == {0, 1}


@pytest.mark.parametrize("broken", [0, 1])
def test_a_member_of_value_nan_is_not_hidden_by_a_gradient_that_is_finite(broken):
    values = [lambda o, a: jnp.sum(a), lambda o, a: -jnp.sum(a)]
    values[broken] = lambda o, a, known=values[broken]: known(o, a) + jnp.nan
    ensemble = eqx.tree_at(
        lambda e: e.members, Ensemble(lambda key: None, 2, key=KEY), tuple(values)
    )
    for critic in (ensemble, LeastMember(ensemble)):
        assert np.isnan(action_gradient(critic, None, jnp.ones(2))).all()
    flow = GaussianFlow(jnp.zeros(2), 0.5)
    with pytest.warns(RuntimeWarning, match="the plain flow's is used"):
        jit_sampler(flow, bounded(ensemble), weight=0.1)(None, KEY)


def test_the_gate_asks_the_members_behind_the_least_one():
    policy, critic = nets()
    options = {"guidance": method("gated", weight=0.1).guidance, "weight": 0.1}
    action, _ = jit_sampler(policy, critic, **options)(OBS, KEY)
    drawn = sample(policy, critic, OBS, jax.random.split(KEY)[1], **options)
    np.testing.assert_allclose(action, drawn, rtol=1e-5, atol=1e-6)


def test_a_hard_clip_still_silences_what_is_outside(x64):
    _, critic = nets()
    hard = bounded(LeastMember(critic.critic), clip=jnp.clip)
    plain = bounded(critic.critic, clip=jnp.clip)
    point = jnp.array([2.0, 0.1, -0.3])
    found = action_gradient(hard, OBS, point)
    np.testing.assert_allclose(found, action_gradient(plain, OBS, point), atol=1e-12)
    assert found[0] == 0 and found[1] != 0


def test_the_curvature_of_the_least_member_can_be_asked_for(x64):
    policy, critic = nets()
    for t in (0.2, 0.8):
        arguments = (OBS, jnp.array([0.3, -0.1, 0.2]), t)
        least = guidance.curvature(policy, bounded(LeastMember(critic.critic)), *arguments)
        np.testing.assert_allclose(least, guidance.curvature(policy, critic, *arguments))


def test_only_one_critics_backward_pass_is_run():
    _, critic = nets(32)
    gradient = lambda q: eqx.filter_jit(lambda o, a: action_gradient(q, o, a))  # noqa: E731
    lowered = gradient(LeastMember(critic.critic)).lower(OBS, jnp.zeros(3))
    assert "conditional" in lowered.compile().compiled.as_text()
    plain = gradient(critic.critic).lower(OBS, jnp.zeros(3)).compile().compiled.as_text()
    assert "conditional" not in plain


def arguments(act):
    """Of the compiled program, and its text."""
    inner = inspect.getclosurevars(inspect.unwrap(act)).nonlocals["draw"]
    given = inner.args if isinstance(inner, functools.partial) else ()
    jitted = inner.func if isinstance(inner, functools.partial) else inner
    program = jitted.lower(*given, OBS, KEY).as_text()
    signature = program[program.index("@main(") :].split(")")[0]
    return len(re.findall(r"%arg\d+", signature)), program


def test_no_array_of_small_networks_is_an_argument_of_the_call():
    assert arguments(jit_sampler(*nets()))[0] == 2


def test_large_networks_are_arguments_so_that_every_checkpoint_has_one_program(monkeypatch):
    policy, critic = nets()
    expected, _ = jit_sampler(policy, critic)(OBS, KEY)
    monkeypatch.setattr(_jit_sampler, "CONSTANT", 100)
    act = jit_sampler(policy, critic)
    np.testing.assert_allclose(act(OBS, KEY)[0], expected, rtol=1e-6)
    count, program = arguments(act)
    leaves = jax.tree.leaves(eqx.filter((policy, critic), eqx.is_array))
    assert count == len(leaves) + 2
    trained = jax.tree.map(lambda x: 2 * x if eqx.is_array(x) else x, policy)
    assert arguments(jit_sampler(trained, critic))[1] == program
    assert not np.allclose(jit_sampler(trained, critic)(OBS, KEY)[0], expected)


@pytest.mark.parametrize(
    ("obs", "place"),
    [
        (np.array([0.0, np.nan], np.float32), r"`obs\[1\]` is nan"),
        ({"x": np.ones(1), "goal": np.array([[1, np.inf]])}, r"`obs\['goal'\]\[0, 1\]` is inf"),
        (jnp.array(jnp.nan), "`obs` is nan"),
    ],
)
def test_an_observation_that_is_not_finite_is_refused_by_place(obs, place):
    act = jit_sampler(*nets())
    with pytest.raises(ValueError, match=place):
        act(obs, KEY)


def test_an_observation_that_overflows_where_jax_computes_is_refused():
    act = jit_sampler(*nets())
    with pytest.raises(ValueError, match=r"`obs\[1\]` is 1e\+39: refusing"):
        act(np.array([0.0, 1e39]), KEY)


@pytest.mark.parametrize(
    ("obs", "place"),
    [
        ({"x": np.ones(2), "instruction": "pick the cube"}, r"`obs\['instruction'\]` is 'pick the"),
        ([np.ones(2), b"raw"], r"`obs\[1\]` is b'raw'"),
        ({"x": np.array([object()])}, r"`obs\['x'\]` is array"),
        ({"x": np.ones(2, complex)}, r"`obs\['x'\]` is array"),
    ],
)
def test_a_leaf_that_is_not_numbers_is_refused_by_place(obs, place):
    act = jit_sampler(*nets())
    with pytest.raises(TypeError, match=place):
        act(obs, KEY)


def nowhere_finite(obs, action):
    return jnp.nan * jnp.sum(action)


@pytest.mark.parametrize("best_of", [1, 3])
@pytest.mark.parametrize(
    ("critic", "weight"),
    [
        (nowhere_finite, 0.5),
        (lambda obs, a: jnp.sum(jnp.sqrt(a + 0.5)), 0.5),  # somewhere
        (lambda obs, a: 3e38 * jnp.sum(a**2), 1e5),
        (lambda obs, a: jnp.sum(a), lambda t, v, g: jnp.where(t > 0.4, jnp.nan, 0.1)),
    ],
)
def test_where_guidance_is_not_finite_the_plain_action_is_used_and_said(critic, weight, best_of):
    policy, _ = nets()
    act = jit_sampler(policy, critic, weight=weight, best_of=best_of)
    _, draw = jax.random.split(KEY)
    for seed in range(3):
        key = jax.random.key(seed)
        _, draw = jax.random.split(key)
        guided = sample(policy, critic, OBS, draw, weight=weight, best_of=best_of)
        if np.isfinite(guided).all():
            action, _ = act(OBS, key)
            np.testing.assert_allclose(action, guided, rtol=1e-5, atol=1e-6)
            continue
        with pytest.warns(RuntimeWarning, match="the plain flow's is used"):
            action, _ = act(OBS, key)
        plain = sample(policy, critic, OBS, draw, weight=0, best_of=best_of)
        np.testing.assert_allclose(action, plain, rtol=1e-5, atol=1e-6)
        assert np.isfinite(action).all()


def test_a_policy_that_is_not_finite_is_refused():
    policy = Flow(lambda obs, a_t, t: jnp.log(a_t), (3,))
    with pytest.raises(ValueError, match="`policy` gave an action that is not finite"):
        jit_sampler(policy, lambda obs, a: jnp.sum(a))(OBS, KEY)


@pytest.mark.parametrize("weight", [None, "0.1", [0.1, "a"]])
def test_a_weight_that_is_not_numbers_is_refused(weight):
    with pytest.raises(TypeError, match="`weight` must be a number, an array or a function"):
        jit_sampler(*nets(), weight=weight)


@pytest.mark.parametrize("weight", [np.nan, np.inf, np.array([0.1, np.nan, 0.1])])
def test_a_weight_that_is_not_finite_is_refused(weight):
    with pytest.raises(ValueError, match="`weight` must be finite"):
        jit_sampler(*nets(), weight=weight)


def test_the_least_member_is_asked_where_actions_come_one_at_a_time():
    policy, critic = nets()
    for options, one in (
        ({}, True),
        ({"best_of": 4}, False),
        ({"best_of": 4, "batch_size": 1}, True),
        ({"best_of": 4, "batch_size": 2}, False),
    ):
        asked = _jit_sampler.for_one(critic, options)
        assert isinstance(asked.critic, LeastMember) if one else asked is critic
    options = {"weight": 0.5, "best_of": 4}
    _, draw = jax.random.split(KEY)
    action, _ = jit_sampler(policy, critic, **options, batch_size=1)(OBS, KEY)
    np.testing.assert_allclose(action, sample(policy, critic, OBS, draw, **options), rtol=1e-5)


@pytest.mark.parametrize("key", [None, 0, jnp.zeros(3)])
def test_what_is_no_key_is_refused(key, unchecked):
    act = jit_sampler(*nets())
    with pytest.raises(TypeError, match="`key` must be one key"):
        act(OBS, key)
