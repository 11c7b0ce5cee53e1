import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx import guidance, guided_step
from qgf_eqx.nn import (
    CriticMLP,
    Ensemble,
    LowerBound,
    TimedCriticMLP,
    ValueMLP,
    VelocityMLP,
    low_frequency_time,
    paper_time,
)

KEY = jax.random.key(0)


def count(model):
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)))


def test_the_parameter_counts_are_the_papers_on_cube_triple():
    policy = eqx.filter_eval_shape(VelocityMLP, 46, (5, 5), embed=paper_time, key=KEY)
    critics = eqx.filter_eval_shape(Ensemble, lambda k: CriticMLP(46, (5, 5), key=k), 2, key=KEY)
    value = eqx.filter_eval_shape(ValueMLP, 46, key=KEY)

    def size(model):
        return sum(np.prod(x.shape) for x in jax.tree.leaves(model) if hasattr(x, "shape"))

    assert (size(policy), size(critics), size(value)) == (3_270_681, 6_463_490, 3_206_145)


def test_the_network_is_dense_norm_gelu_and_a_head(x64):
    value = ValueMLP(3, width=8, depth=2, key=KEY)
    x = np.array([0.1, -2.0, 0.7])
    h = x
    for layer in value.mlp.layers:
        h = h @ np.asarray(layer.kernel) + np.asarray(layer.bias)
        h = (h - h.mean()) / np.sqrt(h.var() + 1e-6)
        h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    expected = h @ np.asarray(value.mlp.head.kernel)[:, 0] + value.mlp.head.bias[0]
    np.testing.assert_allclose(value(x), expected, rtol=1e-12)


def test_the_policys_last_hidden_layer_has_no_norm():
    policy = VelocityMLP(3, (2,), width=8, key=KEY)
    assert [norm is not None for norm in policy.mlp.norms] == [True, True, True, False]


def test_initial_kernels_have_the_papers_scales():
    policy = VelocityMLP(3, (5,), width=512, key=KEY)
    hidden = np.asarray(policy.mlp.layers[1].kernel)
    assert np.abs(hidden).max() <= np.sqrt(3 / 512) and hidden.std() == pytest.approx(
        np.sqrt(1 / 512), rel=0.01
    )
    head = np.asarray(policy.mlp.head.kernel)
    assert head.std() == pytest.approx(np.sqrt(1 / 512), rel=0.05)
    assert all(np.all(layer.bias == 0) for layer in policy.mlp.layers)


def test_an_ensemble_is_its_members_reduced(x64):
    ensemble = Ensemble(lambda k: CriticMLP(2, (3,), width=8, key=k), 3, key=KEY)
    singles = [CriticMLP(2, (3,), width=8, key=k) for k in jax.random.split(KEY, 3)]
    obs, action = np.ones(2), jnp.array([0.1, 0.2, 0.3])
    expected = [single(obs, action) for single in singles]
    np.testing.assert_allclose(ensemble.values(obs, action), expected, rtol=1e-12)
    np.testing.assert_allclose(ensemble(obs, action), min(expected), rtol=1e-12)
    mean = eqx.tree_at(
        lambda e: e.members,
        Ensemble(lambda k: CriticMLP(2, (3,), width=8, key=k), 3, reduce=jnp.mean, key=KEY),
        ensemble.members,
    )
    np.testing.assert_allclose(mean(obs, action), np.mean(expected), rtol=1e-12)


def test_time_features_match_their_formulas(x64):
    t = 0.37
    k = np.arange(8)
    angles = 10000 * t * 10000 ** (-k / 8)
    np.testing.assert_allclose(paper_time(t), np.r_[np.cos(angles), np.sin(angles)], rtol=1e-9)
    angles = np.pi * np.arange(1, 5) * t
    expected = np.r_[t, np.cos(angles), np.sin(angles)]
    np.testing.assert_allclose(low_frequency_time(t), expected, rtol=1e-12)
    for features in (paper_time, low_frequency_time):
        np.testing.assert_array_equal(features(1), features(1.0))


def test_an_action_of_another_shape_is_refused(unchecked):
    policy = VelocityMLP(2, (3,), width=8, key=KEY)
    with pytest.raises(ValueError, match=r"the action has shape \(7, 3\).*`jax.vmap`"):
        policy(np.zeros(2), jnp.zeros((7, 3)), 0.5)


def test_the_lower_bound_by_hand(x64):
    values = jnp.array([1.0, 3.0])
    np.testing.assert_allclose([LowerBound(r)(values) for r in (0.0, 0.5, 1.0)], [2.0, 1.5, 1.0])
    assert LowerBound()(values) == 1.5
    slope = jax.grad(LowerBound(0.5))(jnp.array([2.0, 2.0]))  # where the root has no derivative
    np.testing.assert_allclose(slope, [0.5, 0.5])


def test_an_ensemble_reduces_as_it_is_told_and_gives_its_members():
    make = lambda k: CriticMLP(2, (3,), width=16, depth=2, key=k)  # noqa: E731
    obs, action = jnp.ones(2), jnp.ones(3)
    for reduce in (jnp.min, jnp.mean, LowerBound(0.5)):
        ensemble = Ensemble(make, 3, reduce=reduce, key=KEY)
        values = ensemble.values(obs, action)
        np.testing.assert_allclose(ensemble(obs, action), reduce(values), rtol=1e-6)
    found = [member(obs, action) for member in ensemble.members]
    np.testing.assert_allclose(found, values, rtol=1e-5)


def test_a_timed_critic_depends_on_everything_it_is_given():
    critic = TimedCriticMLP(2, (3,), width=16, depth=2, key=KEY)
    base = critic(jnp.ones(2), jnp.ones(3), 0.5)
    assert base.shape == ()
    for other in (
        critic(jnp.zeros(2), jnp.ones(3), 0.5),
        critic(jnp.ones(2), jnp.zeros(3), 0.5),
        critic(jnp.ones(2), jnp.ones(3), 0.7),
    ):
        assert other != base


def test_the_normalisation_is_equinoxs(x64):
    net = CriticMLP(2, (3,), width=16, depth=1, key=KEY)
    norm = eqx.tree_at(
        lambda n: (n.weight, n.bias), net.mlp.norms[0], (jnp.arange(16.0), jnp.ones(16))
    )
    net = eqx.tree_at(lambda n: n.mlp.norms[0], net, norm)
    x = jnp.concatenate([jnp.ones(2), jnp.arange(3.0)])
    hidden = jax.nn.gelu(norm(net.mlp.layers[0](x)), approximate=True)
    expected = net.mlp.head(hidden)[0]
    np.testing.assert_allclose(net(jnp.ones(2), jnp.arange(3.0)), expected, rtol=1e-12)


def test_xla_runs_the_policys_forward_pass_once_for_the_exact_jacobian():
    policy = VelocityMLP(2, (3,), width=32, depth=4, key=KEY)
    critic = lambda o, a: jnp.sum(jnp.sin(a))  # noqa: E731
    step = lambda a: guided_step(  # noqa: E731
        policy, critic, jnp.ones(2), a, 0.3, 0.1, guidance=guidance.qgf_jacobian
    )
    program = jax.jit(step).lower(jnp.ones(3)).compile().as_text()
    products = re.findall(r"= \S+ (?:dot|custom-call)\(", program)
    assert len(products) == 2 * 5  # five layers, forward and backward
