"""Q-Guided Flow for Equinox: test-time guidance of flow policies by a critic's gradient."""

from importlib.metadata import version as _version

from . import analysis as analysis
from . import analytic as analytic
from . import flops as flops
from . import guidance as guidance
from . import likelihood as likelihood
from . import nn as nn
from . import objectives as objectives
from . import steering as steering
from . import weights as weights
from ._denoise import denoise as denoise
from ._denoise import one_step as one_step
from ._diffusion import Diffusion as Diffusion
from ._fields import Flow as Flow
from ._fields import action_gradient as action_gradient
from ._fields import bounded as bounded
from ._fields import critic as critic
from ._fields import given as given
from ._fields import velocity as velocity
from ._jit_sampler import jit_sampler as jit_sampler
from ._sample import Guided as Guided
from ._sample import best as best
from ._sample import candidates as candidates
from ._sample import guided_flow as guided_flow
from ._sample import guided_solve as guided_solve
from ._sample import guided_step as guided_step
from ._sample import sample as sample
from ._types import Action as Action
from ._types import Critic as Critic
from ._types import Guidance as Guidance
from ._types import Obs as Obs
from ._types import Policy as Policy
from ._types import Time as Time
from ._types import TimedCritic as TimedCritic
from ._types import Value as Value
from ._types import Velocity as Velocity
from ._types import Weight as Weight

__version__ = _version("qgf_eqx")
