"""HDF5 files in D4RL's layout: flat arrays; `terminals` end the task, `timeouts` the clock."""

from .._dataset import Dataset
from .._error import DatasetError
from ..arrays import from_transitions
from ._hdf5 import opened, read


def recognises(source: object) -> bool:
    """Whether it is an HDF5 file with `observations`, `actions`, `rewards` and `terminals`."""
    with opened(source) as file:
        return file is not None and {"observations", "actions", "rewards", "terminals"} <= {*file}


def load(source: object) -> tuple[Dataset, str]:
    """The dataset, and what was assumed.

    **Raises:** `DatasetError` if the file does not hold transitions that fit each other.
    """
    with opened(source) as file:
        if file is None:
            raise DatasetError(f"{source} is not an HDF5 file.")
        terminals = read(file["terminals"]).reshape(-1)
        timeouts = read(file["timeouts"]).reshape(-1) if "timeouts" in file else 0 * terminals
        following = read(file["next_observations"]) if "next_observations" in file else None
        dataset = from_transitions(
            read(file["observations"]),
            read(file["actions"]),
            read(file["rewards"]).reshape(-1),
            terminals,
            timeouts,
            following,
        )
    return dataset, (
        "read as D4RL: `terminals` ended the task, `timeouts` the recording; "
        + ("next states are recorded" if following is not None else _WITHOUT)
    )


_WITHOUT = "next states are not recorded, so the last action before a timeout is not used"
