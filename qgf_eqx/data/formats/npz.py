"""`.npz` files of one's own, with the fields of `Dataset`."""

import warnings
from pathlib import Path

import numpy as np

from .._convert import FIELDS, open_arrays
from .._dataset import Dataset
from .._error import DatasetError

_OLD = {"obs": "observations", "terminated": "masks", "episode_end": "terminals"}


def from_file(path: str | Path, *, cache_dir: str | Path | None = None) -> Dataset:
    """A dataset of your own: an `.npz` with the fields of `Dataset`, one row per state.

    The names of OGBench's files are understood too: `observations`, `terminals` for `episode_end`,
    and `masks`, which is 1 minus `terminated`.

    **Arguments:** `cache_dir` is where converted arrays are kept; by default beside the file, if
    that can be written, else in the user's cache folder.

    **Raises:** `DatasetError` naming the file and the field, if either is missing, damaged, or
    holds numbers that cannot be right.
    """
    fields = open_arrays(Path(path), cache_dir=cache_dir)
    for field in Dataset._fields:
        if field not in fields and _OLD.get(field) not in fields:
            raise DatasetError(f"{path}: field `{field}` is missing. {FIELDS}")
    terminated = 1 - fields["masks"] if "terminated" not in fields else fields["terminated"]
    found = {n: fields[n if n in fields else _OLD[n]] for n in Dataset._fields if n != "terminated"}
    return Dataset(terminated=terminated, **found)


def recognises(source: object) -> bool:
    """Whether it is a file whose name ends in `.npz`."""
    return isinstance(source, str | Path) and Path(source).suffix == ".npz"


def load(source: str | Path, *, cache_dir: str | Path | None = None) -> tuple[Dataset, str]:
    """The dataset of `from_file`, and what was assumed."""
    found = from_file(source, cache_dir=cache_dir)
    ended, last = (np.asarray(f) != 0 for f in (found.terminated, found.episode_end))
    if ended.any() and not (ended & ~last).any():
        warnings.warn(
            f"{source}: `terminated` is 1 in last rows of episodes only ({ended.sum():,} times), "
            "whose actions and rewards are not used. Give the state after the last action a row "
            "of its own, or use `from_transitions`.",
            RuntimeWarning,
            stacklevel=2,
        )
    if last.sum() == 1 and (ended & ~last).sum() > 1:
        warnings.warn(
            f"{source}: `terminated` is 1 in {(ended & ~last).sum():,} rows, and `episode_end` in "
            "the last row alone, so all rows are one episode: mark the other ends too.",
            RuntimeWarning,
            stacklevel=2,
        )
    return found, (
        "read as one row per state, where an episode's last row has no successor, and its action "
        "and reward are not used"
    )
