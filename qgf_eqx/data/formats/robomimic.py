"""robomimic's HDF5 files: a group `data/demo_0`, `data/demo_1`, ... per episode."""

import re
from typing import Any

import jax
import numpy as np

from .._dataset import Dataset
from .._error import DatasetError
from ..arrays import from_episodes
from ._hdf5 import opened, read


def recognises(source: object) -> bool:
    """Whether it is an HDF5 file whose group `data` holds episodes called `demo_<number>`."""
    with opened(source) as file:
        return file is not None and bool(_demos(file))


def _demos(file: Any) -> list[str]:
    """The names of its episodes, in order."""
    group = file.get("data")
    names = group if hasattr(group, "keys") else ()  # a data set of that name has none
    names = [name for name in names if re.fullmatch("demo_[0-9]+", name)]
    return sorted(names, key=lambda name: int(name.removeprefix("demo_")))


def load(source: object) -> tuple[Dataset, str]:
    """The dataset, and what was assumed. Observations are a dict, as in the file.

    **Raises:** `DatasetError` if an episode lacks a field, or fields do not fit each other.
    """
    with opened(source) as file:
        if file is None:
            raise DatasetError(f"{source} is not an HDF5 file.")
        episodes = [_episode(f"{source}: {name}", file["data"][name]) for name in _demos(file)]
    return from_episodes(episodes), (
        "read as robomimic: a `dones` of 1 in an episode's last row ended the task; an episode "
        "whose `dones` are 0 was cut there"
    )


def _episode(where: str, group) -> dict:
    for field in ("obs", "actions", "rewards", "dones"):
        if field not in group:
            raise DatasetError(f"{where}: field `{field}` is missing; it has {sorted(group)}.")
    obs, dones = read(group["obs"]), read(group["dones"])
    if "next_obs" in group:
        following = read(group["next_obs"])
        obs = jax.tree.map(lambda x, after: np.concatenate([x, after[-1:]]), obs, following)
    # robomimic may mark every step in which the task is solved: the last one ends it.
    ended = dones[-1]
    return {
        "obs": obs,
        "actions": read(group["actions"]),
        "rewards": read(group["rewards"]),
        "terminated": ended,
    }
