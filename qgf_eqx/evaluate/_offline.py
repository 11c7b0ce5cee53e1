"""A run's networks on their task, where no environment is stepped."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._fields import Bounded, bounded
from .._types import Policy
from ._rollout import action_bounds
from ._sources import Values, check_chunks
from .sampler import Reduced
from .task import Task, task_of


class Offline(NamedTuple):
    """What a run guides with."""

    policy: Policy
    critic: Bounded
    """The target critic, reduced, within the bounds of the task's actions."""
    values: Callable
    """Every member's value."""
    task: Any
    """A `Task`; None, if there is none by the name in the run, and none was named."""
    trained: Any
    """The `learn.Trained`."""


def open_offline(
    run: str | Path, reduce: Callable, task: Task | str | None = None, *, needs_task: bool = True
) -> tuple[Offline, Any]:
    """The networks of a run on its own task, or another, and their `learn.Units`; makes an
    environment, for the bounds of those. A run that was trained on recorded data alone has no task:
    unless `needs_task`, its bounds are then the range of the data's actions.

    **Raises:** `CheckpointError` if there is no intact checkpoint, `ValueError` without a task.
    """
    from ..learn import load_run

    trained = load_run(run)
    units, found = trained.units, _task(trained.config.env if task is None else task)
    if isinstance(found, ValueError):
        if needs_task or task is not None:
            raise found
        (low, high), found = trained.saved.spec.bounds, None
    else:
        with closing(found.make_env()) as env:
            edges = action_bounds(env.action_space)
        low, high = (units.from_action(jnp.asarray(edge)) for edge in edges)
    values = trained.values
    critic = bounded(Reduced(values, reduce), low, high)
    return Offline(trained.policy, critic, values, found, trained), units


def critic_of(run: str | Path, ours: Offline, reduce: Callable) -> Bounded:
    """Another run's critic, of actions in the units and bounds of ours.

    **Raises:** as `open_offline`, and `ValueError` if its chunks have another shape.
    """
    from ..learn import load_run

    other = load_run(run)
    check_chunks(ours.trained, other)
    values = Values(other.values, ours.trained.units, other.units)
    return bounded(Reduced(values, reduce), ours.critic.low, ours.critic.high)


def _task(task: Task | str) -> Task | ValueError:
    """A task, or why there is none by that name."""
    try:
        return task_of(task) if isinstance(task, str) else task
    except ValueError as error:
        return error


def actions(dataset: Any, most: int = 20_000) -> np.ndarray:
    """So many of a dataset's at most, evenly over all that were executed."""
    rows = np.flatnonzero(np.asarray(dataset.episode_end) == 0)
    chosen = np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)
    return np.asarray(dataset.actions[rows[chosen]])


def observations(dataset: Any, count: int) -> Any:
    """So many of a dataset's, evenly over all of its rows."""
    rows = np.linspace(0, len(dataset.rewards) - 1, count).astype(int)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[rows]), dataset.obs)
