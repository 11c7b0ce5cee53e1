"""Opens any supported format; the source determines the adapter."""

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

from . import formats
from ._dataset import Dataset
from ._error import DatasetError
from .arrays import describe


def open_dataset(source: Any, *, cache_dir: str | Path | None = None) -> tuple[Dataset, str]:
    """The dataset in a file, a folder or an id, and what was assumed, in a sentence or two.

    **Arguments:**

    - `source`: a path to an `.npz` file, to an HDF5 file of D4RL's or robomimic's layout, or to a
      LeRobot v3 folder; a Minari id, or Minari's object.
    - `cache_dir`: where the converted arrays of an `.npz` are kept; by default beside the file, if
      that can be written, else in the user's cache folder. The other formats are read into memory.

    **Returns:** the `Dataset`, and the text that says how it was read.

    **Raises:** `DatasetError` if no format recognises the source, or if its data would silently
    train wrongly; `ImportError` naming the extra, if a library is missing.
    """
    known = _formats()
    for module in known.values():
        if module.recognises(source):
            keeps = "cache_dir" in inspect.signature(module.load).parameters
            options = {"cache_dir": cache_dir} if keeps else {}
            dataset, assumed = module.load(source, **options)
            return dataset, f"{source}: {assumed}. {describe(dataset)}"
    there = not isinstance(source, str | Path) or Path(source).exists()
    raise DatasetError(
        f"{source} {'is of no known format' if there else 'does not exist'}. Known are "
        f"{', '.join(known)}; for arrays there are `from_episodes` and `from_transitions`."
    )


def _formats() -> dict[str, ModuleType]:
    """The modules of the folder `formats`: a new format is a new file there."""
    names = sorted(m.name for m in pkgutil.iter_modules(formats.__path__) if m.name[0] != "_")
    return {name: importlib.import_module(f"{formats.__name__}.{name}") for name in names}
