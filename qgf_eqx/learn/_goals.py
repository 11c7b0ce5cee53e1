"""The chunks of an update in a run with hindsight goals."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ..data import Chunk
from ..data._chunks import played
from ..data.goals import FOR_ACTORS, GoalRows, Hindsight, draw_goals, make_goal_chunk, with_goal
from ..data.normalise import apply
from ._config import TrainConfig
from ._units import Units

_KEY = 2**29  # of goals, in keys that are not those of the batches


def goal_rows(
    config: TrainConfig, seed: Any, step: Any, starts: Any, last: Any, rows: int
) -> tuple[jax.Array, jax.Array]:
    """The rows of the critic's goals and of the actors'; a pure function of the seed and the step.

    **Arguments:** `last` is the last row of each start's episode, `rows` how many the data have.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), _KEY), step)
    options = {"rows": rows, "gamma": config.gamma}
    keys = zip((config.goal_draw, FOR_ACTORS), jax.random.split(key), strict=True)
    critics, actors = (draw_goals(draw, k, starts, last, **options) for draw, k in keys)
    return critics, actors


def goal_chunks(
    config: TrainConfig, units: Units, what: Hindsight, found: GoalRows
) -> tuple[Chunk, Chunk]:
    """The critic's batch of chunks, and the actors'. Observations end with the goal."""
    rows = units.rows(found.rows)
    critics = jax.vmap(partial(_chunk, config, units, what))(rows, found.states, found.critics)
    actors = jax.vmap(partial(_chunk, config, units, what))(rows, found.states, found.actors)
    # Actors imitate: a chunk that goes on after its episode is not theirs, goal or not.
    return critics, jax.vmap(partial(played, horizon=config.horizon))(actors, found.rows)


def _chunk(
    config: TrainConfig, units: Units, what: Hindsight, rows: Any, states: Any, goal: Any
) -> Chunk:
    goal = what.of(goal)
    cut = with_goal(rows, states, goal, what)
    seen = jnp.ravel(goal if units.obs is None else apply(units.obs, goal))
    obs, next_obs = (jnp.concatenate([x, seen]) for x in (rows.obs, rows.next_obs))
    return make_goal_chunk(cut._replace(obs=obs, next_obs=next_obs), gamma=config.gamma)
