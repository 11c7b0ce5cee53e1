"""HDF5 files in D4RL's layout: flat arrays; `terminals` end the task, `timeouts` the clock."""

import warnings

import numpy as np

from .._dataset import Dataset
from .._error import DatasetError
from ..arrays import from_transitions
from ._hdf5 import opened, read

_FIELDS = {"observations", "actions", "rewards", "terminals"}


def recognises(source: object) -> bool:
    """Whether it is an HDF5 file with at least two of `observations`, `actions`, `rewards` and
    `terminals`."""
    with opened(source) as file:
        return file is not None and len(_FIELDS & {*file}) > 1


def load(source: object) -> tuple[Dataset, str]:
    """The dataset, and what was assumed.

    **Raises:** `DatasetError` if the file does not hold transitions that fit each other.
    """
    with opened(source) as file:
        if file is None:
            raise DatasetError(f"{source} is not an HDF5 file.")
        if missing := sorted(_FIELDS - {*file}):
            raise DatasetError(f"{source} lacks {', '.join(missing)}, which a D4RL file has.")
        terminals = read(file["terminals"]).reshape(-1)
        timeouts = read(file["timeouts"]).reshape(-1) if "timeouts" in file else 0 * terminals
        following = read(file["next_observations"]) if "next_observations" in file else None
        _check_ends(source, terminals, "timeouts" in file or following is not None)
        dataset = from_transitions(
            read(file["observations"]),
            read(file["actions"]),
            read(file["rewards"]).reshape(-1),
            terminals,
            timeouts,
            following,
        )
    return dataset, (
        "read as D4RL: `terminals` ended the task, `timeouts` the recording (if they are there); "
        + ("next states are recorded" if following is not None else _WITHOUT)
    )


def _check_ends(source: object, terminals: np.ndarray, sure: bool) -> None:
    """Where nothing says where episodes end, they would be joined."""
    if not (sure or terminals[:-1].any()):
        raise DatasetError(
            f"{source} has no `timeouts`, no `next_observations`, and no end in `terminals`: "
            "nothing says where one episode ends and the next begins. Write `timeouts`, 1 in the "
            "last row of each episode; for a single episode, all 0 but the last."
        )
    if not sure:
        warnings.warn(
            f"{source} has no `timeouts`: all rows up to a terminal are one episode. If some "
            "ended by a time limit, set `timeouts` to 1 in their last rows.",
            stacklevel=4,
        )


_WITHOUT = "next states are not recorded, so the last action before a timeout is not used"
