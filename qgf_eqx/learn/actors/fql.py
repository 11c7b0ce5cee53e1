"""Flow Q-learning: a one-step policy that is distilled from a flow and pushed up the critic."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ... import objectives
from ..._denoise import denoise
from ..._fields import velocity
from ..._types import Action, Key, Obs, Time
from ...data import Chunk
from ...nn import VelocityMLP
from .._learner import Judges, Learner, Networks, Spec


@dataclass(frozen=True)
class FQL(Learner):
    """A flow by flow matching, and beside it `mu(s, z)`:
    `alpha || mu(s, z) - flow(s, z) ||^2 - mean_e Q_e(s, clip(mu(s, z)))`, with `z ~ N(0, I)`.

    It acts in one step, which costs a tenth of the flow's ten.

    Source: Park et al., *Flow Q-Learning*, 2025.
    """

    alpha: float = 300.0
    """How strongly the one-step policy is held to the flow, in units of Q."""
    steps: int = 10
    """Euler steps of the flow that is distilled."""

    label: ClassVar[str] = "FQL"
    colour: ClassVar[str] = "#984ea3"
    strength: ClassVar[str] = "alpha"

    def init(self, spec: Spec, key: Key) -> Networks:
        """The flow, and the one-step policy."""
        keys = jax.random.split(key)
        make = partial(VelocityMLP, action_shape=spec.action_shape, **self.size)
        return Networks((spec.net(make, keys[0]), spec.net(partial(make, embed=no_time), keys[1])))

    def losses(self, nets: Networks, chunk: Chunk, key: Key, judges: Judges) -> dict[str, Any]:
        """`flow_loss`; `distill_loss`, times alpha; and `q_loss`."""
        (flow, one_step), (flow_key, z_key) = nets.trained, jax.random.split(key)
        obs, action = chunk.obs, chunk.action
        z = jax.random.normal(z_key, action.shape, action.dtype)
        wanted = stop_gradient(denoise(flow, obs, z, 0, steps=self.steps))
        found = velocity(one_step, obs, z, 0)
        values = judges.newest(obs, judges.critic.to_bounds(found))
        return {
            "flow_loss": objectives.flow_matching(flow, obs, action, flow_key),
            "distill_loss": self.alpha * jnp.mean(jnp.square(found - wanted)),
            "q_loss": -jnp.mean(values),
        }

    def act(self, nets: Networks, judges: Judges, obs: Obs, key: Key) -> Action:
        """`mu(s, z)`, clipped."""
        one_step = nets.trained[1]
        z = jax.random.normal(key, one_step.action_shape)
        return judges.critic.to_bounds(velocity(one_step, obs, z, 0))


def no_time(t: Time) -> jax.Array:
    """No features of flow time: a network of one step has none."""
    return jnp.zeros(0)
