"""The update of a critic and its actors: what depends on what, to the bit."""

from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx.data import Chunk
from qgf_eqx.learn import ActorLearner, Spec, Team, init_team, update_team
from qgf_eqx.learn.actors import BC, CFGRL, DAC, EDP, FQL, IFQL, QAM, QSM, RobustQ
from qgf_eqx.learn.critics import IQL, TD

pytestmark = pytest.mark.usefixtures("loose_promotion")

SPEC, SMALL, KEY = Spec(3, (2, 1)), {"width": 8, "depth": 2}, jax.random.key(0)
ALL = {
    kind.__name__.lower(): kind(**SMALL)
    for kind in (BC, EDP, FQL, QAM, DAC, QSM, CFGRL, RobustQ, IFQL)
}


def batch(step=0, n=6):
    keys = jax.random.split(jax.random.fold_in(jax.random.key(1), step), 4)
    draw = lambda key, *shape: jax.random.normal(key, (n, *shape))  # noqa: E731
    actions = jnp.clip(draw(keys[1], 2, 1), -1, 1)
    weight = jnp.ones(n).at[0].set(0.0)
    return Chunk(draw(keys[0], 3), actions, draw(keys[2]), jnp.full(n, 0.9), draw(keys[3], 3), weight)  # fmt: skip


def trained(team, steps=3, seed=0):
    state = init_team(team, SPEC, jax.random.key(seed))
    arrays, static = eqx.partition(state, eqx.is_array)

    @jax.jit
    def one(arrays, chunks, key):
        state, metrics = update_team(team, SPEC, eqx.combine(arrays, static), chunks, key)
        return eqx.filter(state, eqx.is_array), metrics

    metrics = {}
    for i in range(steps):
        arrays, metrics = one(arrays, batch(i), jax.random.fold_in(jax.random.key(seed), i))
    return eqx.combine(arrays, static), metrics


@pytest.fixture(scope="module")
def together(loose_promotion):
    return trained(Team(IQL(**SMALL), ALL))


def test_every_learner_changes_and_every_loss_is_said(together):
    state, metrics = together
    before = init_team(Team(IQL(**SMALL), ALL), SPEC, KEY)
    assert state.step == 3 and set(state.nets) == {"critic", *ALL}
    for name, nets in state.nets.items():
        assert not eqx.tree_equal(nets.trained, before.nets[name].trained), name
    assert {"critic/value_loss", "qam/adjoint_loss", "fql/distill_loss"} <= set(metrics)
    assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("names", [[], ["qam", "dac"]])
def test_the_critic_does_not_depend_on_the_actors_beside_it_to_the_bit(together, names):
    alone = trained(Team(IQL(**SMALL), {name: ALL[name] for name in names}))[0]
    assert eqx.tree_equal(alone.nets["critic"], together[0].nets["critic"])
    for name in names:
        assert eqx.tree_equal(alone.nets[name], together[0].nets[name], rtol=1e-5, atol=1e-6)


def test_actors_are_trained_against_the_critic_before_the_update():
    """Of one update: another learning rate of the critic changes no actor."""
    fast = trained(Team(IQL(learning_rate=0.1, **SMALL), {"edp": ALL["edp"]}), steps=1)[0]
    slow = trained(Team(IQL(learning_rate=1e-5, **SMALL), {"edp": ALL["edp"]}), steps=1)[0]
    assert eqx.tree_equal(fast.nets["edp"], slow.nets["edp"])
    assert not eqx.tree_equal(fast.nets["critic"], slow.nets["critic"])


def test_a_chunk_of_no_weight_counts_for_nothing():
    team = Team(IQL(**SMALL), {"bc": ALL["bc"]})
    chunks = batch()
    spoilt = chunks._replace(reward=chunks.reward.at[0].set(99.0))
    state = init_team(team, SPEC, KEY)
    found = [update_team(team, SPEC, state, each, KEY)[0] for each in (chunks, spoilt)]
    assert eqx.tree_equal(*found)


def test_seeds_in_one_program_are_seeds_apart():
    team = Team(IQL(**SMALL), {"fql": ALL["fql"]})
    make = lambda seed: init_team(team, SPEC, jax.random.key(seed))  # noqa: E731
    static = eqx.partition(make(0), eqx.is_array)[1]
    arrays = eqx.filter(eqx.filter_vmap(make)(jnp.arange(3)), eqx.is_array)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None, 0))
    def one(arrays, chunks, key):
        state, _ = update_team(team, SPEC, eqx.combine(arrays, static), chunks, key)
        return eqx.filter(state, eqx.is_array)

    for i in range(3):
        fold = lambda seed, i=i: jax.random.fold_in(jax.random.key(seed), i)  # noqa: E731
        arrays = one(arrays, batch(i), jax.vmap(fold)(jnp.arange(3)))
    for seed in range(3):
        alone = eqx.filter(trained(team, seed=seed)[0].nets, eqx.is_array)
        mine = jax.tree.map(lambda leaf, seed=seed: leaf[seed], arrays.nets)
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(mine), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_td_is_trained_on_the_actions_of_the_actor_that_is_named():
    actors = {name: ALL[name] for name in ("bc", "fql", "robustq")}
    by = {
        name: trained(Team(TD(critics=2, **SMALL), actors, name), steps=1)[0].nets["critic"]
        for name in ("bc", "fql")
    }
    assert not eqx.tree_equal(by["bc"], by["fql"])
    with pytest.raises(ValueError, match="`next_actor` must name the actor .* bc, fql; got None"):
        Team(TD(**SMALL), actors)
    with pytest.raises(ValueError, match="bc, fql; got robustq"):
        Team(TD(**SMALL), actors, "robustq")  # it draws no actions
    with pytest.raises(ValueError, match="none, of these actors; got bc"):
        Team(TD(**SMALL), {}, "bc")
    with pytest.raises(ValueError, match="must not have the name `critic`"):
        Team(IQL(**SMALL), {"critic": ALL["bc"]})


def test_learners_of_one_kind_have_networks_and_noise_of_their_own():
    team = Team(IQL(**SMALL), {"a": ALL["bc"], "b": ALL["bc"]})
    state = init_team(team, SPEC, KEY)
    assert not eqx.tree_equal(state.nets["a"], state.nets["b"])
    same = state._replace(nets={**state.nets, "b": state.nets["a"]})
    _, metrics = update_team(team, SPEC, same, batch(), KEY)
    assert metrics["a/flow_loss"] != metrics["b/flow_loss"]


def test_a_new_actor_is_one_class_and_has_its_own_optimiser(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "evaluate")
    from toy_actor import Mean

    assert isinstance(Mean(), ActorLearner)
    chunks = batch()
    state = init_team(Team(IQL(**SMALL), {"mean": Mean()}), SPEC, KEY)
    state, _ = update_team(Team(IQL(**SMALL), {"mean": Mean()}), SPEC, state, chunks, KEY)
    wanted = np.sum(np.asarray(chunks.action)[1:], 0) / len(chunks.weight)
    np.testing.assert_allclose(state.nets["mean"].trained, wanted, rtol=1e-5)
