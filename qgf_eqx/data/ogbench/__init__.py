"""OGBench's data and environments: loaded by name, made on this machine.

Needs `pip install 'qgf_eqx[ogbench]'`.
"""

try:
    import ogbench as _ogbench  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"qgf_eqx.data.ogbench needs OGBench ({error}): pip install 'qgf_eqx[ogbench]'"
    ) from error

from .._collecting import collect as collect
from .._environment import seed_everything as seed_everything
from ._collect import source as source
from ._environments import make_env as make_env
from ._load import dataset_name as dataset_name
from ._load import env_id as env_id
from ._load import load as load
from ._load import task as task
