"""HDF5 files, which need `pip install 'qgf_eqx[formats]'`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .._error import DatasetError

_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@contextmanager
def opened(source: object) -> Iterator[Any]:
    """The file, opened to read; `None` if `source` is not an HDF5 file."""
    if not isinstance(source, str | Path) or not Path(source).is_file():
        yield None
        return
    with open(source, "rb") as start:
        if start.read(8) != _SIGNATURE:
            yield None
            return
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            f"{source} is HDF5, which needs h5py ({error}): pip install 'qgf_eqx[formats]'"
        ) from error
    try:
        file = h5py.File(source, "r")
    except OSError as error:
        raise DatasetError(
            f"{source} is not an intact HDF5 file ({error}). Get it again."
        ) from None
    with file:
        yield file


def read(node: Any) -> Any:
    """A data set as an array; a group as a dict of what it holds."""
    if hasattr(node, "shape"):
        return np.asarray(node[()])
    return {name: read(node[name]) for name in sorted(node)}
