"""A trained policy as one function, as `evaluate` plays it, for your own program."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._sample import sample
from .._types import Action, Critic, Key, Obs, Policy
from ._actors import of_run
from ._offline import open_offline
from ._rollout import action_bounds, as_inputs
from .names import check_weight, method
from .sampler import Sampler
from .task import Task


def load_policy(
    run: str | Path, sampler: Sampler, *, task: Task | str | None = None
) -> Callable[[Obs, Key], Action]:
    """The guided policy of a training run: a function from a real observation and a key to a chunk
    of actions, in the environment's units and within its bounds.

    ```python
    act = load_policy("runs/seed0", method("qgf", weight=0.3))
    chunk = act(obs, jax.random.key(0))  # (horizon, action_size): execute row by row
    ```

    `evaluate` plays the same function with this sampler, except for the key. It is compiled at the
    first call. An environment is made once, for its action bounds; for a run trained only on
    recorded data, whose `env` names no task, the bounds are the range of the data's actions.

    **Arguments:**

    - `run`: the folder of a training run.
    - `sampler`: the method with its weight; see `method`.
    - `task`: whose bounds are taken; by default the run's own.

    **Raises:** `CheckpointError` if there is no intact checkpoint, `ValueError` for a guided method
    without a weight.
    """
    draw = jax.jit(_parts(run, sampler, task)[4])

    def act(obs: Obs, key: Key) -> Action:
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((obs, key))):
            return draw(jax.tree.map(_as_traced, obs), key)  # in a caller's `jit` or `vmap`
        batch = as_inputs([jax.tree.map(np.asarray, obs)])
        return draw(jax.tree.map(lambda leaf: leaf[0], batch), key)

    return act


def _as_traced(leaf: Any) -> Any:
    """float32, but pictures stay bytes."""
    leaf = jnp.asarray(leaf)
    return leaf if leaf.dtype == jnp.uint8 else leaf.astype(jnp.float32)


class OpenedPolicy(NamedTuple):
    """A trained policy and its critic, for a program of one's own to compile."""

    policy: Policy
    """Of real observations; its actions are in the units that it was trained in."""
    critic: Critic
    """The same; bounded as the environment is."""
    to_action: Callable[[Action], Action]
    """From those units to the environment's."""
    draw: Callable[[Obs, Key], Action]
    """From a real observation and a key to a chunk of actions in the environment's units."""
    plain: Callable[[Obs, Key], Action]
    """The same of the run's flow without guidance."""
    obs: Obs
    """An observation, in the dtypes of the networks."""
    low: np.ndarray
    """Of an action of the environment."""
    high: np.ndarray
    sampler: Sampler
    """The method, as the run has it."""

    @property
    def options(self) -> dict[str, Any]:
        """Of `sample`, for a control loop: `guidance`, `weight`, `steps` and `best_of`.

        **Raises:** `ValueError` if the method is no call of `sample`, such as `keep-best`.
        """
        own = self.sampler
        if own.draw is not sample:
            raise ValueError(f"`{own.name}` is not a call of `sample`: use `draw`.")
        names = ("guidance", "weight", "steps", "best_of")
        return {name: getattr(own, name) for name in names}


def open_policy(
    run: str | Path, sampler: Sampler, *, task: Task | str | None = None
) -> OpenedPolicy:
    """The parts of `load_policy`, whose arguments and errors it shares: for an export, a server,
    or a control loop.

    ```python
    found = open_policy("runs/seed0", method("qgf", weight=0.3))
    loop = ControlLoop(
        found.policy, found.critic, obs, key, to_action=found.to_action, **found.options
    )
    ```
    """
    found, policy, critic, to_action, draw, plain, own = _parts(run, sampler, task)
    known = found.task
    if known is None:
        obs, edges = found.trained.example_obs(), (found.critic.low, found.critic.high)
        bounds = tuple(np.asarray(to_action(edge)) for edge in edges)
    else:
        with closing(known.make_env()) as env:
            batch = as_inputs([env.observation_space.sample()])
            bounds = tuple(map(np.asarray, action_bounds(env.action_space)))
        obs = jax.tree.map(lambda leaf: np.asarray(leaf[0]), batch)
    low, high = bounds
    return OpenedPolicy(policy, critic, to_action, draw, plain, obs, low, high, own)


def _parts(run: str | Path, sampler: Sampler, task: Task | str | None) -> tuple:
    """A run's networks, and its policy, critic, units of actions, draw and plain draw."""
    if not isinstance(sampler, Sampler):
        raise TypeError(
            f'`sampler` must be a `Sampler`, `method("qgf", weight=0.3)`, got {sampler!r}.'
        )
    check_weight(sampler)
    found, units = open_offline(run, sampler.reduce, task, needs_task=False)
    policy, sampler = of_run(found.trained, sampler)
    critic, flow = found.critic, method("flow", steps=sampler.steps)

    def plain(obs: Obs, key: Key) -> Action:
        return units.to_action(flow(found.policy, critic, obs, key))

    def draw(obs: Obs, key: Key) -> Action:
        if found.trained.config.goals and not (isinstance(obs, tuple) and len(obs) == 2):
            raise ValueError("`obs` must be a tuple (state, goal): the run was trained on goals.")
        return units.to_action(sampler(policy, critic, obs, key))

    return found, policy, critic, units.to_action, draw, plain, sampler
