"""What is trained: critics, actors, and the update of both, as pure functions.

Needs `pip install 'qgf_eqx[train]'`.
"""

try:
    import optax as _optax  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"qgf_eqx.learn needs Optax ({error}): pip install 'qgf_eqx[train]'"
    ) from error

from . import actors as actors
from . import critics as critics
from ._learner import ActorLearner as ActorLearner
from ._learner import Acts as Acts
from ._learner import CriticLearner as CriticLearner
from ._learner import HasPolicy as HasPolicy
from ._learner import Judges as Judges
from ._learner import Learner as Learner
from ._learner import Networks as Networks
from ._learner import Spec as Spec
from .loop import Team as Team
from .loop import TeamState as TeamState
from .loop import init_team as init_team
from .loop import update_team as update_team
