"""OGBench's data: loaded by name, made on this machine, cut into chunks on the device.

Needs `pip install 'qgf_eqx[ogbench]'`.
"""

try:
    import ogbench as _ogbench  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"qgf_eqx.datasets needs OGBench ({error}): pip install 'qgf_eqx[ogbench]'"
    ) from error

from ._chunks import Chunk as Chunk
from ._chunks import Rows as Rows
from ._chunks import check_horizon as check_horizon
from ._chunks import draw_chunks as draw_chunks
from ._chunks import draw_starts as draw_starts
from ._chunks import make_chunk as make_chunk
from ._chunks import read_rows as read_rows
from ._chunks import time_limit_masks as time_limit_masks
from ._collect import collect as collect
from ._environments import make_env as make_env
from ._environments import seed_everything as seed_everything
from ._error import DatasetError as DatasetError
from ._load import Dataset as Dataset
from ._load import dataset_name as dataset_name
from ._load import env_id as env_id
from ._load import from_file as from_file
from ._load import load as load
