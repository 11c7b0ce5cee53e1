"""Implicit Q-learning: a critic and a state value that never ask an action outside the data."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax

from ... import objectives
from ..._fields import bounded
from ..._types import Key
from ...data import Chunk
from ...nn import CriticMLP, Ensemble, ValueMLP
from .._learner import Judges, Learner, Networks, Spec, copied
from .._settings import setting


@dataclass(frozen=True)
class IQL(Learner):
    """The paper's critic: `V` by the expectile of the target critic, `Q` by `r + discount V(s')`.

    Source: Kostrikov et al., *Offline Reinforcement Learning with Implicit Q-Learning*, 2022.
    """

    critics: int = setting(2, most=1000)
    """Members of the ensemble, which is reduced by its minimum."""
    expectile: float = setting(0.9, below=1)
    """In (0, 1): the higher, the closer to the best action of the data."""
    ema_rate: float = setting(0.005, most=1)
    """How fast the target critic follows the critic."""

    needs_action: ClassVar[bool] = False

    def init(self, spec: Spec, key: Key) -> Networks:
        """A critic and a value; and the critic's target, which begins as its copy."""
        critic_key, value_key = jax.random.split(key)
        make = partial(CriticMLP, action_shape=spec.action_shape, **self.size)
        critic = Ensemble(lambda k: spec.net(make, k), self.critics, key=critic_key)
        value = spec.net(partial(ValueMLP, **self.size), value_key)
        return Networks((critic, value), copied(critic))

    def losses(self, nets: Networks, chunk: Chunk, next_action: Any) -> dict[str, Any]:
        """`critic_loss`, the mean over the members, and `value_loss`."""
        critic, value = nets.trained
        obs, action, reward, discount, next_obs = chunk[:5]
        each = [
            objectives.iql_critic(member, value, obs, action, reward, discount, next_obs)
            for member in critic.members
        ]
        options = {"expectile": self.expectile}
        return {
            "critic_loss": sum(each) / len(each),
            "value_loss": objectives.iql_value(value, nets.kept, obs, action, **options),
        }

    def follow(self, nets: Networks) -> Networks:
        """The target, a step closer to the critic."""
        return nets._replace(kept=objectives.polyak(nets.kept, nets.trained[0], self.ema_rate))

    def judges(self, nets: Networks, spec: Spec) -> Judges:
        """The target critic, and the value."""
        online, value = nets.trained
        guides = bounded(nets.kept, *spec.bounds)
        return Judges(guides, nets.kept.values, value, online.values)
