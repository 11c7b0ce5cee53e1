"""Weights to choose from where none are given: a grid around `analysis.starting_weight`."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ..analysis import starting_weight
from ..data._environment import seed_everything
from ._play import close_environments, environments
from ._rollout import action_bounds, as_inputs, goal_option
from ._sources import InMemory, Run
from .task import Task, task_of

OBSERVATIONS = 16
"""Start states, of the first tuning episodes."""
FACTORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Of the starting weight: what is tried by default."""
UNTUNED = 0.3
"""The factor where no episodes choose: docs/off_data.md has what it reaches."""
WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0)
"""The grid where the critic has no gradient that says more."""
EXTENSIONS = 12
"""How often such a grid goes on, at most: six orders of magnitude."""


def start_of(run: Run | InMemory, task: Task | str, reduce: Callable, *, seed: int = 0) -> float:
    """`starting_weight` of a run on its task. No episode is played: it is asked in the start states
    of the first tuning episodes."""
    task = task_of(task) if isinstance(task, str) else task
    try:
        obs, low, high = _starts(task, seed)
    finally:
        close_environments()
    nets = run.load()
    low, high = nets.bounds(low, high)
    return first_weight(nets.policy, nets.one_critic(reduce, low, high), obs, seed)


def untuned(start: float) -> float:
    """The weight where no episodes choose one, by the starting weight, to two digits.

    **Raises:** `ValueError` if the critic has no gradient that says it.
    """
    if not 0 < start < math.inf:
        raise ValueError("`weight` is missing, and the critic's gradient is zero or not finite.")
    return float(f"{UNTUNED * start:.2g}")


def first_weight(policy: Any, critic: Any, obs: Any, seed: int = 0) -> float:
    """`starting_weight` of some observations, compiled."""
    ask = jax.jit(lambda obs, key: starting_weight(policy, critic, obs, key))
    return float(ask(obs, jax.random.key(seed)))


def _starts(task: Task, seed: int):
    """Start states, and the bounds of the actions."""

    def start(number: int) -> Any:
        env = environments(task, [number], seed)[0]
        goal = goal_option(task.goals, number)
        return env.reset(seed=seed_everything(env, seed, number), **goal)[0]

    obs = as_inputs([start(number) for number in range(OBSERVATIONS)])
    return obs, *action_bounds(environments(task, [0], seed)[0].action_space)


def grid_around(weight: float) -> list[float]:
    """From a hundredth of a weight to three times it."""
    if not 0 < weight < math.inf:
        return list(WEIGHTS)
    return [float(f"{np.float64(weight) * factor:.2g}") for factor in FACTORS]
