"""OGBench datasets by name: found or downloaded, checked, given the rewards of a task."""

from contextlib import closing
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from .._convert import open_arrays
from .._dataset import Dataset
from .._error import DatasetError
from . import _goals
from ._environments import check_env, make_env, make_pictured


def dataset_name(env_name: str) -> str:
    """The dataset of a task: `cube-single-play-singletask-task2-v0` is made of
    `cube-single-play-v0`."""
    parts = [p for p in env_name.split("-") if p != "singletask"]
    return "-".join(p for p in parts if not (p[:4] == "task" and p[4:].isdigit()))


def env_id(env_name: str) -> str:
    """The Gymnasium id of a task: the name without the kind of its data.

    **Raises:** `DatasetError` if the name is not of a single-task environment.
    """
    parts = env_name.split("-")
    if "singletask" not in parts or parts.index("singletask") < 2:
        raise DatasetError(
            f"`{env_name}` is not a single-task environment, so it has no rewards. Use a name like "
            "`cube-single-play-singletask-task2-v0` (tasks 1 to 5), or, for a task of your own, "
            "`module:function`."
        )
    at = parts.index("singletask")
    name = "-".join(parts[: at - 1] + parts[at:])
    check_env(name)
    return name


def task(env_name: str) -> dict[str, Any]:
    """The parts of a task, for `qgf_eqx.evaluate.Task`; of a name without `singletask` the
    goal-conditioned one.

    **Raises:** as `env_id`, or `DatasetError` if OGBench has no such environment.
    """
    if "singletask" not in env_name.split("-"):
        return _goals.task(env_name, _fields)
    make = partial(make_pictured, env_id(env_name))
    parts = {"make_env": make, "data": partial(load, env_name), "paths": "maze" in env_name}
    return {"name": env_name, **parts}


def load(
    env_name: str,
    data_dir: str | Path,
    *,
    split: str = "train",
    cache_dir: str | Path | None = None,
) -> Dataset:
    """The dataset of an OGBench single-task environment, with the rewards of its task.

    Reads `<dataset>.npz` (or `-val.npz`) in `data_dir`, as downloaded from OGBench's site or
    made by `collect`. A file that is not there is downloaded, if the site can be reached.

    **Arguments:**

    - `env_name`: say `cube-single-play-singletask-task2-v0`.
    - `data_dir`: the folder of the dataset files.
    - `split`: `train` or `val`.
    - `cache_dir`: where converted arrays are kept; by default beside the file, if that can be
      written, else in the user's cache folder. A download goes to `data_dir`.

    **Returns:** a `Dataset` of memory-mapped arrays (`rewards` and `terminated` in memory). As
    OGBench does, a row's reward and end are those of the row's own state.

    **Raises:** `DatasetError` naming the file and the field, if either is missing, damaged,
    holds anything but numbers, or numbers that cannot be right.
    """
    env = env_id(env_name)
    name = dataset_name(env_name)
    fields = _fields(name, data_dir, split=split, cache_dir=cache_dir)
    path = _path(name, data_dir, split)
    needed = ("qpos", "button_states") if env.split("-")[0] in ("scene", "puzzle") else ("qpos",)
    for field in needed:
        if field not in fields:
            raise DatasetError(
                f"{path}: field `{field}` is missing; the rewards of `{env_name}` are computed "
                "from it. Get the file again, or collect it here with `qgf-eqx collect`."
            )
    fields |= _rewards(path, env, {field: fields[field] for field in needed}, fields)
    return Dataset(
        obs=fields["observations"],
        actions=fields["actions"],
        rewards=fields["rewards"],
        terminated=1 - fields["masks"],
        episode_end=fields["terminals"],
    )


def _path(name: str, data_dir: str | Path, split: str) -> Path:
    if split not in ("train", "val"):
        raise DatasetError(f"`split` must be `train` or `val`, got {split!r}.")
    return Path(data_dir) / f"{name}{'-val' if split == 'val' else ''}.npz"


def _fields(
    name: str,
    data_dir: str | Path,
    *,
    split: str = "train",
    cache_dir: str | Path | None = None,
) -> dict[str, np.ndarray]:
    """The arrays of a dataset's file, which is downloaded if it is not there."""
    path = _path(name, data_dir, split)
    if not path.exists():
        _download(name, path)
    return open_arrays(path, reach=1.0, cache_dir=cache_dir)


def _rewards(path: Path, env_name: str, known: dict, fields: dict) -> dict[str, np.ndarray]:
    """OGBench's own rewards and masks of a task, if the fields are as wide as its model."""
    from ogbench.relabel_utils import relabel_dataset

    with closing(make_env(env_name)) as env:
        for field, width in _widths(env).items():
            if field in fields and fields[field].shape[1] != width:
                raise DatasetError(
                    f"{path}: field `{field}` has {fields[field].shape[1]} columns, but "
                    f"`{env_name}` has {width}. Is it a file of another environment?"
                )
        labelled = dict(known)
        relabel_dataset(env_name, env, labelled)
    return {field: labelled[field] for field in ("rewards", "masks")}


def _widths(env: gymnasium.Env) -> dict[str, int]:
    """How many columns the fields of a task's data have."""
    task: Any = env.unwrapped
    model = task.model
    widths = {"observations": env.observation_space.shape, "actions": env.action_space.shape}
    widths = {field: shape[0] for field, shape in widths.items() if shape}
    widths |= {"qpos": model.nq, "qvel": model.nv}
    buttons = getattr(task, "_num_buttons", None)
    return widths if buttons is None else {**widths, "button_states": buttons}


def _download(name: str, path: Path) -> None:
    import ogbench

    made = not path.parent.exists()
    try:
        ogbench.download_datasets([name], str(path.parent))
    except (OSError, HTTPException) as error:
        for leftover in path.parent.glob(f"{name}*.tmp"):
            leftover.unlink()
        if made and path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()
        raise DatasetError(
            f"{path} does not exist and could not be downloaded ({error}). Put the public file "
            f"there{_or_collect(name, path.parent)}."
        ) from None


def _or_collect(name: str, folder: Path) -> str:
    """The advice to make the data, where that can be done."""
    from ._collect import recipe

    try:
        recipe(name)
    except DatasetError:
        return ""
    return f", or make one on this machine: `qgf-eqx collect {name} --data-dir {folder}`"
