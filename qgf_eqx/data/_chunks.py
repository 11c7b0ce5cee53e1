"""Chunks of H steps, cut from a dataset on the device or in files larger than memory."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Scalar

from ..objectives import discounted_sum
from ._dataset import Dataset, check_dataset
from ._error import DatasetError


class Chunk(NamedTuple):
    """H steps as one transition."""

    obs: Any
    """The state in which the chunk starts, of the dataset's structure."""
    action: Float[Array, "horizon action"]
    reward: Scalar
    """`sum_i gamma^i r_i` over the chunk."""
    discount: Scalar
    """`gamma^H`, or 0 if the task ended in one of the chunk's transitions."""
    next_obs: Any
    weight: Scalar
    """1, or 0 if the episode ends inside the chunk."""
    success: Scalar | None = None
    """`gamma^j` if the task ends at step j of the chunk, its last state included, or else 0."""


class Rows(NamedTuple):
    """What a chunk is made of, as it lies in the dataset; with any leading axes."""

    obs: Any
    actions: Float[Array, "... horizon action"]
    rewards: Float[Array, "... horizon"]
    terminated: Float[Array, "... horizon"]
    episode_end: Float[Array, "... horizon"]
    """1 in the last row of the dataset too, marked or not."""
    next_obs: Any
    next_terminated: Float[Array, "..."]
    """Of the chunk's last state."""


def read_rows(dataset: Dataset, starts: Int[Array, "..."] | np.ndarray, horizon: int) -> Rows:
    """The rows of chunks that start at `starts`.

    On the device inside a compiled update, where dataset and starts are JAX's; on the host from
    memory-mapped files, where they are NumPy's.
    """
    xp = jnp if isinstance(starts, jax.Array) else np
    ends, end = dataset.episode_end, len(dataset.episode_end) - 1
    rows = xp.add.outer(starts, xp.arange(horizon))
    past, rows = rows >= end, xp.minimum(rows, end)
    return Rows(
        obs=jax.tree.map(lambda field: field[starts], dataset.obs),
        actions=dataset.actions[rows],
        rewards=dataset.rewards[rows],
        terminated=dataset.terminated[rows],
        episode_end=xp.where(past, 1, ends[rows]).astype(ends.dtype),  # type: ignore[arg-type]
        next_obs=jax.tree.map(lambda field: field[xp.minimum(starts + horizon, end)], dataset.obs),
        next_terminated=dataset.terminated[xp.minimum(starts + horizon, end)],
    )


def make_chunk(rows: Rows, *, gamma: float) -> Chunk:
    """The chunk that some rows make, without leading axes; `gamma` is the discount of one step."""
    whole = jnp.all(rows.episode_end == 0)
    ended = jnp.append(rows.terminated, rows.next_terminated) > 0
    first = gamma ** jnp.argmax(ended).astype(rows.rewards.dtype)
    return Chunk(
        obs=rows.obs,
        action=rows.actions,
        reward=discounted_sum(rows.rewards, gamma),
        discount=gamma ** len(rows.rewards) * (1 - jnp.max(rows.terminated)),
        next_obs=rows.next_obs,
        weight=whole.astype(rows.rewards.dtype),
        success=jnp.where(jnp.any(ended), first, 0),
    )


def played(chunk: Chunk, rows: Rows, horizon: int) -> Chunk:
    """The first `horizon` actions of a longer chunk, whose episode may end after them; its rewards
    and its end are still those of the longer one."""
    whole = jnp.all(rows.episode_end[:horizon] == 0)
    return chunk._replace(action=chunk.action[:horizon], weight=whole.astype(chunk.weight.dtype))


def draw_starts(
    seed: int | Int[Array, ""], step: Int[Array, ""], *, batch: int, rows: int
) -> Int[Array, " batch"]:
    """Where the chunks of a training step start: a pure function of `(seed, step)`, uniform over
    all `rows` of the dataset.
    """
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.random.randint(key, (batch,), 0, rows)


def draw_chunks(
    dataset: Dataset, seed: int, step: Int[Array, ""], *, batch: int, horizon: int, gamma: float
) -> Chunk:
    """The batch of a training step, from a dataset on the device.

    **Arguments:** `seed`, `step`, `batch` as for `draw_starts`, and

    - `dataset`: its arrays, on the device.
    - `horizon`: H, the number of steps.
    - `gamma`: the discount of one step.
    """
    starts = draw_starts(seed, step, batch=batch, rows=len(dataset.episode_end))
    return jax.vmap(partial(make_chunk, gamma=gamma))(read_rows(dataset, starts, horizon))


def check_horizon(dataset: Dataset, horizon: int) -> None:
    """**Raises:** `DatasetError` if the fields do not fit each other, or no episode is as long as a
    chunk."""
    check_dataset(dataset)
    ends = np.flatnonzero(np.asarray(dataset.episode_end))
    ends = np.append(ends, len(dataset.episode_end) - 1)
    longest = int(np.diff(ends, prepend=-1).max()) - 1
    if longest < horizon:
        raise DatasetError(
            f"the longest episode has {longest} transitions, fewer than a chunk of `horizon` "
            f"{horizon}. Use a shorter horizon."
        )


def time_limit_masks(dataset: Dataset) -> Dataset:
    """The dataset with `terminated` where an episode's recording ends, and not where the task does.

    The authors' masks for their 100M-transition data, for parity: success does not stop the
    bootstrap, and the time limit does.
    """
    terminated = np.append(np.asarray(dataset.episode_end)[1:], 1)
    return dataset._replace(terminated=terminated.astype(np.float32))
