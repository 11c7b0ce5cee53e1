"""Chunks of H steps, cut from a device-resident dataset inside the compiled update."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Scalar

from ..objectives import discounted_sum
from ._error import DatasetError
from ._load import Dataset


class Chunk(NamedTuple):
    """H steps as one transition."""

    obs: Float[Array, " obs"]
    action: Float[Array, "horizon action"]
    reward: Scalar
    """`sum_i gamma^i r_i` over the chunk."""
    discount: Scalar
    """`gamma^H`, or 0 if the task was solved at one of the chunk's states."""
    next_obs: Float[Array, " obs"]
    weight: Scalar
    """1, or 0 if the episode ends inside the chunk."""


def chunk(dataset: Dataset, start: Int[Array, ""], *, horizon: int, gamma: float) -> Chunk:
    """The chunk of `horizon` steps that starts at row `start`.

    **Arguments:**

    - `dataset`: its arrays, on the device.
    - `start`: a row.
    - `horizon`: H, the number of steps.
    - `gamma`: the discount of one step.
    """
    last = start + horizon
    rows = jnp.minimum(start + jnp.arange(horizon), len(dataset.terminals) - 1)
    whole = jnp.all(dataset.terminals[rows] == 0) & (last < len(dataset.terminals))
    return Chunk(
        obs=dataset.observations[start],
        action=dataset.actions[rows],
        reward=discounted_sum(dataset.rewards[rows], gamma),
        discount=gamma**horizon * jnp.min(dataset.masks[rows]),
        next_obs=dataset.observations[jnp.minimum(last, len(dataset.terminals) - 1)],
        weight=whole.astype(dataset.rewards.dtype),
    )


def draw_chunks(
    dataset: Dataset, seed: int, step: Int[Array, ""], *, batch: int, horizon: int, gamma: float
) -> Chunk:
    """The batch of a training step: a pure function of `(seed, step)`.

    Starts are uniform over all rows. Arguments as for `chunk`.
    """
    key = jax.random.fold_in(jax.random.key(seed), step)
    starts = jax.random.randint(key, (batch,), 0, len(dataset.terminals))
    return jax.vmap(lambda start: chunk(dataset, start, horizon=horizon, gamma=gamma))(starts)


def check_horizon(dataset: Dataset, horizon: int) -> None:
    """**Raises:** `DatasetError` if no episode is as long as a chunk."""
    ends = np.flatnonzero(np.asarray(dataset.terminals))
    ends = np.append(ends, len(dataset.terminals) - 1)
    longest = int(np.diff(ends, prepend=-1).max()) - 1
    if longest < horizon:
        raise DatasetError(
            f"the longest episode has {longest} transitions, fewer than a chunk of `horizon` "
            f"{horizon}. Use a shorter horizon."
        )


def time_limit_masks(dataset: Dataset) -> Dataset:
    """The dataset with masks that are 0 at the end of an episode and 1 where the task is solved.

    The authors' masks for their 100M-transition data, for parity: success does not stop the
    bootstrap, and the time limit does.
    """
    masks = 1 - np.append(np.asarray(dataset.terminals)[1:], 1)
    return dataset._replace(masks=masks.astype(np.float32))
