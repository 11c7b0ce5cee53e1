"""Temporal differences: a critic of the action that an actor takes next."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax

from ... import objectives
from ..._fields import bounded
from ..._types import Action, Key
from ...data import Chunk
from ...nn import CriticMLP, Ensemble, LowerBound
from .._learner import Judges, Learner, Networks, Spec, copied
from .._settings import setting


@dataclass(frozen=True)
class TD(Learner):
    """QAM's critic: an ensemble of ten, whose target is `r + discount (mean - rho std)` at the next
    action of a named actor.

    Source: Li and Levine, *Q-learning with Adjoint Matching*, 2026.
    """

    critics: int = setting(10, most=1000)
    """Members of the ensemble."""
    rho: float = setting(0.5, least=0)
    """Pessimism: the target is the members' mean less this many standard deviations."""
    ema_rate: float = setting(0.005, most=1)
    """How fast the target critic follows the critic."""

    needs_action: ClassVar[bool] = True

    def init(self, spec: Spec, key: Key) -> Networks:
        """A critic, and its target, which begins as its copy."""
        make = partial(CriticMLP, action_shape=spec.action_shape, **self.size)
        options = {"reduce": LowerBound(self.rho), "key": key}
        critic = Ensemble(lambda k: spec.net(make, k), self.critics, **options)
        return Networks(critic, copied(critic))

    def losses(self, nets: Networks, chunk: Chunk, next_action: Action) -> dict[str, Any]:
        """`critic_loss`, the mean over the members."""
        target = jax.lax.stop_gradient
        each = [
            objectives.td_critic(member, nets.kept, *chunk[:5], target(next_action))
            for member in nets.trained.members
        ]
        return {"critic_loss": sum(each) / len(each)}

    def follow(self, nets: Networks) -> Networks:
        """The target, a step closer to the critic."""
        return nets._replace(kept=objectives.polyak(nets.kept, nets.trained, self.ema_rate))

    def judges(self, nets: Networks, spec: Spec) -> Judges:
        """The target critic."""
        guides = bounded(nets.kept, *spec.bounds)
        return Judges(guides, nets.kept.values, online=nets.trained.values)
