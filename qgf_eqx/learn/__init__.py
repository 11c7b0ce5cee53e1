"""What is trained: critics, actors, their update as pure functions, and runs in folders.

Needs `pip install 'qgf_eqx[train]'`.
"""

try:
    import optax as _optax  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"qgf_eqx.learn needs Optax ({error}): pip install 'qgf_eqx[train]'"
    ) from error

from .._run_folder import RunError as RunError
from .._run_folder import read_metrics as read_metrics
from . import actors as actors
from . import critics as critics
from ._config import TrainConfig as TrainConfig
from ._config import read_config as read_config
from ._kinds import learners as learners
from ._learner import ActorLearner as ActorLearner
from ._learner import Acts as Acts
from ._learner import CriticLearner as CriticLearner
from ._learner import Guides as Guides
from ._learner import HasPolicy as HasPolicy
from ._learner import Judges as Judges
from ._learner import Learner as Learner
from ._learner import Networks as Networks
from ._learner import Spec as Spec
from ._presets import preset as preset
from ._presets import presets as presets
from ._settings import setting as setting
from ._tracking import tracker as tracker
from ._trained import Actor as Actor
from ._trained import Trained as Trained
from ._trained import load_config as load_config
from ._trained import load_run as load_run
from ._units import Units as Units
from ._updates import make_updates as make_updates
from .fitted import fitted_q as fitted_q
from .loop import Team as Team
from .loop import TeamState as TeamState
from .loop import init_team as init_team
from .loop import update_team as update_team
from .run import train as train
from .run import train_seeds as train_seeds
