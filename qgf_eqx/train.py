"""The old name of `qgf_eqx.learn`'s runs, for one version."""

from ._renamed import moved
from ._run_folder import RunError as RunError
from ._run_folder import read_metrics as read_metrics
from .learn import TrainConfig as TrainConfig
from .learn import load_config as load_config
from .learn import load_run as load_run
from .learn import read_config as read_config
from .learn import train as train

moved(__name__, "learn")
