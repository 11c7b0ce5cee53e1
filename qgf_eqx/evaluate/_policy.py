"""A trained policy as one function: what `evaluate` plays, for a program of one's own."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._fields import bounded
from .._types import Action, Key, Obs
from ._rollout import action_bounds, as_inputs
from ._sources import as_source
from .sampler import Sampler
from .task import Task, task_of


def load_policy(
    run: str | Path, sampler: Sampler, *, task: Task | str | None = None
) -> Callable[[Obs, Key], Action]:
    """The guided policy of a training run: a function from a real observation and a key to a chunk
    of actions, in the environment's units and within its bounds.

    ```python
    act = load_policy("runs/seed0", method("qgf", weight=0.3))
    chunk = act(obs, jax.random.key(0))  # (horizon, action_size): execute row by row
    ```

    It is what `evaluate` plays with this sampler, but for the key. It is compiled when it is first
    called. An environment is made once, for the bounds of its actions.

    **Arguments:**

    - `run`: the folder of a training run.
    - `sampler`: the method with its weight; see `method`.
    - `task`: whose bounds are taken; by default the run's own.

    **Raises:** `CheckpointError` if there is no intact checkpoint.
    """
    source = as_source(str(run))
    task = source.task() if task is None else task
    task = task_of(task) if isinstance(task, str) else task
    nets = source.load()
    with closing(task.make_env()) as env:
        low, high = nets.bounds(*action_bounds(env.action_space))
    policy, ensemble, units = nets.policy, nets.critic, nets.units
    critic = bounded(sampler.critic(ensemble.values), jnp.asarray(low), jnp.asarray(high))  # type: ignore[union-attr]

    @jax.jit
    def draw(obs: Any, key: Key) -> Action:
        action = sampler.draw(
            policy,  # type: ignore[arg-type]
            critic,
            obs,
            key,
            guidance=sampler.guidance,
            weight=sampler.weight,
            steps=sampler.steps,
            best_of=sampler.best_of,
        )
        return action if units is None else units.to_action(action)

    def act(obs: Obs, key: Key) -> Action:
        one = jax.tree.map(lambda leaf: np.asarray(leaf), obs)
        return draw(jax.tree.map(lambda leaf: leaf[0], as_inputs([one])), key)

    return act
