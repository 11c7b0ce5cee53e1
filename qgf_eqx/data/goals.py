"""Hindsight goals: states treated as if the recorded episode had been meant to reach them.

Everything here is a pure function of a key and the requested rows, so the goals of an update, like
its chunks, depend only on the seed and the update's number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from .._checks import check_key
from .._types import Key, Obs
from ._chunks import Chunk, Rows, make_chunk, read_rows
from ._dataset import Dataset


def is_same(state: Obs, goal: Obs) -> Bool[Array, ""]:
    """Whether a state is the goal, number by number."""
    same = jax.tree.map(lambda s, g: jnp.all(s == g), state, goal)
    return jnp.stack(jax.tree.leaves(same)).all()


def itself(state: Obs) -> Obs:
    """The state as the goal."""
    return state


class Hindsight(NamedTuple):
    """What a goal is. By default a state, which only that state reaches."""

    of: Callable[[Obs], Obs] = itself
    """The part of a state that a goal is about, such as a position."""
    reached: Callable[[Obs, Obs], Bool[Array, ""]] = is_same
    """Whether a goal is reached, from `of(state)` and the goal."""


@dataclass(frozen=True)
class GoalDraw:
    """Where the goal of a state comes from. The defaults are OGBench's for critics.

    Source: OGBench (arXiv 2410.20092), its sampler of hindsight goals.
    """

    current: float = 0.2
    """The share of goals that are the state itself."""
    future: float = 0.5
    """The share that lie ahead in the same episode; the rest are states of all the data."""
    geometric: bool = True
    """How far ahead: geometric with `1 - gamma`, cut at the episode's end; or uniform up to it."""

    def __post_init__(self):
        if not (self.current >= 0 and self.future >= 0 and self.current + self.future <= 1 + 1e-9):
            raise ValueError(
                "`current` and `future` must be shares with a sum of at most 1, got "
                f"{self.current} and {self.future}."
            )


FOR_ACTORS = GoalDraw(current=0.0, future=1.0, geometric=False)
"""OGBench's for actors: uniform over what follows in the episode."""


def last_rows(episode_end: Array) -> Int[Array, " rows"]:
    """Of every row the last one of its episode."""
    rows = jnp.arange(len(episode_end), dtype=jnp.int32)
    return jax.lax.cummin(jnp.where(episode_end > 0, rows, rows[-1]), reverse=True)


class EpisodeEnds:
    """`last_rows` of a file: `ends[starts]`. The file is read in pieces, and of an episode only its
    end stays in memory."""

    def __init__(self, episode_end: Any, piece: int = 2**20):
        """**Arguments:** the array, which may be memory-mapped, and the rows that are read at a
        time."""
        rows = len(episode_end)
        pieces = [i + np.flatnonzero(episode_end[i : i + piece] > 0) for i in range(0, rows, piece)]
        self.ends = jnp.asarray(np.append(np.concatenate(pieces), rows - 1), jnp.int32)

    def __getitem__(self, starts: Int[Array, " batch"]) -> Int[Array, " batch"]:
        return self.ends[jnp.searchsorted(self.ends, starts)]


def draw_goals(
    draw: GoalDraw,
    key: Key,
    starts: Int[Array, " batch"],
    last: Int[Array, " batch"],
    *,
    rows: int,
    gamma: float,
) -> Int[Array, " batch"]:
    """The row of each start's goal.

    **Arguments:**

    - `draw`: where goals come from.
    - `key`: of this batch.
    - `starts`: the rows of the states.
    - `last`: the last row of each one's episode, `last_rows(episode_end)[starts]`, or of a file
      `EpisodeEnds(episode_end)[starts]`.
    - `rows`: of the dataset.
    - `gamma`: the discount of one step.
    """
    check_key(key)
    kind_key, far_key, any_key = jax.random.split(key, 3)
    kind = jax.random.uniform(kind_key, starts.shape)
    share = jax.random.uniform(far_key, starts.shape)
    if draw.geometric and gamma < 1:  # with 1, all that is ahead is alike
        ahead = 1 + jnp.floor(jnp.log1p(-share) / np.log(gamma)).astype(starts.dtype)
    else:
        way = (last - starts).astype(share.dtype)
        ahead = 1 + jnp.floor(share * way).astype(starts.dtype)
    future = jnp.minimum(starts + ahead, last)
    anywhere = jax.random.randint(any_key, starts.shape, 0, rows, starts.dtype)
    from_episode = jnp.where(kind < draw.current, starts, future)
    return jnp.where(kind < draw.current + draw.future, from_episode, anywhere)


def read_states(dataset: Dataset, starts: Any, horizon: int) -> Obs:
    """The states of a chunk, its first to its last: `horizon + 1` along a new second axis."""
    xp = jnp if isinstance(starts, jax.Array) else np
    rows = xp.minimum(xp.add.outer(starts, xp.arange(horizon + 1)), len(dataset.episode_end) - 1)
    return jax.tree.map(lambda field: field[rows], dataset.obs)


class GoalRows(NamedTuple):
    """What chunks with goals are made of, as it lies in the dataset; with any leading axes."""

    rows: Rows
    states: Obs
    """Of the chunk, as `read_states` gives them."""
    critics: Obs
    """The state of the critic's goal."""
    actors: Obs
    """The state of the actors' goal."""


def read_goal_rows(
    dataset: Dataset, starts: Any, critics: Any, actors: Any, horizon: int
) -> GoalRows:
    """The rows of chunks that start at `starts`, and of their goals, as `read_rows` reads them; but
    the next state is the episode's last one, if the chunk goes on after it."""
    goals = (jax.tree.map(lambda field, r=r: field[r], dataset.obs) for r in (critics, actors))
    rows, states = read_rows(dataset, starts, horizon), read_states(dataset, starts, horizon)
    last = starts + _steps_left(rows)
    rows = rows._replace(next_obs=jax.tree.map(lambda field: field[last], dataset.obs))
    return GoalRows(rows, states, *goals)


def _steps_left(rows: Rows) -> Any:
    """How many of a chunk's steps its episode still has, along any leading axes."""
    return (rows.episode_end.cumsum(-1) == 0).sum(-1)


def with_goal(
    rows: Rows,
    states: Obs,
    goal: Obs,
    what: Hindsight = Hindsight(),  # noqa: B008 (a tuple)
) -> Rows:
    """The rows of a chunk, without leading axes, whose task is to reach a goal.

    The reward is -1 per step until the goal is reached, then 0, and the task ends. As in OGBench,
    it belongs to the state in which an action is taken. What lies after the end of the episode does
    not count: no state there reaches the goal, actions and rewards are zero.

    **Arguments:**

    - `rows`: as `read_goal_rows` gives them. Their own rewards and ends of the task are not used.
    - `states`: the chunk's states, `horizon + 1` along the first axis.
    - `goal`: what `what.of` makes of the goal's state.
    - `what`: what a goal is.

    **Returns:** rows whose observations are `(obs, goal)`.
    """
    met = jax.vmap(lambda state: what.reached(what.of(state), goal))(states)
    left = _steps_left(rows)
    met &= jnp.arange(len(met)) <= left
    seen = jax.lax.cummax(met.astype(rows.rewards.dtype))
    ended = jnp.arange(len(rows.rewards)) >= left
    return rows._replace(
        obs=(rows.obs, goal),
        next_obs=(rows.next_obs, goal),
        actions=jnp.where(ended[:, None], 0, rows.actions),
        rewards=jnp.where(ended, 0, seen[:-1] - 1),
        terminated=seen[:-1],
        next_terminated=seen[-1],
    )


def make_goal_chunk(rows: Rows, *, gamma: float) -> Chunk:
    """As `make_chunk`, of the rows of `with_goal`: nothing is bootstrapped from a chunk that
    reaches the goal, its last state included. One whose episode ends before the goal is as long as
    the episode: its discount is `gamma^left`. No chunk begins in the last state of an episode.
    """
    chunk, left = make_chunk(rows, gamma=gamma), _steps_left(rows)
    assert chunk.success is not None
    bootstrap = gamma ** left.astype(chunk.reward.dtype)
    return chunk._replace(
        discount=jnp.where(chunk.success > 0, 0, bootstrap),
        weight=(left > 0).astype(chunk.weight.dtype),
    )
