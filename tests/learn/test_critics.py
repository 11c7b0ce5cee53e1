"""Critics against tabular fixed points, by gradient descent on all transitions at once."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx.data import Chunk
from qgf_eqx.learn import Networks, Spec
from qgf_eqx.learn.critics import IQL, TD
from qgf_eqx.nn import Ensemble, LowerBound

STATES, GAMMA = 4, 0.8
# In state s action 0 stays and pays 0, action 1 goes to s + 1 and pays s + 1; the last ends it.
TABLE = [(s, a, a * (s + 1.0), min(s + a, STATES - 1)) for s in range(STATES) for a in (0, 1)]


class QTable(eqx.Module):
    """A number for each state and action; its start differs by member."""

    at: jax.Array

    def __call__(self, obs, action):
        return self.at[obs, action[0].astype(int)]


class VTable(eqx.Module):
    at: jax.Array

    def __call__(self, obs):
        return self.at[obs]


def chunks():
    s, a, r, after = map(np.array, zip(*TABLE, strict=True))
    ended = (s == STATES - 1) & (a == 1)
    discount = GAMMA * (1.0 - ended)
    actions = jnp.asarray(a[:, None], float)
    ones = jnp.ones(len(s))
    return Chunk(jnp.asarray(s), actions, jnp.asarray(r), jnp.asarray(discount), jnp.asarray(after), ones)  # fmt: skip


def ensemble(reduce, size):
    tables = iter(jax.random.normal(jax.random.key(1), (size, STATES, 2)))
    return Ensemble(lambda key: QTable(next(tables)), size, reduce=reduce, key=jax.random.key(0))


def descended(learner, nets, next_actions=None, steps=4000, rate=0.5):
    """The networks after so many steps of plain gradient descent and of following."""
    data = chunks()

    @jax.jit
    def step(nets):
        def total(trained):
            def one(chunk, action):
                return sum(learner.losses(nets._replace(trained=trained), chunk, action).values())

            actions = data.action if next_actions is None else next_actions
            return jnp.sum(jax.vmap(one)(data, actions))

        gradient = eqx.filter_grad(total)(nets.trained)
        trained = jax.tree.map(lambda x, g: x - rate * g, nets.trained, gradient)
        return learner.follow(nets._replace(trained=trained))

    return jax.lax.fori_loop(0, steps, lambda _, nets: step(nets), nets)


def solved(value_of):
    """Q and V by repeated backups; `value_of` the two actions' Q in a state."""
    q, data = np.zeros((STATES, 2)), chunks()
    for _ in range(500):
        v = np.array([value_of(q[s]) for s in range(STATES)])
        for i, (s, a, r, after) in enumerate(TABLE):
            q[s, a] = r + float(data.discount[i]) * v[after]
    return q, np.array([value_of(q[s]) for s in range(STATES)])


def expectile(values, level):
    """Of two equally likely values."""
    low, high = sorted(values)
    return (level * high + (1 - level) * low) if high > low else low


@pytest.mark.parametrize("level", [0.5, 0.8])
def test_iql_reaches_the_expectile_of_the_data(x64, level):
    learner = IQL(expectile=level, ema_rate=0.05)
    critic = ensemble(jnp.min, 2)
    nets = Networks((critic, VTable(jnp.zeros(STATES))), critic)
    found = descended(learner, nets)
    q, v = solved(lambda values: expectile(values, level))
    for member in found.trained[0].members + found.kept.members:
        np.testing.assert_allclose(member.at, q, atol=1e-6)
    np.testing.assert_allclose(found.trained[1].at, v, atol=1e-6)


def test_td_evaluates_the_actor_whose_actions_it_is_given(x64):
    """With members that agree the bound is their mean."""
    learner = TD(ema_rate=0.05)
    critic = ensemble(LowerBound(0.5), 3)
    always = jnp.ones((len(TABLE), 1))
    found = descended(learner, Networks(critic, critic), always)
    q, _ = solved(lambda values: values[1])
    for member in found.trained.members:
        np.testing.assert_allclose(member.at, q, atol=1e-6)


def test_tds_target_is_the_mean_less_half_a_deviation_of_the_targets_members(x64):
    learner = TD()
    critic, target = ensemble(LowerBound(0.5), 3), ensemble(LowerBound(0.5), 3)
    moved = eqx.tree_at(lambda e: [m.at for m in e.members], target, [m.at * 2 for m in target.members])  # fmt: skip
    one = jax.tree.map(lambda leaf: leaf[0], chunks())
    action = jnp.ones(1)
    found = learner.losses(Networks(critic, moved), one, action)["critic_loss"]
    later = np.array([m.at[0, 1] for m in moved.members])
    backup = 0.0 + GAMMA * (later.mean() - 0.5 * later.std())
    wanted = np.mean([(m.at[0, 0] - backup) ** 2 for m in critic.members])
    np.testing.assert_allclose(found, wanted)
    slope = eqx.filter_grad(lambda t: learner.losses(Networks(critic, t), one, action)["critic_loss"])  # fmt: skip
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(slope(moved)))


@pytest.mark.parametrize("learner", [IQL(8, 2), TD(8, 2, critics=3)])
def test_a_critic_follows_slowly_and_judges_by_its_target_within_the_bounds(learner):
    spec = Spec(3, (2, 1), -0.5, 0.5)
    nets = learner.init(spec, jax.random.key(0))
    critic = nets.trained[0] if isinstance(learner, IQL) else nets.trained
    assert eqx.tree_equal(critic, nets.kept) and len(critic.members) == learner.critics
    moved = jax.tree.map(lambda leaf: leaf + 1 if eqx.is_array(leaf) else leaf, nets.trained)
    followed = learner.follow(nets._replace(trained=moved)).kept
    old, new = (jax.tree.leaves(eqx.filter(x, eqx.is_array)) for x in (nets.kept, followed))
    for before, after in zip(old, new, strict=True):
        np.testing.assert_allclose(after, before + learner.ema_rate, rtol=1e-4, atol=1e-6)
    judges = learner.judges(nets, spec)
    obs, far, near = jnp.ones(3), jnp.full((2, 1), 9.0), jnp.full((2, 1), 0.5)
    assert judges.critic(obs, far) == nets.kept(obs, near)
    np.testing.assert_array_equal(judges.values(obs, near), nets.kept.values(obs, near))
    assert (judges.value is None) == isinstance(learner, TD)
