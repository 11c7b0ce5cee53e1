"""Runs with hindsight goals; and critics against the distances of a maze."""

import dataclasses
from collections import deque
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx import sample
from qgf_eqx.data import Dataset, DatasetError, read_rows
from qgf_eqx.data.goals import (
    Hindsight,
    last_rows,
    make_goal_chunk,
    read_goal_rows,
    read_states,
    with_goal,
)
from qgf_eqx.learn import (
    Networks,
    RunError,
    TrainConfig,
    Units,
    learners,
    load_run,
    train,
    train_seeds,
)
from qgf_eqx.learn._goals import goal_chunks, goal_rows
from qgf_eqx.learn.critics import DQC, IQL
from qgf_eqx.nn import Ensemble

SMALL = {"width": 8, "depth": 1}
CONFIG = TrainConfig(
    "e",
    updates=6,
    batch=8,
    horizon=2,
    gamma=0.9,
    goals=True,
    **learners("iql", ["flow", "gcbc", "fql"], **SMALL),
)
OPTIONS = {"updates_per_call": 3, "save_every": 3, "progress": False}


def data(rows=60, ends=(20, 29, 59)):
    rng = np.random.default_rng(0)
    ended = np.isin(np.arange(rows), ends).astype(np.float32)
    nothing = np.full(rows, np.nan, np.float32)  # rewards and ends of the task are not used
    return Dataset(
        rng.normal(size=(rows, 3)).astype(np.float32),
        rng.uniform(-1, 1, size=(rows, 2)).astype(np.float32),
        nothing,
        nothing,
        ended,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory, loose_promotion):
    folder = tmp_path_factory.mktemp("goals")
    train(CONFIG, data(), folder, **OPTIONS)
    return folder


def arrays(folder):
    return eqx.filter(load_run(folder).saved.state, eqx.is_array)


@pytest.mark.usefixtures("loose_promotion")
def test_the_flow_knows_no_goal_and_all_others_do(run):
    found = load_run(run)
    assert found.saved.spec.goal_size == 3 and found.saved.spec.state_size == 3
    state, action = jnp.asarray([0.3, -0.2, 0.5]), jnp.full((2, 2), 0.1)
    one, other = (state, jnp.ones(3)), (state, -jnp.ones(3))
    ask = lambda policy: [policy(obs, action, 0.3) for obs in (one, other)]  # noqa: E731
    plain, goal_conditioned = ask(found.policy), ask(found.policy_of("gcbc"))
    np.testing.assert_array_equal(*plain)
    assert not np.allclose(*goal_conditioned)
    for model in (lambda o: found.critic(o, action), found.value):
        assert not np.allclose(model(one), model(other))
    ends = [sample(found.policy, found.critic, o, jax.random.key(0), weight=1.0) for o in (one, other)]  # fmt: skip
    assert not np.allclose(*ends)  # the critic alone tells the goals apart
    for wrong in (state, (state,)):
        with pytest.raises(ValueError, match="`obs` must be `\\(state, goal\\)`"):
            found.value(wrong)


def test_goals_of_actors_lie_ahead_and_those_of_critics_are_anywhere():
    last = last_rows(jnp.asarray(data().episode_end))
    starts = jnp.full(4000, 25)
    critics, actors = goal_rows(CONFIG, 0, 3, starts, last[starts], 60)
    assert set(np.asarray(actors).tolist()) == {26, 27, 28, 29}
    shares = np.bincount(critics, minlength=60) / 4000
    assert abs(shares[25] - (0.2 + 0.3 / 60)) < 0.03 and (shares > 0).all()
    again, other = (goal_rows(CONFIG, 0, k, starts, last[starts], 60)[0] for k in (3, 4))
    assert (again == critics).all() and (other != critics).any()


def test_actors_do_not_imitate_what_comes_after_an_episode():
    """A chunk that reaches its goal in the episode's last state, and goes on: the critic learns
    from it, and an actor must not."""
    dataset = jax.tree.map(jnp.asarray, data())
    starts, goals = jnp.asarray([19, 18]), jnp.asarray([20, 20])
    found = read_goal_rows(dataset, starts, goals, goals, 2)
    critics, actors = goal_chunks(CONFIG, Units(None, None), Hindsight(), found)
    assert critics.weight.tolist() == [1, 1] and actors.weight.tolist() == [0, 1]
    assert critics.discount.tolist() == [0, 0]


@pytest.mark.usefixtures("loose_promotion")
def test_a_run_with_goals_goes_on_with_the_same_bits_and_is_streamed(run, tmp_path):
    half = dataclasses.replace(CONFIG, updates=3)
    train(half, data(), tmp_path / "half", **OPTIONS)
    train(CONFIG, data(), tmp_path / "half", **OPTIONS)
    train(CONFIG, data(), tmp_path / "streamed", streamed=True, **OPTIONS)
    assert eqx.tree_equal(arrays(tmp_path / "half"), arrays(run))
    assert eqx.tree_equal(arrays(tmp_path / "streamed"), arrays(run), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("loose_promotion")
def test_seeds_with_goals_are_seeds_apart(run, tmp_path):
    train_seeds(CONFIG, [0, 1], data(), tmp_path, **OPTIONS)
    pairs = zip(*(jax.tree.leaves(arrays(f)) for f in (tmp_path / "seed0", run)), strict=True)
    for ours, alone in pairs:
        np.testing.assert_allclose(ours, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("loose_promotion")
def test_a_goal_may_be_a_part_of_the_state_and_observations_may_be_normalised(tmp_path):
    place = Hindsight(
        lambda state: state[:2], lambda here, goal: jnp.linalg.norm(here - goal) < 0.5
    )
    train(CONFIG, data(), tmp_path / "place", hindsight=place, **OPTIONS)
    found = load_run(tmp_path / "place")
    assert found.saved.spec.goal_size == 2
    assert jnp.isfinite(found.value((jnp.zeros(3), jnp.zeros(2))))
    scaled = dataclasses.replace(CONFIG, normalise_obs="standardise")
    train(scaled, data(), tmp_path / "scaled", **OPTIONS)
    found = load_run(tmp_path / "scaled")
    obs, units = (jnp.ones(3), jnp.zeros(3)), found.units.obs
    row = jnp.concatenate([(x - units.shift) / units.scale for x in obs])
    np.testing.assert_allclose(found.value(obs), found._judges.value(row), rtol=1e-5)
    with pytest.raises(RunError, match="`normalise_obs` normalises states"):
        train(scaled, data(), tmp_path / "both", hindsight=place, **OPTIONS)


def test_what_is_wrong_with_goals_is_said(tmp_path):
    with pytest.raises(RunError, match="`current` and `future` must be shares"):
        dataclasses.replace(CONFIG, goal_current=0.7)
    with pytest.raises(RunError, match="`goal_distance` must be one of geometric, uniform"):
        dataclasses.replace(CONFIG, goal_distance="far")
    short = data()._replace(episode_end=np.ones(60, np.float32))
    with pytest.raises(DatasetError, match="the longest episode"):
        train(CONFIG, short, tmp_path / "short", **OPTIONS)


# A maze with walls; a step to a wall stays.
MOVES = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])
SIDE, GAMMA = 4, 0.9


def maze(seed):
    """The free cells, where each move leads, and the number of steps between any two."""
    rng = np.random.default_rng(seed)
    while True:
        free = rng.uniform(size=(SIDE, SIDE)) > 0.3
        cells = [tuple(map(int, cell)) for cell in np.argwhere(free)]
        number = {cell: i for i, cell in enumerate(cells)}
        lead = np.array(
            [
                [number.get(tuple(map(int, np.add(c, m))), i) for m in MOVES]
                for c, i in number.items()
            ]
        )
        steps = np.full((len(cells), len(cells)), -1)
        for start in range(len(cells)):
            steps[start, start], queue = 0, deque([start])
            while queue:
                here = queue.popleft()
                for after in lead[here]:
                    if steps[start, after] < 0:
                        steps[start, after] = steps[start, here] + 1
                        queue.append(after)
        if (steps >= 0).all() and len(cells) > 6:
            return lead, steps


class QTable(eqx.Module):
    """Of a cell, a goal, and the moves of a chunk."""

    at: jax.Array
    moves: int = eqx.field(static=True)

    @property
    def action_shape(self):
        return self.moves, 1

    def __call__(self, obs, action):
        cell, goal = (x[0].astype(int) for x in obs)
        index = (cell, goal, *(action[i, 0].astype(int) for i in range(self.moves)))
        return self.at[index]


class VTable(eqx.Module):
    at: jax.Array

    def __call__(self, obs):
        cell, goal = (x[0].astype(int) for x in obs)
        return self.at[cell, goal]


def every_chunk(lead, horizon):
    """A recording of each way to move from each cell, and its chunk for each goal."""
    cells = len(lead)
    ways = np.array(np.meshgrid(*[range(4)] * horizon, indexing="ij")).reshape(horizon, -1).T
    starts = np.repeat(np.arange(cells), len(ways))
    moves = np.tile(ways, (cells, 1))
    states = [starts]
    for k in range(horizon):
        states.append(lead[states[-1], moves[:, k]])
    rows = np.stack(states, 1).reshape(-1, 1).astype(np.float32)
    actions = np.pad(moves, ((0, 0), (0, 1))).reshape(-1, 1).astype(np.float32)
    ended = np.tile(np.arange(horizon + 1) == horizon, len(starts)).astype(np.float32)
    nothing = np.zeros(len(rows), np.float32)
    dataset = jax.tree.map(jnp.asarray, Dataset(rows, actions, nothing, nothing, ended))
    first = jnp.arange(len(starts)) * (horizon + 1)

    def one(start, goal):
        pieces = read_rows(dataset, start, horizon), read_states(dataset, start, horizon)
        return make_goal_chunk(with_goal(*pieces, goal), gamma=GAMMA)

    goals = jnp.arange(cells, dtype=jnp.float32)[:, None]
    found = jax.vmap(lambda s: jax.vmap(partial(one, s))(goals))(first)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]).astype(float), found)


def descended(learner, nets, chunks, *, steps, rate, of_value=1.0):
    """Plain gradient descent on the sum over all chunks, at a rate that falls to a hundredth; the
    value's is another one, since a quantile's step is as long however near it is."""

    @jax.jit
    def step(nets, k):
        def total(trained):
            one = lambda c: sum(learner.losses(nets._replace(trained=trained), c, None).values())  # noqa: E731
            return jnp.sum(chunks.weight * jax.vmap(one)(chunks))

        *gradients, of_v = eqx.filter_grad(total)(nets.trained)
        gradient = (*gradients, jax.tree.map(lambda g: of_value * g, of_v))
        now = rate * 0.01 ** (k / steps)
        trained = jax.tree.map(lambda x, g: x - now * g, nets.trained, gradient)
        return learner.follow(nets._replace(trained=trained)), None

    return jax.lax.scan(step, nets, jnp.arange(steps))[0]


def tables(cells, *moves, low):
    """Critics and a value that begin low: by these levels they rise fast, and fall slowly."""

    def ensemble(moves):
        at = jnp.full((cells, cells) + (4,) * moves, low)
        return Ensemble(lambda key: QTable(at, moves), 1, key=jax.random.key(0))

    return *map(ensemble, moves), VTable(jnp.full((cells, cells), low))


@pytest.mark.parametrize("seed", range(3))
def test_a_goal_conditioned_iql_knows_every_distance(seed, x64):
    """`V = -(1 - gamma^d) / (1 - gamma)`."""
    lead, steps = maze(seed)
    critic, value = tables(len(lead), 1, low=-1 / (1 - GAMMA))
    learner = IQL(expectile=0.999, critics=1, ema_rate=0.5)
    nets = Networks((critic, value), critic)
    found = descended(learner, nets, every_chunk(lead, 1), steps=3000, rate=0.12)
    reached = 1 + (1 - GAMMA) * found.trained[1].at
    np.testing.assert_allclose(reached, GAMMA**steps, atol=1e-2)


@pytest.mark.parametrize("seed", range(3))
def test_dqc_knows_every_distance(seed, x64):
    """`sigmoid(V) = gamma^d`, from chunks of two steps of which one is played. Of four moves, any
    quantile above three quarters is the best."""
    lead, steps = maze(seed)
    long, short, value = tables(len(lead), 2, 1, low=-6.0)
    learner = DQC(backup=2, critics=1, quantile=0.85, distil=0.999, ema_rate=0.5)
    nets = Networks((long, short, value), (long, short))
    found = descended(learner, nets, every_chunk(lead, 2), steps=6000, rate=0.5, of_value=0.04)
    np.testing.assert_allclose(jax.nn.sigmoid(found.trained[2].at), GAMMA**steps, atol=1e-2)
