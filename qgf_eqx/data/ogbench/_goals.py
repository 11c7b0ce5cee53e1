"""OGBench's goal-conditioned environments: five goals each, and data without rewards."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from .._dataset import Dataset
from .._error import DatasetError
from ..goals import Hindsight
from ._environments import check_env, make_pictured

GOALS = 5
"""Of every environment."""
ORACLE = "oraclerep"
"""In a name: a goal is the part of a state that a task is about."""
_CUBES = {"single": 1, "double": 2, "triple": 3, "quadruple": 4, "octuple": 8}
_ARM = 19  # numbers of the robot arm, with which an observation begins
_CUBE = 9  # numbers of a cube: its place, a quaternion, cosine and sine of its yaw
_BUTTON = 4  # numbers of a button: off, on, place, speed


class WithGoal(gymnasium.Wrapper):
    """An environment whose observations are `(state, goal)`."""

    def __init__(self, env: gymnasium.Env, goal: gymnasium.Space):
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Tuple([env.observation_space, goal])
        self.dtype = goal.dtype
        self.goal: Any = None

    def reset(self, **options: Any) -> tuple[Any, dict]:
        """The start, and the goal that it comes with."""
        state, info = self.env.reset(**options)
        self.goal = np.asarray(info["goal"], self.dtype)
        return (state, self.goal), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """A step, with the same goal."""
        state, *rest = self.env.step(action)
        return (state, self.goal), *rest  # type: ignore[return-value]


def env_id(env_name: str) -> str:
    """The Gymnasium id: `cube-single-play-v0` is played in `cube-single-v0`.

    **Raises:** `DatasetError` if there is none.
    """
    *parts, version = _data_name(env_name).split("-")
    name = "-".join([*parts[:-1], version])
    try:
        check_env(name)
    except DatasetError:
        raise DatasetError(
            f"`{env_name}` is not a task of OGBench. Use a name like "
            "`cube-single-play-singletask-task2-v0` (tasks 1 to 5), `cube-single-play-v0` (five "
            "goals), `cube-single-play-oraclerep-v0` (the same, a goal is where the cube belongs), "
            "or, for a task of your own, `module:function`."
        ) from None
    return name


def make_env(env_id: str, seen: tuple[int, ...] | None = None, **options: Any) -> gymnasium.Env:
    """The environment, whose observations are `(state, goal)`; of a goal only the columns `seen`,
    if they are given."""
    if seen is None:
        env = make_pictured(env_id, **options)
        return WithGoal(env, env.observation_space)
    env = make_pictured(env_id, use_oracle_rep=True, **options)
    return WithGoal(env, gymnasium.spaces.Box(-np.inf, np.inf, (len(seen),), np.float64))


def columns(env_id: str) -> tuple[int, ...]:
    """Where OGBench's oracle representation of a goal lies in a state: the place of the body or of
    the ball, of cubes, whether buttons are on, how far drawer and window are open.

    **Raises:** `DatasetError` if OGBench has none for this environment.
    """
    kind, size, *_ = env_id.split("-")
    if kind in ("pointmaze", "antmaze", "humanoidmaze"):
        return 0, 1
    if kind == "antsoccer":
        return 15, 16
    if kind == "cube":
        return _cubes(_CUBES[size])
    if kind == "puzzle":
        rows, width = map(int, size.split("x"))
        return _buttons(_ARM, rows * width)
    if kind == "scene":
        drawer = _ARM + _CUBE + 2 * _BUTTON
        return *_cubes(1), *_buttons(_ARM + _CUBE, 2), drawer, drawer + 2
    raise DatasetError(f"OGBench has no `{ORACLE}` for `{env_id}`.")


def _cubes(count: int) -> tuple[int, ...]:
    return tuple(_ARM + _CUBE * i + axis for i in range(count) for axis in range(3))


def _buttons(first: int, count: int) -> tuple[int, ...]:
    return tuple(first + _BUTTON * i + 1 for i in range(count))


def task(env_name: str, read: Callable) -> dict[str, Any]:
    """The parts of a goal-conditioned task, for `qgf_eqx.evaluate.Task`.

    **Arguments:** `read` opens the fields of a dataset file by the name of the data.

    **Raises:** as `env_id`, or as `columns`.
    """
    env, what, seen = env_id(env_name), Hindsight(), None
    if ORACLE in env_name.split("-"):
        seen = columns(env)
        what = Hindsight(of=partial(_take, seen))
    data = partial(load, read, _data_name(env_name))
    parts = {"make_env": partial(make_env, env, seen), "data": data, "paths": "maze" in env_name}
    return {"name": env_name, "goals": GOALS, "hindsight": what, **parts}


def _take(seen: tuple[int, ...], state: Any) -> Any:
    return state[..., np.array(seen)]


def _data_name(env_name: str) -> str:
    return "-".join(part for part in env_name.split("-") if part != ORACLE)


def load(read: Callable, name: str, data_dir: str | Path, **options: Any) -> Dataset:
    """The states and actions of a dataset; it has no rewards, and its task never ends.

    **Raises:** `DatasetError` naming the file and the field that is missing or damaged.
    """
    fields = read(name, data_dir, **options)
    nothing = np.zeros(len(fields["terminals"]), np.float32)
    return Dataset(fields["observations"], fields["actions"], nothing, nothing, fields["terminals"])
