"""Critics against tabular fixed points, by gradient descent on all transitions at once."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx.data import Chunk, Rows, make_chunk
from qgf_eqx.learn import Networks, RunError, Spec
from qgf_eqx.learn.critics import DQC, IQL, SARSA, TD
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
    np.testing.assert_array_equal(judges.online(obs, near), critic.values(obs, near))
    assert (judges.value is None) == isinstance(learner, TD)


def test_sarsa_evaluates_the_behaviour(x64):
    """Both actions are as frequent in the data, so the value of a state is their mean."""
    learner, critic = SARSA(ema_rate=0.05), ensemble(jnp.min, 2)
    found = descended(learner, Networks((critic, VTable(jnp.zeros(STATES))), critic))
    q, v = solved(np.mean)
    np.testing.assert_allclose(found.trained[0].members[0].at, q, atol=1e-6)
    np.testing.assert_allclose(found.trained[1].at, v, atol=1e-6)
    with pytest.raises(RunError, match=r"`expectile` must be in \[0.5, 0.5\], got 0.9"):
        SARSA(expectile=0.9)


@pytest.mark.parametrize("wrong", [{"quantile": 1.0}, {"distil": 1.0}, {"quantile": 0.0}])
def test_a_quantile_is_between_0_and_1_without_the_ends(wrong):
    with pytest.raises(RunError, match=rf"`{min(wrong)}` must be in \(0, 1\), got "):
        DQC(**wrong)


STEPS, LENGTH = 3, 7
"""Rows on which steps are taken to the right, or are not, three at a time; the last is the goal."""


class LongTable(eqx.Module):
    """A logit for each state and each number of steps that go on, of so many."""

    at: jax.Array
    steps: int = eqx.field(static=True)
    action_shape: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, obs, action):
        return self.at[obs, jnp.sum(action[: self.steps]).astype(int)]


def walks():
    """All chunks of three steps, of one number each: 0 stays, and 1 goes on. As the loader makes
    them: the flag of an end is in the row of its state."""
    found = []
    for start in range(LENGTH - 1):
        for bits in np.ndindex(*(2,) * STEPS):
            places = np.minimum(start + np.concatenate([[0], np.cumsum(bits)]), LENGTH - 1)
            ends = (places == LENGTH - 1).astype(float)
            rows = Rows(
                jnp.asarray(start),
                jnp.asarray(bits, float)[:, None],
                jnp.asarray(ends[:-1] - 1),
                jnp.asarray(ends[:-1]),
                jnp.zeros(STEPS),
                jnp.asarray(places[-1]),
                jnp.asarray(ends[-1]),
            )
            found.append(make_chunk(rows, gamma=GAMMA))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)


def dqc_by_backups(data, level):
    """The chances of the long critic by how many steps go on, and of one step, by repeated
    backups. The better of two equally frequent steps is any quantile above the half."""
    long, short = np.zeros((LENGTH, STEPS + 1)), np.zeros((LENGTH, 2))
    counts = np.asarray(data.action).sum((1, 2)).astype(int)
    first = np.asarray(data.action)[:, 0, 0].astype(int)
    for _ in range(100):
        further = np.asarray(data.discount) * short.max(1)[np.asarray(data.next_obs)]
        y = np.where(data.success > 0, data.success, further)
        for s in range(LENGTH - 1):
            here = np.asarray(data.obs) == s
            for c in range(STEPS + 1):
                long[s, c] = y[here & (counts == c)].mean()
            for step in (0, 1):
                values = long[s, counts[here & (first == step)]]
                grid = np.linspace(0, 1, 20_001)[:, None]
                pull = np.where(values > grid, level, 1 - level) * (values - grid)
                short[s, step] = grid[np.abs(pull.sum(1)).argmin(), 0]
    return long, short


def test_dqc_reaches_the_backup_of_h_steps_distilled_to_chunks_of_one(x64):
    """Played are chunks of one step. The goal counts also exactly at the end of a chunk."""
    learner = DQC(backup=STEPS, critics=2, quantile=0.7, distil=0.9, ema_rate=0.2)
    data = walks()
    assert int((data.success > 0).sum()) == 1 + 4 + 7  # from the last three places
    rng = iter(jax.random.normal(jax.random.key(1), (4, LENGTH, STEPS + 1)))
    long = Ensemble(lambda _: LongTable(next(rng), STEPS, (STEPS, 1)), 2, key=jax.random.key(0))
    short = Ensemble(lambda _: LongTable(next(rng), 1, (1, 1)), 2, key=jax.random.key(0))
    nets = Networks((long, short, VTable(jnp.zeros(LENGTH))), (long, short))

    @jax.jit
    def step(nets, rate):
        def total(trained):
            def one(chunk):
                return sum(learner.losses(nets._replace(trained=trained), chunk, None).values())

            return jnp.sum(jax.vmap(one)(data))

        gradient = eqx.filter_grad(total)(nets.trained)
        trained = jax.tree.map(lambda x, g: x - rate * g, nets.trained, gradient)
        return learner.follow(nets._replace(trained=trained))

    rates = jnp.concatenate([jnp.full(4000, 0.3), jnp.geomspace(0.3, 1e-3, 12_000)])
    nets = jax.lax.fori_loop(0, len(rates), lambda i, nets: step(nets, rates[i]), nets)
    of_long, of_short = dqc_by_backups(data, 0.9)
    for kept, at in ((nets.kept[0], of_long), (nets.kept[1], of_short)):
        for member in kept.members:
            found = jax.nn.sigmoid(member.at)[:-1, : at.shape[1]]
            np.testing.assert_allclose(found, at[:-1], atol=2e-3)
    chance = jax.nn.sigmoid(nets.trained[2].at)[:-1]
    np.testing.assert_allclose(chance, of_short.max(1)[:-1], atol=2e-3)
    # All steps go on: within the chunk, at its end, and beyond.
    np.testing.assert_allclose(of_long[[5, 4, 3], 3], GAMMA ** np.array([1, 2, 3]), rtol=1e-9)
    assert GAMMA**4 > of_long[2, 3] > 0.9 * GAMMA**4


@pytest.mark.parametrize("reduce, reduced", [("min", min), ("mean", np.mean)])
def test_dqcs_losses_by_hand_and_what_they_do_not_differentiate(reduce, reduced, x64):
    learner = DQC(8, 1, backup=3, critics=2, reduce=reduce, quantile=0.7, distil=0.6)
    nets = learner.init(Spec(2, (2, 1)), jax.random.key(0))
    scaled = lambda model, by: jax.tree.map(lambda x: by * x if eqx.is_array(x) else x, model)  # noqa: E731 # fmt: skip
    nets = nets._replace(kept=(scaled(nets.kept[0], 1.5), scaled(nets.kept[1], -0.7)))
    obs, action = jnp.array([0.3, -0.2]), jnp.array([[0.1], [0.5], [-0.4]])
    (long, short, value), (old_long, old_short) = nets.trained, nets.kept
    sigmoid = lambda x: 1 / (1 + np.exp(-np.asarray(x)))  # noqa: E731
    for success, discount in ((0.0, 0.5), (0.64, 0.5), (0.0, 0.0)):
        chunk = Chunk(obs, action, jnp.zeros(()), jnp.asarray(discount), obs * 2, jnp.ones(()), jnp.asarray(success))  # fmt: skip
        found = learner.losses(nets, chunk, None)
        target = success or discount * sigmoid(value(obs * 2))
        chances = sigmoid(long.values(obs, action))
        by_hand = -np.mean(target * np.log(chances) + (1 - target) * np.log(1 - chances))
        np.testing.assert_allclose(found["critic_loss"], by_hand)
        wanted = sigmoid(reduced(old_long.values(obs, action)))
        shorts = sigmoid(short.values(obs, action[:2]))
        share = np.where(shorts <= wanted, 0.6, 0.4)
        entropy = -(wanted * np.log(shorts) + (1 - wanted) * np.log(1 - shorts))
        np.testing.assert_allclose(found["distil_loss"], np.mean(share * entropy))
        gap = reduced(old_short.values(obs, action[:2])) - value(obs)
        np.testing.assert_allclose(found["value_loss"], 0.7 * gap if gap > 0 else -0.3 * gap)

    chunk = chunk._replace(discount=jnp.asarray(0.5))

    def of(name):
        return eqx.filter_grad(
            lambda t: learner.losses(nets._replace(trained=t), chunk, None)[name]
        )

    for i, name in enumerate(("critic_loss", "distil_loss", "value_loss")):
        slopes = of(name)(nets.trained)
        moved = [any(np.any(x) for x in jax.tree.leaves(slope)) for slope in slopes]
        assert moved == [j == i for j in range(3)], name
    spec = Spec(2, (2, 1), -0.5, 0.5)
    judges = learner.judges(nets, spec)
    np.testing.assert_array_equal(judges.values(obs, action[:2]), old_short.values(obs, action[:2]))
    np.testing.assert_array_equal(judges.online(obs, action[:2]), short.values(obs, action[:2]))
    assert judges.critic(obs, jnp.full((2, 1), 9.0)) == old_short(obs, jnp.full((2, 1), 0.5))
    with pytest.raises(ValueError, match="`backup` must be at least the horizon, 2, got 1"):
        DQC(8, 1, backup=1).init(spec, jax.random.key(0))
    with pytest.raises(ValueError, match="`dqc` needs chunks that say when the task ended"):
        learner.losses(nets, chunk._replace(success=None), None)
