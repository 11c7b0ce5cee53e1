"""Distillation: a policy that is trained on the actions of the guided flow."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ... import guidance, objectives
from ..._fields import velocity
from ..._sample import guided_flow, sample
from ..._types import Action, Key, Obs
from ...data import Chunk
from ...nn import VelocityMLP
from .._learner import Judges, Learner, Networks, Spec
from .fql import no_time


@dataclass(frozen=True)
class Distill(Learner):
    """A flow by flow matching, which QGF guides, and beside it a student of what QGF makes:
    `|| mu(s, z) - clip(guided flow(s, z)) ||^2` with `z ~ N(0, I)`, or, if the student is a flow,
    flow matching on those actions.

    A gain at test time becomes permanent, and the one-step student costs one pass. As FQL distils a
    flow, but with guidance in place of a loss on Q: no weight of two losses has to be found, only
    guidance's, which is a test-time number.
    """

    weight: float = 0.1
    """Of the teacher's guidance."""
    steps: int = 10
    """Euler steps of the teacher, and of a student that is a flow."""
    one_step: bool = True
    """Whether the student acts in one step, or is a flow."""

    label: ClassVar[str] = "QGF, distilled"
    colour: ClassVar[str] = "#6baed6"
    strength: ClassVar[str] = "weight"

    def init(self, spec: Spec, key: Key) -> Networks:
        """The flow, and the student."""
        keys = jax.random.split(key)
        make = partial(VelocityMLP, action_shape=spec.action_shape, **self.size)
        student = partial(make, embed=no_time) if self.one_step else make
        return Networks((spec.net(make, keys[0]), spec.net(student, keys[1])))

    def teacher(self, nets: Networks, judges: Judges, obs: Obs, noise: Action) -> Action:
        """The guided flow's action from a noise, clipped; nothing is differentiated through it."""
        options = {"guidance": guidance.qgf, "weight": self.weight, "steps": self.steps}
        action = guided_flow(nets.trained[0], judges.critic, obs, noise, **options)
        return stop_gradient(judges.critic.to_bounds(action))

    def losses(self, nets: Networks, chunk: Chunk, key: Key, judges: Judges) -> dict[str, Any]:
        """`flow_loss` and `distill_loss`."""
        (flow, student), obs = nets.trained, chunk.obs
        flow_key, z_key, student_key = jax.random.split(key, 3)
        z = jax.random.normal(z_key, chunk.action.shape, chunk.action.dtype)
        wanted = self.teacher(nets, judges, obs, z)
        if self.one_step:
            loss = jnp.mean(jnp.square(velocity(student, obs, z, 0) - wanted))
        else:
            loss = objectives.flow_matching(student, obs, wanted, student_key)
        return {
            "flow_loss": objectives.flow_matching(flow, obs, chunk.action, flow_key),
            "distill_loss": loss,
        }

    def act(self, nets: Networks, judges: Judges, obs: Obs, key: Key) -> Action:
        """The student's action, clipped."""
        student = nets.trained[1]
        if not self.one_step:
            return sample(student, judges.critic, obs, key, weight=0, steps=self.steps)
        z = jax.random.normal(key, student.action_shape)
        return judges.critic.to_bounds(velocity(student, obs, z, 0))
