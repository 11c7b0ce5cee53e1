"""Implicit flow Q-learning: the plain flow, of which the best of many actions is taken."""

from dataclasses import dataclass

from ..._sample import sample
from ..._types import Action, Key, Obs
from .._learner import Judges, Networks
from .flow import BC


@dataclass(frozen=True)
class IFQL(BC):
    """Trained as `BC`; acts as best-of-N by the critic.

    Source: Park et al., *Flow Q-Learning*, 2025, where it is a baseline.
    """

    best_of: int = 32
    """N: how many actions the critic ranks."""

    def act(self, nets: Networks, judges: Judges, obs: Obs, key: Key) -> Action:
        """The best of N."""
        policy = self.policy(nets)
        return sample(policy, judges.critic, obs, key, weight=0, best_of=self.best_of)
