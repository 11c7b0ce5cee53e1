"""Recorded data: episodes end to end, in one small type that all formats convert to."""

from typing import Any, NamedTuple

import jax
import numpy as np

from ._error import DatasetError

_Shapes = dict[str, tuple[int, ...]]


class Dataset(NamedTuple):
    """Episodes end to end, one row per state.

    Row i is state i, the action taken there, the reward of that transition, and whether that
    transition ended the task. Row i + 1 is the state it led to. The last row of an episode
    (`episode_end` 1) is a state without a successor: its action and reward are never used.
    """

    obs: Any
    """The states: an array, or any PyTree of arrays, with the rows as first axis."""
    actions: Any
    rewards: Any
    """Of the transition that starts in the row."""
    terminated: Any
    """1 where the transition ended the task, so that nothing is bootstrapped; else 0."""
    episode_end: Any
    """1 on the last row of an episode, where the recording stopped; else 0."""


def is_picture(dtype: Any, shape: tuple[int, ...]) -> bool:
    """Whether an array of one state is a picture: bytes, with height, width and channels."""
    return dtype == np.uint8 and len(shape) == 3


def lost_clock(states: np.ndarray) -> int | None:
    """The first column that rises evenly, as a clock does, by less than float32 resolves, as
    seconds since 1970 do; or none."""
    if states.dtype.itemsize < 8 or states.ndim != 2 or len(states) < 2:
        return None
    steps = np.diff(states, axis=0)
    low = np.quantile(steps, 0.1, axis=0, method="lower")  # less than that are resets
    high = np.quantile(steps, 0.9, axis=0, method="higher")
    still = (np.diff(states.astype(np.float32), axis=0) == 0).any(axis=0)
    return next(iter(np.flatnonzero((low > 0) & (low > 0.1 * high) & still).tolist()), None)


CLOCK = "is a clock that stands still in float32. Subtract the start of the episode."


def by_name(dataset: Dataset) -> dict[str, Any]:
    """The arrays of a dataset, each with its name: those of `obs` are called `obs['camera']`."""
    leaves = jax.tree_util.tree_flatten_with_path(dataset.obs)[0]
    arrays = {f"obs{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves}
    return arrays | {n: field for n, field in dataset._asdict().items() if n != "obs"}


def check_dataset(dataset: Dataset) -> None:
    """**Raises:** `DatasetError` if the fields do not have the same rows, or the axes they need."""
    shapes = {name: np.shape(field) for name, field in by_name(dataset).items()}
    if not jax.tree.leaves(dataset.obs):
        raise DatasetError("the dataset: field `obs` holds no array. Give it the states.")
    check_shapes("the dataset", shapes, end="episode_end")


_FLAT = {"rewards", "masks", "terminals", "terminated", "episode_end"}


def check_shapes(source: object, shapes: _Shapes, *, end: str) -> None:
    """**Raises:** `DatasetError` naming a field without the axes or rows of a dataset.

    **Arguments:** `source` is what the error names; `end` is the field that the others are as
    long as.
    """
    for field, shape in shapes.items():
        rank = 1 if field in _FLAT else 2
        if len(shape) != rank and not (field.startswith("obs") and len(shape) > 2):
            raise DatasetError(
                f"{source}: field `{field}` has shape {shape}; it must have {rank} axes."
            )
        if not all(shape[1:]):
            raise DatasetError(f"{source}: field `{field}` has shape {shape}: no column.")
    for field, shape in shapes.items():
        if shape[0] != shapes[end][0]:
            raise DatasetError(
                f"{source}: field `{field}` has {shape[0]} rows, but `{end}` has {shapes[end][0]}."
            )
    if shapes[end][0] < 2:
        raise DatasetError(f"{source} holds {shapes[end][0]} rows: no transition.")
