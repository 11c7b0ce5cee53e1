"""A run's networks and data, for the verbs that step no environment."""

from pathlib import Path
from typing import Any

from ..evaluate import _offline as offline
from ..evaluate.task import dataset_of
from ._options import DataFiles, Drawing


def dataset_for(task: Any, recorded: DataFiles, split: str = "train") -> Any:
    """The data that are named, or those of the task, if there is one."""
    options = {"cache_dir": recorded.cache_dir, "instead": recorded.data}
    return dataset_of(task, recorded.data_dir, split=split, **options)


def open_offline(
    run: Path, count: int, flow: Drawing, recorded: DataFiles
) -> tuple[offline.Offline, Any]:
    """The networks, and observations of the validation data, or of the data that are named."""
    needs_task = recorded.data is None
    try:
        found, _ = offline.open_offline(run, flow.reduction, needs_task=needs_task)
    except ValueError as error:
        said = f"{error} For a run of recorded data alone, name them: --data FILE."
        raise ValueError(said if needs_task else str(error)) from None
    return found, offline.observations(dataset_for(found.task, recorded, "val"), count)
