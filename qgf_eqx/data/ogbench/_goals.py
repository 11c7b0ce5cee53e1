"""OGBench's goal-conditioned environments: five goals each, and data without rewards."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from .._dataset import Dataset
from .._error import DatasetError
from ._environments import check_env, make_pictured

GOALS = 5
"""Of every environment."""


class WithGoal(gymnasium.Wrapper):
    """An environment whose observations are `(state, goal)`."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Tuple([env.observation_space] * 2)
        self.goal: Any = None

    def reset(self, **options: Any) -> tuple[Any, dict]:
        """The start, and the goal that it comes with."""
        state, info = self.env.reset(**options)
        self.goal = np.asarray(info["goal"], self.env.observation_space.dtype)
        return (state, self.goal), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """A step, with the same goal."""
        state, *rest = self.env.step(action)
        return (state, self.goal), *rest  # type: ignore[return-value]


def env_id(env_name: str) -> str:
    """The Gymnasium id: `cube-single-play-v0` is played in `cube-single-v0`.

    **Raises:** `DatasetError` if there is none.
    """
    *parts, version = env_name.split("-")
    name = "-".join([*parts[:-1], version])
    try:
        check_env(name)
    except DatasetError:
        raise DatasetError(
            f"`{env_name}` is no task of OGBench. Use a name like "
            "`cube-single-play-singletask-task2-v0` (tasks 1 to 5), `cube-single-play-v0` (five "
            "goals), or, for a task of your own, `module:function`."
        ) from None
    return name


def make_env(env_id: str, **options: Any) -> gymnasium.Env:
    """The environment, whose observations are `(state, goal)`."""
    return WithGoal(make_pictured(env_id, **options))


def task(env_name: str, read: Callable) -> dict[str, Any]:
    """The parts of a goal-conditioned task, for `qgf_eqx.evaluate.Task`.

    **Arguments:** `read` opens the fields of a dataset file by the name of the data.

    **Raises:** as `env_id`.
    """
    make = partial(make_env, env_id(env_name))
    parts = {"make_env": make, "data": partial(load, read, env_name), "paths": "maze" in env_name}
    return {"name": env_name, "goals": GOALS, **parts}


def load(read: Callable, env_name: str, data_dir: str | Path, **options: Any) -> Dataset:
    """The states and actions of a dataset; it has no rewards, and its task never ends.

    **Raises:** `DatasetError` naming the file and the field that is missing or damaged.
    """
    fields = read(env_name, data_dir, **options)
    nothing = np.zeros(len(fields["terminals"]), np.float32)
    return Dataset(fields["observations"], fields["actions"], nothing, nothing, fields["terminals"])
