"""Engines map a function over cells, here or on a cluster. Imports no other part of qgf_eqx."""

import json
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ._local import EngineError as EngineError
from ._local import Local as Local
from ._ray import Ray as Ray
from ._submitit import Slurm as Slurm


@runtime_checkable
class Engine(Protocol):
    """Any object with this method works as an `engine` argument."""

    def map(
        self, function: Callable[[Any], Any], cells: Iterable[Any]
    ) -> Generator[tuple[Any, Any], None, None]:
        """Each cell with its result, as they complete. An exception of a cell ends all of them and
        reaches the caller; closing the generator ends them too."""
        ...


def by_name(name: str, options: Sequence[str], folder: str | Path) -> Engine:
    """The engine `slurm` or `ray`, of options such as `timeout_min=120`.

    **Arguments:**

    - `name`: `local`, `slurm` or `ray`.
    - `options`: each `name=value`, of submitit or of a Ray task; `address` is Ray's cluster.
    - `folder`: for the scripts and logs of jobs.

    **Raises:** `ValueError` if the name is unknown, or an option has no value.
    """
    found: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise ValueError(f"`engine_options` must be name=value, got {option!r}.")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    if name == "slurm":
        cluster = found.pop("cluster", None)
        return Slurm(folder, found, cluster)
    if name == "ray":
        return Ray(found.pop("address", None), found)
    if name == "local":
        return Local(**found)
    raise ValueError(f"`engine` must be local, slurm or ray, got {name!r}.")
