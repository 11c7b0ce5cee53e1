"""Hindsight goals against loops over the rows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qgf_eqx.data import Dataset, read_rows
from qgf_eqx.data.goals import (
    FOR_ACTORS,
    EpisodeEnds,
    GoalDraw,
    Hindsight,
    draw_goals,
    last_rows,
    make_goal_chunk,
    read_goal_rows,
    read_states,
    with_goal,
)

GAMMA = 0.8
LENGTHS = (7, 3, 1, 9)
ENDS = np.cumsum(LENGTHS) - 1
ROWS = int(sum(LENGTHS))


def walks(seed=0):
    """Episodes on five cells, so that states come again; garbage where nothing may be used."""
    rng = np.random.default_rng(seed)
    ended = np.isin(np.arange(ROWS), ENDS).astype(np.float32)
    actions = rng.normal(size=(ROWS, 2)).astype(np.float32)
    actions[ended > 0] = np.nan
    nothing = np.full(ROWS, np.nan, np.float32)
    cells = rng.integers(5, size=(ROWS, 1)).astype(np.float32)
    return Dataset(cells, actions, nothing, nothing, ended)


def chunk(dataset, start, goal, horizon):
    on_device = jax.tree.map(jnp.asarray, dataset)
    start, goal = jnp.asarray(start), jnp.asarray(goal)
    found = read_goal_rows(on_device, start, goal, goal, horizon)
    return make_goal_chunk(with_goal(found.rows, found.states, found.critics), gamma=GAMMA)


def by_loop(dataset, start, goal, horizon):
    """Reward, discount, success and the next state; None where no chunk begins."""
    end = ENDS[np.searchsorted(ENDS, start)]
    last = min(start + horizon, end)
    steps = [i for i in range(start, last + 1) if dataset.obs[i, 0] == dataset.obs[goal, 0]]
    first = steps[0] - start if steps else None
    if start == end:
        return None
    left = last - start
    reward = -sum(GAMMA**i for i in range(left if first is None else min(first, horizon)))
    bootstrap, reached = (GAMMA**left, 0) if first is None else (0, GAMMA**first)
    return reward, bootstrap, reached, dataset.obs[last, 0]


@pytest.mark.parametrize("horizon", [1, 2, 5, 12])
def test_chunks_with_goals_are_those_of_a_loop(x64, horizon):
    dataset = walks()
    pairs = np.array([(s, g) for s in range(ROWS) for g in range(ROWS)])
    found = jax.vmap(partial(chunk, dataset, horizon=horizon))(*pairs.T)
    for i, (start, goal) in enumerate(pairs):
        expected = by_loop(dataset, start, goal, horizon)
        assert bool(found.weight[i]) == (expected is not None)
        if expected is None:
            continue
        reached = float(found.success[i])
        ours = found.reward[i], found.discount[i], reached, found.next_obs[0][i, 0]
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
        assert (found.obs[0][i], found.obs[1][i]) == (dataset.obs[start], dataset.obs[goal])
        assert jnp.isfinite(found.action[i]).all()
    kinds = {bool(s) for s, w in zip(found.success, found.weight, strict=True) if w}
    assert kinds == {True, False}


def test_what_lies_after_the_end_of_the_data_is_not_read_twice():
    """The last row need not be marked as an end; it has no action."""
    dataset = walks()._replace(obs=np.arange(ROWS, dtype=np.float32)[:, None])
    dataset.episode_end[-1] = 0
    found = chunk(dataset, ROWS - 3, 0, 5)
    assert (found.weight, found.next_obs[0][0]) == (1, ROWS - 1)
    np.testing.assert_allclose(found.discount, GAMMA**2, rtol=1e-6)
    assert jnp.isfinite(found.action).all() and chunk(dataset, ROWS - 1, 0, 5).weight == 0


def test_the_goal_exactly_at_the_end_of_a_chunk_counts():
    dataset = walks()._replace(obs=np.arange(ROWS, dtype=np.float32)[:, None])
    found = chunk(dataset, 1, 4, 3)
    np.testing.assert_allclose(found.success, GAMMA**3, rtol=1e-6)
    assert found.discount == 0 and found.weight == 1
    ahead = chunk(dataset, 1, 5, 3)
    assert ahead.success == 0 and ahead.discount > 0


def test_a_part_of_the_state_may_be_the_goal_and_near_may_be_enough():
    dataset = walks()._replace(obs=np.arange(2.0 * ROWS, dtype=np.float32).reshape(ROWS, 2))
    on_device = jax.tree.map(jnp.asarray, dataset)
    rows, states = (f(on_device, jnp.asarray(1), 3) for f in (read_rows, read_states))
    near = lambda place, goal: jnp.abs(place - goal) < 0.5  # noqa: E731
    what = Hindsight(lambda state: state[0], near)
    found = make_goal_chunk(with_goal(rows, states, jnp.asarray(6.3), what), gamma=GAMMA)
    np.testing.assert_allclose(found.success, GAMMA**2, rtol=1e-6)  # state 3 is at 6


def test_last_rows_are_those_of_the_episodes():
    expected = np.repeat(ENDS, LENGTHS)
    marked = np.asarray(walks().episode_end)
    open_end = np.append(marked, [0, 0])  # a recording whose end is not marked
    for episode_end, wanted in (
        (marked, expected),
        (open_end, [*expected, ROWS + 1, ROWS + 1]),
    ):
        rows = jnp.arange(len(episode_end))
        np.testing.assert_array_equal(last_rows(jnp.asarray(episode_end)), wanted)
        for piece in (3, len(rows) - 1, 2**20):
            np.testing.assert_array_equal(EpisodeEnds(episode_end, piece)[rows], wanted)


def drawn(draw, start, count=40_000):
    last = last_rows(jnp.asarray(walks().episode_end))
    starts = jnp.full(count, start, jnp.int32)
    ends = last[starts]
    key = jax.random.key(3)
    return np.asarray(draw_goals(draw, key, starts, ends, rows=ROWS, gamma=GAMMA))


def expected_shares(draw, start):
    """Of every row, by a loop."""
    end = int(ENDS[np.searchsorted(ENDS, start)])
    shares = np.full(ROWS, (1 - draw.current - draw.future) / ROWS)
    shares[start] += draw.current
    if draw.geometric:
        for ahead in range(1, 2000):
            shares[min(start + ahead, end)] += draw.future * (1 - GAMMA) * GAMMA ** (ahead - 1)
    elif end == start:
        shares[start] += draw.future
    else:
        shares[start + 1 : end + 1] += draw.future / (end - start)
    return shares


@pytest.mark.parametrize("draw", [GoalDraw(), FOR_ACTORS, GoalDraw(0.2, 0.5, geometric=False)])
@pytest.mark.parametrize("start", [0, 5, 6, 10, 11, 19])
def test_goals_are_drawn_as_often_as_they_should(draw, start):
    counts = np.bincount(drawn(draw, start), minlength=ROWS)
    expected = expected_shares(draw, start) * counts.sum()
    np.testing.assert_allclose(expected.sum(), counts.sum(), rtol=1e-9)
    assert not counts[expected == 0].any()
    some = expected > 0
    if some.sum() > 1:
        assert stats.chisquare(counts[some], expected[some]).pvalue > 1e-3


def test_goals_of_an_episode_never_leave_it():
    episode_end = walks().episode_end
    last, key = last_rows(jnp.asarray(episode_end)), jax.random.key(0)
    starts = jax.random.randint(key, (5000,), 0, ROWS)
    for draw in (FOR_ACTORS, GoalDraw(0.5, 0.5)):
        found = draw_goals(draw, key, starts, last[starts], rows=ROWS, gamma=0.999)
        assert (found >= starts).all() and (found <= last[starts]).all()


def test_goals_are_a_function_of_the_key():
    key, starts = jax.random.key(1), jnp.arange(10)
    last = last_rows(jnp.asarray(walks().episode_end))[starts]
    options = {"rows": ROWS, "gamma": GAMMA}
    one, same = (draw_goals(GoalDraw(), key, starts, last, **options) for _ in range(2))
    other = draw_goals(GoalDraw(), jax.random.key(2), starts, last, **options)
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


@pytest.mark.parametrize("shares", [(-0.1, 0.5), (0.7, 0.7), (float("nan"), 0.1)])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ValueError, match="`current` and `future` must be shares"):
        GoalDraw(*shares)
