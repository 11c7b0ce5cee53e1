"""Implicit flow Q-learning: the plain flow, of which the best of many actions is taken."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from ..._fields import bounded
from ..._sample import sample
from ..._types import Action, Key, Obs
from .._learner import Judges, Networks
from .flow import BC


@dataclass(frozen=True)
class IFQL(BC):
    """Trained as `BC`; acts as best-of-N, ranked by the mean of the critics that are trained.

    Source: Park et al., *Flow Q-Learning*, 2025, where it is a baseline.
    """

    best_of: int = 32
    """N: how many actions the critic ranks."""

    label: ClassVar[str] = "IFQL"
    colour: ClassVar[str] = "#66c2a5"

    def act(self, nets: Networks, judges: Judges, obs: Obs, key: Key) -> Action:
        """The best of N."""

        def mean(obs, action):
            return jnp.mean(judges.newest(obs, action))

        ranks = bounded(mean, judges.critic.low, judges.critic.high)
        return sample(self.policy(nets), ranks, obs, key, weight=0, best_of=self.best_of)
