"""Genuine OGBench data, made on this machine by OGBench's own oracles.

Follows the published recipe of each dataset: the same oracles, noise and episode lengths, the
same fields in the same file format. Each episode is a pure function of (dataset, seed, index),
so the data do not depend on the number of processes, nor on interruptions.
"""

import fcntl
import importlib
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..._checks import check_count
from ..._files import write_atomically
from ...engines import Local
from .._convert import DAMAGE
from .._environment import seed_everything
from .._error import DatasetError
from ._environments import check_env, make_env

EPISODES_PER_SHARD = 5
_VALIDATION_FROM = 10**6  # training episodes are numbered from 0

_Episode = dict[str, np.ndarray]


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


def collect(
    dataset: str,
    data_dir: str | Path,
    *,
    transitions: int = 1_000_000,
    seed: int = 0,
    processes: int | None = None,
    progress: bool = True,
) -> Path:
    """Makes the dataset and its validation file (a tenth of its size) in `data_dir`.

    Runs in parallel processes, with a progress bar. Episodes are kept in shards until all are
    made: an interrupted collection loses at most one shard a process, and goes on where it was.

    **Arguments:**

    - `dataset`: an OGBench dataset's name, say `cube-single-play-v0`.
    - `data_dir`: the folder for `<dataset>.npz` and `<dataset>-val.npz`.
    - `transitions`: how many, rounded up to whole episodes.
    - `seed`: of every random choice; another seed makes other episodes.
    - `processes`: how many to use; all cores by default.
    - `progress`: show a progress bar.

    **Returns:** the path of the training file, in the public format:
    `ogbench.make_env_and_datasets(..., dataset_path=path)` reads it.

    **Raises:** `DatasetError` if the name is unknown, if the file exists and was not made by
    this call's arguments, if a shard is damaged, or if another process collects it; `ValueError`
    or `TypeError` naming an argument that is not a count, or is too large; `EngineError` if a
    worker process dies: called again, collection goes on where it was.
    """
    made = recipe(dataset)
    transitions = check_count("transitions", transitions, "it counts rows")
    seed = check_count("seed", seed, "it seeds every episode", least=0)
    engine = Local(processes)
    path = Path(data_dir) / f"{dataset}.npz"
    episodes = -(-transitions // (made.steps - 1))
    if episodes > _VALIDATION_FROM:
        most = _VALIDATION_FROM * (made.steps - 1)
        raise ValueError(f"`transitions` must be at most {most:,}, got {transitions:,}.")
    validation = range(_VALIDATION_FROM, _VALIDATION_FROM + max(1, episodes // 10))
    # The main file last: where it is, the other one was finished before.
    splits = {path.with_name(f"{dataset}-val.npz"): validation, path: range(episodes)}
    about = {
        file: {"dataset": dataset, "seed": seed, "episodes": len(indices)}
        for file, indices in splits.items()
    }
    for file in [file for file in splits if file.exists()]:
        _check_same(file, about[file])
        del splits[file]
    if not splits:
        return path
    shards_dir = path.with_name(f"{dataset}.seed{seed}.shards")
    shards_dir.mkdir(parents=True, exist_ok=True)
    jobs = [
        (shards_dir / f"{indices[i]:08d}.{len(chunk)}.npz", tuple(chunk))
        for indices in splits.values()
        for i in range(0, len(indices), EPISODES_PER_SHARD)
        for chunk in [indices[i : i + EPISODES_PER_SHARD]]
    ]
    todo = [job for job in jobs if not job[0].exists()]
    steps = made.steps * sum(map(len, splits.values()))
    missing = made.steps * sum(len(chunk) for _, chunk in todo)
    shards = engine.map(partial(_make_shard, dataset, seed), todo)  # each when it is asked for
    with (
        _alone_with(shards_dir),
        closing(shards),
        tqdm(
            total=steps,
            initial=steps - missing,
            desc=f"collect {dataset}",
            unit=" steps",
            unit_scale=True,
            disable=None if progress else True,
        ) as bar,
    ):
        for leftover in path.parent.glob(f".{dataset}*.tmp"):  # of a run that was killed
            leftover.unlink()
        for (_, indices), _ in shards:
            bar.update(len(indices) * made.steps)
        for file, indices in splits.items():
            parts = [shard for shard, chunk in jobs if chunk[0] in indices]
            _merge(parts, file, about[file])
        shutil.rmtree(shards_dir)
    return path


@contextmanager
def _alone_with(shards_dir: Path) -> Iterator[None]:
    """Holds a lock on the folder itself, which ends with it, or with this process."""
    descriptor = os.open(shards_dir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DatasetError(
                f"another process collects into {shards_dir}. Wait for it, or stop it."
            ) from None
        yield
    finally:
        os.close(descriptor)


def provenance_path(path: Path) -> Path:
    """Where a collected file's provenance is: beside it, so that its format stays the public
    one."""
    return path.with_name(f"{path.stem}.collected.json")


def _check_same(path: Path, provenance: dict) -> None:
    try:
        found = json.loads(provenance_path(path).read_text())
        found = {name: found[name] for name in provenance}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        found = "a file that was not collected here (the public one?)"
    if found != provenance:
        raise DatasetError(
            f"{path} exists and is {found}, not {provenance}. Use it as it is, move it away, or "
            "choose another `data_dir`."
        )


def _make_shard(dataset: str, seed: int, job: tuple[Path, tuple[int, ...]]) -> None:
    shard, indices = job
    made = recipe(dataset)
    with closing(_make_env(made)) as env:
        run = _episode_maker(env, made)
        _save([run(seed, index) for index in indices], shard, compress=False)


def _make_env(made: Recipe):
    mode = {} if made.kind == "navigate" else {"mode": "data_collection"}
    return make_env(made.env, terminate_at_goal=False, max_episode_steps=made.steps, **mode)


def _episode_maker(env, made: Recipe) -> Callable[[int, int], _Episode]:
    """A function from (seed, index) to one episode of the environment."""
    if made.kind == "navigate":
        return partial(_navigate, env)
    return partial(_manipulate, env, made, _oracles(env, made))


def _navigate(env, seed: int, index: int) -> _Episode:
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
        subgoal, _ = maze.get_oracle_subgoal(position, maze.cur_goal_xy)
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


def _manipulate(env, made: Recipe, oracles: dict, seed: int, index: int) -> _Episode:
    for attempt in range(100):
        episode = _manipulate_once(env, made, oracles, (seed, index, attempt))
        if not made.env.startswith("scene") or _is_healthy(episode["qpos"]):
            return episode
    raise RuntimeError(f"no healthy episode in 100 attempts (seed {seed}, episode {index})")


def _manipulate_once(env, made, oracles, entropy) -> _Episode:
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


def _stack(rows: dict[str, list]) -> _Episode:
    dtypes = {"terminals": np.bool_, "button_states": np.int64}
    return {
        field: np.array(values, dtypes.get(field, np.float32)) for field, values in rows.items()
    }


def _save(episodes: list[_Episode], path: Path, *, compress: bool) -> None:
    fields = {name: np.concatenate([e[name] for e in episodes]) for name in episodes[0]}
    write = np.savez_compressed if compress else np.savez
    with write_atomically(path) as file:
        write(file, **fields)  # type: ignore[arg-type]


def _merge(shards: list[Path], path: Path, provenance: dict) -> None:
    episodes = []
    for shard in shards:
        try:
            with open(shard, "rb") as file, np.load(file, allow_pickle=False) as fields:
                episodes.append(dict(fields))
        except (*DAMAGE, ValueError) as error:
            raise DatasetError(
                f"{shard} is damaged ({type(error).__name__}). Delete it and run again: it is made "
                "anew, and the others are kept."
            ) from None
    versions = {name: version(name) for name in ("ogbench", "mujoco", "gymnasium", "numpy")}
    with write_atomically(provenance_path(path)) as file:
        file.write(json.dumps({**provenance, "versions": versions}, indent=1).encode())
    _save(episodes, path, compress=True)
