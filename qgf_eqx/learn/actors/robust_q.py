"""RobustQ: a critic of noisy actions, whose gradient guides a flow."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp

from ... import guidance, objectives
from ..._types import Guidance, Key
from ...data import Chunk
from ...nn import TimedCriticMLP
from .._learner import Judges, Learner, Networks, Spec


@dataclass(frozen=True)
class RobustQ(Learner):
    """`Q_r(s, a_t, t)`, regressed on the critic at the data's actions: by squares, the mean of Q
    given `a_t`; by LinEx, its soft value. It gives an estimator and no actions: it guides a `BC`.

    Source: a baseline of arXiv 2606.11087.
    """

    linex: bool = False
    """The LinEx loss in place of squares."""
    temperature: float = 1.0
    """Of the LinEx loss, in units of Q."""

    label: ClassVar[str] = "RobustQ"
    colour: ClassVar[str] = "#999933"

    def init(self, spec: Spec, key: Key) -> Networks:
        """The critic of noisy actions."""
        make = partial(TimedCriticMLP, action_shape=spec.action_shape, **self.size)
        return Networks(spec.net(make, key))

    def losses(self, nets: Networks, chunk: Chunk, key: Key, judges: Judges) -> dict[str, Any]:
        """`robust_loss`."""
        loss = objectives.linex if self.linex else jnp.square
        options = {"loss": loss, "temperature": self.temperature if self.linex else 1.0}
        args = nets.trained, judges.critic, chunk.obs, chunk.action, key
        return {"robust_loss": objectives.robust_critic(*args, **options)}

    def estimator(self, nets: Networks, real: Callable = lambda net: net) -> Guidance:
        """The gradient of `Q_r`, as `sample` takes it; `real` makes a network one of real
        observations."""
        return eqx.Partial(guidance.robust, robust_critic=real(nets.trained))
