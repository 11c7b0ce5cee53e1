"""Recorded data: episodes of any source in one type, cut into chunks on the device.

Needs NumPy and JAX. The OGBench parts are imported when first used, and need
`pip install 'qgf_eqx[ogbench]'`.
"""

from typing import TYPE_CHECKING
from typing import Any as _Any

from ._chunks import Chunk as Chunk
from ._chunks import Rows as Rows
from ._chunks import check_horizon as check_horizon
from ._chunks import draw_chunks as draw_chunks
from ._chunks import draw_starts as draw_starts
from ._chunks import make_chunk as make_chunk
from ._chunks import read_rows as read_rows
from ._chunks import time_limit_masks as time_limit_masks
from ._collecting import collect as collect
from ._dataset import Dataset as Dataset
from ._error import DatasetError as DatasetError
from ._open import open_dataset as open_dataset
from .arrays import describe as describe
from .arrays import from_episodes as from_episodes
from .arrays import from_transitions as from_transitions
from .formats.npz import from_file as from_file

if TYPE_CHECKING:
    from .ogbench import dataset_name as dataset_name
    from .ogbench import env_id as env_id
    from .ogbench import load as load
    from .ogbench import make_env as make_env
    from .ogbench import seed_everything as seed_everything

_OGBENCH = ("dataset_name", "env_id", "load", "make_env", "seed_everything")


def __getattr__(name: str) -> _Any:
    """OGBench's functions, whose imports take a second and an extra, when they are first used."""
    if name not in _OGBENCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import ogbench

    return getattr(ogbench, name)
