"""Minari data sets: by their id, or as the object that `minari.load_dataset` gives."""

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from .._dataset import Dataset
from .._error import DatasetError
from ..arrays import from_episodes

_ID = re.compile(r"(?:[\w./-]+/)?[\w-]+-v\d+")


def recognises(source: object) -> bool:
    """Whether it is such an object, or an id like `D4RL/pen/human-v2` that is not a path."""
    if isinstance(source, str):
        return _ID.fullmatch(source) is not None and not Path(source).exists()
    return hasattr(source, "iterate_episodes")


def load(source: Any) -> tuple[Dataset, str]:
    """The dataset, and what was assumed. Its ids are looked up among the local ones only.

    **Raises:** `DatasetError` if the id is not on this machine, or fields do not fit each other.
    """
    if isinstance(source, str):
        source = _local(source)
    episodes = [
        {
            "obs": episode.observations,
            "actions": episode.actions,
            "rewards": episode.rewards,
            "terminated": np.asarray(episode.terminations)[-1],
        }
        for episode in source.iterate_episodes()
    ]
    return from_episodes(episodes), (
        "read as Minari: a termination in the last step ended the task, a truncation was a cut"
    )


def _local(name: str) -> Any:
    try:
        minari: Any = importlib.import_module("minari")  # not this module
    except ImportError as error:
        raise ImportError(
            f"`{name}` looks like a Minari id, which needs minari ({error}): pip install "
            "'qgf_eqx[formats]'"
        ) from error
    if name not in minari.list_local_datasets():
        raise DatasetError(
            f"`{name}` is neither a file nor a Minari data set on this machine. Get it with "
            f"`minari download {name}`."
        )
    return minari.load_dataset(name)
