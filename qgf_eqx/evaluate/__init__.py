"""What a policy is worth on a task: methods as values, roll-outs, intervals, comparisons.

Takes any policy and critic, or an act function. Only training runs and OGBench's tasks need
Optax, safetensors or OGBench.
Needs `pip install 'qgf_eqx[evaluate]'`.
"""

try:
    import gymnasium as _gymnasium  # noqa: F401
    import scipy as _scipy  # noqa: F401
    import tqdm as _tqdm  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"qgf_eqx.evaluate needs more packages ({error}): pip install 'qgf_eqx[evaluate]'"
    ) from error

from ._play import difference as difference
from ._play import evaluate as evaluate
from ._policy import OpenedPolicy as OpenedPolicy
from ._policy import load_policy as load_policy
from ._policy import open_policy as open_policy
from ._rollout import Act as Act
from ._rollout import Episode as Episode
from ._rollout import rollout as rollout
from ._sources import checkpoint_sha256 as checkpoint_sha256
from .names import METHODS as METHODS
from .names import method as method
from .sampler import Sampler as Sampler
from .sampler import make_act as make_act
from .task import Goal as Goal
from .task import MissingOutcome as MissingOutcome
from .task import References as References
from .task import Return as Return
from .task import Success as Success
from .task import Task as Task
from .task import task_of as task_of
