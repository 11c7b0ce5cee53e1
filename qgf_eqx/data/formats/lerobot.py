"""LeRobot's folders (version 3): Parquet files, read by PyArrow and without Torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from .._dataset import Dataset
from .._error import DatasetError
from ..arrays import from_episodes

_STATE = "observation.state"


def recognises(source: object) -> bool:
    """Whether it is a folder with `meta/info.json`."""
    return isinstance(source, str | Path) and (Path(source) / "meta" / "info.json").is_file()


def load(source: Any) -> tuple[Dataset, str]:
    """The dataset, and what was assumed. `obs` is `observation.state`, followed by the other
    numeric `observation.*` features, if there are any, in a dict; pictures and videos are left out.

    **Raises:** `DatasetError` if it is of another version, or a feature is missing.
    """
    folder = Path(source)
    try:
        info = json.loads((folder / "meta" / "info.json").read_bytes())
        found, features = str(info["codebase_version"]), dict(info["features"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DatasetError(f"{folder}/meta/info.json cannot be read ({error}).") from None
    if not found.startswith("v3"):
        raise DatasetError(f"{folder} has LeRobot's format {found}. Convert it to v3.0.")
    for name in ("action", "next.reward"):
        if name not in features:
            raise DatasetError(f"{folder}: feature `{name}` is missing; it has {sorted(features)}.")
    states = [n for n in features if n.startswith("observation.") and _is_number(features[n])]
    states = sorted(states, key=lambda name: (name != _STATE, name))
    if not states:
        raise DatasetError(
            f"{folder} has no numeric `observation.*` feature. Pictures are not read."
        )
    wanted = [*states, "action", "next.reward", "episode_index", "frame_index"]
    wanted += ["next.done"] if "next.done" in features else []
    columns = _read(folder, wanted)
    order = np.lexsort((columns["frame_index"], columns["episode_index"]))
    columns = {name: column[order] for name, column in columns.items()}
    cuts = np.flatnonzero(np.diff(columns["episode_index"])) + 1
    episodes = [_episode(columns, states, rows) for rows in np.split(np.arange(len(order)), cuts)]
    return from_episodes(episodes), (
        f"read as LeRobot v3: obs is {', '.join(states)}; `next.done` in an episode's last frame "
        "ended the task"
        + ("" if "next.done" in features else " (it is not recorded: nothing ended)")
    )


def _is_number(feature: Any) -> bool:
    return isinstance(feature, dict) and feature.get("dtype") in (
        "float32",
        "float64",
        "int32",
        "int64",
        "bool",
    )


def _episode(columns: dict, states: list[str], rows: np.ndarray) -> dict:
    done = columns.get("next.done", np.zeros(1 + rows[-1]))
    short = {name: columns[name][rows] for name in states}
    return {
        "obs": short if len(states) > 1 else short[states[0]],
        "actions": columns["action"][rows].reshape(len(rows), -1),
        "rewards": columns["next.reward"][rows].reshape(-1),
        "terminated": done.reshape(-1)[rows[-1]],
    }


def _read(folder: Path, names: list[str]) -> dict[str, np.ndarray]:
    try:
        from pyarrow import ArrowException, concat_tables, parquet
    except ImportError as error:
        raise ImportError(
            f"{folder} is of LeRobot, which needs PyArrow ({error}): pip install 'qgf_eqx[formats]'"
        ) from error
    files = sorted(folder.glob("data/chunk-*/file-*.parquet"))
    if not files:
        raise DatasetError(f"{folder}/data has no chunk-*/file-*.parquet. Download the data too.")
    try:
        table = concat_tables([parquet.read_table(file, columns=names) for file in files])
        return {name: _array(table[name]) for name in names}
    except (ArrowException, OSError, KeyError, ValueError) as error:
        raise DatasetError(
            f"{folder}: its data cannot be read ({error}). Get them again."
        ) from None


def _array(column: Any) -> np.ndarray:
    """A column as an array; lists of numbers become rows."""
    whole = column.combine_chunks()
    nested = hasattr(whole, "flatten") and hasattr(column.type, "value_type")
    values = (whole.flatten() if nested else whole).to_numpy(zero_copy_only=False)
    return values.reshape(len(column), -1) if nested else values
