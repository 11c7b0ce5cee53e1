"""Genuine OGBench data, made on this machine by OGBench's own oracles.

Follows the published recipe of each dataset: the same oracles, noise and episode lengths, the
same fields in the same file format.
"""

import importlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from .._collecting import Recorded, Source
from .._environment import seed_everything
from .._error import DatasetError
from ._environments import check_env, make_env


@dataclass(frozen=True)
class Recipe:
    """How a public dataset was made, and how to make one like it."""

    env: str
    """The Gymnasium id of its environment."""
    kind: str
    """`navigate`, `play` or `noisy`."""
    steps: int
    """Rows per episode, one more than its transitions."""


def recipe(dataset: str) -> Recipe:
    """The recipe of a dataset that can be made on this machine.

    **Raises:** `DatasetError` if the name is not such a dataset: ant and humanoid mazes need
    expert policies that OGBench does not ship, and pixels need a renderer.
    """
    parts = dataset.split("-")
    kinds = {"pointmaze": ("navigate",), "cube": ("play", "noisy")}
    kinds["scene"] = kinds["puzzle"] = kinds["cube"]
    if len(parts) < 3 or parts[-2] not in kinds.get(parts[0], ()):
        raise DatasetError(
            f"`{dataset}` cannot be collected here. Collectable are pointmaze-<size>-navigate-v0, "
            "and <cube-..., scene, puzzle-...>-<play or noisy>-v0, for example "
            "`cube-single-play-v0`."
        )
    check_env("-".join(parts[:-2] + parts[-1:]))
    steps = 2001 if parts[:2] == ["pointmaze", "giant"] else 1001
    return Recipe("-".join(parts[:-2] + parts[-1:]), parts[-2], steps)


def source(dataset: str) -> Source:
    """Episodes of an OGBench dataset, for `qgf_eqx.data.collect("cube-single-play-v0", ...)`.

    **Raises:** as `recipe`.
    """
    made = recipe(dataset)
    packages = ("ogbench", "mujoco", "gymnasium", "numpy")
    return Source(dataset, made.steps, partial(_maker, made), packages)


@contextmanager
def _maker(made: Recipe) -> Iterator[Callable[[int, int], Recorded]]:
    with closing(_make_env(made)) as env:
        yield _episode_maker(env, made)


def _make_env(made: Recipe):
    mode = {} if made.kind == "navigate" else {"mode": "data_collection"}
    return make_env(made.env, terminate_at_goal=False, max_episode_steps=made.steps, **mode)


def _episode_maker(env, made: Recipe) -> Callable[[int, int], Recorded]:
    """A function from (seed, index) to one episode of the environment."""
    if made.kind == "navigate":
        return partial(_navigate, env, _subgoals(env.unwrapped))
    return partial(_manipulate, env, made, _oracles(env, made))


def _subgoals(maze: Any) -> Callable:
    """OGBench's `get_oracle_subgoal`, which searches the maze anew at every step: its answer
    depends on the two cells alone."""

    @cache
    def of_cells(start: tuple[int, int], goal: tuple[int, int]):
        return maze.get_oracle_subgoal(maze.ij_to_xy(start), maze.ij_to_xy(goal))[0]

    return lambda start, goal: of_cells(maze.xy_to_ij(start), maze.xy_to_ij(goal))


def _navigate(env, subgoal_of: Callable, seed: int, index: int) -> Recorded:
    reset_seed = seed_everything(env, seed, index)
    rng = np.random.default_rng([seed, index])
    maze = env.unwrapped
    cells, vertices = _cells(maze.maze_map)
    task = {"init_ij": cells[rng.integers(len(cells))]}
    task["goal_ij"] = vertices[rng.integers(len(vertices))]
    obs, _ = env.reset(seed=reset_seed, options={"task_info": task})
    rows, done = defaultdict(list), False
    while not done:
        position = maze.get_xy()
        subgoal = subgoal_of(position, maze.cur_goal_xy)
        direction = (subgoal - position) / (np.linalg.norm(subgoal - position) + 1e-6)
        action = np.clip(direction + rng.normal(0, 0.5, direction.shape), -1, 1)
        next_obs, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        if info["success"]:
            maze.set_goal(vertices[rng.integers(len(vertices))])
        _append(rows, obs, action, done, info)
        obs = next_obs
    return _stack(rows)


def _cells(maze_map: np.ndarray) -> tuple[list, list]:
    """The free cells, and those of them that are not straight corridors: goals are there."""
    cells = [tuple(map(int, ij)) for ij in np.argwhere(maze_map == 0)]

    def is_corridor(i, j):
        across = maze_map[i, j - 1], maze_map[i, j + 1]
        along = maze_map[i - 1, j], maze_map[i + 1, j]
        return {across, along} == {(0, 0), (1, 1)}

    return cells, [ij for ij in cells if not is_corridor(*ij)]


def _oracles(env, made: Recipe) -> dict:
    """One oracle per kind of object, with the settings of the published datasets."""
    style = "plan" if made.kind == "play" else "markov"
    options = {"noise": 0.1, "noise_smoothing": 0.5} if style == "plan" else {"min_norm": 0.4}
    family = made.env.split("-")[0]
    targets = {"cube": ["cube"], "puzzle": ["button"]}
    oracles = {}
    for target in targets.get(family, ["cube", "button", "drawer", "window"]):
        module = importlib.import_module(f"ogbench.manipspace.oracles.{style}.{target}_{style}")
        extra = {"gripper_always_closed": True} if family == "puzzle" else {}
        if (family, style, target) == ("scene", "markov", "cube"):
            extra = {"max_step": 100}
        oracle = getattr(module, f"{target.title()}{style.title()}Oracle")
        oracles[target] = oracle(env=env, **options, **extra)
    return oracles


# The probability that a new target lies on top of another cube, drawn once per episode.
_STACKING = {
    "single": (0.0, 0.0),
    "double": (0.0, 0.25),
    "triple": (0.05, 0.35),
    "quadruple": (0.1, 0.5),
    "octuple": (0.0, 0.35),
}


def _manipulate(env, made: Recipe, oracles: dict, seed: int, index: int) -> Recorded:
    for attempt in range(100):
        episode = _manipulate_once(env, made, oracles, (seed, index, attempt))
        if not made.env.startswith("scene") or _is_healthy(episode["qpos"]):
            return episode
    raise RuntimeError(f"no healthy episode in 100 attempts (seed {seed}, episode {index})")


def _manipulate_once(env, made, oracles, entropy) -> Recorded:
    reset_seed = seed_everything(env, *entropy)
    rng = np.random.default_rng(entropy)
    env.reset(seed=reset_seed)
    # Targets outlive a reset, in the model's sites: draw so many that none is left from before.
    for _ in range(50):
        env.unwrapped.set_new_target(return_info=False)
    obs, info = env.reset(seed=reset_seed)
    stacking = rng.uniform(*_STACKING.get(made.env.split("-")[1], (0.5, 0.5)))
    noise = rng.uniform(0, 0.1) * np.array([1, 1, 1, 3, 10])
    noisy = made.kind == "noisy"
    random_share = (0.2 if made.env.startswith("puzzle") else 0.1) if noisy else 0.0
    oracle = oracles[info["privileged/target_task"]]
    oracle.reset(obs, info)
    rows, done = defaultdict(list), False
    while not done:
        if rng.uniform() < random_share:
            action = rng.uniform(-1, 1, 5)  # the environment's own sampler cannot be seeded
        else:
            action = np.array(oracle.select_action(obs, info))
            if noisy:
                action = action + rng.normal(0, noise)
        action = np.clip(action, -1, 1)
        next_obs, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        _append(rows, obs, action, done, info)
        if oracle.done:
            oracle_obs, oracle_info = env.unwrapped.set_new_target(p_stack=stacking)
            oracle = oracles[oracle_info["privileged/target_task"]]
            oracle.reset(oracle_obs, oracle_info)
        obs = next_obs
    return _stack(rows)


def _is_healthy(qpos: np.ndarray) -> bool:
    """Whether the scene's cube stayed on the table or in the drawer."""
    y, z = qpos[:, 15], qpos[:, 16]
    off_right = y >= 0.29
    off_left = (y <= -0.3) & ((z < 0.06) | (z > 0.08))
    return not (off_right | off_left).any()


def _append(rows: dict[str, list], obs, action, done, info) -> None:
    row = {"observations": obs, "actions": action, "terminals": done}
    row |= {"qpos": info["prev_qpos"], "qvel": info["prev_qvel"]}
    if "prev_button_states" in info:
        row["button_states"] = info["prev_button_states"]
    for field, value in row.items():
        rows[field].append(np.array(value))


def _stack(rows: dict[str, list]) -> Recorded:
    dtypes = {"terminals": np.bool_, "button_states": np.int64}
    return {
        field: np.array(values, dtypes.get(field, np.float32)) for field, values in rows.items()
    }
