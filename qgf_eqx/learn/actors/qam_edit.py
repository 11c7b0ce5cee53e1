"""QAM with an edit: a small, bounded change of its action, which climbs the critic."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ..._denoise import denoise
from ..._fields import velocity
from ..._types import Action, Key, Obs, Policy, Velocity
from ...data import Chunk
from ...nn import VelocityMLP
from .._learner import Judges, Networks, Spec
from .fql import no_time
from .qam import QAM


@dataclass(frozen=True)
class QAMEdit(QAM):
    """`clip(a + most tanh(delta(s, a)))` of QAM's action `a`, with `delta` trained by
    `-mean_e Q_e(s, .)` of the edited action.

    Source: Li and Levine, *Q-learning with Adjoint Matching*, 2026, where it is the best variant.
    """

    most: float = 0.1
    """The largest change of a dimension, in the flow's units."""

    label: ClassVar[str] = "QAM-edit"
    colour: ClassVar[str] = "#1b7837"

    def init(self, spec: Spec, key: Key) -> Networks:
        """QAM's two flows, and the edit."""
        flows_key, edit_key = jax.random.split(key)
        base, fine = super().init(spec, flows_key).trained
        make = partial(VelocityMLP, action_shape=spec.action_shape, embed=no_time, **self.size)
        return Networks((base, fine, spec.net(make, edit_key)))

    def losses(self, nets: Networks, chunk: Chunk, key: Key, judges: Judges) -> dict[str, Any]:
        """QAM's, and `edit_loss`."""
        (base, fine, edit), (key, noise_key) = nets.trained, jax.random.split(key)
        losses = super().losses(Networks((base, fine)), chunk, key, judges)
        noise = jax.random.normal(noise_key, chunk.action.shape, chunk.action.dtype)
        drawn = judges.critic.to_bounds(denoise(fine, chunk.obs, noise, 0, steps=self.steps))
        action = self.edited(edit, chunk.obs, stop_gradient(drawn), judges)
        return losses | {"edit_loss": -jnp.mean(judges.newest(chunk.obs, action))}

    def edited(self, edit: Velocity, obs: Obs, action: Action, judges: Judges) -> Action:
        """The action and its change, clipped."""
        change = self.most * jnp.tanh(velocity(edit, obs, action, 0))
        return judges.critic.to_bounds(action + change)

    def policy(self, nets: Networks) -> Policy:
        """The fine flow, without the edit."""
        return nets.trained[1]

    def act(self, nets: Networks, judges: Judges, obs: Obs, key: Key) -> Action:
        """The fine flow's action, edited."""
        return self.edited(nets.trained[2], obs, super().act(nets, judges, obs, key), judges)
